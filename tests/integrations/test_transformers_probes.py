"""Soft criteria inside model.generate: exact signals, real trial answers, and what they cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from budgetctl.evals import pocket  # noqa: E402
from budgetctl.evals.backends import POCKET_TRIALS, PocketBackend  # noqa: E402
from budgetctl.evals.live import LiveQuestion, LiveRun, Suite  # noqa: E402

from budgetctl import errors  # noqa: E402  (after the skips)
from budgetctl.certificate import thresholds  # noqa: E402
from budgetctl.controller import Controller  # noqa: E402
from budgetctl.integrations._logits import close_ids  # noqa: E402
from budgetctl.integrations._probes import Prober  # noqa: E402
from budgetctl.integrations.transformers import Generation, generate  # noqa: E402
from budgetctl.stopping import CloseMargin, Guarded, Trials  # noqa: E402
from budgetctl.types import Budget, Evidence, Progress, StopReason  # noqa: E402
from tests.test_certificate import certificate  # noqa: E402

BALANCED = Budget(stop="balanced")
ASKED = [
    q for q in pocket.questions("test", 60) if q.level in (2, 3) and q.family in ("days", "clock", "walk")
]
CHATS = [q.text for q in ASKED]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices this small are faster on one thread, and tests may share the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def loaded() -> Any:
    return pocket.load()


def run(loaded: Any, chats: list[str], budgets: list[Budget | None], **options: Any) -> list[Generation]:
    options = {"trials": POCKET_TRIALS, "close_text": pocket.CLOSE_TEXT, "do_sample": False} | options
    return generate(*loaded, chats, budgets=budgets, **options)


@pytest.fixture(scope="module")
def natural(loaded: Any) -> list[Generation]:
    return run(loaded, CHATS, [None] * len(CHATS))


@pytest.fixture(scope="module")
def balanced(loaded: Any) -> list[Generation]:
    return run(loaded, CHATS, [BALANCED] * len(CHATS))


class Records:
    """A criterion that writes down what it is shown and finds nothing."""

    name = "records"

    def __init__(self, *needs: str) -> None:
        self.needs = frozenset(needs)
        self.seen: list[Progress] = []

    def observe(self, progress: Progress) -> Evidence | None:
        self.seen.append(progress)
        return None


def watched(loaded: Any, chats: list[str], *needs: str, **options: Any) -> tuple[Records, list[Generation]]:
    """Run one batch with a recording criterion on its first row."""
    record = Records(*needs)
    presets = {"balanced": lambda: Guarded(record, min_think=0)}
    budgets = [BALANCED, *[None] * (len(chats) - 1)]
    return record, run(loaded, chats, budgets, presets=presets, **options)


def test_a_settled_thought_is_ended_and_answered(
    natural: list[Generation], balanced: list[Generation]
) -> None:
    ended = [one for one in balanced if one.stop is StopReason.SETTLED]
    assert len(ended) >= len(balanced) // 2
    assert {one.criterion for one in ended} == {"trial_answer"}
    for question, whole, cut in zip(ASKED, natural, balanced, strict=True):
        assert whole.reasoning.startswith(cut.reasoning)  # looking changes nothing before the stop
        assert pocket.grade(cut.answer, question)
        if cut.stop is StopReason.SETTLED:
            assert len(cut.reasoning) < len(whole.reasoning)
            assert cut.reasoning.endswith(".")


def test_probes_are_counted_and_cost_at_most_a_tenth_of_the_thought(balanced: list[Generation]) -> None:
    for one in balanced:
        thought = one.usage.reasoning_tokens or 0
        assert one.probe_tokens <= 0.1 * thought
        assert (one.probe_tokens > 0) == (one.prefilled_tokens > 0)
        assert one.usage.output_tokens == thought + (one.usage.answer_tokens or 0)
    assert sum(one.probe_tokens for one in balanced) > 0


def test_rows_keep_their_own_criteria_beside_others(loaded: Any, balanced: list[Generation]) -> None:
    budgets = [BALANCED if i % 2 else None for i in range(len(CHATS))]
    mixed = run(loaded, CHATS, budgets)
    for i, one in enumerate(mixed):
        assert one.text == balanced[i].text if i % 2 else one.stop is StopReason.NATURAL
        assert one.probe_tokens == (balanced[i].probe_tokens if i % 2 else 0)


def test_without_a_soft_criterion_nothing_is_asked(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("nobody asked for this")

    monkeypatch.setattr("budgetctl.integrations._watch.Watch.look", refuse)
    monkeypatch.setattr(Prober, "__call__", refuse)
    budgets = [Budget(), Budget(stop="none"), Budget(reasoning_tokens=0, stop="balanced"), None]
    done = run(loaded, CHATS[:4], budgets)
    assert [one.probe_tokens for one in done] == [0, 0, 0, 0]


def test_a_criterion_on_the_scores_needs_no_probe(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Prober, "__call__")
    presets = {"balanced": {"close_margin": {"margin": 30.0, "patience": 1}, "min_think": 0}}
    (done,) = run(loaded, CHATS[:1], [BALANCED], presets=presets)
    assert (done.stop, done.criterion, done.probe_tokens) == (StopReason.SETTLED, "close_margin", 0)


def test_signals_are_those_of_the_whole_vocabulary(loaded: Any) -> None:
    model, tokenizer = loaded
    record, (done, _) = watched(loaded, [CHATS[0], CHATS[1] * 2], "close_margin", "token_confidence")
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": CHATS[0]}], tokenize=False, add_generation_prompt=True
    )
    with torch.no_grad():
        ids = tokenizer(prompt + done.text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        logp = model(ids).logits[0].log_softmax(-1)
    opened = ids[0].tolist().index(tokenizer.convert_tokens_to_ids("<think>"))
    shut = tokenizer.convert_tokens_to_ids("</think>")
    assert len(record.seen) == (done.usage.reasoning_tokens or 0) + 1
    for progress in record.seen:
        after = logp[opened + progress.reasoning_tokens]
        assert progress.close_margin == pytest.approx(float(after.max() - after[shut]), abs=1e-3)
        assert progress.token_confidence == pytest.approx(float(-after.topk(20).values.mean()), abs=1e-3)
        assert (progress.trial, progress.entropy_after) == (None, None)
    assert all(not p.at_boundary or p.close_margin is not None for p in record.seen)


def test_a_criterion_that_reads_the_text_is_given_it_as_it_grows(loaded: Any) -> None:
    record, (done,) = watched(loaded, CHATS[:1], "text")
    texts = [p.reasoning for p in record.seen]
    assert texts[-1].strip() == done.reasoning
    assert all(b.startswith(a) for a, b in itertools.pairwise(texts))
    assert all(p.close_margin is p.token_confidence is None for p in record.seen)


def prober(loaded: Any, trials: Trials = POCKET_TRIALS) -> Prober:
    model, tokenizer = loaded
    close = close_ids(tokenizer, close_text=pocket.CLOSE_TEXT, close_tag="</think>")
    return Prober(
        model, tokenizer, trials, close=close, ends=[tokenizer.eos_token_id], pad=tokenizer.pad_token_id
    )


WALK = "Step 1: 164 is even, so 82. Step 2: 82 is even, so 41. 41 is below 50. So the answer is 41."
DAYS = "Today is Sunday. 1 on is Monday. 2 on is Tuesday. So the answer is Tuesday."
QUESTIONS = {
    WALK: "Noah begins with the number 164. An even number is halved. An odd number is tripled, plus one. "
    "What is the first number below 50?",
    DAYS: "Today is Sunday. Ana has the trip in 2 days. What day is the trip?",
}


def prefix(loaded: Any, thought: str) -> list[int]:
    _, tokenizer = loaded
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTIONS[thought]}], tokenize=False, add_generation_prompt=True
    )
    return list(tokenizer.encode(chat + "<think>\n" + thought, add_special_tokens=False))


def steps(loaded: Any, ids: list[int], *, n: int) -> tuple[list[int], list[Any]]:
    """Decode greedily without any cache: the tokens, and the log-probabilities at each."""
    model, tokens, seen = loaded[0], [], []
    with torch.no_grad():
        for _ in range(n):
            seen.append(model(torch.tensor([ids + tokens])).logits[0, -1].log_softmax(-1))
            tokens.append(int(seen[-1].argmax()))
    return tokens, seen


def test_a_trial_answer_is_what_the_model_says_after_the_close(loaded: Any) -> None:
    _, tokenizer = loaded
    ids = prefix(loaded, WALK)
    first, second = prober(loaded)([ids, prefix(loaded, DAYS)], trial=[True, True])
    assert first.trial is not None
    assert second.trial is not None
    assert (first.trial.answer, second.trial.answer) == ("41", "Tuesday")
    closing = tokenizer.encode(pocket.CLOSE_TEXT + "The answer is", add_special_tokens=False)
    assert first.prefilled == len(ids) + len(closing)
    tokens, logp = steps(loaded, ids + closing, n=3)
    assert tokenizer.decode(tokens) == " 41."
    best = [float(step.max()) for step in logp]
    assert first.trial.confidence == pytest.approx(math.exp(sum(best) / 3), abs=1e-4)
    assert first.entropy == pytest.approx(float(-(logp[0].exp() * logp[0]).sum()), abs=1e-3)
    assert (first.trial.mass, first.generated, second.generated) == (1.0, 3, 2)


def test_the_entropy_alone_takes_one_token(loaded: Any) -> None:
    ids = prefix(loaded, WALK)
    whole, alone = prober(loaded)([ids, ids], trial=[True, False])
    assert (alone.trial, alone.generated) == (None, 1)
    assert alone.entropy == pytest.approx(whole.entropy, abs=1e-4)


def test_a_trial_that_comes_to_no_end_is_no_answer(loaded: Any) -> None:
    (reading,) = prober(loaded, Trials(cue="The answer is", until=".", tokens=2))(
        [prefix(loaded, WALK)], trial=[True]
    )
    assert reading.trial is not None
    assert (reading.trial.mass, reading.trial.confidence, reading.trial.answer) == (0.0, 0.0, None)
    assert reading.generated == 2


def test_valid_answers_make_both_probabilities_exact(loaded: Any) -> None:
    _, tokenizer = loaded
    days = (" Monday", " Tuesday", " Sunday")
    ids = prefix(loaded, DAYS)
    (reading,) = prober(loaded, Trials(cue="The answer is", choices=days))([ids], trial=[True])
    closing = tokenizer.encode(pocket.CLOSE_TEXT + "The answer is", add_special_tokens=False)
    _, (logp,) = steps(loaded, ids + closing, n=1)
    of_days = [float(logp[tokenizer.convert_tokens_to_ids(day)].exp()) for day in days]
    assert reading.trial is not None
    assert reading.trial.answer == " Tuesday"
    assert reading.trial.mass == pytest.approx(sum(of_days), abs=1e-4)
    assert reading.trial.confidence == pytest.approx(of_days[1] / sum(of_days), abs=1e-4)
    assert reading.generated == 1


@pytest.mark.parametrize(
    ("choices", "message"),
    [((" 12", " 13"), "differ in their first token"), (("",), "merges with the cue")],
)
def test_valid_answers_that_cannot_be_told_apart_are_refused(
    loaded: Any, choices: tuple[str, ...], message: str
) -> None:
    with pytest.raises(errors.ConfigError, match=message):
        prober(loaded, Trials(cue="The answer is", choices=choices))


@pytest.mark.parametrize(
    ("said", "until", "text"),
    [
        ("42} and so on", "}", "42"),
        ("{1}{2}} then", "}", "{1}{2}"),
        (" 7.", ".", " 7"),
        (" 7", ".", None),
        (" 7<|im_end|>", ".", " 7"),
        (" 7.", "", None),
    ],
)
def test_an_answer_ends_at_its_mark_outside_braces(
    loaded: Any, said: str, until: str, text: str | None
) -> None:
    _, tokenizer = loaded
    ids = tokenizer.encode(said, add_special_tokens=False)
    reply = prober(loaded, Trials(until=until)).reply(ids, window=24)
    assert (reply.text if reply.ended else None) == text


def test_a_row_whose_text_has_ended_is_not_looked_at(loaded: Any) -> None:
    _, tokenizer = loaded
    newline = tokenizer.convert_tokens_to_ids("\n")  # here the text ends with the first line of the thought
    record, (done, other) = watched(loaded, CHATS[:2], eos_token_id=[newline, tokenizer.eos_token_id])
    assert done.usage.output_tokens is not None
    assert len(record.seen) <= done.usage.output_tokens
    assert other.text


def test_the_record_says_what_ended_a_thought_and_what_it_cost(loaded: Any) -> None:
    from budgetctl.controller import Controller
    from budgetctl.pricing import Prices

    prices = Prices.load({"*": {"usd_per_hour": 3.6, "tokens_per_s": 100, "prompt_tokens_per_s": 1000}})
    controller = Controller("full+stop:balanced", classifier=None, strict=True, prices=prices)
    done = generate(
        *loaded, CHATS[:2], controller=controller, trials=POCKET_TRIALS, close_text=pocket.CLOSE_TEXT
    )
    for one in done:
        assert one.outcome is not None
        assert [(c.name, c.value, c.strength) for c in one.outcome.controls] == [("stop", "balanced", "hard")]
        assert one.outcome.stop.reason is one.stop
        assert one.outcome.stop.criterion == one.criterion
        assert one.outcome.stop.probe_tokens == one.probe_tokens
        read = (one.usage.prompt_tokens or 0) + one.prefilled_tokens
        said = (one.usage.reasoning_tokens or 0) + (one.usage.answer_tokens or 0) + one.probe_tokens
        assert one.outcome.cost_usd == pytest.approx(read * 1e-6 + said * 1e-5)
    assert any(one.probe_tokens for one in done)


@pytest.mark.parametrize("broken", ["probe", "criterion"])
def test_what_fails_while_looking_costs_the_soft_stops_and_not_the_call(
    loaded: Any, natural: list[Generation], monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of memory")

    if broken == "probe":
        monkeypatch.setattr(Prober, "__call__", fail)
    else:
        monkeypatch.setattr(CloseMargin, "observe", fail)
    presets = {} if broken == "probe" else {"balanced": {"close_margin": {}}}
    done = run(loaded, CHATS, [BALANCED] * len(CHATS), presets=presets)
    assert [one.text for one in done] == [one.text for one in natural]
    assert {one.fallback for one in done} == {"soft stops given up: RuntimeError"}
    assert {(one.stop, one.criterion) for one in done} == {(StopReason.NATURAL, None)}


def test_an_eval_charges_the_probes(balanced: list[Generation]) -> None:
    questions = [LiveQuestion(id=q.id, text=q.text, raw=q) for q in ASKED]
    results = PocketBackend().generate(questions, [BALANCED] * len(ASKED))
    assert [r.probe_tokens for r in results] == [one.probe_tokens for one in balanced]
    assert [r.reasoning_tokens for r in results] == [
        (one.usage.reasoning_tokens or 0) + one.probe_tokens for one in balanced
    ]
    assert {r.stop for r in results} >= {"settled"}


def test_a_live_run_keeps_what_the_probes_cost(tmp_path: Path) -> None:
    questions = tuple(LiveQuestion(id=q.id, text=q.text, raw=q) for q in ASKED[:4])
    suite = Suite(name="pocket", questions=questions, backend=PocketBackend())
    policy = "full+stop:aggressive"
    results = LiveRun(suite=suite, policies=[policy], out=tmp_path, classifier=None).run()
    assert sum(r.probe_tokens for r in results[policy]) > 0
    assert {r.budget.stop for r in results[policy]} == {"aggressive"}
    assert sum(r.probe_tokens for r in results["full"]) == 0


def test_composed_criteria_run_too(loaded: Any) -> None:
    from budgetctl.stopping import TrialAnswer

    def gated() -> Any:
        return Guarded(CloseMargin(30.0, patience=1) & TrialAnswer(confidence=0.9, mass=0.1), min_think=8)

    done = run(loaded, CHATS[:4], [BALANCED] * 4, presets={"balanced": gated})
    assert "close_margin&trial_answer" in {one.criterion for one in done}


def test_presets_of_one_call_are_not_those_that_a_certificate_was_made_with(loaded: Any, tmp_path: Path):
    model, tokenizer = loaded
    bound = {"model": model.config.name_or_path, "endpoint": "in-process", "stop": "balanced"}
    certificate("cap:64+stop:balanced", **bound, thresholds=thresholds("balanced")).save(tmp_path / "c.json")
    controller = Controller(f"certified:{tmp_path / 'c.json'}", classifier=None)
    options: Any = {"controller": controller, "trials": POCKET_TRIALS, "close_text": pocket.CLOSE_TEXT}
    (kept,) = generate(model, tokenizer, CHATS[:1], **options)
    (other,) = generate(model, tokenizer, CHATS[:1], presets={"balanced": {"close_margin": {}}}, **options)
    assert kept.outcome is not None
    assert other.outcome is not None
    assert kept.outcome.certificate is not None
    assert other.outcome.certificate is None
    assert "thresholds of the stop preset" in (other.outcome.certificate_void_reason or "")
    (sampled,) = generate(model, tokenizer, CHATS[:1], do_sample=True, temperature=0.7, **options)
    assert sampled.outcome is not None
    assert sampled.outcome.certificate is None, "it was made with greedy decoding"
    assert "temperature: bound to None, seen 0.7" in (sampled.outcome.certificate_void_reason or "")


SOON = {"balanced": {"trial_answer": {"confidence": 0.9, "mass": 0.03}, "min_think": 8}}


@pytest.mark.parametrize(
    "stopped",
    [Budget(stop="balanced"), Budget(reasoning_tokens=5), Budget(reasoning_tokens=37)],
    ids=["settled", "cap 5", "cap 37"],
)
def test_a_thought_that_goes_on_is_the_one_that_was_never_interrupted(loaded, stopped):
    chats = [question.text for question in pocket.questions("test", 16, seed=5)]
    options: Any = {
        "trials": POCKET_TRIALS, "presets": SOON, "close_text": pocket.CLOSE_TEXT, "do_sample": False
    }  # fmt: skip

    def ask(budget: Budget, **more: Any) -> list[Any]:
        return generate(*loaded, chats, budgets=[budget] * len(chats), **options, **more)

    whole, drafts = ask(Budget()), ask(stopped)
    assert sum(draft.stop != "natural" for draft in drafts) > 8
    later = ask(Budget(), thoughts=[draft.thought for draft in drafts])
    for one, draft, more in zip(whole, drafts, later, strict=True):
        assert (more.reasoning, more.answer, more.thought) == (one.reasoning, one.answer, one.thought)
        added = one.usage.reasoning_tokens - len(draft.thought)
        assert more.usage.reasoning_tokens == added
        assert more.usage.prompt_tokens == one.usage.prompt_tokens + 1 + len(draft.thought)


def test_the_cap_counts_a_thought_that_was_begun(loaded):
    chats = [question.text for question in pocket.questions("test", 16, seed=5)]
    options: Any = {"close_text": pocket.CLOSE_TEXT, "do_sample": False}
    budgets = [Budget(reasoning_tokens=40)] * len(chats)
    once = generate(*loaded, chats, budgets=budgets, **options)
    begun = generate(*loaded, chats, budgets=[Budget(reasoning_tokens=20)] * len(chats), **options)
    thoughts = [draft.thought for draft in begun]
    twice = generate(*loaded, chats, budgets=budgets, thoughts=thoughts, **options)
    assert [(t.reasoning, t.answer, t.stop) for t in twice] == [(t.reasoning, t.answer, t.stop) for t in once]
    off = generate(*loaded, chats, budgets=[Budget(reasoning_tokens=0)] * 16, thoughts=thoughts, **options)
    assert {t.usage.reasoning_tokens for t in off} == {0}
    with pytest.raises(ValueError, match="one thought per conversation, seen 1 for 16"):
        generate(*loaded, chats, thoughts=[()], **options)
