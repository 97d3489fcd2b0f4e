import gzip
import hashlib
import json
import re
import tomllib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from budgetctl.evals import report, verdict
from budgetctl.evals.baselines import fixed_curve
from budgetctl.evals.metrics import evaluate
from budgetctl.evals.replay import Recording, replay
from budgetctl.evals.report.html import asset, embedded

from budgetctl.errors import EvalError
from budgetctl.types import Pace

from .worlds import Oracle, results, world

PACE = Pace(ttft_s=1.0, s_per_token=0.1)


def results_of(rows):
    recording = Recording.of(rows)
    runs = fixed_curve(recording, pace=PACE, caps=[20, 50, 80])
    runs["quantile:0.9"] = replay(recording, "quantile:0.9", pace=PACE, classifier=Oracle())
    return runs


def evaluation(n=200):
    return evaluate(results_of(world(n)), rng=np.random.default_rng(0), asked=["quantile:0.9"])


def made(title="A <b>bold</b> & brave run", n=200):
    rows = world(n)
    runs = results_of(rows)
    found = evaluate(runs, rng=np.random.default_rng(0), asked=["quantile:0.9"])
    return report.Report(
        title=title,
        evaluation=found,
        verdict=verdict.decide(found),
        settings={"seed": 0, "note": "<script>", "margin": 0.02},
        details=report.details(runs, found, questions=rows),
    )


def test_the_table_is_aligned_and_shows_policies_before_baselines():
    text = report.table(evaluation())
    lines = text.splitlines()
    assert lines[0].startswith("policy")
    assert lines[2].startswith("quantile:0.9")
    assert [line.split()[0] for line in lines[4:10]] == [
        "full",
        "off",
        "cap:20",
        "cap:50",
        "cap:80",
        "oracle",
    ]
    assert {len(line) for line in lines[1:10]} == {len(lines[1])}
    assert "~ modelled from a speed profile, not measured." in text
    assert "chance-inflated" in text


def test_columns_of_which_nothing_is_known_are_left_out():
    bare = evaluate({"full": results([True, False])}, rng=np.random.default_rng(0))
    head = report.table(bare).splitlines()[0]
    assert "E2E" not in head
    assert "$/right" not in head


def test_everything_is_written_and_read_back(tmp_path):
    paths = report.write(made(), tmp_path)
    assert {kind: path.name for kind, path in paths.items()} == {
        "summary": "summary.json",
        "details": "details.json.gz",
        "html": "report.html",
        "png": "tradeoff.png",
        "svg": "tradeoff.svg",
    }
    content = json.loads(paths["summary"].read_text())
    assert [row["policy"] for row in content["policies"]] == ["quantile:0.9"]
    assert content["verdict"].startswith("Use quantile:0.9")
    details = json.loads(gzip.decompress(paths["details"].read_bytes()))
    assert report.Report.from_json(content, details=details) == made()


def test_what_is_kept_is_strict_json(tmp_path):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    paths = report.write(made(), tmp_path)
    json.loads(paths["summary"].read_text(), parse_constant=refuse)
    json.loads(gzip.decompress(paths["details"].read_bytes()), parse_constant=refuse)


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.seen = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def test_the_page_is_escaped_and_needs_nothing_from_outside(tmp_path):
    text = report.write(made(), tmp_path)["html"].read_text()
    tags = Tags(text).seen
    names = {name for name, _ in tags}
    assert not names & {"img", "link", "iframe", "b"}
    assert not [attrs for _, attrs in tags if "src" in attrs]
    assert all(attrs["href"].startswith("#") for _, attrs in tags if "href" in attrs)
    assert "url(" not in asset("report.css")
    assert "@import" not in asset("report.css")
    assert "A &lt;b&gt;bold&lt;/b&gt; &amp; brave run" in text


def test_the_page_says_everything_that_counts_without_scripts(tmp_path):
    text = report.write(made(), tmp_path)["html"].read_text()
    plain = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert "<strong>Use quantile:0.9: it saves" in plain
    assert '<th scope="row">quantile:0.9</th>' in plain
    assert plain.count("<noscript>") == 1
    assert "<svg" in plain[plain.index("<noscript>") : plain.index("</noscript>")]
    for title in ("By cluster", "Latency", "Thinking used, by difficulty", "Risk of a fixed budget"):
        section = plain[plain.index(f"<h2>{title}</h2>") :]
        assert "<summary>Numbers</summary>" in section[: section.index("</section>")]


def test_no_text_can_end_the_data_or_become_a_tag():
    hostile = "</script><script>alert(1)</script><!--"
    element = embedded("data", {"text": hostile})
    assert element.count("<") == 2
    content = element[element.index(">") + 1 : element.rindex("</script>")]
    assert json.loads(content) == {"text": hostile}


def test_the_library_is_the_pinned_one_and_brings_its_licence(tmp_path):
    folder = Path(report.__file__).parent / "assets"
    source = tomllib.loads((folder / "SOURCES.toml").read_text())["vega"]
    assert hashlib.sha256((folder / "vega.min.js").read_bytes()).hexdigest() == source["sha256"]
    assert f'version="{source["version"]}"' in asset("vega.min.js")
    assert f"Vega {source['version']}" in asset("VEGA-LICENSE.txt")
    text = report.write(made(), tmp_path)["html"].read_text()
    assert text.count(asset("vega.min.js")) == 1
    assert text.count("University of Washington Interactive Data Lab") == 1


def palettes():
    """The colours of the three media, by name of the variable."""
    found = re.findall(r":root \{(.*?)\}", asset("report.css"), flags=re.DOTALL)
    assert len(found) == 3, "light, dark, print"
    return [dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6})", block)) for block in found]


def contrast(one, other):
    """Contrast ratio of WCAG 2.2."""

    def luminance(colour):
        digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        channels = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", palettes(), ids=["light", "dark", "print"])
def test_text_and_marks_stand_out_from_the_page(palette):
    assert set(palette) == set(palettes()[0])
    text = ("ink", "muted", "good", "bad", "accent", *(f"p{i}" for i in range(6)))
    assert {name: round(r, 1) for name in text if (r := contrast(palette[name], palette["page"])) < 4.5} == {}
    assert contrast(palette["muted"], palette["panel"]) >= 4.5
    assert contrast(palette["cap"], palette["page"]) >= 3


def test_costs_stand_beside_the_p95_where_they_are_known():
    same = [replace(r, e2e_s=1.0, cost_usd=0.002) for r in results([i % 2 == 0 for i in range(80)])]
    found = evaluate({"full": same}, rng=np.random.default_rng(0))
    head, _, line, *_ = report.table(found).splitlines()
    assert re.search(r"E2E p95 s\s+\$/request\s+\$/right", head)
    assert re.search(r"1\.00\s+0\.002\s+0\.004", line)


def test_a_folder_is_rendered_anew_from_its_summary(tmp_path):
    paths = report.write(made(), tmp_path)
    before = paths["html"].read_text()
    paths["html"].unlink()
    assert report.from_folder(tmp_path) == paths["html"]
    assert paths["html"].read_text() == before


def test_a_folder_without_a_summary_says_what_to_do(tmp_path):
    with pytest.raises(EvalError, match=r"holds no summary\.json.*resumed by the same command"):
        report.from_folder(tmp_path)
    for content, why in (
        ({"schema_version": "1.0", "title": "x"}, r"\(KeyError: 'policies'\)"),
        ({"schema_version": "2.0", "title": "x"}, r"seen schema_version 2\.0, this version reads 1\.x"),
        ({"title": "x"}, "seen no schema_version"),
        ([], "seen no schema_version"),
    ):
        (tmp_path / "summary.json").write_text(json.dumps(content))
        with pytest.raises(EvalError, match=rf"summary\.json: cannot be read.*{why}"):
            report.from_folder(tmp_path)


def test_details_that_are_damaged_are_named(tmp_path):
    paths = report.write(made(), tmp_path)
    paths["details"].write_bytes(paths["details"].read_bytes()[:-20])
    with pytest.raises(EvalError, match=r"details\.json\.gz: cannot be read \(EOFError"):
        report.from_folder(tmp_path)


def test_the_picture_names_its_points_and_its_n(tmp_path):
    svg = report.write(made(title="Made up"), tmp_path)["svg"].read_text()
    words = set(re.findall(r">([^<>]+)</text>", svg))
    assert {"full", "off", "oracle", "quantile:0.9", "Made up (n = 200 questions)"} <= words


def test_labels_of_points_in_the_same_place_do_not_cover_each_other(tmp_path):
    from budgetctl.evals.report import picture
    from matplotlib.figure import Figure

    same = results([i % 3 > 0 for i in range(80)], e2e_s=1.0, ttfo_s=0.5)
    runs = dict.fromkeys(("full", "auto", "quantile:0.9", "tiered", "deadline:5"), same)
    drawn = []
    keep = Figure.savefig

    def savefig(self, *args, **more):
        drawn.append(self)
        return keep(self, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", savefig)
        picture.save(evaluate(runs, rng=np.random.default_rng(0)), tmp_path, title="Crowd")
    for axes in drawn[0].axes:
        boxes = [text.get_window_extent() for text in axes.texts]
        assert len(boxes) == 6
        assert not [1 for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]


def test_without_times_the_second_panel_says_why_it_is_empty(tmp_path):
    found = evaluate({"full": results([True, False])}, rng=np.random.default_rng(0))
    result = report.Report(title="Few", evaluation=found, verdict=verdict.decide(found), settings={})
    assert "and 59 questions (here 2)" in report.write(result, tmp_path)["svg"].read_text()
