"""A callback handler that keeps account of every model call, budgeted or not."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import ChatGeneration, LLMResult

from budgetctl.adapters import openai_chat
from budgetctl.callbacks import logger
from budgetctl.capabilities import ENDPOINTS
from budgetctl.controller import Controller
from budgetctl.errors import AnswerTruncated, ConfigError, brief
from budgetctl.integrations._controller import controller_of
from budgetctl.integrations._langchain_read import Listener, as_query
from budgetctl.outcomes import MESSAGE_KEY, Outcome, Sink, attach, outcome
from budgetctl.policy import Policy
from budgetctl.session import outer_call
from budgetctl.stopping.criteria import with_grace
from budgetctl.types import StopReason

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

KEPT = 1000


class BudgetCallbackHandler(BaseCallbackHandler):
    """Records every run of a chat model as an outcome: tokens, times, cost, why it ended.

    Works with any chat model: ``chain.invoke(x, config={"callbacks": [BudgetCallbackHandler()]})``. Callbacks
    cannot change a call, so nothing is budgeted here. A run of a budgeted model brings its own outcome, which
    is taken as it is; give the sink to one of the two.

    Attributes:
        outcomes: The latest outcomes, at most a thousand, newest last.
    """

    run_inline = (
        True  # for the order of the tokens, and because a thread for each would cost more than it does
    )

    def __init__(
        self,
        policy: str | Policy | None = None,
        *,
        controller: Controller | None = None,
        endpoint: str = "openai-compatible",
        sink: str | os.PathLike[str] | Sink | None = None,
        end_over_budget: bool = False,
        **settings: Any,
    ) -> None:
        """Make a handler.

        Args:
            policy: What is decided, and recorded, for each run; the default is ``full``, which allows all.
            controller: Decides and records, instead of a new one made from the other arguments.
            endpoint: Kind of endpoint behind the models, as in the capability table.
            sink: Where outcomes go: a path of a JSONL file, or a sink.
            end_over_budget: End a stream whose thinking passes the policy's cap, with its grace, or its
                deadline. The run then raises :class:`~budgetctl.AnswerTruncated`, and the connection is
                closed. Calls that do not stream cannot be ended.
            settings: Passed to :class:`~budgetctl.Controller`.

        Raises:
            ConfigError: An argument does not fit.
        """
        if endpoint not in ENDPOINTS:
            raise ConfigError(f"endpoint: seen {endpoint!r}, allowed: {', '.join(ENDPOINTS)}")
        if end_over_budget and policy is None and controller is None:
            raise ConfigError("end_over_budget needs a policy: it says what the budget is")
        if controller is None:
            settings, policy = {**settings, "mode": "observe"}, policy or "full"
        self.controller = controller_of(controller, policy=policy, sink=sink, **settings)
        self.outcomes: deque[Outcome] = deque(maxlen=KEPT)
        self.raise_error = end_over_budget
        self._endpoint = endpoint
        self._runs: dict[UUID, _Run] = {}

    def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], *, run_id: UUID, **kwargs: Any
    ) -> None:
        """Begin the account of a run."""
        params = kwargs.get("invocation_params") or {}
        metadata = kwargs.get("metadata") or {}
        try:
            self._runs[run_id] = _Run(self.controller, messages[0], params, metadata, endpoint=self._endpoint)
        except Exception as error:
            logger.warning("a run is not accounted for: %s", brief(error))

    def on_llm_new_token(self, token: Any, *, chunk: Any = None, run_id: UUID, **kwargs: Any) -> None:
        """Hear a chunk.

        Raises:
            AnswerTruncated: Only where ending streams was asked for: this one is over its budget.
        """
        run = self._runs.get(run_id)
        if run is None or not isinstance(chunk, ChatGeneration):
            return
        run.hear(chunk)
        if self.raise_error:
            run.check()

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Record a finished run."""
        run = self._runs.pop(run_id, None)
        generations = response.generations[0] if response.generations else []
        if run is None or not generations or not isinstance(generations[0], ChatGeneration):
            return
        try:
            self._keep(run.finished(generations[0]))
        except Exception as error:
            logger.warning("the outcome could not be recorded: %s", brief(error))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """Record a run that failed, or that was ended."""
        run = self._runs.pop(run_id, None)
        if run is None:
            return
        try:
            found = run.failed(error)
            self._keep(found)
            if found is not None:
                attach(error, found)
        except Exception as fault:
            logger.warning("the outcome could not be recorded: %s", brief(fault))

    def _keep(self, found: Outcome | None) -> None:
        if found is not None:
            self.outcomes.append(found)


class _Run:
    """One run of a chat model, as its callbacks tell it."""

    def __init__(
        self,
        controller: Controller,
        messages: list[BaseMessage],
        params: Mapping[str, Any],
        metadata: Mapping[str, Any],
        *,
        endpoint: str,
    ) -> None:
        name = params.get("model") or params.get("model_name") or metadata.get("ls_model_name")
        query = as_query(messages, model=name if isinstance(name, str) else None, params=params)
        self._controller = controller
        token = outer_call.set(None)  # the decision of a function around the run is not ours to take over
        try:
            self._session = controller.session(
                query, params=params, endpoint=endpoint, render=openai_chat.render
            )
        finally:
            outer_call.reset(token)
        self._listener = Listener(clock=self._session.clock, started=self._session.started)

    def hear(self, generation: ChatGeneration) -> None:
        """Take a chunk or a whole generation in; a fault of ours never harms the run."""
        try:
            for event in self._listener.hear(generation):
                self._controller.callbacks.emit("on_delta", event)
        except Exception as error:
            logger.warning("a run's answer was not read: %s", brief(error))

    def check(self) -> None:
        """Raise where the thinking is over its budget."""
        heard, budget = self._listener.transcript, self._session.decision.budget
        cap, deadline = budget.reasoning_tokens, budget.deadline_s
        if not heard.thinking:
            return
        if cap is not None and heard.reasoning_tokens > with_grace(cap):
            said = f"thinking passed its cap of {cap:,} tokens"
        elif deadline is not None and heard.elapsed_s > deadline:
            said = f"thinking passed its deadline of {deadline:g} s"
        else:
            return
        raise AnswerTruncated(f"{said}, and the stream was ended", reasoning=heard.reasoning.strip())

    def finished(self, generation: ChatGeneration) -> Outcome | None:
        """Return the outcome of a run that has ended by itself."""
        if MESSAGE_KEY in generation.message.response_metadata:
            return self._published(outcome(generation.message))
        if not self._listener.streamed:
            self.hear(generation)
        length = self._listener.transcript.finish == "length"
        found = self._finish(StopReason.LENGTH if length else StopReason.NATURAL)
        if found is not None:
            attach(generation.message, found)
        return found

    def failed(self, error: BaseException) -> Outcome | None:
        """Return the outcome of a run that ended in ``error``."""
        stop = StopReason.ERROR if isinstance(error, Exception) else StopReason.CALLER
        if isinstance(error, AnswerTruncated):
            budget = self._session.decision.budget
            stop = StopReason.DEADLINE if budget.reasoning_tokens is None else StopReason.CAP
        return self._finish(stop)

    def _published(self, own: Outcome) -> Outcome:
        """Show the outcome that a budgeted model has made to our sinks and callbacks."""
        for sink in self._controller.sinks:
            sink.write(own, text=self._session.query.text)
        self._controller.callbacks.emit("on_outcome", own)
        return own

    def _finish(self, stop: StopReason) -> Outcome | None:
        return self._session.finish(
            usage=self._listener.usage(),
            timing=self._listener.timing(),
            stop=stop,
            answered=self._listener.answered,
        )
