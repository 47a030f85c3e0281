"""How scores are shown: pictures, and one page that needs nothing but itself."""

from harmonet.report.page import write_report
from harmonet.report.scored import summary

__all__ = ["summary", "write_report"]
