"""``budgetctl decide``: one decision, shown and not carried out."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from budgetctl.classifiers import registry

from budgetctl.cli import main
from budgetctl.types import Estimate, Quantiles, Query

CURVE = Quantiles(p50=100, p80=200, p90=300, p95=400)


class Sure:
    """A classifier that is sure of itself, and of thinking wherever the question is long."""

    name = "sure"
    hash = "1"

    def __init__(self, confidence: float = 1.0) -> None:
        self.confidence = confidence

    def estimate(self, query: Query) -> Estimate:
        p_off = 0.2 if len(query.text) > 20 else 0.9
        return Estimate(
            p_off=p_off,
            p_full=0.9,
            settled=CURVE,
            natural=CURVE,
            confidence=self.confidence,
            source="sure:1",
        )


@pytest.fixture(autouse=True)
def default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "load", lambda name: Sure())


def decided(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert main(["decide", "--json", *argv]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


HARD = "How many ways are there to tile the floor?"


def test_the_json_has_the_keys_that_stay(capsys: pytest.CaptureFixture[str]) -> None:
    found = decided(capsys, HARD)
    assert set(found) == {"estimate", "decision", "expected", "price_source", "controls", "elapsed_us"}
    assert set(found["estimate"]) == {"p_off", "p_full", "need", "settled", "natural", "confidence", "source"}
    assert (
        set(found["estimate"]["settled"]) == set(found["estimate"]["natural"]) == {"p50", "p80", "p90", "p95"}
    )
    assert set(found["decision"]) == {"reasoning_tokens", "effort", "answer_tokens", "reasons"}
    assert set(found["expected"]) == {"p_correct", "ttfo_s", "e2e_s", "cost_usd"}
    assert found["elapsed_us"] > 0


def test_without_a_model_it_decides_for_the_embedded_one(capsys: pytest.CaptureFixture[str]) -> None:
    found = decided(capsys, HARD, "--policy", "quantile:0.9")
    assert found["decision"]["reasoning_tokens"] == 300
    assert {"name": "logits", "value": 300, "strength": "hard"} in found["controls"]
    assert found["expected"]["p_correct"] == pytest.approx(0.2 + 0.9 * 0.7, abs=0.01)


def test_a_question_that_needs_no_thinking_gets_none(capsys: pytest.CaptureFixture[str]) -> None:
    assert decided(capsys, "Why?", "--policy", "quantile:0.9")["decision"]["reasoning_tokens"] == 0


def test_the_controls_are_those_of_the_named_model(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ("--policy", "cap:700", "--model", "qwen3-8b", "--endpoint", "vllm")
    found = decided(capsys, HARD, *argv)
    assert {"name": "thinking_token_budget", "value": 700, "strength": "hard"} in found["controls"]


def test_the_estimate_is_shown_also_when_it_was_set_aside(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "load", lambda name: Sure(confidence=0.1))
    found = decided(capsys, HARD, "--policy", "quantile:0.9")
    assert found["estimate"]["confidence"] == 0.1
    assert found["decision"]["reasoning_tokens"] is None
    assert any("confidence" in reason for reason in found["decision"]["reasons"])


def test_the_table_says_what_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["decide", HARD, "--policy", "quantile:0.9"]) == 0
    out = capsys.readouterr().out
    assert "at most 300 tokens" in out
    assert "settled p90" in out
    assert "0.200 without thinking, 0.900 with it" in out


def test_standard_input_is_read_at_any_size(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("How many? " * 100_000))
    assert decided(capsys, "-", "--policy", "quantile:0.9")["decision"]["reasoning_tokens"] == 300


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["   "], "prompt is empty"),
        ([HARD, "--policy", "cap:many"], "cap:many"),
        ([HARD, "--model", "m", "--endpoint", "mainframe"], "mainframe"),
        ([HARD, "--endpoint", "vllm"], "--endpoint needs --model"),
    ],
)
def test_what_cannot_be_decided_says_so(
    capsys: pytest.CaptureFixture[str], argv: list[str], says: str
) -> None:
    assert main(["decide", *argv]) == 2
    assert says in capsys.readouterr().err


def test_an_expected_cost_says_where_its_price_is_from(capsys: pytest.CaptureFixture[str]) -> None:
    argv = (HARD, "--policy", "cap:700", "--model", "o3")
    assert decided(capsys, *argv)["price_source"] == "https://developers.openai.com/api/docs/pricing"
    assert decided(capsys, HARD)["price_source"] is None, "the embedded model has no price"


def test_whose_price_holds_is_told_by_the_endpoint_where_one_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("genai_prices")
    argv = (HARD, "--model", "gpt-4o")
    assert "openai/gpt-4o" in decided(capsys, *argv)["price_source"]
    assert decided(capsys, *argv, "--endpoint", "vllm")["price_source"] is None
