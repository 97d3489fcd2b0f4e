"""The shipped model, its recorded cube and its card."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from budgetctl.evals.pocket import path, questions
from budgetctl.evals.pocket.card import Recorded, by_question, read, shipped

CUBE = path().parent / "test.jsonl.gz"


@cache
def recorded() -> list[Recorded]:
    return by_question(read(CUBE))


def accuracy(rows: list[dict[str, Any]]) -> float:
    return sum(bool(row["correct"]) for row in rows) / len(rows)


def test_the_files_are_small() -> None:
    assert (path() / "model.safetensors").stat().st_size <= 4_000_000
    assert CUBE.stat().st_size <= 1_000_000


def test_the_card_is_the_cube() -> None:
    assert (path().parent / "CARD.md").read_text(encoding="utf-8") == shipped()


def test_the_cube_records_the_test_questions() -> None:
    asked = {q.id: q for q in questions("test", len(recorded()))}
    for mine in recorded():
        question = asked[mine.natural["question_id"]]
        assert (mine.natural["question"], mine.natural["reference_answer"]) == (
            question.text,
            question.answer,
        )


def test_thinking_pays_and_overthinks() -> None:
    natural = [q.natural for q in recorded()]
    assert accuracy(natural) >= 0.92
    assert accuracy([q.off for q in recorded()]) <= 0.60
    late = sum(q.settled_late for q in recorded()) / sum(row["reasoning_tokens"] for row in natural)
    assert late >= 0.25


def test_a_cut_after_the_answer_was_stated_is_right() -> None:
    assert accuracy([row for q in recorded() for row in q.cut_after if q.natural["correct"]]) >= 0.98


def test_the_shipped_model_thinks_as_recorded() -> None:
    pytest.importorskip("torch")
    from budgetctl.evals.pocket import load
    from budgetctl.evals.pocket.decode import Decoder
    from budgetctl.evals.pocket.record import record

    decoder = Decoder(*load())
    again = by_question(record(decoder, questions("test", 6)))
    before = {q.natural["question_id"]: q for q in recorded()}
    for mine in again:
        then = before[mine.natural["question_id"]]
        assert mine.natural["answer"] == then.natural["answer"]
        assert mine.off["answer"] == then.off["answer"]
        assert [row["answer"] for row in mine.capped] == [row["answer"] for row in then.capped]
    assert accuracy([q.natural for q in again]) >= 0.8


def test_transformers_generates_the_same_reply() -> None:
    torch = pytest.importorskip("torch")
    from budgetctl.evals.pocket.decode import Decoder
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(path()), AutoTokenizer.from_pretrained(path())
    chat = [{"role": "user", "content": questions("test", 1)[0].text}]
    prompt = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.inference_mode():
        out = model.generate(**prompt)[0, prompt["input_ids"].shape[1] :]
    [thought] = Decoder(model, tokenizer).thoughts([chat[0]["content"]])
    assert out.tolist() == [*thought.reply, tokenizer.eos_token_id]
    assert tokenizer.decode(out).startswith("<think>\n")
