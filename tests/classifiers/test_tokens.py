"""What is read of a query, in batches, and which neighbouring tokens are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from budgetctl.classifiers.tokens import Reader, known_pairs, limit, share

from budgetctl.types import Query, Turn

from . import bert

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture
def reader() -> Reader:
    return Reader(bert.tokenizer(), max_length=8)


def test_of_a_long_text_head_and_tail_are_read(reader: Reader) -> None:
    whole = reader.ids("lake hill mill farm gate wood")
    assert len(whole) == 8
    assert reader.ids(f"lake hill mill {'port ' * 500} farm gate wood") == whole
    assert reader.ids("") == [2, 3]


def test_a_short_turn_is_read_with_what_was_said_before(reader: Reader) -> None:
    asked = Query(text="lake", recent=(Turn(role="user", text="hill"),))
    assert reader.read(asked) == reader.ids("hill lake")


def test_a_lone_surrogate_is_read_as_a_question_mark(reader: Reader) -> None:
    assert reader.ids("lake \ud800") == reader.ids("lake ?")


def test_batches_are_padded_and_their_padding_is_masked(reader: Reader) -> None:
    x = reader.batch([[2, 5, 3], [2, 3]])
    assert x["input_ids"].tolist() == [[2, 5, 3], [2, 3, 0]]
    assert x["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


def test_rows_come_back_in_order_though_batches_are_sorted_by_length(reader: Reader) -> None:
    sizes: list[int] = []

    def last(*, input_ids: Any, attention_mask: Any) -> Any:
        sizes.append(len(input_ids))
        assert torch.is_inference_mode_enabled()
        return (input_ids * attention_mask).amax(dim=1, keepdim=True).float()

    ids = [[1, 2, 9], [7], [1, 8], [6], [1, 2, 3, 5]]
    assert reader.apply(last, ids, size=2).tolist() == [[9], [7], [8], [6], [5]]
    assert sizes == [2, 2, 1]


def test_no_more_is_read_than_the_network_has_positions_for() -> None:
    network, tokenizer = SimpleNamespace(config=SimpleNamespace()), SimpleNamespace(model_max_length=100)
    assert limit(128, tokenizer, network) == 100
    network.config.max_position_embeddings = 64
    assert limit(128, tokenizer, network) == 64
    assert limit(32, tokenizer, network) == 32


def test_pairs_count_once_they_occur_in_two_questions() -> None:
    known = known_pairs([[1, 2, 3], [1, 2, 9], [7, 8, 7, 8]])
    assert share([1, 2], known) == 1
    assert share([7, 8, 7], known) == 0
    assert share([1, 2, 3], known) == 0.5
    assert share([1], known) == 0
