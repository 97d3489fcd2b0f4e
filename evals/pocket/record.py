"""Record a cube of the pocket reasoner: ``python -m budgetctl.evals.pocket.record --out cube.jsonl.gz``.

Every question gets its natural row, an off row, and rows at absolute caps, where the same thinking is
cut at so many tokens, closed with ``CLOSE_TEXT``, and answered: prefixes of one trace, so they are coupled.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from budgetctl.evals.pocket import NAME, load
from budgetctl.evals.pocket.decode import Decoder, Reply, Thought
from budgetctl.evals.pocket.questions import Question, Split, grade, questions, read_answer

CAPS = (0, *range(8, 128, 8), *range(128, 256, 16), *range(256, 449, 32))
STATED = re.compile(r"So the answer is \w+\.")
ANSWER_TOKENS = 12
"""Room for a forced answer; the model's own are at most 8 tokens long."""


def first_answer(decoder: Decoder, thinking: list[int]) -> int | None:
    """Return after how many thinking tokens an answer is first stated, or None if it never is."""
    said = ""
    for used, token in enumerate(thinking, 1):
        said += str(decoder.tokenizer.decode([token]))
        if STATED.search(said):
            return used
    return None


def _signals(decoder: Decoder, reply: Reply, margin: float) -> dict[str, Any]:
    pieces = [decoder.tokenizer.decode([i]) for i in reply.ids]
    start = next((i + 1 for i, piece in enumerate(pieces) if piece == " is"), None)
    value = None if start is None or start >= len(pieces) else start
    confidence = mass = tokens = None
    if value is not None:
        stop = next((i for i in range(value, len(pieces)) if pieces[i] == "."), len(pieces))
        tokens = min(stop + 1, len(pieces)) - value
        logprobs = reply.logprobs[value : max(stop, value + 1)]
        confidence, mass = math.exp(sum(logprobs) / len(logprobs)), reply.answer_mass[value]
    return {
        "close_margin": round(margin, 4),
        "trial_answer": read_answer(decoder.text(reply.ids)),
        "trial_confidence": None if confidence is None else round(confidence, 4),
        "answer_mass": None if mass is None else round(mass, 4),
        "trial_tokens": tokens,
    }


def _row(
    question: Question, *, kind: str, value: int | None, reasoning: int, output: int, answer: str
) -> dict[str, Any]:
    return {
        "dataset": "pocket",
        "question_id": question.id,
        "question": question.text,
        "reference_answer": question.answer,
        "level": question.level,
        "model": NAME,
        "sample": 0,
        "budget": {"kind": kind, "value": value},
        "reasoning_tokens": reasoning,
        "output_tokens": output,
        "answer": answer,
        "correct": grade(answer, question),
        "coupled": kind != "off",
        "ttfo_s": None,
        "e2e_s": None,
        "cost_usd": None,
        "signals": {},
        "cluster": question.family,
    }


def _thinking_rows(decoder: Decoder, group: list[Question]) -> Iterator[list[dict[str, Any]]]:
    thoughts = list(decoder.thoughts([q.text for q in group]))
    cut = decoder.cuts(thoughts, CAPS, limit=ANSWER_TOKENS)
    for i, (question, thought) in enumerate(zip(group, thoughts, strict=True)):
        mine = [(cap, *cut[i, cap]) for cap in CAPS if (i, cap) in cut]
        yield [_natural(decoder, question, thought), *(_capped(decoder, question, *point) for point in mine)]


def _natural(decoder: Decoder, question: Question, thought: Thought) -> dict[str, Any]:
    after = thought.reply[len(thought.thinking) + 2 :]  # both markers left out
    row = _row(
        question,
        kind="natural",
        value=None,
        reasoning=len(thought.thinking),
        output=len(thought.reply),
        answer=decoder.text(after).strip(),
    )
    return {**row, "signals": {"first_answer_tokens": first_answer(decoder, thought.thinking)}}


def _capped(decoder: Decoder, question: Question, cap: int, reply: Reply, margin: float) -> dict[str, Any]:
    row = _row(
        question,
        kind="tokens",
        value=cap,
        reasoning=cap,
        output=1 + cap + len(decoder.close) + len(reply.ids),
        answer=decoder.text(reply.ids).strip(),
    )
    return {**row, "signals": _signals(decoder, reply, margin)}


def record(decoder: Decoder, asked: list[Question], *, progress: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the rows of the cube: for each question its natural row, its caps, and its off row."""
    # Questions of like length think together: a batch lasts as long as its longest row.
    ordered = sorted(asked, key=lambda q: (q.family, q.level))
    for at in range(0, len(ordered), decoder.batch):
        group = ordered[at : at + decoder.batch]
        offs = decoder.replies([decoder.prompt(q.text, thinking=False) for q in group], limit=ANSWER_TOKENS)
        for question, rows, off in zip(group, _thinking_rows(decoder, group), offs, strict=True):
            yield from rows
            text = decoder.text(off.ids)
            yield _row(
                question, kind="off", value=None, reasoning=0, output=len(off.ids), answer=text.strip()
            )
        if progress:
            print(f"{min(at + len(group), len(asked))}/{len(asked)} questions", file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Record a cube of the pocket reasoner.")
    parser.add_argument("--split", choices=get_args(Split), default="test")
    parser.add_argument("--n", type=int, default=800, help="number of questions (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="a .jsonl.gz file")
    parser.add_argument("--model", type=Path, default=None, help="folder of another trained copy")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=128)
    args = parser.parse_args(argv)
    model, tokenizer = load(args.device, folder=args.model)
    decoder = Decoder(model, tokenizer, batch=args.batch)
    asked = questions(args.split, args.n, seed=args.seed)
    # A fixed time stamp in the archive: the same rows are the same bytes.
    with args.out.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0, filename="") as packed:
        for row in record(decoder, asked, progress=True):
            packed.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
