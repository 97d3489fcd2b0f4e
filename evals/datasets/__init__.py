"""Public question sets in the formats in which they are published, from a file or a URL.

    gsm8k:test.jsonl        math:HERE   math500:HERE   aime:HERE        mmlu-pro:HERE.parquet
    gpqa:gpqa_diamond.csv   bbh:HERE    livecodebench:HERE

``HERE`` is a path, or ``https://...#sha256=HEX``. Each set brings the grader that suits it.
"""

from __future__ import annotations

from budgetctl.evals.datasets.formats import FORMATS, Format, Item
from budgetctl.evals.datasets.opening import is_dataset, open_dataset
from budgetctl.evals.datasets.sources import fetch, records

__all__ = ["FORMATS", "Format", "Item", "fetch", "is_dataset", "open_dataset", "records"]
