"""A ladder over clients of the OpenAI SDK; see :func:`budgetctl.ladder.over`.

Each rung's call is an ordinary call of a wrapped client under the rung's policy. What is special is when its
outcome is recorded: once it is known whose answer was handed on.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from openai import AsyncOpenAI, OpenAI

from budgetctl.controller import Controller
from budgetctl.engine.chunks import asked
from budgetctl.errors import ClassifierError, ConfigError, LimitExceeded, brief
from budgetctl.integrations import openai as wrapping
from budgetctl.integrations._controller import controller_of
from budgetctl.integrations._openai_io import SdkCodec
from budgetctl.ladder.certified import Met
from budgetctl.ladder.client import Setup
from budgetctl.ladder.climb import Climbed, Failed, climb
from budgetctl.ladder.reading import Reading
from budgetctl.ladder.rungs import Draft, Ladder
from budgetctl.ladder.turn import Attempt, Turn
from budgetctl.outcomes import Outcome, attach
from budgetctl.session import keep, outer_call
from budgetctl.types import Query, StopReason

__all__ = ["Begun", "Call", "Rungs", "controller_of", "over"]

logger = logging.getLogger("budgetctl")

CODEC = SdkCodec()
PASSED_ON = (ConfigError, TypeError)
"""Errors of whoever wrote the call: no other rung makes them good."""


def over(setup: Setup, clients: Mapping[str, Any]) -> Any:
    """Return the object that users call.

    Raises:
        ConfigError: The clients are not all ``OpenAI`` or all ``AsyncOpenAI`` clients, or what judges waits
            and they do not.
    """
    kinds = {kind for c in clients.values() for kind in (OpenAI, AsyncOpenAI) if isinstance(c, kind)}
    if len(kinds) != 1 or not all(isinstance(client, OpenAI | AsyncOpenAI) for client in clients.values()):
        seen = sorted({type(client).__name__ for client in clients.values()})
        raise ConfigError(
            f"clients: seen {seen}, allowed: OpenAI clients, or AsyncOpenAI clients, all of a kind"
        )
    rungs = Rungs(setup, clients)
    if kinds == {AsyncOpenAI}:
        from budgetctl.integrations._ladder_async import AsyncCompletions

        completions: Any = AsyncCompletions(rungs)
    else:
        from budgetctl.integrations._ladder_sync import Completions

        if getattr(setup.ladder.accept, "waits", False):
            raise ConfigError("accept: a coroutine function needs AsyncOpenAI clients")
        completions = Completions(rungs)
    return Client(setup.ladder, completions)


class OnlyCreate:
    """Says what there is where somebody asks for another of the SDK's methods."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"a ladder has chat.completions.create() alone, seen {name!r}: ask a client for it"
        )


class Client(OnlyCreate):
    """What :func:`budgetctl.ladder.over` returns."""

    def __init__(self, ladder: Ladder, completions: Any) -> None:
        self.ladder = ladder
        self.chat = SimpleNamespace(completions=completions)


class Rungs:
    """The wrapped client of every rung, and another one of every local rung for private queries."""

    def __init__(self, setup: Setup, clients: Mapping[str, Any]) -> None:
        self.setup = setup
        self._clients = clients
        self._open = [self._wrapped(i, setup.controller) for i in range(len(setup.ladder.rungs))]
        self._private: dict[int, Any] = {}

    def client(self, rung: int, *, private: bool) -> Any:
        """Return the client that makes a rung's calls."""
        if not private:
            return self._open[rung]
        if rung not in self._private:
            self._private[rung] = _staying(self._wrapped(rung, _silent(self.setup.controller)))
        return self._private[rung]

    def _wrapped(self, rung: int, controller: Controller) -> Any:
        said = self.setup.ladder.rungs[rung]
        endpoint = self.setup.endpoints.get(said.model)
        return wrapping.wrap(
            self._clients[said.model], controller=controller, policy=said.policy, endpoint=endpoint
        )


def _silent(controller: Controller) -> Controller:
    """Return a controller whose classifier sends no text anywhere."""
    try:
        asks = getattr(controller.classifier(), "asks_endpoint", False)
    except ClassifierError:
        asks = True
    return controller.without_classifier() if asks else controller


def _staying(client: Any) -> Any:
    """Return a wrapped client, which is a copy of ours, that goes nowhere else when a server redirects it."""
    request = client.request

    def stay(cast_to: Any, options: Any, **more: Any) -> Any:
        return request(cast_to, options.model_copy(update={"follow_redirects": False}), **more)

    client.request = stay
    return client


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """The stream of the last rung, which is handed on from here."""

    rung: int
    handle: Any


class Call:
    """One turn, as clients of both kinds make it.

    Attributes:
        stream: The caller wants chunks.
        hedged: Rungs are asked side by side, and in streams, so that one can be left.
        top: The last rung.
        drafts: Drafts so far.
        notes: What each rung came to.
    """

    def __init__(self, rungs: Rungs, params: Mapping[str, Any], *, private: bool) -> None:
        setup = self.setup = rungs.setup
        outer = outer_call.get()
        params = params if outer is None else outer.restore(params)
        setup.check(params)
        self._rungs = rungs
        messages = list(params["messages"])  # what was judged is what is sent
        self._params = {**params, "messages": messages}
        self.query: Query = wrapping._query(params, model="")
        self.private = setup.is_private(self.query, self._params, said=private)
        start = setup.start(self.query, messages, private=self.private)
        void = setup.void(self.query, self._met, start=start, private=self.private)
        if void is not None:
            start = len(setup.ladder.rungs) - 1
        self.notes: dict[int, str] = {}
        self.path = setup.ladder.path(start=start, private=self.private)
        self.top = self.path[-1]
        self.stream = bool(params.get("stream"))
        self.hedge_s = setup.ladder.hedge_s if len(self.path) > 1 else None
        self.steps = climb(setup.ladder, self.query, start=start, private=self.private, notes=self.notes)
        places = [setup.base_urls[rung.model] for rung in setup.ladder.rungs]
        self.turn = Turn(
            setup.ladder,
            self.query,
            prices=setup.controller.prices,
            places=places,
            proven=lambda outcomes: setup.proven(void, outcomes),
        )
        self.drafts: list[Draft] = []
        self._readings: dict[int, Reading] = {}
        self._outer = None if outer is None else outer.claim()
        self._owner: Callable[[], Any] = lambda: None

    def _met(self) -> list[Met]:
        """Return the rungs as this turn meets them."""
        params = {name: value for name, value in self._params.items() if _given(value)}
        rungs = enumerate(self.setup.ladder.rungs)
        return [wrapping.met(self.client(i), {**params, "model": rung.model}) for i, rung in rungs]

    @property
    def hedged(self) -> bool:
        return self.hedge_s is not None

    @property
    def streams(self) -> bool:
        """Whether the rungs are asked for streams."""
        return self.stream or self.hedged

    def client(self, rung: int) -> Any:
        """Return the client of a rung."""
        return self._rungs.client(rung, private=self.private)

    def params(self, rung: int) -> dict[str, Any]:
        """Return what a rung is asked."""
        said = self.setup.ladder.rungs[rung]
        params = {**self._params, "model": said.model}
        if self.setup.needs_confidence and rung != self.top and not _given(params.get("logprobs")):
            params["logprobs"] = True
        if self.hedged and not self.stream:
            params = asked(params, self.setup.capability(said))
        return params

    @contextmanager
    def attempting(self, attempt: Attempt) -> Iterator[None]:
        """Let a rung's call be recorded with its turn.

        A budgeted function around the turn gets all its records, and decides nothing: the rungs do.
        """
        kept, outer = keep.set(attempt), outer_call.get()
        if self._outer is not None:
            outer = replace(
                self._outer, decides=False, claimed=False, injected={}, replaced={}, alias=None, outcome=None
            )
        around = outer_call.set(outer)
        try:
            yield
        finally:
            outer_call.reset(around)
            keep.reset(kept)

    def begin(self, rung: int) -> Attempt:
        """Begin a rung's call."""
        self._readings[rung] = Reading(self.setup.capability(self.setup.ladder.rungs[rung]))
        return self.turn.begin(rung)

    def hear(self, rung: int, item: Any) -> bool:
        """Take what came of a rung; whether that begins an answer which is handed on from here."""
        reading = self._readings[rung]
        try:
            reading.feed(item, CODEC.dump(item))
        except Exception as error:  # a fault of ours: the draft is not accepted, the last rung passes
            reading.unread = True
            logger.warning("a draft could not be read: %s", brief(error))
        return self.stream and rung == self.top and reading.spoke

    def draft(self, attempt: Attempt) -> Draft:
        """Return the draft of a call that has ended."""
        return self._readings[attempt.rung].draft(attempt.rung, attempt.outcome)

    def failed(self, attempt: Attempt, error: Exception) -> Failed:
        """Return the failure of a call."""
        attempt.free = isinstance(error, LimitExceeded) or getattr(error, "status_code", None) is not None
        if not attempt.left:
            logger.warning("%s failed: %s", self.setup.ladder.rungs[attempt.rung], brief(error))
        return Failed(error=error, rung=attempt.rung)

    def answer(self, climbed: Climbed) -> Any:
        """Record the turn and return the completion that is its answer."""
        reading = self._readings[climbed.draft.rung]
        item = CODEC.completion(reading.completion()) if self.streams else reading.items[0]
        return self.carry(item, self.end(climbed))

    def end(self, climbed: Climbed) -> Outcome | None:
        """Record the turn."""
        self._note(climbed.draft.rung)
        return self._ended(self.turn.end(climbed.draft.rung, self.notes))

    def _note(self, rung: int) -> None:
        self.setup.callers.note(self._readings[rung].tool_calls(), rung, private=self.private)

    def _ended(self, total: Outcome | None) -> Outcome | None:
        if self._outer is not None:
            self._outer.outcome = total
        return total

    def gave_up(self) -> None:
        """Record a turn that has no answer."""
        self.turn.end(None, self.notes)

    def items(self, rung: int) -> Iterable[Any]:
        """Return the chunks of a rung, so far."""
        return list(self._readings[rung].items)

    def instead(self, begun: Begun, error: Exception) -> Climbed:
        """End the turn with an earlier draft: the stream of the last rung broke before it said anything."""
        try:
            self.steps.send(self.failed(self.turn.attempts[begun.rung], error))
        except StopIteration as end:
            climbed: Climbed = end.value
            self.carry(self._owner(), self.end(climbed))
            return climbed
        raise AssertionError("the last rung was not the last")  # unreachable

    def live(self, begun: Begun, owner: Any) -> None:
        """Have the turn recorded when the stream of the last rung ends, however it does."""
        rung = begun.rung  # the stream itself is not kept alive here: dropping it closes it
        attempt, reading = self.turn.attempts[rung], self._readings[rung]
        self._owner = weakref.ref(owner)

        def ended() -> None:
            failed = attempt.outcome is not None and attempt.outcome.stop.reason is StopReason.ERROR
            if failed and self.can_fall_back(rung):
                return  # an earlier draft is the answer
            self._note(rung)
            answered = rung if reading.spoke or not failed else None
            self.notes.setdefault(rung, "failed" if answered is None else "the last rung")
            total = self._ended(self.turn.end(answered, self.notes, live=True))
            self.carry(self._owner(), total)

        attempt.ended = ended

    def can_fall_back(self, rung: int) -> bool:
        """Whether an earlier draft can be handed on in the place of a stream that broke."""
        return not self._readings[rung].spoke and any(draft.usable for draft in self.drafts)

    def carry(self, item: Any, total: Outcome | None) -> Any:
        """Make ``budgetctl.outcome(item)`` find the sum."""
        if item is not None and total is not None:
            attach(item, total)
        return item


def _given(value: Any) -> bool:
    """Whether the caller has set a parameter; the SDK's own signs for one that is not are false, too."""
    return value is not None and type(value).__name__ not in ("NotGiven", "Omit")
