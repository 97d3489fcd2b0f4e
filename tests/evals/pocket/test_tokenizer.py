"""The tokenizer and its chat template."""

from __future__ import annotations

from itertools import islice

import pytest

pytest.importorskip("transformers")

from budgetctl.evals.pocket.questions import stream
from budgetctl.evals.pocket.tokenizer import TRANSITION_CLOSE, build

TOKENIZER = build()


def ids(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False))


@pytest.mark.parametrize("split", ["train", "calibration", "test"])
def test_every_question_and_thought_comes_back(split: str) -> None:
    for worked in islice(stream(split), 1000):  # type: ignore[arg-type]  # pytest parametrizes with str
        for text in (worked.question.text, worked.thinking):
            assert TOKENIZER.decode(ids(text)) == text
            assert TOKENIZER.unk_token_id not in ids(text)


@pytest.mark.parametrize(
    "text", ["", " ", "\n\n\n", "  the  red cup ", "Ana has 42.\n\n 7", TRANSITION_CLOSE, "<think>\n"]
)
def test_spaces_digits_and_markers_come_back(text: str) -> None:
    assert TOKENIZER.decode(ids(text)) == text


def test_digits_are_single_tokens() -> None:
    assert [TOKENIZER.decode([i]) for i in ids("is 407")] == ["is", " 4", "0", "7"]


@pytest.mark.parametrize("text", ["Ça va? 你好 \U0001f642", "UnknownWord", "\x00\t"])
def test_unknown_text_becomes_unk_and_does_not_fail(text: str) -> None:
    assert TOKENIZER.unk_token_id in ids(text)


def test_think_markers_are_ordinary_tokens() -> None:
    marker = ids("</think>")
    assert len(marker) == 1
    assert TOKENIZER.decode(marker, skip_special_tokens=True) == "</think>"


def chat(*messages: tuple[str, object], **options: object) -> str:
    turns = [{"role": role, "content": content} for role, content in messages]
    return str(TOKENIZER.apply_chat_template(turns, tokenize=False, **options))


def test_template_opens_the_reply_and_leaves_thinking_to_the_model() -> None:
    assert chat(("user", "Hi"), add_generation_prompt=True) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_template_without_thinking_closes_an_empty_thought() -> None:
    shown = chat(("user", "Hi"), add_generation_prompt=True, enable_thinking=False)
    assert shown.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")


def test_template_drops_earlier_thinking_and_takes_text_parts() -> None:
    shown = chat(
        ("system", "You are a helpful assistant."),
        ("user", [{"type": "text", "text": "Hi"}, {"type": "text", "text": " Ana"}]),
        ("assistant", "<think>\nhm\n</think>\n\nThe answer is 4."),
    )
    assert shown == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nHi Ana<|im_end|>\n"
        "<|im_start|>assistant\nThe answer is 4.<|im_end|>\n"
    )
