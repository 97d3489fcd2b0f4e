"""Reports of an evaluation: a table, ``summary.json``, a picture (PNG and SVG), and one HTML file."""

from __future__ import annotations

from budgetctl.evals.report.summary import Report, from_folder, write
from budgetctl.evals.report.table import table

__all__ = ["Report", "from_folder", "table", "write"]
