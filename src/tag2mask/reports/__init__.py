"""Reports: one self-contained HTML file about a run's folder, finished or not."""

from tag2mask.reports.html import write_report

__all__ = ["write_report"]
