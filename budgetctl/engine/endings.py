"""The ways in which a thought that was cut off is brought to its answer, by another call.

    raw_completions   the rendered prompt and the closed thought, to ``/completions``
    chat              the closed thought as the beginning of the assistant's turn, to ``/chat/completions``
    reask             the question again, thinking off, with the thought quoted in the user's turn

Which of them are tried, and in which order, is data of the capability table. The first two go on with the
model's own text. The third is another question, so its answer comes from another distribution: the outcome
calls it degraded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from budgetctl.adapters import openai_chat
from budgetctl.capabilities import Capability
from budgetctl.engine.chunks import as_chat
from budgetctl.engine.continuation import COMPLETIONS, Begun, Continuation, RenderPrompt, answer_limit
from budgetctl.types import Budget

CHAT = "/chat/completions"
LIMITS = ("max_completion_tokens", "max_tokens")
QUOTE = """

This question has been thought about already, as far as time allowed:

{thought}

Answer now, on the basis of these thoughts and without thinking further."""


class Ending(Protocol):
    """One way to the answer.

    Attributes:
        name: As in the capability table.
        path: Where the call goes, as seen from the API root.
        degraded: The answer does not go on with the model's own text.
    """

    name: str
    path: str
    degraded: bool

    def request(self, own: Mapping[str, Any], begun: Begun) -> dict[str, Any]:
        """Return the parameters of the call.

        Args:
            own: The chat call's parameters; only read.
            begun: What the call has said so far.
        """
        ...

    def as_chat(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a chunk of the response as one of a chat."""
        ...


class RawCompletion:
    """Continues with a raw completion."""

    name = "raw_completions"
    path = COMPLETIONS
    degraded = False

    def __init__(self, continuation: Continuation) -> None:
        self._continuation = continuation

    def request(self, own: Mapping[str, Any], begun: Begun) -> dict[str, Any]:
        """Return the parameters of the completion."""
        return self._continuation.params(own, begun)

    def as_chat(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a chunk of the completion as one of a chat."""
        return as_chat(body)


class ChatContinuation:
    """Continues the assistant's turn of the chat, as vLLM and SGLang can (``continue_final_message``)."""

    name = "chat"
    path = CHAT
    degraded = False

    def __init__(self, capability: Capability, messages: Sequence[Mapping[str, Any]]) -> None:
        self._capability = capability
        self._messages = messages

    def request(self, own: Mapping[str, Any], begun: Begun) -> dict[str, Any]:
        """Return the caller's call with the assistant's turn begun, and what is left of its output limit."""
        text = self._capability.open_text + begun.text
        extra = dict(own.get("extra_body") or {})
        params = {**own, "messages": [*self._messages, {"role": "assistant", "content": text}]}
        left = answer_limit({**own, **extra}, begun)
        for body in (params, extra):
            body.update({name: left for name in LIMITS if body.get(name) is not None and left is not None})
        extra |= {"continue_final_message": True, "add_generation_prompt": False}
        return {**params, "extra_body": extra}

    def as_chat(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the chunk itself."""
        return body


class Reask:
    """Asks again with thinking off, the thought quoted."""

    name = "reask"
    path = CHAT
    degraded = True

    def __init__(self, capability: Capability, messages: Sequence[Mapping[str, Any]]) -> None:
        self._capability = capability
        self._messages = messages

    @staticmethod
    def possible(capability: Capability, messages: Sequence[Any]) -> bool:
        """Whether thinking can be switched off, and there is a user's turn at the end to quote it in."""
        last = messages[-1] if messages else None
        return capability.off is not None and isinstance(last, Mapping) and last.get("role") == "user"

    def request(self, own: Mapping[str, Any], begun: Begun) -> dict[str, Any]:
        """Return the caller's call with thinking off and one turn longer."""
        *before, last = self._messages
        quote = QUOTE.format(thought="\n\n".join(t.strip() for t in begun.thoughts))
        content = last.get("content")
        said = (
            [*content, {"type": "text", "text": quote}] if isinstance(content, list) else f"{content}{quote}"
        )
        off = Budget(reasoning_tokens=0, stop="none")
        params = openai_chat.render(off, self._capability, own, caller_values="ceiling").params
        return {**params, "messages": [*before, {**last, "content": said}]}

    def as_chat(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the chunk itself."""
        return body


def cuts(budget: Budget, capability: Capability) -> bool:
    """Whether a budget is meant to end ordinary thoughts, and not only what runs away or goes in circles."""
    if budget.deadline_s is not None:
        return True
    cap, natural = budget.reasoning_tokens, capability.natural_p99
    return cap is not None and (natural is None or cap < natural)


def endings(
    capability: Capability,
    messages: Any,
    *,
    render_prompt: RenderPrompt | None = None,
    may_reask: bool = False,
) -> tuple[Ending, ...]:
    """Return the ways that the capability table names and that these messages allow, in its order.

    Args:
        capability: Says what the endpoint can do, and how the model writes its thoughts.
        messages: The call's messages; only read.
        render_prompt: Renders messages for a raw completion; None uses the capability's format.
        may_reask: An answer from another distribution will do; see :func:`cuts`.
    """
    if not isinstance(messages, Sequence):
        return ()
    found: list[Ending] = []
    for name in capability.continuation or ():
        if name == "chat":
            found.append(ChatContinuation(capability, messages))
        elif name == "reask":
            if may_reask and Reask.possible(capability, messages):
                found.append(Reask(capability, messages))
        elif Continuation.possible(capability, messages, render_prompt=render_prompt):
            found.append(RawCompletion(Continuation(capability, messages, render_prompt=render_prompt)))
    return tuple(found)
