"""``summary.json``, ``details.json.gz`` and the folder that holds a report."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from budgetctl.evals.curves import Curve
from budgetctl.evals.metrics import Evaluation, PolicyRow
from budgetctl.evals.report.page import page
from budgetctl.evals.runfolder import check_version
from budgetctl.evals.verdict import Verdict

from budgetctl.errors import EvalError

SUMMARY = "summary.json"
DETAILS = "details.json.gz"
PAGE = "report.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """An evaluation with its verdict and how it came about.

    Attributes:
        details: What :func:`budgetctl.evals.report.details.details` returned; None leaves its charts out.
        beside: The table of a suite beside accuracy (:mod:`budgetctl.evals.beside.tables`), as JSON values.
    """

    title: str
    evaluation: Evaluation
    verdict: Verdict
    settings: Mapping[str, Any]
    details: Mapping[str, Any] | None = None
    beside: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the summary, which leaves out the details, as plain JSON values."""
        evaluation = self.evaluation
        return {
            "schema_version": "1.0",
            "title": self.title,
            "n": evaluation.n,
            "clusters": evaluation.clusters,
            "slo_s": evaluation.slo_s,
            "slo_source": evaluation.slo_source,
            "policies": [row.as_json() for row in evaluation.policies],
            "baselines": [row.as_json() for row in evaluation.baselines],
            "curves": {name: curve.as_json() for name, curve in evaluation.curves.items()},
            "verdict": self.verdict.text,
            "choice": self.verdict.choice,
            "recommended": self.verdict.recommended,
            "settings": dict(self.settings),
            **({} if self.beside is None else {"beside": dict(self.beside)}),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], *, details: Mapping[str, Any] | None = None) -> Report:
        """Return the report that a summary and its details describe.

        Raises:
            KeyError, TypeError: It is no summary.
        """
        return cls(
            title=content["title"],
            evaluation=Evaluation(
                policies=tuple(_row(row) for row in content["policies"]),
                baselines=tuple(_row(row) for row in content["baselines"]),
                n=content["n"],
                clusters=content["clusters"],
                slo_s=content["slo_s"],
                slo_source=content["slo_source"],
                curves={name: Curve(**values) for name, values in content.get("curves", {}).items()},
            ),
            verdict=Verdict(
                choice=content["choice"], recommended=content["recommended"], text=content["verdict"]
            ),
            settings=content["settings"],
            details=details,
            beside=content.get("beside"),
        )


def _row(content: Mapping[str, Any]) -> PolicyRow:
    known = {field.name for field in fields(PolicyRow)}
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in content.items() if k in known
    }
    return PolicyRow(**values)


def write(report: Report, folder: Path) -> dict[str, Path]:
    """Write summary, details, picture and page into ``folder`` and return their paths by kind.

    Without matplotlib there is no picture, and the page says so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"summary": folder / SUMMARY, "html": folder / PAGE}
    _replace(paths["summary"], json.dumps(report.as_json(), indent=2, allow_nan=False) + "\n")
    if report.details is not None:
        paths["details"] = folder / DETAILS
        text = json.dumps(report.details, separators=(",", ":"), allow_nan=False)
        _replace(paths["details"], gzip.compress(text.encode(), mtime=0))
    svg = None
    try:
        from budgetctl.evals.report.picture import save

        paths["png"], paths["svg"] = save(report.evaluation, folder, title=report.title)
        svg = paths["svg"].read_text(encoding="utf-8")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
    content = page(
        report.evaluation,
        report.verdict,
        title=report.title,
        settings=report.settings,
        details=report.details,
        beside=report.beside,
        svg=svg,
    )
    _replace(paths["html"], content)
    return paths


def from_folder(folder: str | os.PathLike[str]) -> Path:
    """Write the HTML report of an evaluation's folder anew from its files, and return its path.

    Raises:
        EvalError: The folder holds no summary, or one or details that cannot be read.
    """
    return write(read(folder), Path(folder))["html"]


def read(folder: str | os.PathLike[str]) -> Report:
    """Return the report of an evaluation's folder.

    Raises:
        EvalError: The folder holds no summary, or one or details that cannot be read.
    """
    summary, details = Path(folder) / SUMMARY, Path(folder) / DETAILS
    if not summary.exists():
        raise EvalError(
            f"{folder}: holds no {SUMMARY}; an evaluation writes it when it ends, and a live run that was "
            "interrupted is resumed by the same command"
        )
    content, more = _load(summary), _load(details) if details.exists() else None
    try:
        return Report.from_json(content, details=more)
    except (KeyError, TypeError, AttributeError) as error:
        raise EvalError(f"{summary}: cannot be read ({type(error).__name__}: {error})") from None


def _load(path: Path) -> Any:
    try:
        packed = path.read_bytes()
        content = json.loads(gzip.decompress(packed) if path.suffix == ".gz" else packed)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise EvalError(f"{path}: cannot be read ({type(error).__name__}: {error})") from None
    return check_version(content, path=path)


def _replace(path: Path, content: str | bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(temporary, path)
