"""How scores are shown: pictures, and one page that needs nothing but itself."""

from harmonet.report.page import refuse_foreign, write_report
from harmonet.report.scored import Section, summary

__all__ = ["Section", "refuse_foreign", "summary", "write_report"]
