"""What users call: a ladder over the clients that they have."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from budgetctl.capabilities import Capability, guess_endpoint
from budgetctl.controller import Controller
from budgetctl.errors import CertificateMismatch, ConfigError, brief
from budgetctl.ladder import certified
from budgetctl.ladder.acceptance import Acceptance, takes, waits
from budgetctl.ladder.choice import Rates, check_worth, start_rung
from budgetctl.ladder.rungs import Ladder, Rung
from budgetctl.names import Alias
from budgetctl.outcomes import Outcome, Sink
from budgetctl.policy import Situation
from budgetctl.types import Query

if TYPE_CHECKING:
    from budgetctl.certificate import Certificate
    from budgetctl.ladder.certified import Met

logger = logging.getLogger("budgetctl")

Private = Callable[[Query], bool]

REMEMBERED = 10_000
"""Tool calls whose rung is known, the most recent ones."""

_ALSO_SAID = ("prediction", "metadata", "user", "safety_identifier", "prompt_cache_key", "extra_body")
"""Parameters beside the messages that may hold what somebody said, or who it was."""

_NO_TEXT = ("role", "type", "id", "tool_call_id")


def over(
    clients: Mapping[str, Any],
    rungs: Ladder | Sequence[str | Rung],
    *,
    accept: Acceptance | None = None,
    local: Sequence[str] = (),
    private: bool | Private = False,
    hedge_s: float | None = None,
    certificate: str | os.PathLike[str] | None = None,
    usd_per_correct: float | None = None,
    rates: Sequence[Rates] | None = None,
    endpoints: Mapping[str, str] | None = None,
    controller: Controller | None = None,
    route: str | None = None,
    sink: str | os.PathLike[str] | Sink | None = None,
    **settings: Any,
) -> Any:
    """Return a ladder over clients: an object with ``chat.completions.create(messages=..., ...)``.

    It takes what the SDK's method takes, but for ``model``, and returns what that returns; on asynchronous
    clients it is a coroutine. ``private=True`` may be said of a single call, too. Drafts are collected; with
    ``stream=True`` the chunks of an accepted one are handed on, and those of the last rung as they come.

    Args:
        clients: ``OpenAI`` or ``AsyncOpenAI`` clients by the models of the rungs; all of one kind. They are
            not touched: each call goes through :func:`budgetctl.wrap` under the policy of its rung.
        rungs: ``MODEL@POLICY`` strings, cheapest first, or a :class:`Ladder`, which says what ``accept``,
            ``local`` and ``hedge_s`` say.
        accept: Judges drafts: :class:`Confident`, :class:`Agreement`, :class:`Verified`, or your own.
        local: The models that a private query may go to.
        private: All queries, or those that a function says it of: it is asked about every message of a call,
            and its ``prediction``, ``metadata``, ``extra_body`` and names of the user, as the text of a
            query. One that fails has said yes. A configured route may be private as well.
        hedge_s: Seconds after which the next rung is started beside one whose draft has not come.
        certificate: File of a certificate of this ladder. It says what ``accept`` would. A turn that is not
            what was certified asks the last rung alone; the outcome says why, and ``strict=True`` raises
            :class:`~budgetctl.errors.CertificateMismatch` before anything is asked.
        usd_per_correct: What a right answer is worth: the rung to begin with is then chosen by
            :func:`start_rung`. None begins with the first.
        rates: What was measured of the rungs' drafts, for that choice.
        endpoints: Kinds of endpoint by model, as for :func:`budgetctl.wrap`.
        controller: Decides and records, instead of a new one made from ``route``, ``sink`` and ``settings``.

    Raises:
        ConfigError: An argument does not fit, a model has no client, known prices contradict the order of the
            rungs, or all queries are private and no rung is local.
    """
    proof = None if certificate is None else certified.load(certificate)
    if accept is None and proof is not None and not isinstance(rungs, Ladder):
        accept = certified.accepts(proof)
    ladder = _ladder(rungs, accept=accept, local=local, hedge_s=hedge_s)
    if not isinstance(clients, Mapping):
        raise ConfigError(
            f"clients: seen {clients!r}, allowed: a mapping from the models of the rungs to clients"
        )
    missing = sorted({rung.model for rung in ladder.rungs} - set(clients))
    if missing:
        raise ConfigError(f"clients: no client for {', '.join(missing)}; seen {sorted(clients)}")
    if not isinstance(private, bool) and (not takes(private, 1) or waits(private)):
        raise ConfigError(f"private: seen {private!r}, allowed: True, False or a plain function of a query")
    if usd_per_correct is None and rates is not None:
        raise ConfigError("rates: only where usd_per_correct is said")
    if usd_per_correct is not None:
        check_worth(ladder, usd_per_correct, rates)
    kinds = {} if endpoints is None else endpoints
    if not isinstance(kinds, Mapping) or set(kinds) - {rung.model for rung in ladder.rungs}:
        raise ConfigError(f"endpoints: seen {kinds!r}, allowed: kinds of endpoint by the models of the rungs")
    if "policy" in settings:
        raise ConfigError("policy: each rung has its own; say it there, as in 'qwen3-4b@cap:2000'")
    integration = import_module("budgetctl.integrations.ladder")
    decider: Controller = integration.controller_of(controller, route=route, sink=sink, **settings)
    places = {model: str(getattr(client, "base_url", "")) for model, client in clients.items()}
    ladder.check_prices(decider.prices, places=places, aliases=decider.names.models)
    routed = decider.route is not None and decider.names.route(decider.route).private
    always = private is True or routed
    if always:
        ladder.path(private=True)
    setup = Setup(
        ladder=ladder,
        controller=decider,
        private=always or private,
        usd_per_correct=usd_per_correct,
        rates=rates,
        endpoints=dict(kinds),
        certificate=proof,
        base_urls=places,
    )
    return integration.over(setup, clients)


def _ladder(rungs: Ladder | Sequence[str | Rung], **said: Any) -> Ladder:
    if isinstance(rungs, Ladder):
        given = sorted(name for name, value in said.items() if value)
        if given:
            raise ConfigError(f"say it to the Ladder that you pass: {', '.join(given)}")
        return rungs
    if said["accept"] is None:
        raise ConfigError("accept: say what judges drafts: Confident(0.9), Agreement(), Verified(function)")
    return Ladder.of(rungs, **said)


class Callers:
    """Which rung made which tool call, by the ids of these; each process remembers its own."""

    def __init__(self) -> None:
        self._made: OrderedDict[str, tuple[int, bool]] = OrderedDict()
        self._lock = threading.Lock()

    def note(self, calls: Sequence[Mapping[str, Any]], rung: int, *, private: bool = False) -> None:
        """Remember the rung of an answer's tool calls, and whether the query was private."""
        with self._lock:
            for call in calls:
                if isinstance(identity := call.get("id"), str) and identity:  # some servers name none
                    self._made[identity] = (rung, private)
            while len(self._made) > REMEMBERED:
                self._made.popitem(last=False)

    def private(self, messages: Sequence[Any]) -> bool:
        """Whether some messages answer a tool call of a private query, which is then in the messages, too."""
        ids = (message.get("tool_call_id") for message in messages if isinstance(message, Mapping))
        return any(made[1] for i in ids if (made := self._made.get(str(i))) is not None)

    def rung(self, messages: Sequence[Any]) -> int | None:
        """Return the rung whose tool calls the last messages answer; None where they answer none."""
        last = messages[-1] if messages else None
        if not isinstance(last, Mapping) or last.get("role") != "tool":
            return None
        made = self._made.get(str(last.get("tool_call_id")))
        return None if made is None else made[0]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a ladder's client knows besides its clients."""

    ladder: Ladder
    controller: Controller
    private: bool | Private
    usd_per_correct: float | None
    rates: Sequence[Rates] | None
    endpoints: Mapping[str, str]
    base_urls: Mapping[str, str]
    certificate: Certificate | None = None
    callers: Callers = field(default_factory=Callers)

    @property
    def needs_confidence(self) -> bool:
        """Whether drafts are judged by the log-probabilities of their tokens."""
        return bool(getattr(self.ladder.accept, "needs_confidence", False))

    def check(self, params: Mapping[str, Any]) -> None:
        """Refuse what a ladder cannot do, before any call.

        Raises:
            ConfigError: Names it.
        """
        extra = params.get("extra_body")
        extra = extra if isinstance(extra, Mapping) else {}
        if "model" in params or "model" in extra:
            raise ConfigError("model: the rungs of the ladder name the models; leave it out")
        said = params.get("messages")
        listed = isinstance(said, Sequence) and not any(isinstance(m, str) for m in (said, *said))
        if "messages" in extra or not listed:
            raise ConfigError("messages: allowed: a list of messages, as an argument of its own")
        if (params.get("n") or extra.get("n") or 1) != 1:
            raise ConfigError("n: a ladder gives one answer; allowed: 1")

    def is_private(self, query: Query, params: Mapping[str, Any], *, said: bool) -> bool:
        """Whether a call has to stay on local rungs: what cannot be told does."""
        if said or self.private is True or self.callers.private(params["messages"]):
            return True
        if self.private is False:
            return False
        try:
            others = (params[name] for name in _ALSO_SAID if isinstance(params.get(name), Mapping | str))
            texts = (_text(part) for part in (*params["messages"], *others))
            return any(bool(self.private(replace(query, text=text))) for text in (query.text, *texts))
        except Exception as error:
            logger.warning("private failed, so the query is private: %s", brief(error))
            return True

    def start(self, query: Query, messages: Sequence[Any], *, private: bool) -> int:
        """Return the rung to begin with: that which made the tool calls whose results these are, if any."""
        made = self.callers.rung(messages)
        if made is not None:
            return made
        if self.usd_per_correct is None or private:  # of local rungs the first is the cheapest anyway
            return 0
        try:
            known = [self._situation(query, rung) for rung in self.ladder.rungs]
            return start_rung(self.ladder, known, usd_per_correct=self.usd_per_correct, rates=self.rates)
        except Exception as error:  # third-party classifiers raise what they like
            logger.warning("the rung to begin with could not be chosen: %s", brief(error))
            return 0

    def void(
        self, query: Query, met: Callable[[], Sequence[Met]], *, start: int, private: bool
    ) -> str | None:
        """Return why a turn is not what was certified; None where it is, or there is no certificate.

        Raises:
            CertificateMismatch: Strict mode only.
        """
        if self.certificate is None:
            return None
        try:
            why = certified.void(
                self.certificate,
                self.ladder,
                met(),
                controller=self.controller,
                query=query,
                start=start,
                private=private,
            )
        except Exception as error:  # a fault of ours costs the saving and not the call
            why = f"it could not be checked: {brief(error)}"
        if why is not None and self.controller.strict:
            raise CertificateMismatch(f"certificate {self.certificate.id}: {why}")
        return why

    def proven(self, void: str | None, outcomes: Mapping[int, Outcome | None]) -> Mapping[str, str | None]:
        """Return what the records of a turn say of the certificate; nothing where there is none."""
        if self.certificate is None:
            return {}
        return certified.recorded(self.certificate, self.ladder, void, outcomes)

    def capability(self, rung: Rung) -> Capability:
        """Return what the model of a rung can do."""
        alias = self.controller.alias(rung.model) or Alias(model=rung.model)
        said = alias.endpoint or self.endpoints.get(rung.model)
        endpoint = said or guess_endpoint(self.base_urls[rung.model])
        return self.controller.capabilities.lookup(alias.model, endpoint)

    def _situation(self, query: Query, rung: Rung) -> Situation:
        controller, place = self.controller, self.base_urls[rung.model]
        alias = controller.alias(rung.model)
        query = replace(query, model=rung.model if alias is None else alias.model)
        classifier = controller.classifier()
        estimate = None if classifier is None else classifier.estimate(query)
        return Situation(
            query=query,
            estimate=estimate if estimate and estimate.confidence >= controller.min_confidence else None,
            facts=self.capability(rung).facts(),
            limits=controller.limits,
            pace=controller.speeds.pace(place, query.model or ""),
            price=controller.prices.lookup(query.model, place=place, prompt_tokens=query.prompt_tokens),
        )


def _text(part: Any) -> str:
    """Return all that a message or parameter says: its strings as they were written, and the whole as JSON.

    In JSON alone a line break, or a letter that was escaped, would hide from a search for words.
    """
    if hasattr(part, "model_dump"):
        part = part.model_dump(exclude_none=True)
    if isinstance(part, str):
        return part
    content = part.get("content") if isinstance(part, Mapping) else None
    if isinstance(content, str) and set(part) <= {"role", "content", "tool_call_id"}:
        return content
    return "\n".join([*_strings(part), json.dumps(part, ensure_ascii=False, default=str)])


def _strings(value: Any) -> Iterator[str]:
    """Yield the strings of a message, and those in the arguments of its tool calls."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in _NO_TEXT:
                yield from _strings(inner)
            if name == "arguments" and isinstance(inner, str):
                with contextlib.suppress(ValueError):  # a model may have written anything
                    yield from _strings(json.loads(inner))
    elif isinstance(value, Sequence) and not isinstance(value, bytes):
        for inner in value:
            yield from _strings(inner)
