"""Reports of an evaluation: a table, ``summary.json``, a picture (PNG and SVG), and one HTML page."""

from __future__ import annotations

from budgetctl.evals.report.details import details
from budgetctl.evals.report.summary import Report, from_folder, read, write
from budgetctl.evals.report.table import plain, table

__all__ = ["Report", "details", "from_folder", "plain", "read", "table", "write"]
