"""Budgets for LangChain: a middleware for agents, chat models for chains, a handler that keeps account.

    agent = create_agent(model, tools, middleware=[BudgetMiddleware("auto", tokens_per_turn=8000)])
    chain = prompt | budgeted_chat_model(model, "quantile:0.9")
    chain.invoke(question, config={"callbacks": [BudgetCallbackHandler()]})

Needs the extra ``langchain``.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, NotRequired

try:
    from langchain.agents.middleware import AgentMiddleware, AgentState
    from langchain.agents.middleware.types import (
        ExtendedModelResponse,
        ModelRequest,
        ModelResponse,
        PrivateStateAttr,
    )
    from langchain_core.language_models import BaseChatModel
    from langgraph.types import Command
except ImportError as error:
    raise ImportError(
        "budgetctl.integrations.langchain needs langchain 1.2.18 or newer: "
        "pip install 'reasoning-budgetctl[langchain]'"
    ) from error

from budgetctl.callbacks import logger
from budgetctl.capabilities import ENDPOINTS
from budgetctl.controller import Controller
from budgetctl.engine.continuation import RenderPrompt
from budgetctl.errors import ConfigError, brief
from budgetctl.integrations._controller import controller_of
from budgetctl.integrations._langchain_callback import BudgetCallbackHandler
from budgetctl.integrations._langchain_model import budgeted_chat_model
from budgetctl.integrations._langchain_turn import Turn, spending
from budgetctl.outcomes import Sink
from budgetctl.policy import Policy
from budgetctl.types import CallerValues

__all__ = ["BudgetCallbackHandler", "BudgetMiddleware", "BudgetState", "budgeted_chat_model"]

REMEMBERED_MODELS = 16
REMEMBERED_TURNS = 1_000


class BudgetState(AgentState[Any]):
    """What the middleware keeps in the graph's state, where checkpoints keep it too.

    Private: not part of what goes into the agent or comes out of it. ``budgetctl_turn`` holds the id of the
    user's message that began the turn, and the thinking tokens and dollars spent since.
    """

    budgetctl_turn: NotRequired[Annotated[dict[str, Any], PrivateStateAttr]]


class BudgetMiddleware(AgentMiddleware[BudgetState, Any, Any]):
    """Puts a budget around every model call of an agent, and one around all calls of a user's turn.

    Put it last in the list, next to the model, so that it sees the model that is really called. The model is
    budgeted as :func:`budgeted_chat_model` does it; a model that is budgeted already gets this budget.

    What is left of the turn caps the thinking of the next model call. At nothing left thinking is off, or as
    little as the model allows; the agent goes on, and the outcomes say so. A new message of the user's begins
    a new turn; going on from a checkpoint does not.
    """

    state_schema = BudgetState

    def __init__(
        self,
        policy: str | Policy | None = None,
        *,
        tokens_per_turn: int | None = None,
        usd_per_turn: float | None = None,
        controller: Controller | None = None,
        route: str | None = None,
        endpoint: str | None = None,
        caller_values: CallerValues | None = None,
        sink: str | os.PathLike[str] | Sink | None = None,
        tokenizer: Any = None,
        render_prompt: RenderPrompt | None = None,
        **settings: Any,
    ) -> None:
        """Make a middleware.

        Args:
            policy: A policy or its string; the default is ``auto``, or the controller's own.
            tokens_per_turn: Thinking tokens that the model calls of one turn may spend together.
            usd_per_turn: Dollars that they may spend together, prompts and answers included; it limits the
                thinking only, and only of models whose price is known.
            controller: Decides and records, instead of a new one made from the other arguments.
            route: Name of this traffic, as in :func:`budgetctl.wrap`.
            endpoint: Kind of endpoint, as in the capability table; None tells OpenAI by its host and calls
                everything else ``openai-compatible``.
            caller_values: ``pin`` (the default) leaves values alone that the model or its settings set;
                ``ceiling`` may go below them, never above.
            sink: Where outcomes go: a path of a JSONL file, or a sink.
            tokenizer: Counts tokens exactly, as in :func:`budgetctl.wrap`.
            render_prompt: Renders messages for a raw completion, as in :func:`budgetctl.wrap`.
            settings: Passed to :class:`~budgetctl.Controller`.

        Raises:
            ConfigError: An argument does not fit.
        """
        super().__init__()
        if endpoint is not None and endpoint not in ENDPOINTS:
            raise ConfigError(f"endpoint: seen {endpoint!r}, allowed: {', '.join(ENDPOINTS)}")
        if tokens_per_turn is not None and (not isinstance(tokens_per_turn, int) or tokens_per_turn < 0):
            raise ConfigError(f"tokens_per_turn: seen {tokens_per_turn!r}, allowed: a whole number from 0")
        if usd_per_turn is not None and not (isinstance(usd_per_turn, int | float) and usd_per_turn >= 0):
            raise ConfigError(f"usd_per_turn: seen {usd_per_turn!r}, allowed: a number from 0")
        self.controller = controller_of(
            controller, policy=policy, route=route, caller_values=caller_values, sink=sink, **settings
        )
        self._tokens = tokens_per_turn
        self._usd = usd_per_turn
        self._options = {"endpoint": endpoint, "tokenizer": tokenizer, "render_prompt": render_prompt}
        self._models: OrderedDict[int, tuple[BaseChatModel, BaseChatModel]] = OrderedDict()
        self._unsaved: OrderedDict[Any, Turn] = OrderedDict()

    def before_agent(self, state: BudgetState, runtime: Any) -> dict[str, Any] | None:
        """Begin a new turn where the user has said something new."""
        if self._tokens is None and self._usd is None:
            return None
        said = next((m.id for m in reversed(state["messages"]) if m.type == "human"), None)
        known = state.get("budgetctl_turn")
        if known is not None and known["message"] == said:
            return None
        return {"budgetctl_turn": {"message": said, "tokens": 0, "usd": 0.0}}

    async def abefore_agent(self, state: BudgetState, runtime: Any) -> dict[str, Any] | None:
        """The same for agents that run asynchronously."""
        return self.before_agent(state, runtime)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Make one model call within what is left of the turn."""
        turn = self._turn(request.state)
        if turn is None:
            return handler(self._budgeted(request))
        with self._spending(turn, request.state):
            response = handler(self._budgeted(request))
        return self._noted(response, turn, request.state)

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """The same for agents that run asynchronously."""
        turn = self._turn(request.state)
        if turn is None:
            return await handler(self._budgeted(request))
        with self._spending(turn, request.state):
            response = await handler(self._budgeted(request))
        return self._noted(response, turn, request.state)

    def _turn(self, state: Mapping[str, Any]) -> Turn | None:
        if self._tokens is None and self._usd is None:
            return None
        known = state.get("budgetctl_turn") or {}
        unsaved = self._unsaved.get(known.get("message"), Turn())
        return Turn(
            tokens=self._tokens,
            usd=self._usd,
            spent_tokens=max(known.get("tokens", 0), unsaved.spent_tokens),
            spent_usd=max(known.get("usd", 0.0), unsaved.spent_usd),
        )

    @contextmanager
    def _spending(self, turn: Turn, state: Mapping[str, Any]) -> Iterator[None]:
        """Let a model call spend from its turn. Of one that fails no graph keeps what it spent: we do."""
        message = (state.get("budgetctl_turn") or {}).get("message")
        try:
            with spending(turn):
                yield
        except BaseException:
            self._unsaved[message] = turn
            if len(self._unsaved) > REMEMBERED_TURNS:
                self._unsaved.popitem(last=False)
            raise
        self._unsaved.pop(message, None)

    def _noted(
        self, response: ModelResponse[Any], turn: Turn, state: Mapping[str, Any]
    ) -> ExtendedModelResponse[Any]:
        message = (state.get("budgetctl_turn") or {}).get("message")
        spent = {"message": message, "tokens": turn.spent_tokens, "usd": turn.spent_usd}
        return ExtendedModelResponse(
            model_response=response, command=Command(update={"budgetctl_turn": spent})
        )

    def _budgeted(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        """Return the request with a budgeted model in it; with its own where that cannot be."""
        model = request.model
        known = self._models.get(id(model))
        if known is None or known[0] is not model:
            try:
                made = budgeted_chat_model(model, controller=self.controller, **self._options)
            except Exception as error:
                if self.controller.strict:
                    raise
                logger.warning("%s goes without a budget: %s", type(model).__name__, brief(error))
                return request
            known = self._models[id(model)] = (model, made)
            while len(self._models) > REMEMBERED_MODELS:
                self._models.popitem(last=False)
        return request.override(model=known[1])
