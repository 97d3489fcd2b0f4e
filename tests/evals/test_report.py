import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from budgetctl.evals import report, verdict
from budgetctl.evals.baselines import fixed_curve
from budgetctl.evals.metrics import evaluate
from budgetctl.evals.replay import Recording, replay

from budgetctl.errors import EvalError
from budgetctl.types import Pace

from .worlds import Oracle, results, world

PACE = Pace(ttft_s=1.0, s_per_token=0.1)


def evaluation(n=200):
    recording = Recording.of(world(n))
    runs = fixed_curve(recording, pace=PACE, caps=[20, 50, 80])
    runs["quantile:0.9"] = replay(recording, "quantile:0.9", pace=PACE, classifier=Oracle())
    return evaluate(runs, rng=np.random.default_rng(0), asked=["quantile:0.9"])


def made(title="A <b>bold</b> & brave run", n=200):
    found = evaluation(n)
    return report.Report(
        title=title, evaluation=found, verdict=verdict.decide(found), settings={"seed": 0, "note": "<script>"}
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
        "html": "report.html",
        "png": "tradeoff.png",
        "svg": "tradeoff.svg",
    }
    content = json.loads(paths["summary"].read_text())
    assert [row["policy"] for row in content["policies"]] == ["quantile:0.9"]
    assert content["verdict"].startswith("Use quantile:0.9")
    assert report.Report.from_json(content) == made()


def test_the_summary_is_strict_json(tmp_path):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    json.loads(report.write(made(), tmp_path)["summary"].read_text(), parse_constant=refuse)


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
    assert "svg" in names
    assert not names & {"script", "img", "link", "iframe", "b"}
    assert not [a for _, attrs in tags for key, a in attrs.items() if key in ("src", "href") and "://" in a]
    assert "A &lt;b&gt;bold&lt;/b&gt; &amp; brave run" in text
    assert "Harm and help" in text


def test_a_folder_is_rendered_anew_from_its_summary(tmp_path):
    paths = report.write(made(), tmp_path)
    before = paths["html"].read_text()
    paths["html"].unlink()
    assert report.from_folder(tmp_path) == paths["html"]
    assert paths["html"].read_text() == before


def test_a_folder_without_a_summary_says_what_to_do(tmp_path):
    with pytest.raises(EvalError, match=r"holds no summary\.json.*resumed by the same command"):
        report.from_folder(tmp_path)
    (tmp_path / "summary.json").write_text('{"title": "x"}')
    with pytest.raises(EvalError, match=r"summary\.json: cannot be read \(KeyError: 'policies'\)"):
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
