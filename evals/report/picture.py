"""The picture: accuracy against mean thinking tokens, and accuracy against the p95 time to the end.

Colours are those of Okabe and Ito, told apart by colour-blind readers; markers differ too, and every point is
labelled directly instead of through a legend.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from budgetctl.evals.baselines import ORACLE
from budgetctl.evals.metrics import FULL, Evaluation, PolicyRow, is_fixed

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "D", "^", "v", "P")
GREY, DARK = "#8a8a8a", "#222222"
MINOR = 3
"""Rank of the fixed caps: no bars, and no label where there is no room close by."""
STYLE: Any = {
    "svg.hashsalt": "budgetctl",
    "svg.fonttype": "none",
    "font.size": 9.0,
    "font.family": "DejaVu Sans",
}
_OFFSETS = [(dx * r, dy * r) for r in (9, 16, 26, 38) for dx, dy in (
    (1, 0.6), (1, -0.6), (-1, 0.6), (-1, -0.6), (0, 1.2), (0, -1.2), (1.2, 0), (-1.2, 0),
)]  # fmt: skip

Axis = Callable[[PolicyRow], float | None]
Box = tuple[float, float, float, float]
Label = tuple[float, float, str, str, int]
"""x, y, text, colour, and rank: 0 must be shown, ``MINOR`` gives way."""


def save(evaluation: Evaluation, folder: Path, *, title: str, stem: str = "tradeoff") -> list[Path]:
    """Draw the picture as PNG and SVG and return both paths.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11.5, 4.9), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        figure.suptitle(f"{title} (n = {evaluation.n} questions)", fontsize=11, color=DARK)
        panels = {
            left: _panel(
                left, evaluation, lambda row: row.tokens_mean, label=_token_label(evaluation), curve=True
            ),
            right: _panel(
                right, evaluation, lambda row: row.e2e_p95_s, label=_time_label(evaluation), curve=False
            ),
        }
        figure.supxlabel(
            "Bars: 95 % bootstrap intervals. Grey dots: fixed caps; the line between two of them is their "
            "random mix. Oracle: chance-inflated.",
            fontsize=7.5,
            color=GREY,
        )
        # Labels are placed in the final layout, which they must not change any more.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        for axes, labels in panels.items():
            _place(axes, labels)
        paths = [folder / f"{stem}.png", folder / f"{stem}.svg"]
        figure.savefig(paths[0], dpi=150)
        figure.savefig(paths[1], metadata={"Date": None})
    return paths


def _token_label(evaluation: Evaluation) -> str:
    output = any(row.token_basis == "output_tokens" for row in evaluation.policies)
    return "mean output tokens per question" if output else "mean thinking tokens per question"


def _time_label(evaluation: Evaluation) -> str:
    modelled = any("e2e_p95_s" in row.modelled for row in (*evaluation.policies, *evaluation.baselines))
    return f"p95 seconds to the end of the answer{' (modelled)' if modelled else ''}"


def _panel(axes: Any, evaluation: Evaluation, axis: Axis, *, label: str, curve: bool) -> list[Label]:
    """Draw one panel without its labels, and return those."""
    axes.set_xlabel(label)
    axes.set_ylabel("accuracy, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    rows = [*evaluation.policies, *evaluation.baselines]
    known = [(x, row) for row in rows if (x := axis(row)) is not None]
    if not known:
        where = axes.transAxes
        axes.text(0.5, 0.5, _absence(evaluation), ha="center", va="center", transform=where, color=GREY)
        axes.set_xticks([])
        axes.set_yticks([])
        return []
    fixed = sorted((x, 100 * row.accuracy) for x, row in known if is_fixed(row.policy))
    if curve and len(fixed) > 1:
        axes.plot(*zip(*fixed, strict=True), color=GREY, linewidth=1.2, zorder=2)
    labels: list[Label] = []
    colours = iter(zip(COLOURS * 3, MARKERS * 3, strict=True))
    for x, row in known:
        style = _style(row, colours)
        _point(axes, x, row, style)
        labels.append((x, 100 * row.accuracy, _name(row), style["color"], style["rank"]))
    axes.margins(x=0.13, y=0.12)
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    return labels


def _absence(evaluation: Evaluation) -> str:
    return f"not known: a p95 needs measured or modelled times\nand 59 questions (here {evaluation.n})"


def _style(row: PolicyRow, colours: Any) -> dict[str, Any]:
    if row.policy == FULL:
        # Large and below the policies, so that a policy in the same place is seen on top of it.
        return {"color": DARK, "marker": "o", "size": 11, "rank": 0, "fill": DARK}
    if row.policy == ORACLE:
        return {"color": GREY, "marker": "*", "size": 11, "rank": 1, "fill": "white"}
    if row.policy == "off":
        return {"color": DARK, "marker": "o", "size": 11, "rank": 0, "fill": "white"}
    if is_fixed(row.policy):
        return {"color": GREY, "marker": "o", "size": 4, "rank": MINOR, "fill": GREY}
    colour, marker = next(colours)
    return {"color": colour, "marker": marker, "size": 6.5, "rank": 0, "fill": colour}


def _name(row: PolicyRow) -> str:
    return row.policy.replace(":", " ") if is_fixed(row.policy) else row.policy


def _point(axes: Any, x: float, row: PolicyRow, style: dict[str, Any]) -> None:
    y = 100 * row.accuracy
    errors = None
    minor = style["rank"] == MINOR
    if row.accuracy_ci is not None and not minor:
        errors = [[max(0.0, y - 100 * row.accuracy_ci[0])], [max(0.0, 100 * row.accuracy_ci[1] - y)]]
    axes.errorbar(
        [x],
        [y],
        yerr=errors,
        fmt=style["marker"],
        color=style["color"],
        markerfacecolor=style["fill"],
        markersize=style["size"],
        elinewidth=1.2,
        capsize=0,
        zorder=3 if minor else 4 if row.policy in (FULL, "off") else 5,
    )


def _place(axes: Any, labels: Sequence[Label]) -> None:
    """Write labels where they cover neither a point nor another label; the important ones choose first."""
    figure = axes.figure
    renderer = figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    scale = figure.dpi / 72
    points = [axes.transData.transform((x, y)) for x, y, *_ in labels]
    taken = [_around((px, py), 10 * scale, 10 * scale) for px, py in points]
    for line in (*axes.lines, *axes.collections):
        taken += _inked(line, scale)
    order = sorted(range(len(labels)), key=lambda i: (labels[i][4], labels[i][0]))
    for i in order:
        x, y, name, colour, rank = labels[i]
        size = 7.0 if rank == MINOR else 9.0
        text = axes.annotate(
            name, (x, y), xytext=(0, 0), textcoords="offset points", fontsize=size, color=colour, zorder=6,
            ha="center", va="center",
        )  # fmt: skip
        extent = text.get_window_extent(renderer)
        offsets = _OFFSETS[:16] if rank == MINOR else _OFFSETS
        spot = _spot(points[i], extent, taken=taken, frame=frame, scale=scale, offsets=offsets)
        if spot is None:
            # A crowded minor cap stays a dot: an unreadable label says less than none.
            if rank == MINOR:
                text.remove()
                continue
            spot = (points[i][0] + 9 * scale + extent.width / 2, points[i][1])
        text.set_position(((spot[0] - points[i][0]) / scale, (spot[1] - points[i][1]) / scale))
        taken.append(_around(spot, extent.width, extent.height))


def _inked(artist: Any, scale: float) -> list[Box]:
    """Return boxes along the lines of the curve and the error bars, which labels should not cross."""
    paths = artist.get_paths() if hasattr(artist, "get_paths") else [artist.get_path()]
    if hasattr(artist, "get_linestyle") and artist.get_linestyle() in ("None", "none"):
        return []
    boxes = []
    for path in paths:
        corners = artist.get_transform().transform(path.vertices)
        for (x0, y0), (x1, y1) in itertools.pairwise(corners):
            steps = max(2, int(max(abs(x1 - x0), abs(y1 - y0)) / (5 * scale)))
            shares = [i / steps for i in range(steps + 1)]
            boxes += [_around((x0 + t * (x1 - x0), y0 + t * (y1 - y0)), 2 * scale, 2 * scale) for t in shares]
    return boxes


def _around(centre: tuple[float, float], width: float, height: float) -> Box:
    return (centre[0] - width / 2, centre[1] - height / 2, centre[0] + width / 2, centre[1] + height / 2)


def _spot(
    point: Any,
    extent: Any,
    *,
    taken: Sequence[Box],
    frame: Any,
    scale: float,
    offsets: Sequence[tuple[float, float]],
) -> tuple[float, float] | None:
    """Return the nearest free centre for a label, in pixels, or None."""
    width, height = extent.width, extent.height
    for dx, dy in offsets:
        # The offset is to the near edge of the label, so that wide labels keep their distance too.
        x = point[0] + dx * scale + (0 if dx == 0 else width / 2 if dx > 0 else -width / 2)
        y = point[1] + dy * scale
        box = _around((x, y), width, height)
        inside = box[0] >= frame.x0 and box[2] <= frame.x1 and box[1] >= frame.y0 and box[3] <= frame.y1
        if inside and not any(_overlap(box, other) for other in taken):
            return x, y
    return None


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
