"""How scores are shown: pictures, and one page that needs nothing but itself."""

from harmonet.report.page import write_report

__all__ = ["write_report"]
