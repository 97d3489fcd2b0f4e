"""Building blocks of the page's charts: Vega specifications as plain JSON values (vega.github.io/vega).

Colours are CSS variables, so that one drawing serves light, dark and paper. Every mark carries ``say``, the
sentence that a pointer shows and a screen reader reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from budgetctl.evals.baselines import ORACLE
from budgetctl.evals.metrics import FULL, Evaluation, is_fixed

Spec = dict[str, Any]

INK, MUTED, LINE, CAP = "var(--ink)", "var(--muted)", "var(--line)", "var(--cap)"
CIRCLE = "M-1,0A1,1,0,1,0,1,0A1,1,0,1,0,-1,0Z"
STAR = "M0,-1.3L0.31,-0.4L1.24,-0.4L0.48,0.16L0.77,1.05L0,0.5L-0.77,1.05L-0.48,0.16L-1.24,-0.4L-0.31,-0.4Z"
SHAPES = (
    "M-0.9,-0.9L0.9,-0.9L0.9,0.9L-0.9,0.9Z",
    "M0,-1.25L1.25,0L0,1.25L-1.25,0Z",
    "M0,-1.15L1.1,0.9L-1.1,0.9Z",
    CIRCLE,
    "M0,1.15L1.1,-0.9L-1.1,-0.9Z",
    "M-0.4,-1.1H0.4V-0.4H1.1V0.4H0.4V1.1H-0.4V0.4H-1.1V-0.4H-0.4Z",
)
DASHES: tuple[list[int], ...] = ([], [8, 3], [3, 3], [10, 3, 3, 3], [5, 5], [14, 4])
CONFIG: Spec = {
    "background": None,
    "text": {"font": "system-ui, sans-serif", "fontSize": 12, "fill": INK},
    "style": {
        "guide-label": {"font": "system-ui, sans-serif", "fontSize": 12, "fill": MUTED},
        "guide-title": {
            "font": "system-ui, sans-serif",
            "fontSize": 12.5,
            "fontWeight": "normal",
            "fill": INK,
        },
    },
    "axis": {
        "grid": True,
        "gridColor": LINE,
        "domain": False,
        "ticks": False,
        "labelPadding": 6,
        "titlePadding": 10,
        "labelOverlap": True,
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How a policy is drawn, the same in every chart. Shapes and dashes tell apart what colours may not.

    Attributes:
        rank: Smaller chooses the place of its label first.
    """

    colour: str
    shape: str
    fill: str
    dash: list[int]
    size: int
    rank: int

    @property
    def dashes(self) -> str:
        """The dashes as SVG writes them."""
        return " ".join(map(str, self.dash)) or "none"

    def fields(self, *, size: int | None = None) -> Spec:
        """Return the look as fields of a chart's row."""
        return {
            "colour": self.colour,
            "shape": self.shape,
            "fill": self.fill,
            "size": self.size if size is None else size,
        }


def looks(evaluation: Evaluation) -> dict[str, Look]:
    """Return the look of every policy and baseline: fixed budgets in greys, the others in colours."""
    found: dict[str, Look] = {}
    coloured = 0
    for name in (row.policy for row in (*evaluation.policies, *evaluation.baselines)):
        if name == FULL:
            found[name] = Look(colour=INK, shape=CIRCLE, fill=INK, dash=[], size=190, rank=0)
        elif name == "off":
            found[name] = Look(colour=INK, shape=CIRCLE, fill="var(--page)", dash=[2, 3], size=150, rank=1)
        elif name == ORACLE:
            found[name] = Look(colour=MUTED, shape=STAR, fill="var(--page)", dash=[1, 3], size=150, rank=3)
        elif is_fixed(name):
            found[name] = Look(colour=CAP, shape=CIRCLE, fill=CAP, dash=[5, 3], size=45, rank=4)
        else:
            at = coloured % len(SHAPES)
            colour = f"var(--p{at})"
            found[name] = Look(
                colour=colour, shape=SHAPES[at], fill=colour, dash=DASHES[at], size=110, rank=2
            )
            coloured += 1
    return found


def at(scale: str, field: str, **more: Any) -> Spec:
    """Return the place of a field on a scale."""
    return {"scale": scale, "field": field, **more}


def constant(scale: str, number: float) -> Spec:
    """Return the place of a number on a scale."""
    return {"scale": scale, "value": number}


def field(name: str) -> Spec:
    """Return a field taken as it is."""
    return {"field": name}


def value(plain: Any) -> Spec:
    """Return a value of no scale."""
    return {"value": plain}


def signal(expression: str) -> Spec:
    """Return what an expression comes to."""
    return {"signal": expression}


def mark(kind: str, data: str | None, *, name: str | None = None, **encode: Any) -> Spec:
    """Return a mark for every row of ``data``, or a single one; what has ``say`` says it.

    Marks without a sentence of their own are hidden from screen readers.
    """
    spec: Spec = {"type": kind, "encode": {"update": encode}}
    if data is not None:
        spec["from"] = {"data": data}
    if name is not None:
        spec["name"] = name
    if "tooltip" in encode:
        encode["description"] = encode["tooltip"]
    else:
        spec.update(interactive=False, aria=False)
    return spec


def by_policy(look: Mapping[str, Look], *, say: Mapping[str, str]) -> list[Spec]:
    """Return scales from a policy to its colour, its dashes and its sentence, for rows without them."""
    names = list(say)
    ranges = {
        "colour": [look[name].colour for name in names],
        "dash": [look[name].dash for name in names],
        "say": list(say.values()),
    }
    return [{"name": n, "type": "ordinal", "domain": names, "range": r} for n, r in ranges.items()]


def lines(data: str, *, x: Spec, y: Spec) -> Spec:
    """Return one line of steps per policy through its rows; needs the scales of :func:`by_policy`."""
    inner = mark(
        "line",
        "series",
        x=x,
        y=y,
        stroke=at("colour", "policy"),
        strokeDash=at("dash", "policy"),
        strokeWidth=value(2),
        interpolate=value("step-after"),
        tooltip=at("say", "policy"),
    )
    return {
        "type": "group",
        "from": {"facet": {"name": "series", "data": data, "groupby": "policy"}},
        "marks": [inner],
    }


def points(data: str, *, x: Spec, y: Spec, name: str | None = None) -> Spec:
    """Return a symbol for every row, in the look of its policy."""
    found = mark(
        "symbol",
        data,
        name=name,
        x=x,
        y=y,
        shape=field("shape"),
        size=field("size"),
        fill=field("fill"),
        stroke=field("colour"),
        strokeWidth=value(2),
        tooltip=field("say"),
    )
    found["encode"]["hover"] = {"strokeWidth": value(5)}
    found["encode"]["update"]["cursor"] = value("default")
    return found


def intervals(data: str, *, name: str | None = None, **places: Any) -> Spec:
    """Return a bar from one end of an interval to the other for every row."""
    return mark("rule", data, name=name, stroke=field("colour"), strokeWidth=value(1.6), **places)


def limit(text: str, *, x: Spec | None = None, y: Spec | None = None) -> list[Spec]:
    """Return a dashed line across the chart at one place, with its name."""
    dash: Spec = {"stroke": value(MUTED), "strokeDash": value([5, 4]), "strokeWidth": value(1.3)}
    words: Spec = {"text": value(text), "fill": value(MUTED), "fontSize": value(11.5)}
    if x is not None:
        line = mark("rule", None, x=x, y=value(0), y2=signal("height"), **dash)
        label = mark("text", None, x=x, y=value(-6), align=value("center"), **words)
    else:
        line = mark("rule", None, y=y, x=value(0), x2=signal("width"), **dash)
        label = mark("text", None, y=y, x=signal("width"), dy=value(-5), align=value("right"), **words)
    return [line, label]


def scale(name: str, kind: str, domain: Any, **more: Any) -> Spec:
    """Return a scale over the chart's width (``x``) or height (anything else)."""
    return {
        "name": name,
        "type": kind,
        "domain": domain,
        "range": "width" if name == "x" else "height",
        **more,
    }


def axis(where: str, title: str, *, of: str | None = None, **more: Any) -> Spec:
    """Return an axis at the bottom or at the left, with about one tick per 100 or 50 pixels."""
    ticks = "ceil(width/100)" if where == "bottom" else "ceil(height/50)"
    return {
        "orient": where,
        "scale": of or ("x" if where == "bottom" else "y"),
        "title": title,
        "tickCount": {"signal": ticks},
        **more,
    }


def chart(
    description: str,
    *,
    height: int | str,
    data: Mapping[str, Sequence[Mapping[str, Any]]],
    scales: Sequence[Spec],
    axes: Sequence[Spec],
    marks: Sequence[Spec],
) -> Spec:
    """Return a chart as wide as its place on the page.

    Args:
        description: What a screen reader says of the whole.
        height: In pixels, or an expression for it.
        data: Name to rows. Rows with a ``policy`` that the reader has hidden are left out in the page.
    """
    width = "max(240, containerSize()[0])"
    tall: Spec = {"update": height} if isinstance(height, str) else {"value": height}
    return {
        "description": description,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "padding": {"left": 2, "right": 12, "top": 16, "bottom": 2},
        "signals": [
            {"name": "width", "init": width, "on": [{"events": "window:resize", "update": width}]},
            {"name": "height", **tall},
        ],
        "data": [{"name": name, "values": list(rows)} for name, rows in data.items()],
        "scales": list(scales),
        "axes": list(axes),
        "marks": list(marks),
    }
