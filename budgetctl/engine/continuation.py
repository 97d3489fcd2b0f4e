"""How a thought that was cut is continued with its answer: a raw completion of the closed thought."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from budgetctl.capabilities import Capability

COMPLETIONS = "/completions"
ANSWER_LIMIT = 2048
"""Tokens of answer asked for where the caller set no limit: servers fall back to as few as 16."""
CUE = "Final answer:"
"""What starts the answer when the model would not start it by itself."""

# Sampling belongs to the caller, so all of it goes with the continuation; everything else is about the chat.
_CARRIED = (
    "model",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "logit_bias",
    "generation_config",
    "user",
)

RenderPrompt = Callable[[Sequence[Mapping[str, Any]]], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """What a call has said so far, from where another request goes on.

    Attributes:
        thoughts: What was thought, piece by piece.
        close: What ends the thought.
        answer: What the answer begins with, if anything.
        used: Output tokens that the call has spent already.
        reserve: Tokens kept for the answer.
    """

    thoughts: Sequence[str]
    close: str
    answer: str = ""
    used: int = 0
    reserve: int | None = None

    @property
    def text(self) -> str:
        """The thoughts in one, what ends them, and the answer so far."""
        thought = "\n\n".join(t.strip("\n") if i else t.lstrip("\n") for i, t in enumerate(self.thoughts))
        return thought + self.close + self.answer


class Continuation:
    """Builds the raw completion that ends a thought and writes the answer.

    Args:
        capability: Formats and tags of the model.
        messages: The call's messages; only read.
        render_prompt: Renders messages with the generation prompt; None uses the capability's format.
    """

    def __init__(
        self,
        capability: Capability,
        messages: Sequence[Mapping[str, Any]],
        *,
        render_prompt: RenderPrompt | None = None,
    ) -> None:
        self._capability = capability
        self._messages = messages
        self._render = render_prompt or chatml

    @staticmethod
    def possible(
        capability: Capability,
        messages: Any,
        *,
        render_prompt: RenderPrompt | None = None,
    ) -> bool:
        """Whether thoughts of a call with these messages can be continued."""
        if "raw_completions" not in (capability.continuation or ()) or not isinstance(messages, Sequence):
            return False
        if render_prompt is not None:
            return True
        return capability.prompt_format == "chatml" and all(_plain(m) for m in messages)

    def prompt(self, begun: Begun) -> str:
        """Return the prompt up to where the model goes on."""
        head = self._render(self._messages)
        if not head.rstrip().endswith(self._capability.open_tag):
            head += self._capability.open_text
        return head + begun.text

    def params(self, own: Mapping[str, Any], begun: Begun) -> dict[str, Any]:
        """Return the body of the completion call; ``own`` are the chat call's parameters."""
        extra = own.get("extra_body")
        flat = {**own, **extra} if isinstance(extra, Mapping) else own
        body = {key: flat[key] for key in _CARRIED if flat.get(key) is not None}
        limit = answer_limit(flat, begun)
        return {**body, "prompt": self.prompt(begun), "max_tokens": ANSWER_LIMIT if limit is None else limit}


def answer_limit(params: Mapping[str, Any], begun: Begun) -> int | None:
    """Return what is left of the output limit of a chat call, at least the reserve; None without a limit."""
    limit = output_limit(params)
    return None if limit is None else max(limit - begun.used, min(begun.reserve or 1, limit), 1)


def output_limit(params: Mapping[str, Any]) -> int | None:
    """Return the output limit of a chat call."""
    limit = params.get("max_completion_tokens")
    limit = params.get("max_tokens") if limit is None else limit
    return limit if isinstance(limit, int) and limit > 0 else None  # llama.cpp: -1 is no limit


def chatml(messages: Sequence[Mapping[str, Any]]) -> str:
    """Render messages in ChatML, as Qwen's chat templates do for calls without tools.

    Thinking in earlier assistant turns is dropped, as these templates drop it.
    """
    turns = []
    for message in messages:
        text = _text(message.get("content"))
        if message.get("role") == "assistant" and "</think>" in text:
            text = text.rpartition("</think>")[2].lstrip("\n")
        role = "system" if message.get("role") == "developer" else message.get("role")
        turns.append(f"<|im_start|>{role}\n{text}<|im_end|>\n")
    return "".join(turns) + "<|im_start|>assistant\n"


def _plain(message: Any) -> bool:
    """Whether a message is text from someone who only talks."""
    if not isinstance(message, Mapping) or message.get("tool_calls"):
        return False
    if message.get("role") not in ("system", "developer", "user", "assistant"):
        return False
    content = message.get("content")
    if isinstance(content, str):
        return True
    return isinstance(content, Sequence) and all(
        isinstance(p, Mapping) and p.get("type") == "text" and isinstance(p.get("text"), str) for p in content
    )


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return " ".join(str(part.get("text", "")) for part in content or ())
