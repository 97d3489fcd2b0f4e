"""What a choice between two rungs came to: JSON, table, verdict and picture."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from budgetctl.evals.ladders.choices import Axis
from budgetctl.evals.ladders.judge import Judged
from budgetctl.evals.ladders.standing import Standing
from budgetctl.evals.report.picture import COLOURS, DARK, GREY, STYLE
from budgetctl.evals.stats import Interval

NA = "n/a"
CAPTION = (
    "Band: 95 % interval of the accuracy at each threshold; its distance from the line, the random mix, is "
    "paired and known better. Oracle: known afterwards, chance-inflated."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderReport:
    """A choice between two rungs, judged.

    Attributes:
        rungs: Names of the small and the large one.
        score: What the calls are ordered by.
        learned: Where that score is from, as a sentence's end: ``by the classifier 'default' as it is``.
        drafts: The score is read off a draft, which is charged.
        unit: ``usd`` or ``tokens``, of all costs; None where neither is known.
        modelled: Dollars are partly from prices and estimated prompts.
        held_out: The score was learned without the questions that it is judged on; None is not known.
        left_out: Calls that only one of the rungs recorded.
        settings: Everything else that the numbers depend on.
    """

    rungs: tuple[str, str]
    score: str
    learned: str
    drafts: bool
    judged: Judged
    unit: str | None
    modelled: bool
    held_out: bool | None
    left_out: int
    settings: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        """Say whether the score is worth anything, in words."""
        return verdict(self)

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        judged = self.judged
        return {
            "schema_version": "1.0",
            "kind": "ladder",
            "rungs": list(self.rungs),
            "score": self.score,
            "learned": self.learned,
            "drafts": self.drafts,
            "held_out": self.held_out,
            "crossfit": judged.crossfit,
            "n": judged.n,
            "left_out": self.left_out,
            "cost_unit": self.unit,
            "cost_modelled": self.modelled,
            "small": dict(zip(("accuracy", "cost"), judged.small, strict=True)),
            "large": dict(zip(("accuracy", "cost"), judged.large, strict=True)),
            "oracle": dict(zip(("accuracy", "cost", "share"), judged.oracle, strict=True)),
            "gap": judged.gap,
            "gap_ci": list(judged.gap_ci),
            "standings": {axis: asdict(standing) for axis, standing in judged.standings.items()},
            "aiq": None if judged.aiq is None else asdict(judged.aiq),
            "curve": [asdict(point) for point in judged.curve],
            "oracle_curve": [
                dict(zip(("share", "cost", "accuracy"), point, strict=True)) for point in judged.oracle_curve
            ],
            "beats_mix": judged.beats_mix,
            "verdict": self.verdict,
            "settings": dict(self.settings),
        }


def verdict(report: LadderReport) -> str:
    """Return whether the curve lies above the random mix, and what that is worth, in words."""
    judged, kind = report.judged, "cascade" if report.drafts else "router"
    standing = judged.standings[judged.axis]
    if not standing.oracle_area:
        return (
            f"There is nothing to choose: no question is answered better by {report.rungs[1]} than by "
            f"{report.rungs[0]}. Stay with {report.rungs[0]}."
        )
    if judged.gap <= 0:
        return (
            f"Stay with {report.rungs[0]}: {report.rungs[1]} is no more often right "
            f"({_points(judged.gap, judged.gap_ci)} points), and it is the dearer rung."
        )
    measured = f"{_points(standing.area, standing.area_ci)} points above the random mix on average"
    where = f"{_share(standing.position, standing.position_ci)} of the way to the oracle"
    if judged.beats_mix:
        said = f"The {kind} by {report.score!r} beats the random mix: {measured}, {where}."
    elif all(one.area_ci[1] < 0 for one in judged.standings.values()):
        said = f"The {kind} by {report.score!r} is worse than the random mix: {measured}."
    else:
        said = (
            f"The {kind} by {report.score!r} brings nothing here that {judged.n} questions could show: "
            f"{measured}, {where}, where 0 % is the random mix and 100 % the cheapest model that is right."
        )
    if standing.apgr is None:
        said += (
            f" {report.rungs[1]} itself is not shown to be better than {report.rungs[0]} "
            f"({_points(judged.gap, judged.gap_ci)} points)."
        )
    if not report.held_out:
        how = "may have been" if report.held_out is None else "was"
        said += f" The score {how} learned on these very questions, which flatters it."
    return said


def _points(value: float, ci: Interval) -> str:
    return f"{100 * value:+.2f} ({100 * ci[0]:+.2f} to {100 * ci[1]:+.2f})"


def _share(value: float | None, ci: Interval | None) -> str:
    if value is None:
        return NA
    bounds = "" if ci is None else f" ({100 * ci[0]:z.0f} to {100 * ci[1]:z.0f})"
    return f"{100 * value:z.0f} %{bounds}"


def _number(value: float | None, ci: Interval | None = None) -> str:
    if value is None:
        return NA
    return f"{value:.3f}" + ("" if ci is None else f" ({ci[0]:.2f} to {ci[1]:.2f})")


def table(report: LadderReport) -> str:
    """Return the table as aligned plain text: the models, then every axis, then the verdict."""
    judged = report.judged
    models = [
        [name, f"{100 * accuracy:.1f} %", _cost(cost, report.unit), sent]
        for name, (accuracy, cost), sent in (
            (f"always {report.rungs[0]}", judged.small, "0 %"),
            (f"always {report.rungs[1]}", judged.large, "100 %"),
            ("oracle: the cheapest that is right", judged.oracle[:2], f"{100 * judged.oracle[2]:.1f} %"),
        )
    ]
    parts = [_aligned([["", "accuracy", f"mean {report.unit or 'cost'}", "sent up"], *models])]
    parts += [_aligned(_axis(report, axis, one)) for axis, one in judged.standings.items()]
    if judged.aiq is not None:
        parts.append(
            f"AIQ: {judged.aiq.policy:.4f}; the two models alone {judged.aiq.zero:.4f}, "
            f"oracle {judged.aiq.oracle:.4f} (hulls: the best of many noisy points)"
        )
    notes = [
        f"n = {judged.n} units of the bootstrap; intervals at 95 %; the score is learned {report.learned}."
    ]
    notes += [
        "each question is scored by what the others have taught; intervals of what is above the mix are "
        "wider by the root of two for it."
    ] * judged.crossfit
    notes += [f"{report.left_out} calls were left out: only one of the rungs recorded them."] * bool(
        report.left_out
    )
    notes += [
        "dollars are modelled from prices, with a token per four characters of the question."
    ] * report.modelled
    return "\n\n".join([*parts, "\n".join(notes), report.verdict])


def _axis(report: LadderReport, axis: Axis, one: Standing) -> list[list[str]]:
    what = "share of calls sent up" if axis == "share" else f"mean {report.unit}, drafts included"
    shuffled = one.shuffled
    return [
        [f"by {what}", "APGR", "CPT(50)", "CPT(80)", "above the mix, points", "way to the oracle"],
        [
            f"{'cascade' if report.drafts else 'router'} by {report.score}",
            _number(one.apgr, one.apgr_ci),
            _number(one.cpt50, one.cpt50_ci),
            _number(one.cpt80, one.cpt80_ci),
            _points(one.area, one.area_ci),
            _share(one.position, one.position_ci),
        ],
        ["random mix", "0.500", "0.500", "0.800", "0", "0 %"],
        [
            f"score shuffled (p = {shuffled.p:.3f})",
            _number(shuffled.apgr),
            "",
            "",
            "",
            _share(shuffled.position, shuffled.position_range),
        ],
        ["oracle", _number(one.oracle_apgr), "", "", f"{100 * one.oracle_area:+.2f}", "100 %"],
    ]


def _cost(value: float | None, unit: str | None) -> str:
    return NA if value is None else f"{value:,.0f}" if unit == "tokens" else f"{value:.2g}"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def write(report: LadderReport, folder: Path) -> dict[str, Path]:
    """Write ``ladder.json``, ``ladder.txt`` and the picture, and return their paths by kind.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"json": folder / "ladder.json", "table": folder / "ladder.txt"}
    paths["json"].write_text(json.dumps(report.as_json(), indent=2, allow_nan=False) + "\n")
    paths["table"].write_text(table(report) + "\n")
    return {**paths, **picture(report, folder)}


def picture(report: LadderReport, folder: Path, *, stem: str = "ladder") -> dict[str, Path]:
    """Draw accuracy against each axis as PNG and SVG and return both paths.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    judged = report.judged
    axes_known = list(judged.standings)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.75 * len(axes_known), 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(f"{report.rungs[0]} > {report.rungs[1]} (n = {judged.n})", fontsize=11, color=DARK)
        for axes, axis in zip(figure.subplots(1, len(axes_known), squeeze=False)[0], axes_known, strict=True):
            _panel(axes, report, axis)
        figure.supxlabel(
            textwrap.fill(CAPTION, 95 * len(axes_known), break_on_hyphens=False),
            fontsize=7.5,
            color=GREY,
        )
        paths = {"png": folder / f"{stem}.png", "svg": folder / f"{stem}.svg"}
        figure.savefig(paths["png"], dpi=150)
        figure.savefig(paths["svg"], metadata={"Date": None})
    return paths


def _panel(axes: Any, report: LadderReport, axis: Axis) -> None:
    judged, standing = report.judged, report.judged.standings[axis]
    scale = 100 if axis == "share" else 1
    axes.set_xlabel(
        "calls sent to the large model, %" if axis == "share" else f"mean {report.unit} per question"
    )
    axes.set_ylabel("accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    curve = [(scale * getattr(p, axis), p) for p in judged.curve if getattr(p, axis) is not None]
    x = [at for at, _ in curve]
    low, high = ([100 * p.accuracy_ci[i] for _, p in curve] for i in (0, 1))
    axes.fill_between(x, low, high, color=COLOURS[0], alpha=0.15, linewidth=0)
    axes.plot(x, [100 * p.accuracy for _, p in curve], color=COLOURS[0], linewidth=1.8)
    best = [
        (scale * (share if axis == "share" else cost or 0.0), 100 * y)
        for share, cost, y in judged.oracle_curve
    ]
    axes.plot(*zip(*best, strict=True), color=COLOURS[2], linewidth=1.2, linestyle="--")
    ends = [
        (0.0 if axis == "share" else judged.small[1], judged.small[0]),
        (100.0 if axis == "share" else judged.large[1], judged.large[0]),
    ]
    axes.plot(*zip(*((at, 100 * y) for at, y in ends), strict=True), color=GREY, linewidth=1.2)
    for (at, y), fill in zip(ends, ("white", DARK), strict=True):
        axes.plot(
            [at], [100 * y], "o", color=DARK, markerfacecolor=fill, markersize=8, zorder=4, clip_on=False
        )
    star = scale * judged.oracle[2] if axis == "share" else judged.oracle[1]
    axes.plot([star], [100 * judged.oracle[0]], "*", color=COLOURS[2], markersize=12, zorder=5)
    apgr = "" if standing.apgr is None else f", APGR {standing.apgr:.2f}"
    shown = (
        (f"● {report.rungs[1]}", DARK),
        (f"○ {report.rungs[0]}", DARK),
        ("random mix", GREY),
        (f"{'cascade' if report.drafts else 'router'} by {report.score}{apgr}", COLOURS[0]),
        ("oracle", COLOURS[2]),
    )
    for i, (text, colour) in enumerate(shown):
        axes.text(
            0.98, 0.04 + 0.055 * i, text, ha="right", transform=axes.transAxes, color=colour, fontsize=8.5
        )
    axes.margins(x=0.06, y=0.14)
