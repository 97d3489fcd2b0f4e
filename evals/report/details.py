"""What the page shows beyond the table: calls by group, by difficulty, by time, by estimate, by cap, singly.

Everything here is plain JSON values, computed once when a run ends and kept in ``details.json.gz``, so that
the page can be rendered anew without the calls.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from budgetctl.evals.cube import CubeRow
from budgetctl.evals.metrics import FULL, Evaluation
from budgetctl.evals.report.distributions import forest, latency, spent_by_level
from budgetctl.evals.report.questions import browser
from budgetctl.evals.report.reliability import LEVEL, reliability, risk_curve
from budgetctl.evals.results import ClusterBy, Paired, Result, column, pair

SCHEMA_VERSION = "1.0"
MOST_GROUPS = 40
MOST_LEVELS = 6

Labels = Mapping[str, str]
"""Question to the group that it belongs to."""


def details(
    runs: Mapping[str, Sequence[Result]],
    evaluation: Evaluation,
    *,
    questions: Iterable[CubeRow],
    seed: int = 0,
    cluster_by: ClusterBy = "question",
) -> dict[str, Any]:
    """Return everything that the page's charts and its browser of questions show.

    Args:
        runs: Policy to its results, as given to :func:`budgetctl.evals.metrics.evaluate`.
        evaluation: What that returned.
        questions: Rows that have each question's text, level and groups; of several the first counts.
        seed: Of the bootstrap and of the order in which losses are tested.
        cluster_by: As for ``evaluate``.
    """
    paired = pair(runs, cluster_by=cluster_by)
    asked: dict[str, CubeRow] = {}
    wanted = set(paired.questions)
    for row in questions:
        if row.question_key in wanted:
            asked.setdefault(row.question_key, row)
    rng = np.random.default_rng(seed)
    basis = next((row.token_basis for row in evaluation.policies), None)
    by, groups = grouping(paired.questions, asked)
    scale, levels = difficulty(paired, asked, basis=basis)
    return {
        "schema_version": SCHEMA_VERSION,
        "grouped_by": by,
        "difficulty": scale,
        "level_of_bounds": LEVEL,
        "forest": [] if by is None else list(forest(paired, groups, rng=rng)),
        "latency": [entry for what in ("e2e_s", "ttfo_s") for entry in latency(paired, what)],
        "spent": spent_by_level(paired, levels, basis=basis),
        "reliability": [found for name in runs if (found := reliability(paired, name)) is not None],
        "risk": risk_curve(runs, evaluation, rng=rng, cluster_by=cluster_by),
        "browser": browser(paired, asked, groups=groups, levels=levels, basis=basis),
    }


def grouping(questions: Sequence[str], asked: Mapping[str, CubeRow]) -> tuple[str | None, Labels]:
    """Return what questions are grouped by, and the group of each: the coarsest recorded split there is."""
    for name in ("dataset", "subject", "cluster"):
        labels = {q: getattr(asked.get(q), name, None) for q in questions}
        if None not in labels.values() and 2 <= len(set(labels.values())) <= MOST_GROUPS:
            return name, {q: str(label) for q, label in labels.items()}
    return None, dict.fromkeys(questions, "all")


def difficulty(
    paired: Paired, asked: Mapping[str, CubeRow], *, basis: str | None
) -> tuple[str | None, dict[str, str]]:
    """Return the scale of difficulty and the step of every question, easiest first.

    The recorded level where there is one, in at most six steps; else thirds by how long full thinking took.
    """
    found = {q: getattr(asked.get(q), "level", None) for q in paired.questions}
    levels = {q: level for q, level in found.items() if level is not None}
    if len(levels) == len(found):
        if all(isinstance(level, int | float) for level in levels.values()):
            return "level", _steps({q: float(level) for q, level in levels.items()}, most=MOST_LEVELS)
        if len(set(levels.values())) <= 2 * MOST_LEVELS:
            return "level", {q: str(level) for q, level in sorted(levels.items(), key=lambda i: str(i[1]))}
    if basis is None:
        return None, {}
    lengths = paired.by_question(column(paired.runs[FULL], basis))
    assert lengths is not None
    steps = _steps(dict(zip(paired.questions, lengths.tolist(), strict=True)), most=3)
    return f"{basis.replace('_', ' ')} of full", steps


def _steps(values: Mapping[str, float], *, most: int) -> dict[str, str]:
    """Put numbers into at most ``most`` steps of about equal size, named by their ends."""
    distinct = sorted(set(values.values()))
    if len(distinct) > most:
        edges = np.quantile(list(values.values()), np.linspace(0, 1, most + 1)[1:-1], method="higher")
        place = {v: int(np.searchsorted(edges, v, side="right")) for v in distinct}
    else:
        place = {v: i for i, v in enumerate(distinct)}
    ends: defaultdict[int, list[float]] = defaultdict(list)
    for v in distinct:
        ends[place[v]].append(v)
    names = {i: "-".join(dict.fromkeys((_number(v[0]), _number(v[-1])))) for i, v in ends.items()}
    return {q: names[place[v]] for q, v in sorted(values.items(), key=lambda item: item[1])}


def _number(value: float) -> str:
    return f"{value:,.0f}" if value.is_integer() or value >= 100 else f"{value:.3g}"
