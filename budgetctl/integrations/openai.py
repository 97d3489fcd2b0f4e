"""Budgets for the OpenAI SDK, and for every server that speaks its dialect.

    client = budgetctl.wrap(OpenAI(), policy="cap:2000", endpoint="vllm")

The wrapped client is a subclass of the client's own class that overrides ``request``, the one method
through which every call goes: ``create``, ``parse``, ``stream``, raw and streaming responses, chat and
Responses API, also of copies made by ``with_options``. A call is decided once, outside the SDK's retries.
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar, cast

from openai import NOT_GIVEN, AsyncOpenAI, AsyncStream, BaseModel, OpenAI, Stream
from openai._constants import RAW_RESPONSE_HEADER
from openai.types import Completion
from openai.types.chat import ChatCompletionChunk

from budgetctl.adapters import openai_chat, openai_responses
from budgetctl.adapters.base import ABORT_CONTINUE, DEADLINE, THINKING, Rendered, steerable
from budgetctl.capabilities import ENDPOINTS, Capability, guess_endpoint
from budgetctl.channels import ChatChannels, ResponsesChannels
from budgetctl.controller import Controller
from budgetctl.engine import ChatCall, Counter, Ending, PassingCall, Send, Transcript, endings
from budgetctl.engine.continuation import COMPLETIONS, RenderPrompt
from budgetctl.engine.endings import CHAT, cuts
from budgetctl.engine.passing import RESPONSES
from budgetctl.engine.stopper import CONTROL, CONTROL_TIMEOUT_S
from budgetctl.errors import BudgetctlError, ConfigError
from budgetctl.integrations._openai_io import (
    AsyncBudgetedStream,
    AsyncShell,
    BudgetedStream,
    Call,
    SdkCodec,
    SyncShell,
)
from budgetctl.outcomes import Sink, attach
from budgetctl.policy import Policy
from budgetctl.session import Session
from budgetctl.stopping import Criterion, monitor
from budgetctl.types import Budget, CallerValues, Query

logger = logging.getLogger("budgetctl")

Client = TypeVar("Client", OpenAI, AsyncOpenAI)

_CODEC = SdkCodec()


def wrap(
    client: Client,
    *,
    policy: str | Policy | None = None,
    controller: Controller | None = None,
    endpoint: str | None = None,
    caller_values: CallerValues | None = None,
    sink: str | os.PathLike[str] | Sink | None = None,
    tokenizer: Any = None,
    render_prompt: RenderPrompt | None = None,
    **settings: Any,
) -> Client:
    """Return a client of the same class whose calls are budgeted; ``client`` itself is not touched.

    Wrapping a wrapped client replaces its budget. The result has ``with_policy(policy)``, which returns a
    copy under another policy.

    Raw and streaming responses (``with_raw_response``, ``with_streaming_response``) get budgeted parameters
    and an outcome; their bytes are not altered, so nothing is cut there. The same holds for the Responses
    API, whose streams are watched.

    Args:
        client: An ``OpenAI`` or ``AsyncOpenAI`` client, or one of a subclass.
        policy: A policy or its string; the default is ``auto``, or the controller's own.
        controller: Decides and records, instead of a new one made from the other arguments.
        endpoint: Kind of endpoint, as in the capability table; None tells OpenAI by its host and calls
            everything else ``openai-compatible``.
        caller_values: ``pin`` (the default) leaves values alone that a call sets itself; ``ceiling`` may go
            below them, never above.
        sink: Where outcomes go: a path of a JSONL file, or a sink.
        tokenizer: Counts tokens exactly: a tokenizer with ``encode``, or a function of a text.
        render_prompt: Renders a list of messages, with the generation prompt, for models whose prompt format
            the capability table does not know; a thought that is cut can then be continued.
        settings: Passed to :class:`~budgetctl.Controller`.

    Raises:
        ConfigError: An argument does not fit.
    """
    if not isinstance(client, OpenAI | AsyncOpenAI):
        raise ConfigError(f"wrap takes an OpenAI or AsyncOpenAI client, seen {type(client).__name__}")
    if endpoint is not None and endpoint not in ENDPOINTS:
        raise ConfigError(f"endpoint: seen {endpoint!r}, allowed: {', '.join(ENDPOINTS)}")
    if controller is None:
        if isinstance(sink, str | os.PathLike):
            from budgetctl.records import JsonlSink

            sink = JsonlSink(sink)
        if sink is not None:
            settings["sinks"] = (*settings.get("sinks", ()), sink)
        controller = Controller(policy or "auto", caller_values=caller_values or "pin", **settings)
    elif caller_values is not None or sink is not None or settings:
        given = [*settings, *(["sink"] if sink is not None else [])]
        given += ["caller_values"] if caller_values is not None else []
        raise ConfigError(f"say it to the controller that you pass, not to wrap: {', '.join(sorted(given))}")
    elif policy is not None:
        controller = controller.with_policy(policy)
    setup = Setup(
        controller=controller, endpoint=endpoint, counter=_counter(tokenizer), render_prompt=render_prompt
    )
    return _budgeted(client, setup)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a budgeted client knows besides what every client knows.

    Attributes:
        broken: Controls that a model at a URL refused or ignored; they are not tried again.
    """

    controller: Controller
    endpoint: str | None
    counter: Counter | None
    render_prompt: RenderPrompt | None
    broken: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)

    def begin(self, client: Any, options: Any, *, stream: bool) -> Call | None:
        """Decide for one request; None for what is no model call, and when a fault of ours forbids it."""
        body = options.json_data
        if options.method.lower() != "post" or not isinstance(body, Mapping):
            return None
        if options.url not in (CHAT, RESPONSES):
            return None
        try:
            request = _Request(self, client, options, stream=stream)
            return request.call()
        except BudgetctlError:
            if self.controller.strict:
                raise
            logger.warning("the call goes through unchanged", exc_info=True)
        except Exception:
            logger.warning("the call goes through unchanged", exc_info=True)
        return None


class _Request:
    """One request on its way into a machine."""

    def __init__(self, setup: Setup, client: Any, options: Any, *, stream: bool) -> None:
        self.setup = setup
        self.options = options
        self.stream = stream
        self.chat = options.url == CHAT
        self.raw = is_raw(options)
        self.base_url = str(client.base_url)
        self.endpoint = setup.endpoint or guess_endpoint(self.base_url)
        self.params = dict(options.json_data)
        if options.extra_json is not None:
            self.params["extra_body"] = dict(options.extra_json)
        extra = self.params.get("extra_body") or {}
        self.model = str(extra.get("model") or self.params.get("model") or "")
        self.messages: Any = extra.get("messages") or self.params.get("messages")

    def call(self) -> Call:
        """Open the session and build the machine."""
        session = self.setup.controller.session(
            _query(self.params, model=self.model),
            params=self.params,
            endpoint=self.endpoint,
            base_url=self.base_url,
            render=self.render,
        )
        if not self.chat or self.raw:
            return self._passing(session)
        return ChatCall(
            session,
            codec=_CODEC,
            stream=self.stream,
            criterion=_criterion(session),
            endings=self._endings(session),
            counter=self.setup.counter,
            on_broken=self.mark,
        )

    def render(
        self,
        budget: Budget,
        capability: Capability,
        params: Mapping[str, Any],
        *,
        caller_values: CallerValues,
    ) -> Rendered:
        """Write the budget, leaving out what is known not to work here."""
        capability = capability.without(self.setup.broken.get(self._place, frozenset()))
        if not self.chat:
            return openai_responses.render(budget, capability, params, caller_values=caller_values)
        live = not self.raw and (capability.live_end or bool(self._ways(budget, capability)))
        return openai_chat.render(budget, capability, params, caller_values=caller_values, live=live)

    def mark(self, names: frozenset[str]) -> None:
        """Remember controls that do not work here."""
        known = self.setup.broken.get(self._place, frozenset())
        if names - known:
            logger.warning("%s at %s does not keep: %s", self.model, self.base_url, ", ".join(sorted(names)))
        self.setup.broken[self._place] = known | names

    @property
    def _place(self) -> tuple[str, str]:
        return (self.base_url, self.model)

    def _endings(self, session: Session) -> tuple[Ending, ...]:
        if not session.enforcing or not steerable(self.params):
            return ()
        capability = session.capability.without(self.setup.broken.get(self._place, frozenset()))
        return self._ways(session.budget, capability)

    def _ways(self, budget: Budget, capability: Capability) -> tuple[Ending, ...]:
        return endings(
            capability,
            self.messages,
            render_prompt=self.setup.render_prompt,
            may_reask=cuts(budget, capability),
        )

    def _passing(self, session: Session) -> PassingCall:
        channels = ChatChannels() if self.chat else ResponsesChannels()
        transcript = Transcript(
            channels, clock=session.clock, started=session.started, counter=self.setup.counter
        )
        return PassingCall(
            session,
            path=self.options.url,
            transcript=transcript,
            dump=_dump_raw if self.raw else _CODEC.dump,
            stream=self.stream and not self.raw,
            raw_stream=self.stream and self.raw,
            on_broken=self.mark,
        )


class SyncBudgeted:
    """Mixed into the class of a wrapped ``OpenAI`` client."""

    _budgetctl: Setup

    def request(self, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None) -> Any:
        """Make one request under its budget."""
        plain = super().request  # type: ignore[misc]  # the client's own class comes next in the mro
        call = self._budgetctl.begin(self, options, stream=stream)
        if call is None:
            return plain(cast_to, options, stream=stream, stream_cls=stream_cls)
        wire = Wire(cast_to, options, stream_cls or Stream[ChatCompletionChunk], Stream[Completion])

        def post(send: Send) -> Any:
            cast, sent, kind = wire.request(send)
            return plain(cast, sent, stream=send.stream, stream_cls=kind)

        shell = SyncShell(call, post).start()
        if stream and not is_raw(options):
            return BudgetedStream.of(shell)
        return wire.parsed(shell.whole(), call)

    def with_policy(self, policy: str | Policy) -> Any:
        """Return a copy of this client under another policy.

        Raises:
            ConfigError: The policy does not parse.
        """
        return _with_policy(self, policy)


class AsyncBudgeted:
    """Mixed into the class of a wrapped ``AsyncOpenAI`` client."""

    _budgetctl: Setup

    async def request(
        self, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None
    ) -> Any:
        """Make one request under its budget."""
        plain = super().request  # type: ignore[misc]  # the client's own class comes next in the mro
        call = self._budgetctl.begin(self, options, stream=stream)
        if call is None:
            return await plain(cast_to, options, stream=stream, stream_cls=stream_cls)
        wire = Wire(cast_to, options, stream_cls or AsyncStream[ChatCompletionChunk], AsyncStream[Completion])

        async def post(send: Send) -> Any:
            cast, sent, kind = wire.request(send)
            return await plain(cast, sent, stream=send.stream, stream_cls=kind)

        shell = await AsyncShell(call, post).start()
        if stream and not is_raw(options):
            return AsyncBudgetedStream.of(shell)
        return wire.parsed(await shell.whole(), call)

    def with_policy(self, policy: str | Policy) -> Any:
        """Return a copy of this client under another policy.

        Raises:
            ConfigError: The policy does not parse.
        """
        return _with_policy(self, policy)


class Wire:
    """Turns what a machine sends into the SDK's request options, as close to the caller's as can be."""

    def __init__(self, cast_to: Any, options: Any, stream_cls: Any, completion_cls: Any) -> None:
        self._cast_to = cast_to
        self._options = options
        self._stream_cls = stream_cls
        self._completion_cls = completion_cls
        self._sent = 0
        # Applied once, to what the caller gets: a parser that refuses a truncated answer would be ahead of
        # the guard. A raw response parses itself when it is asked to.
        self._parse = None if is_raw(options) else options.post_parser

    def request(self, send: Send) -> tuple[Any, Any, Any]:
        """Return what to cast to, the options and the stream class."""
        body = dict(send.params)
        extra = body.pop("extra_body", None)
        update: dict[str, Any] = {"url": send.path, "json_data": body, "extra_json": extra}
        if self._sent:
            update["idempotency_key"] = None  # another request: the first one's key would replay its answer
        self._sent += 1
        if self._parse is not None:
            update["post_parser"] = NOT_GIVEN
        if send.path == CONTROL:  # the thought runs on meanwhile: soon, or by another way
            update |= {"max_retries": 0, "timeout": CONTROL_TIMEOUT_S}
            return object, self._options.model_copy(update=update), None
        options = self._options.model_copy(update=update)
        if send.path == COMPLETIONS:
            return Completion, options, self._completion_cls
        return self._cast_to, options, self._stream_cls if send.stream else None

    def parsed(self, result: Any, call: Call) -> Any:
        """Apply what the SDK applies to a whole response: the caller's own model comes out of it."""
        if not callable(self._parse):
            return result
        try:
            parsed = self._parse(result)
        except Exception as error:
            if call.outcome is not None:
                attach(error, call.outcome)
            raise
        if parsed is not result:
            if call.outcome is not None:
                attach(parsed, call.outcome)
            if isinstance(parsed, BaseModel):
                parsed._request_id = getattr(result, "_request_id", None)
        return parsed


def is_raw(options: Any) -> bool:
    """Whether the caller asked for the response instead of what it says."""
    return isinstance(options.headers, Mapping) and RAW_RESPONSE_HEADER in options.headers


def _budgeted(client: Client, setup: Setup) -> Client:
    base = type(client)
    if issubclass(base, SyncBudgeted | AsyncBudgeted):
        base = base.__mro__[2]
    mixin = SyncBudgeted if isinstance(client, OpenAI) else AsyncBudgeted
    cls = type(base.__name__, (mixin, base), {"_budgetctl": setup, "__module__": base.__module__})
    copied: Any = object.__new__(cls)
    for name, value in vars(client).items():
        if getattr(value, "_client", None) is not client and not name.startswith("with_"):
            copied.__dict__[name] = value
    # Resources point to the client that made them. The copy makes its own when they are asked for; SDKs
    # before 1.67 made them all at once.
    for name, value in vars(client).items():
        if name not in vars(copied) and not hasattr(base, name):
            copied.__dict__[name] = type(value)(copied)
    return cast("Client", copied)


def _with_policy(client: Any, policy: str | Policy) -> Any:
    setup: Setup = client._budgetctl
    return _budgeted(client, replace(setup, controller=setup.controller.with_policy(policy)))


def _criterion(session: Session) -> Criterion | None:
    """Build what watches the thinking: what can act, and what would act if something could."""
    if not session.enforcing:
        return None
    acting = {c.name: c.value for c in session.controls}
    engine = session.capability.cap
    engine_keeps = engine is not None and any(name in acting for name in engine.parameters)
    pinned = any(name in THINKING for name in session.pinned)
    cap = None if engine_keeps or pinned or session.budget.off else session.budget.reasoning_tokens
    return monitor(
        replace(
            session.budget,
            reasoning_tokens=acting.get(ABORT_CONTINUE, cap),
            deadline_s=acting.get(DEADLINE),
            answer_tokens=session.budget.answer_tokens or session.capability.answer_tokens,
        )
    )


def _query(params: Mapping[str, Any], *, model: str) -> Query:
    messages = params.get("messages")
    if messages is None:
        asked = params.get("input") or ""
        messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else list(asked)
        if params.get("instructions"):
            messages = [{"role": "system", "content": params["instructions"]}, *messages]
    text = params.get("text")
    structured = isinstance(text, Mapping) and (text.get("format") or {}).get("type", "text") != "text"
    return Query.from_messages(
        [m for m in messages if isinstance(m, Mapping)],
        model=model or None,
        has_tools=bool(params.get("tools")),
        structured=structured or params.get("response_format") is not None,
    )


def _counter(tokenizer: Any) -> Counter | None:
    """Return a function that counts tokens, from whatever can."""
    if tokenizer is None:
        return None
    encode = getattr(tokenizer, "encode", None)
    if encode is None:
        if not callable(tokenizer):
            raise ConfigError(f"a tokenizer has encode() or is a function, seen {type(tokenizer).__name__}")
        return cast("Counter", tokenizer)
    known = inspect.signature(encode).parameters
    plain = {"add_special_tokens": False} if "add_special_tokens" in known else {}
    encoder: Callable[..., Any] = partial(encode, **plain)
    return lambda text: len(encoder(text)) if text else 0


def _dump_raw(response: Any) -> Mapping[str, Any] | None:
    """Read a raw response that has arrived anyway; None for one that is still on its way."""
    http = getattr(response, "http_response", None)
    if http is None or not http.is_closed or not hasattr(http, "_content"):
        return None
    body = http.json()
    return body if isinstance(body, Mapping) else None
