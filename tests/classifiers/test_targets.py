"""What a recording teaches: when thinking helps, and after how much of it the answer stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from budgetctl.classifiers.targets import Example, pool, read

from budgetctl.errors import ClassifierError

from .traffic import write


def recording(
    curve: dict[int, bool], *, natural: tuple[int, bool] | None = (100, True), off: bool | None = False
) -> list[dict[str, Any]]:
    base = {"dataset": "d", "question_id": "1", "question": "Why?", "model": "m", "sample": 0}
    found = [("tokens", tokens, right, True) for tokens, right in curve.items()]
    if natural is not None:
        found.append(("natural", *natural, True))
    if off is not None:
        found.append(("off", 0, off, False))
    return [
        {**base, "budget": {"kind": k, "value": None}, "reasoning_tokens": t, "correct": c, "coupled": p}
        for k, t, c, p in found
    ]


def learnt(tmp_path: Path, rows: list[dict[str, Any]]) -> Example:
    [example] = read([write(tmp_path / "cube.jsonl.gz", rows)])
    return example


def test_settled_is_the_first_cut_from_which_on_the_answer_stays_right(tmp_path: Path) -> None:
    example = learnt(tmp_path, recording({0: False, 20: False, 40: True, 80: True}))
    assert (example.settled, example.natural, example.helped) == (40, 100, True)


def test_a_right_answer_that_is_lost_again_has_not_settled(tmp_path: Path) -> None:
    example = learnt(tmp_path, recording({0: True, 20: True, 40: False, 80: True}))
    assert example.settled == 80


def test_an_answer_right_only_at_the_end_settles_at_the_natural_length(tmp_path: Path) -> None:
    assert learnt(tmp_path, recording({0: False, 80: False})).settled == 100


def test_a_question_answered_at_once_is_not_helped(tmp_path: Path) -> None:
    example = learnt(tmp_path, recording({0: True, 20: True}, off=True))
    assert (example.settled, example.helped, example.off) == (0, False, True)


def test_a_wrong_natural_answer_says_nothing_about_settling(tmp_path: Path) -> None:
    example = learnt(tmp_path, recording({0: False, 20: True}, natural=(100, False)))
    assert (example.settled, example.full, example.natural) == (None, False, 100)


def test_without_an_off_row_the_cut_at_zero_stands_for_it(tmp_path: Path) -> None:
    assert learnt(tmp_path, recording({0: True, 20: True}, off=None)).off is True
    assert learnt(tmp_path, recording({20: True}, off=None)).off is None


def test_without_cuts_settling_is_unknown(tmp_path: Path) -> None:
    assert learnt(tmp_path, recording({})).settled is None


def test_samples_of_a_question_are_separate_examples(tmp_path: Path) -> None:
    again = [{**row, "sample": 1} for row in recording({0: True})]
    path = write(tmp_path / "cube.jsonl.gz", recording({0: False}) + again)
    assert [e.settled for e in read([path])] == [100, 0]


def example(model: str, text: str = "Why is it?", **values: float) -> Example:
    return Example(question_id="d/1", dataset="d", model=model, kind="k", text=text, **values)


def test_models_are_pooled_by_the_text_of_the_question() -> None:
    [question, other] = pool(
        [
            example("a", off=0.0, natural=10.0),
            example("a", off=1.0, natural=30.0),
            example("b", text="Why  is\nit?", off=1.0, full=1.0, settled=5.0),
            example("b", text="Why?", level=1.5),
        ]
    )
    assert question.off == 0.75, "a model with two samples counts once"
    assert question.full == 1.0
    assert question.natural == (("a", 20.0),)
    assert question.settled == (("b", 5.0),)
    assert (other.off, other.full, other.natural, other.level) == (None, None, (), 1.5)


def test_a_recording_without_natural_rows_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "cube.jsonl.gz", recording({0: True}, natural=None))
    with pytest.raises(ClassifierError, match=r"cube.*natural row"):
        read([path])


@pytest.mark.parametrize(
    ("line", "says"), [("{", "not JSON"), ("[1]", "dataset"), ('{"dataset": 1}', "model")]
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    path = tmp_path / "cube.jsonl"
    path.write_text(f"\n{line}\n")
    with pytest.raises(ClassifierError, match=rf"cube.jsonl:2: .*{says}"):
        read([path])


def test_a_truncated_archive_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "cube.jsonl.gz", recording({0: True}))
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(ClassifierError, match="cannot be read"):
        read([path])
