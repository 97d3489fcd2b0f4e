"""Reading provider deltas: every dialect, every split point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from budgetctl.channels import (
    ChatChannels,
    ResponsesChannels,
    TagSplitter,
    join,
    parse_usage,
    split_message,
    split_response,
)
from budgetctl.types import Event

INLINE = {
    "both tags": ("<think>2+2</think>\n\n4", False, "2+2", "\n\n4"),
    "no tags": ("4 < 5 is true", False, "", "4 < 5 is true"),
    "space before the tag": ("\n<think>a</think>b", False, "\na", "b"),
    "opened by the template": ("a</think>b", True, "a", "b"),
    "opened twice": ("\n<think>a</think>b", True, "\na", "b"),
    "missing open tag": ("a</think>b", False, "a", "b"),
    "thinking off": ("<think>\n\n</think>\n\n4", False, "\n\n", "\n\n4"),
    "second close tag": ("<think>a</think>\n</think>b", False, "a", "\nb"),
    "second thought": ("<think>a</think>\n<think>b</think>c", False, "a\nb", "c"),
    "tags as a topic": ("say <think> and </think>", False, "", "say <think> and </think>"),
    "tags as a topic after thinking": ("<think>a</think>use </think>", False, "a", "use </think>"),
    "never closed": ("<think>a <thi", False, "a <thi", ""),
    "cut inside a tag": ("<think>a</thi", False, "a</thi", ""),
    "look-alikes": ("<think>a<b</t</thinke></think>c", False, "a<b</t</thinke>", "c"),
    "only a close tag": ("</think>b", False, "", "b"),
    "only space": (" \n", False, "", " \n"),
}


def chunkings(text: str, *, cuts: int) -> Iterator[list[str]]:
    """Every way to cut ``text`` at up to ``cuts`` places."""
    for n in range(cuts + 1):
        for places in combinations(range(1, len(text)), n):
            edges = [0, *places, len(text)]
            yield [text[a:b] for a, b in pairwise(edges)]


def split(pieces: Sequence[str], *, starts_in_think: bool = False) -> tuple[str, str]:
    splitter = TagSplitter(starts_in_think=starts_in_think)
    events = [e for piece in pieces for e in splitter.feed(piece)]
    return join([*events, *splitter.flush()])


@pytest.mark.parametrize(("text", "in_think", "reasoning", "answer"), INLINE.values(), ids=INLINE)
def test_inline_tags_at_every_split_point(text: str, in_think: bool, reasoning: str, answer: str) -> None:
    for pieces in [*chunkings(text, cuts=2), list(text)]:
        assert split(pieces, starts_in_think=in_think) == (reasoning, answer), pieces


fragments = st.lists(
    st.sampled_from(["<think>", "</think>", "<", "</", "think>", "<thi", "\n", " ", "a", "b c"]), max_size=12
)


@given(fragments, st.booleans(), st.data())
def test_no_chunking_changes_the_result_and_nothing_but_tags_is_lost(
    parts: list[str], in_think: bool, data: st.DataObject
) -> None:
    text = "".join(parts)
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8).map(sorted))
    edges = [0, *cuts, len(text)]
    pieces = [text[a:b] for a, b in pairwise(edges)]
    whole = split([text], starts_in_think=in_think)
    assert split(pieces, starts_in_think=in_think) == whole
    reasoning, answer = whole
    rest = iter(text)
    assert all(c in rest for c in reasoning + answer) or "<think>" in answer  # a subsequence, in order
    lost = len(text) - len(reasoning + answer)
    tags = text.count("<think>") + text.count("</think>")
    assert lost in {7 * opened + 8 * closed for opened in range(tags + 1) for closed in range(tags + 1)}


def test_only_what_could_become_a_tag_is_held_back() -> None:
    splitter = TagSplitter(starts_in_think=True)
    assert splitter.feed("one </th") == [Event(kind="reasoning", text="one ")]
    assert splitter.feed("e") == [Event(kind="reasoning", text="</the")]


def test_a_close_tag_without_open_tag_reclassifies_what_was_already_sent() -> None:
    splitter = TagSplitter()
    assert splitter.feed("two") == [Event(kind="answer", text="two")]
    assert splitter.feed("</think>4") == [Event(kind="reclassify"), Event(kind="answer", text="4")]


def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


FIELDS: dict[str, Callable[[str], dict[str, Any]]] = {
    "reasoning_content": lambda t: {"reasoning_content": t},
    "reasoning": lambda t: {"reasoning": t},
    "thinking": lambda t: {"thinking": t},
    "thinking parts": lambda t: {"thinking": [{"type": "text", "text": t}]},
    "reasoning_details": lambda t: {"reasoning_details": [{"type": "reasoning.text", "text": t}]},
    "summary details": lambda t: {"reasoning_details": [{"type": "reasoning.summary", "summary": t}]},
    "content parts": lambda t: {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": t}]}]},
    "two fields": lambda t: {"reasoning": t, "reasoning_content": t},
    "field and details": lambda t: {
        "reasoning": t,
        "reasoning_details": [{"type": "reasoning.text", "text": t}],
    },
}


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
def test_reasoning_fields_at_every_split_point(field: Callable[[str], dict[str, Any]]) -> None:
    for pieces in chunkings("so 2 + 2", cuts=2):
        channels = ChatChannels(starts_in_think=True)
        chunks = [*(chunk(field(p)) for p in pieces), chunk({"content": "4"}), chunk({}, "stop")]
        events = [e for c in chunks for e in channels.feed(c)]
        assert join(events) == ("so 2 + 2", "4")
        assert events[-1] == Event(kind="finish", finish="stop")


def test_two_fields_with_different_words_are_both_kept() -> None:
    events = ChatChannels().feed(chunk({"reasoning": "one ", "reasoning_content": "two"}))
    assert join(events)[0] in ("one two", "twoone ")


def test_parsed_reasoning_followed_by_a_stray_close_tag() -> None:
    channels = ChatChannels()
    chunks = [
        chunk({"reasoning_content": "so"}),
        chunk({"content": "</thi"}),
        chunk({"content": "nk>4"}, "stop"),
    ]
    assert join(e for c in chunks for e in channels.feed(c)) == ("so", "4")


def test_reasoning_that_leaks_into_the_content_before_a_close_tag() -> None:
    channels = ChatChannels()
    chunks = [chunk({"reasoning_content": "so "}), chunk({"content": "it is</think>4"}, "stop")]
    assert join(e for c in chunks for e in channels.feed(c)) == ("so it is", "4")


def test_tool_calls_become_tool_events() -> None:
    channels = ChatChannels()
    first = channels.feed(chunk({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]}))
    more = channels.feed(chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}))
    assert (first, more) == ([Event(kind="tool")], [Event(kind="tool", text='{"a"')])


def test_held_back_text_comes_with_the_finish_or_the_flush() -> None:
    channels = ChatChannels()
    channels.feed(chunk({"content": "a"}))
    assert channels.feed(chunk({"content": " <thi"})) == [Event(kind="answer", text=" ")]
    assert channels.feed(chunk({}, "length"))[0] == Event(kind="answer", text="<thi")
    assert channels.flush() == []


def test_a_refusal_is_an_answer_and_other_choices_are_not_read() -> None:
    body = {"choices": [{"index": 1, "delta": {"content": "x"}}, {"index": 0, "delta": {"refusal": "no"}}]}
    assert ChatChannels().feed(body) == [Event(kind="answer", text="no")]


USAGES = {
    "chat": (
        {
            "prompt_tokens": 5,
            "completion_tokens": 30,
            "total_tokens": 35,
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        (5, 20, 10, 30),
    ),
    "responses": (
        {"input_tokens": 5, "output_tokens": 30, "output_tokens_details": {"reasoning_tokens": 20}},
        (5, 20, 10, 30),
    ),
    "top level": ({"prompt_tokens": 5, "completion_tokens": 30, "reasoning_tokens": 20}, (5, 20, 10, 30)),
    "thinking_tokens": (
        {"input_tokens": 5, "output_tokens": 30, "output_tokens_details": {"thinking_tokens": 20}},
        (5, 20, 10, 30),
    ),
    "reasoning beside the completion": (
        {
            "prompt_tokens": 5,
            "completion_tokens": 30,
            "total_tokens": 55,
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        (5, 20, 30, 50),
    ),
    "xAI": (
        {
            "prompt_tokens": 32,
            "completion_tokens": 9,
            "total_tokens": 135,
            "prompt_tokens_details": {"cached_tokens": 6},
            "completion_tokens_details": {"reasoning_tokens": 94, "accepted_prediction_tokens": 0},
        },
        (32, 94, 9, 103),
    ),
    "Groq": (
        {
            "queue_time": 0.05,
            "prompt_tokens": 5,
            "completion_tokens": 30,
            "completion_time": 0.01,
            "total_tokens": 35,
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        (5, 20, 10, 30),
    ),
    "OpenRouter": (
        {
            "prompt_tokens": 5,
            "completion_tokens": 30,
            "total_tokens": 35,
            "cost": 0.0001,
            "completion_tokens_details": {"reasoning_tokens": 20, "image_tokens": 0},
        },
        (5, 20, 10, 30),
    ),
    "DeepSeek": (
        {
            "prompt_tokens": 5,
            "completion_tokens": 30,
            "total_tokens": 35,
            "prompt_cache_hit_tokens": 0,
            "prompt_cache_miss_tokens": 5,
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
        (5, 20, 10, 30),
    ),
    "DashScope": (
        {
            "prompt_tokens": 5,
            "completion_tokens": 30,
            "total_tokens": 35,
            "completion_tokens_details": {"reasoning_tokens": 20, "text_tokens": 10},
        },
        (5, 20, 10, 30),
    ),
    "Mistral and Ollama": (
        {"prompt_tokens": 5, "completion_tokens": 30, "total_tokens": 35},
        (5, None, None, 30),
    ),
    "not reported": ({"prompt_tokens": 5, "completion_tokens": 30}, (5, None, None, 30)),
    "null details": ({"completion_tokens": 30, "completion_tokens_details": None}, (None, None, None, 30)),
    "reported zero": (
        {"prompt_tokens": 5, "completion_tokens": 30, "completion_tokens_details": {"reasoning_tokens": 0}},
        (5, 0, 30, 30),
    ),
    "empty": ({}, (None, None, None, None)),
}


@pytest.mark.parametrize(("body", "expected"), USAGES.values(), ids=USAGES)
def test_usage_shapes(body: dict[str, Any], expected: tuple[int | None, ...]) -> None:
    found = parse_usage(body)
    counts = (found.prompt_tokens, found.reasoning_tokens, found.answer_tokens, found.output_tokens)
    assert (counts, found.provenance) == (expected, "reported")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"prompt_tokens_details": {"cached_tokens": 6, "cache_write_tokens": 2}}, (6, 2)),
        ({"input_tokens_details": {"cached_tokens": 6}}, (6, None)),
        ({"prompt_cache_hit_tokens": 6, "prompt_cache_miss_tokens": 3}, (6, None)),
        ({"prompt_tokens": 9, "prompt_tokens_details": None}, (None, None)),
    ],
    ids=["OpenAI", "Responses", "DeepSeek", "not reported"],
)
def test_what_of_the_prompt_was_cached(body: dict[str, Any], expected: tuple[int | None, ...]) -> None:
    usage = parse_usage(body)
    assert (usage.cached_tokens, usage.cache_write_tokens) == expected


def test_a_reported_zero_is_unknown_when_thinking_was_seen() -> None:
    channels = ChatChannels()
    channels.feed(chunk({"reasoning_content": "so"}))
    usage = {"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 0}}
    (event,) = channels.feed({"choices": [], "usage": usage})
    assert event.usage is not None
    assert (event.usage.reasoning_tokens, event.usage.answer_tokens, event.usage.output_tokens) == (
        None,
        None,
        9,
    )


def test_responses_stream() -> None:
    channels = ResponsesChannels()
    usage = {"input_tokens": 3, "output_tokens": 9, "output_tokens_details": {"reasoning_tokens": 4}}
    stream: list[dict[str, Any]] = [
        {"type": "response.created", "response": {}},
        {"type": "response.reasoning_summary_text.delta", "delta": "sum"},
        {"type": "response.reasoning_text.delta", "delta": "mary"},
        {"type": "response.output_text.delta", "delta": "4"},
        {"type": "response.output_item.added", "item": {"type": "function_call"}},
        {"type": "response.function_call_arguments.delta", "delta": "{}"},
        {"type": "response.completed", "response": {"status": "completed", "usage": usage}},
    ]
    events = [e for item in stream for e in channels.feed(item)]
    assert join(events) == ("summary", "4")
    assert [e.kind for e in events[3:]] == ["tool", "tool", "usage", "finish"]
    assert events[-1].finish == "stop"
    assert events[-2].usage == parse_usage(usage)


@pytest.mark.parametrize(
    ("kind", "response", "finish"),
    [
        ("response.incomplete", {"incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ("response.incomplete", {"incomplete_details": {"reason": "content_filter"}}, "content_filter"),
        ("response.failed", {"status": "failed"}, "failed"),
        ("error", {}, "error"),
    ],
)
def test_responses_that_do_not_complete(kind: str, response: dict[str, Any], finish: str) -> None:
    channels = ResponsesChannels()
    channels.feed({"type": "response.output_text.delta", "delta": "x <"})
    end = channels.feed({"type": kind, "response": response})
    assert end == [Event(kind="answer", text="<"), Event(kind="finish", finish=finish)]


def test_responses_with_inline_tags_at_every_split_point() -> None:
    for pieces in chunkings("<think>a</think>b", cuts=2):
        channels = ResponsesChannels()
        events = [
            e for p in pieces for e in channels.feed({"type": "response.output_text.delta", "delta": p})
        ]
        assert join([*events, *channels.flush()]) == ("a", "b")


def test_whole_messages() -> None:
    assert split_message({"content": "<think>a</think>b"}) == ("a", "b")
    assert split_message({"content": "b", "reasoning": "a"}, starts_in_think=True) == ("a", "b")
    assert split_message({"content": "a", "reasoning": None}, starts_in_think=True) == ("a", "")
    assert split_message({"content": "<think>\na\n</think>b", "reasoning_content": "a"}) == ("a", "b")
    assert split_message({"content": None, "tool_calls": []}) == ("", "")
    assert split_message({"content": [{"type": "text", "text": "b"}], "thinking": "a"}) == ("a", "b")


def test_whole_responses() -> None:
    output = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "a"}]},
        {"type": "function_call", "arguments": "{}"},
        {"type": "message", "content": [{"type": "output_text", "text": "b"}]},
    ]
    assert split_response({"output": output}) == ("a", "b")
