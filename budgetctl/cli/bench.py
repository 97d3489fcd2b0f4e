"""``budgetctl bench``: what budgetctl itself costs, in microseconds on this machine.

Every number is the time of single operations after a warm-up, garbage collection left on as in a service:
wall-clock time but for decoding; ``import`` and ``first_decision`` are taken in fresh processes.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from budgetctl.channels import ChatChannels
from budgetctl.controller import Controller
from budgetctl.engine import Transcript
from budgetctl.stopping import monitor
from budgetctl.types import Budget, ModelFacts, Query

Result = dict[str, Any]

FORBIDDEN = ("numpy", "openai", "sklearn", "torch", "transformers")
"""What ``import budgetctl`` must not load."""
POLICY = "quantile:0.9"
FACTS = ModelFacts(can_switch_off=True, can_cap=True)
QUESTION = (
    "Please be very careful. The snail of Jade is in a well, 24 deep. Every day it climbs 5, every night it "
    "slips 1. After how many days is it out?"
)
PROBLEM = (
    "A train leaves the station at 9:40 and travels 85 km per hour for 3 hours. Another one leaves at 10:15 "
    "and travels 110 km per hour on the same line. At what time does the second train catch up?"
)
"""A question of a kind that the shipped weights know."""
THOUGHT = "Round 1: Mia and Ben, so Ben. Now the next one is a different pair altogether. "

_IMPORT = """
import sys, time
started = time.perf_counter_ns()
import budgetctl
elapsed = time.perf_counter_ns() - started
print(elapsed, *(name for name in {forbidden!r} if name in sys.modules))
"""
_FIRST = """
import budgetctl, time
started = time.perf_counter_ns()
decision = budgetctl.Controller({policy!r}).decide(budgetctl.Query.from_text({question!r}))
elapsed = time.perf_counter_ns() - started
assert decision.estimate is not None, decision.fallback
print(elapsed)
"""


_REPLAY = """
import resource, sys, time
import numpy
from budgetctl.evals import baselines, metrics, recording, replay
started = time.process_time_ns()
pace = replay.SPEED_PROFILES["nominal"]
recorded = recording.Recording.read(sys.argv[1])
runs = dict(baselines.fixed_curve(recorded, pace=pace))
runs["early"] = replay.replay(recorded, "cap:4096+stop:balanced", pace=pace)
metrics.evaluate(runs, rng=numpy.random.default_rng(0))
elapsed = time.process_time_ns() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(recorded.rows), elapsed, peak // (1024 * 1024 if sys.platform == "darwin" else 1024))
"""


def add(subparsers: Any) -> None:
    """Register the command."""
    parser = subparsers.add_parser("bench", help="measure what budgetctl itself costs", description=__doc__)
    parser.add_argument("what", nargs="?", choices=tuple(BENCHES), help="one group only (default: all)")
    parser.add_argument("--json", action="store_true", help="print JSON on stdout")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure and print; 1 when importing the package loads what it must not."""
    results: list[Result] = []
    for name in BENCHES if args.what is None else (args.what,):
        print(f"{name} ...", file=sys.stderr)
        try:
            results += BENCHES[name]()
        except ModuleNotFoundError as error:
            if args.what is not None:
                raise
            print(f"{name} left out: {error.name} is not installed", file=sys.stderr)
    if args.json:
        print(json.dumps({"results": results, "conditions": conditions()}, indent=2))
    else:
        print(_table(results))
    return 1 if any(result.get("forbidden") for result in results) else 0


def conditions() -> dict[str, Any]:
    """Return what the numbers depend on besides the code."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "gc": gc.isenabled(),
    }


def summary(name: str, ns: Sequence[int], **more: Any) -> Result:
    """Return median and 99th percentile (nearest rank) of times in nanoseconds."""
    ordered = sorted(ns)
    rank = max(-(-99 * len(ordered) // 100) - 1, 0)
    return {
        "name": name,
        "p50_us": ordered[(len(ordered) - 1) // 2] / 1e3,
        "p99_us": ordered[rank] / 1e3,
        "n": len(ordered),
        **more,
    }


def timed(calls: Iterable[Callable[[], object]], *, warmup: int) -> list[int]:
    """Return the nanoseconds of every call but the first ``warmup``."""
    times = []
    for call in calls:
        started = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - started)
    return times[warmup:]


def decide(*, n: int = 2000) -> list[Result]:
    """The whole decision, classifier included, on different prompts of 250 and 10,000 characters."""
    controller = Controller(POLICY)
    long = [_prompt(10_000, i) for i in range(n // 10)]
    return [
        summary("decide_250_chars", _decisions(controller, [_prompt(250, i) for i in range(n)])),
        summary("decide_10k_chars", _decisions(controller, long)),
        summary("first_decision", _fresh(_FIRST.format(policy=POLICY, question=QUESTION), n=5)[0]),
    ]


def _decisions(controller: Controller, prompts: Sequence[str]) -> list[int]:
    queries = [Query.from_text(prompt) for prompt in prompts]
    calls = (lambda q=query: controller.decide(q, facts=FACTS) for query in queries)
    return timed(calls, warmup=len(queries) // 10)


def estimate(*, n: int = 2000) -> list[Result]:
    """One estimate of the shipped classifier, and of a scikit-learn pipeline of the same make.

    The pipeline counts words and pairs, reads the same dense features and has hidden layers and outputs about
    as wide; what it was fitted on does not matter for its speed. ``load_weights`` reads the file once more.
    """
    from budgetctl.classifiers import load
    from budgetctl.classifiers.linear import LinearClassifier

    short, long = ([_prompt(c, i, of=PROBLEM) for i in range(n)] for c in (250, 10_000))
    classifier = load("default")
    results = [
        summary("estimate_250_chars", _estimates(classifier.estimate, short)),
        summary("estimate_10k_chars", _estimates(classifier.estimate, long[: n // 10])),
        summary("load_weights", timed([_reload(LinearClassifier)] * 30, warmup=5)),
    ]
    pipeline = _pipeline(short[: n // 10])
    return [*results, summary("sklearn_250_chars", _estimates(pipeline, short[: n // 4]))]


def _estimates(one: Callable[[Query], object], prompts: Sequence[str]) -> list[int]:
    queries = [Query.from_text(prompt) for prompt in prompts]
    return timed((partial(one, query) for query in queries), warmup=len(queries) // 10)


def _reload(kind: Any) -> Callable[[], object]:
    from budgetctl import classifiers

    path = os.path.join(os.path.dirname(classifiers.__file__), "default.npz")
    return lambda: kind.load(path)


def _pipeline(prompts: Sequence[str]) -> Callable[[Query], object]:
    """Return the estimate of a scikit-learn pipeline, fitted on ``prompts`` and invented outcomes."""
    import numpy as np
    from sklearn.feature_extraction.text import HashingVectorizer
    from sklearn.neural_network import MLPRegressor
    from sklearn.pipeline import make_pipeline, make_union
    from sklearn.preprocessing import FunctionTransformer

    from budgetctl.classifiers import features

    def dense(texts: Sequence[str]) -> Any:
        return np.array([features.encode(Query.from_text(text))[1] for text in texts])

    words = HashingVectorizer(ngram_range=(1, 2), n_features=2**14)
    network = MLPRegressor(hidden_layer_sizes=(16, 144), max_iter=1, solver="sgd", learning_rate_init=1e-9)
    pipeline = make_pipeline(make_union(words, FunctionTransformer(dense)), network)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is not meant to converge
        pipeline.fit(list(prompts), np.zeros((len(prompts), 48)))
    return lambda query: pipeline.predict([query.text])


def _prompt(chars: int, i: int, *, of: str = QUESTION) -> str:
    text = f"{of} {i}. "
    return (text * (chars // len(text) + 1))[:chars]


def stream(*, n: int = 4000) -> list[Result]:
    """One delta of a stream: read by the channels, then looked at by the preset ``safe``."""
    criterion = monitor(Budget(reasoning_tokens=100 * n, deadline_s=3600.0))
    transcript = Transcript(ChatChannels(), clock=time.perf_counter, started=time.perf_counter())

    def one(chunk: dict[str, Any]) -> None:
        transcript.feed(chunk)
        criterion.observe(transcript.progress())

    calls = (lambda c=chunk: one(c) for chunk in _chunks(n))
    return [summary("delta_safe", timed(calls, warmup=n // 10))]


def _chunks(n: int) -> Iterator[dict[str, Any]]:
    words = THOUGHT.split(" ")
    for i in range(n):
        # A changing number keeps the text from being the loop that the preset looks for.
        text = f"{words[i % len(words)]} " if i % 7 else f"{i * 7919 % 10007} "
        yield {"choices": [{"index": 0, "delta": {"reasoning_content": text}, "finish_reason": None}]}


def generate(*, rounds: int = 15, steps: int = 128) -> list[Result]:
    """Decoding with a budget per row, on the embedded model, in batches of 16 and of 1.

    The times are those of one step, in processor time, which other work on the machine disturbs least.
    ``ratio`` is the whole of it to what is left without the time that passes in our processor, making it
    included: two runs, one with and one without, differ by more than that for other reasons. The embedded
    model takes a millisecond or two per step, so this is about the largest share that there ever is.
    """
    once = _decoder(steps)
    results = []
    for name, batch in (("decode_step_ratio", 16), ("decode_step_ratio_1", 1)):
        whole, ours = zip(*(once(batch) for _ in range(rounds + 1)), strict=True)
        ratio = statistics.median(w / (w - o) for w, o in zip(whole[1:], ours[1:], strict=True))
        results.append(summary(name, [w // steps for w in whole[1:]], ratio=ratio))
    return results


def _decoder(steps: int) -> Callable[[int], tuple[int, int]]:
    """Return what decodes ``steps`` tokens in rows of a number; it returns nanoseconds, all and our own."""
    import torch

    from budgetctl.evals import pocket
    from budgetctl.integrations.transformers import BudgetLogitsProcessor

    model: Any  # the mixins of transformers are not typed,
    tokenizer: Any  # and its tokenizers return unions that no call narrows
    model, tokenizer = pocket.load()
    chat = [{"role": "user", "content": QUESTION}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]

    class Timed(BudgetLogitsProcessor):
        ns = 0

        def __call__(self, input_ids: Any, scores: Any) -> Any:
            started = time.process_time_ns()
            changed = super().__call__(input_ids, scores)
            self.ns += time.process_time_ns() - started
            return changed

    def once(batch: int) -> tuple[int, int]:
        ids = torch.tensor([prompt] * batch)
        started = time.process_time_ns()
        processor = Timed(tokenizer, [Budget(reasoning_tokens=steps // 2)] * batch)
        processor.ns += time.process_time_ns() - started
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            logits_processor=[processor],
            do_sample=False,
            min_new_tokens=steps,
            max_new_tokens=steps,
            pad_token_id=tokenizer.pad_token_id,
        )
        return time.process_time_ns() - started, processor.ns

    return once


def replay(*, traces: int = 40_000) -> list[Result]:
    """Rows of a cube per second and core, from the file to the table of metrics; the peak of memory is that
    of the process.

    The cube is made up: coupled traces of twelve rows with 250 characters of text each. They are replayed
    under full thinking, eleven caps and one cap with the preset ``balanced``.
    """
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cube.jsonl"
        with path.open("w") as file:
            file.writelines(line for i in range(traces) for line in _trace(i))
        done = subprocess.run(
            [sys.executable, "-c", _REPLAY, str(path)], capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise RuntimeError(f"a fresh process failed:\n{done.stderr}")
    rows, ns, peak = map(int, done.stdout.split())
    more = {"rows_per_s": round(1e9 * rows / ns), "peak_mb": peak}
    return [summary("replay_rows_per_s", [ns // rows], **more) | {"n": rows}]


def _trace(i: int) -> Iterator[str]:
    natural = 600 + 97 * (i % 89)
    row = {"dataset": "made-up", "question_id": str(i), "question": _prompt(250, i, of=PROBLEM), "model": "m"}
    for k in range(12):
        tokens = natural * k // 11
        budget = {"kind": "natural"} if k == 11 else {"kind": "tokens", "value": tokens}
        signals = {"p_top": min(1.0, 0.3 + 0.07 * k), "p_choice_mass": k / 12}
        measured = {"reasoning_tokens": tokens, "output_tokens": tokens + 40, "correct": k > i % 13}
        coupled = {"coupled": k < 11, "answer": "ABCD"[(k + i) % 4], "signals": signals}
        yield json.dumps({**row, "budget": budget, **measured, **coupled}) + "\n"


def imports(*, n: int = 9) -> list[Result]:
    """``import budgetctl`` in a fresh interpreter, and what of ``FORBIDDEN`` it loads."""
    times, loaded = _fresh(_IMPORT.format(forbidden=FORBIDDEN), n=n)
    return [summary("import", times, forbidden=sorted(set(loaded)))]


def _fresh(code: str, *, n: int) -> tuple[list[int], list[str]]:
    """Run ``code`` in fresh interpreters (once more to fill caches); it prints nanoseconds, then names."""
    times, names = [], []
    for _ in range(n + 1):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"a fresh process failed:\n{done.stderr}")
        first, *rest = done.stdout.split()
        times.append(int(first))
        names += rest
    return times[1:], names


def _table(results: Sequence[Result]) -> str:
    lines = [f"{'':<20}{'p50 us':>12}{'p99 us':>12}{'n':>7}"]
    for r in results:
        more = f"  ratio {r['ratio']:.3f}" if "ratio" in r else ""
        more += f"  {r['rows_per_s']:,} rows/s, peak {r['peak_mb']} MB" if "rows_per_s" in r else ""
        more += f"  loads {', '.join(r['forbidden'])}" if r.get("forbidden") else ""
        lines.append(f"{r['name']:<20}{r['p50_us']:>12.1f}{r['p99_us']:>12.1f}{r['n']:>7}{more}")
    return "\n".join(lines)


BENCHES: dict[str, Callable[[], list[Result]]] = {
    "decide": decide,
    "estimate": estimate,
    "stream": stream,
    "generate": generate,
    "replay": replay,
    "import": imports,
}
