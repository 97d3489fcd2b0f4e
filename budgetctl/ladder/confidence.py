"""How sure a model was of its answer, from the log-probabilities of the answer's tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def answer_confidence(tokens: Sequence[Mapping[str, Any]], answer: str) -> float | None:
    """Return the geometric mean of the probabilities of the answer's tokens: ``exp(mean(logprob))``.

    Servers list the tokens of thinking, or of a closing tag, before those of the answer, and some list the
    end of the message after them: only the tokens that spell the answer count, the last time it is spelt.

    Args:
        tokens: Of a choice's ``logprobs.content``: ``token``, ``logprob``, and ``bytes`` where a token is a
            part of a character.
        answer: The text of the answer, without the thinking.

    Returns:
        A number in [0, 1]; None where the tokens do not spell the answer, or there are none.
    """
    text = answer.strip().encode()
    spelt = [_bytes(token) for token in tokens]
    begin = b"".join(spelt).rfind(text) if text else -1
    if begin < 0:
        return None
    end, at, logprobs = begin + len(text), 0, []
    for token, piece in zip(tokens, spelt, strict=True):
        if at < end and at + len(piece) > begin:
            logprob = token.get("logprob")
            logprobs.append(float(logprob) if isinstance(logprob, int | float) else math.nan)
        at += len(piece)
    mean = math.fsum(logprobs) / len(logprobs)
    return None if math.isnan(mean) else min(1.0, math.exp(mean))


def _bytes(token: Mapping[str, Any]) -> bytes:
    spelt = token.get("bytes")
    return bytes(spelt) if isinstance(spelt, list) else str(token.get("token") or "").encode()
