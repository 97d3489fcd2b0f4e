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
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from openai import (
    AsyncAzureOpenAI,
    AsyncOpenAI,
    AsyncStream,
    AzureOpenAI,
    OpenAI,
    Stream,
)
from openai.types import Completion
from openai.types.chat import ChatCompletionChunk

from budgetctl.adapters import openai_chat, openai_responses
from budgetctl.adapters.base import ABORT_CONTINUE, DEADLINE, Rendered, steerable
from budgetctl.adapters.paths import THINKING
from budgetctl.audit import repeatable
from budgetctl.capabilities import ENDPOINTS, Capability, guess_endpoint
from budgetctl.channels import ChatChannels, ResponsesChannels
from budgetctl.controller import Controller
from budgetctl.conversation import given_id
from budgetctl.engine import ChatCall, Counter, Ending, PassingCall, Send, Transcript, endings
from budgetctl.engine.continuation import RenderPrompt
from budgetctl.engine.endings import CHAT, cuts
from budgetctl.engine.passing import RESPONSES
from budgetctl.engine.spending import spending
from budgetctl.errors import ConfigError
from budgetctl.integrations._audit import Audit
from budgetctl.integrations._controller import controller_of
from budgetctl.integrations._openai_io import (
    AsyncBudgetedStream,
    AsyncShell,
    BudgetedStream,
    Call,
    SdkCodec,
    SyncShell,
    Wire,
    again,
    is_raw,
)
from budgetctl.names import Alias
from budgetctl.outcomes import Sink
from budgetctl.policy import Policy
from budgetctl.session import Session
from budgetctl.stopping import Criterion, monitor
from budgetctl.types import Budget, CallerValues, Query

if TYPE_CHECKING:
    from budgetctl.ladder.certified import Met

logger = logging.getLogger("budgetctl")

Client = TypeVar("Client", OpenAI, AsyncOpenAI)

_CODEC = SdkCodec()


def wrap(
    client: Client,
    *,
    policy: str | Policy | None = None,
    controller: Controller | None = None,
    route: str | None = None,
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
        route: Name of this traffic in the records. A controller from a configuration has policy and limits
            for it.
        endpoint: Kind of endpoint, as in the capability table; None tells providers by their hosts, Azure
            by the client's class too, and calls everything else ``openai-compatible``.
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
    setup = Setup(
        controller=controller_of(
            controller, policy=policy, route=route, caller_values=caller_values, sink=sink, **settings
        ),
        endpoint=endpoint,
        counter=_counter(tokenizer),
        render_prompt=render_prompt,
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

    def begin(self, client: Any, options: Any, *, stream: bool) -> tuple[Any, Begun | None]:
        """Decide for one request.

        Returns:
            The request, with the model's own name in the place of an alias, and what is to come of it; None
            for what is no model call, and when a fault of ours forbids it.

        Raises:
            ConfigError: The client is not that of the alias.
        """
        body = options.json_data
        if options.method.lower() != "post" or not isinstance(body, Mapping):
            return options, None
        if not isinstance(options.extra_json or {}, Mapping):
            return options, None  # the SDK says what is wrong with it
        if options.url not in (CHAT, RESPONSES):
            return options, None
        alias = self.controller.alias(_model(options))
        if alias is not None:
            alias.check(str(client.base_url))
            options = _renamed(options, alias.model)
        try:
            return options, _Request(self, client, options, stream=stream, alias=alias).begin()
        except Exception as error:
            self.controller.unbudgeted("the call", error)
        return options, None


@dataclass(frozen=True, slots=True)
class Begun:
    """A request's machine, and its audit if it was drawn for one."""

    call: Call
    audit: Audit | None = None


class _Request:
    """One request on its way into a machine."""

    def __init__(self, setup: Setup, client: Any, options: Any, *, stream: bool, alias: Alias | None) -> None:
        self.setup = setup
        self.options = options
        self.stream = stream
        self.chat = options.url == CHAT
        self.raw = is_raw(options)
        self.base_url = str(client.base_url)
        named = None if alias is None else alias.endpoint
        self.endpoint = named or setup.endpoint or _kind(client)
        self.policy = None if alias is None else alias.policy
        self.params = dict(options.json_data)
        if options.extra_json is not None:
            self.params["extra_body"] = dict(options.extra_json)
        extra = self.params.get("extra_body") or {}
        self.model = str(_model(options) or "")
        self.messages: Any = extra.get("messages") or self.params.get("messages")

    def begin(self) -> Begun:
        """Open the session and build the machine."""
        session = self.setup.controller.session(
            _query(self.params, model=self.model),
            params=self.params,
            endpoint=self.endpoint,
            base_url=self.base_url,
            render=self.render,
            policy=self.policy,
            conversation=given_id(self.params),
            repeatable=self.chat and not self.raw and repeatable(self.params),
        )
        if not self.chat or self.raw:
            return Begun(spending(session, lambda: self._passing(session)))
        call, audits = spending(session, lambda: self._chat(session)), session.audits
        if audits is None:
            return Begun(call)
        return Begun(call, Audit(audits=audits, session=session, call=call, again=self._chat))

    def _chat(self, session: Session) -> ChatCall:
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
        ways = () if self.raw else self._ways(budget, capability)
        return openai_chat.render(
            budget,
            capability,
            params,
            caller_values=caller_values,
            live=bool(ways) or (capability.live_end and not self.raw),
            resumes=not all(way.degraded for way in ways),
        )

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


def met(client: Any, params: Mapping[str, Any]) -> Met:
    """Return a chat call of a wrapped client as it would be made, for what judges it beforehand."""
    from budgetctl.ladder.certified import Met

    setup: Setup = client._budgetctl
    alias = setup.controller.alias(params["model"])
    body = {**params, "model": params["model"] if alias is None else alias.model}
    extra = body.pop("extra_body", None)
    options = SimpleNamespace(url=CHAT, json_data=body, extra_json=extra, headers=None)
    request = _Request(setup, client, options, stream=bool(params.get("stream")), alias=alias)
    capability = setup.controller.capabilities.lookup(request.model, request.endpoint)

    def write(budget: Budget) -> Rendered:
        pin = setup.controller.caller_values
        return request.render(budget, capability, request.params, caller_values=pin)

    return Met(
        model=request.model,
        endpoint=request.endpoint,
        params=request.params,
        facts=capability.facts(),
        write=write,
    )


class SyncBudgeted:
    """Mixed into the class of a wrapped ``OpenAI`` client."""

    _budgetctl: Setup

    def request(self, cast_to: Any, options: Any, *, stream: bool = False, stream_cls: Any = None) -> Any:
        """Make one request under its budget."""
        plain = super().request  # type: ignore[misc]  # the client's own class comes next in the mro
        options, begun = self._budgetctl.begin(self, options, stream=stream)
        if begun is None:
            return plain(cast_to, options, stream=stream, stream_cls=stream_cls)
        stream_cls = stream_cls or Stream[ChatCompletionChunk]

        def through(wire: Wire) -> Callable[[Send], Any]:
            def post(send: Send) -> Any:
                cast, sent, kind = wire.request(send)
                return plain(cast, sent, stream=send.stream, stream_cls=kind)

            return post

        def then() -> None:
            if begun.audit is not None:
                begun.audit.later(through(Wire(cast_to, again(options), stream_cls, Stream[Completion])))

        wire = Wire(cast_to, options, stream_cls, Stream[Completion])
        shell = SyncShell(begun.call, through(wire), then=then).start()
        if stream and not is_raw(options):
            return BudgetedStream.of(shell)
        return wire.parsed(shell.whole(), begun.call)

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
        options, begun = self._budgetctl.begin(self, options, stream=stream)
        if begun is None:
            return await plain(cast_to, options, stream=stream, stream_cls=stream_cls)
        stream_cls = stream_cls or AsyncStream[ChatCompletionChunk]

        def through(wire: Wire) -> Callable[[Send], Awaitable[Any]]:
            async def post(send: Send) -> Any:
                cast, sent, kind = wire.request(send)
                return await plain(cast, sent, stream=send.stream, stream_cls=kind)

            return post

        def then() -> None:
            if begun.audit is not None:
                wire = Wire(cast_to, again(options), stream_cls, AsyncStream[Completion])
                begun.audit.later_task(through(wire))

        wire = Wire(cast_to, options, stream_cls, AsyncStream[Completion])
        shell = await AsyncShell(begun.call, through(wire), then=then).start()
        if stream and not is_raw(options):
            return AsyncBudgetedStream.of(shell)
        return wire.parsed(await shell.whole(), begun.call)

    def with_policy(self, policy: str | Policy) -> Any:
        """Return a copy of this client under another policy.

        Raises:
            ConfigError: The policy does not parse.
        """
        return _with_policy(self, policy)


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
        ),
        tail_s=session.flight.tail_s,
    )


def _model(options: Any) -> Any:
    """Return the model that a request names; what is in its ``extra_body`` is sent last."""
    return (options.extra_json or {}).get("model") or options.json_data.get("model")


def _renamed(options: Any, model: str) -> Any:
    """Return a copy of a request that names another model."""
    update = {"json_data": {**options.json_data, "model": model}}
    if "model" in (options.extra_json or {}):
        update["extra_json"] = {**options.extra_json, "model": model}
    return options.model_copy(update=update)


def _kind(client: Any) -> str:
    """Return the kind of endpoint behind a client; Azure may be behind any gateway."""
    if isinstance(client, AzureOpenAI | AsyncAzureOpenAI):
        return "azure"
    return guess_endpoint(str(client.base_url))


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
