"""The ways of bringing a running thought to its answer, each of them tried.

A continuation counts as kept when an answer came and no new thought. A live end counts as kept when the
thought ended soon after it, and an answer came. Each way is found out about by itself: the engine takes the
next one where one is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from budgetctl.adapters.base import LIVE_END
from budgetctl.capabilities import Capability, Continuation
from budgetctl.doctor.endpoint import Endpoint, Reply
from budgetctl.doctor.findings import Finding
from budgetctl.engine.stopper import LIVE_TOKENS
from budgetctl.guard import rethinks

CONTINUES_CHATS = ("vllm", "sglang")
"""Kinds of endpoint that know ``continue_final_message``."""
CHAT_PARAMETERS = {"continue_final_message": True, "add_generation_prompt": False}


def has_live_end(endpoint: Endpoint, capability: Capability) -> bool:
    """Whether it is worth trying to end a running thought there."""
    return capability.live_end or endpoint.kind == "llama.cpp"


def live_end(endpoint: Endpoint, count: Callable[[Reply], Reply], plain: Reply, *, after: int) -> Finding:
    """Have a thought ended after so many tokens, and see whether it was.

    Args:
        endpoint: Who is asked.
        count: Adds up what calls cost.
        plain: The reply without any control.
        after: Tokens of thinking after which the end is asked for.
    """
    reply, most = count(endpoint.end_live(after=after)), after + LIVE_TOKENS
    seen = f"{reply.reasoning_tokens} tokens of thinking, its end was asked for after {after}"
    verified: bool | None = False
    if reply.failed is not None:
        verified, seen = None, f"failed: {reply.failed}"
    elif reply.refused is not None:
        seen = f"refused: {reply.refused}"
    elif min(plain.reasoning_tokens - LIVE_TOKENS, reply.reasoning_tokens) < after:
        verified, seen = None, f"its natural thinking is too short to tell: {plain.reasoning_tokens} tokens"
    elif reply.reasoning_tokens > most:
        seen = f"ignored: {seen}"
    elif not reply.answer.strip():
        seen = f"{seen}, and then no answer"
    else:
        verified, seen = True, f"{seen}, and an answer"
    return Finding(
        name="live_end",
        strength="hard" if verified else "none",
        verified=verified,
        observed=seen,
        sent={LIVE_END: True},
    )


def ways(
    endpoint: Endpoint, count: Callable[[Reply], Reply], plain: Reply, capability: Capability
) -> Iterator[Finding]:
    """Continue half of a thought in every way that this kind of endpoint may have.

    Args:
        endpoint: Who is asked.
        count: Adds up what calls cost.
        plain: The reply without any control, whose thought is continued.
        capability: How the model writes its thoughts, and what the table says of the endpoint.
    """
    thought = plain.reasoning[: len(plain.reasoning) // 2]
    if not thought.strip():
        seen = "there is no visible thought to continue from"
        yield Finding(name="abort_continue", strength="none", verified=None, observed=seen)
        return
    for way in _candidates(endpoint, capability):
        reply = endpoint.continue_from(thought, capability, way=way)
        verified, seen = (None, _UNKNOWN) if reply is None else _continued(count(reply), way=way)
        yield Finding(
            name="abort_continue",
            way=way,
            strength="hard" if verified else "none",
            verified=verified,
            observed=seen,
            sent=CHAT_PARAMETERS if way == "chat" else {},
        )


_UNKNOWN = "no format of raw prompts is known for this model"


def _candidates(endpoint: Endpoint, capability: Capability) -> list[Continuation]:
    """Return what may work; asking again needs no trying where thinking can be switched off."""
    chats = "chat" in (capability.continuation or ()) or endpoint.kind in CONTINUES_CHATS
    return ["raw_completions", "chat"] if chats else ["raw_completions"]


def _continued(reply: Reply, *, way: Continuation) -> tuple[bool | None, str]:
    """Return whether it was an answer, and what was seen.

    What usage says of thinking is not asked: parsers that look for the closing tag, which is in the prompt
    here, count the answer as thinking, or even deliver it so. The engine reads that as the answer.
    """
    if reply.failed is not None:
        return None, f"failed: {reply.failed}"
    if reply.refused is not None:
        return False, f"refused: {reply.refused}"
    thought, answer = reply.reasoning.strip(), reply.answer.strip()
    if answer and not thought:
        return True, "an answer, and no new thought"
    if way == "chat" and thought and not answer and reply.finish == "stop" and not rethinks(thought):
        return True, "an answer, delivered as thinking"
    return False, "it thought on instead of answering" if thought else "no answer"
