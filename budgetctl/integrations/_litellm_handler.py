"""Budgets as a callback of LiteLLM: for its proxy, its router and ``litellm.acompletion``."""

# pyright: reportMissingImports=false
# The package lives in an environment of its own.

from __future__ import annotations

import os
import sys
import weakref
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from litellm.integrations.custom_logger import CustomLogger

from budgetctl.callbacks import logger
from budgetctl.controller import Controller
from budgetctl.engine import ENDED, CallerClosed, Close, Effect, Emit, PassingCall, Send, SpendingCall, Wait
from budgetctl.errors import BudgetctlError, brief
from budgetctl.integrations._controller import controller_of
from budgetctl.integrations._litellm_call import Calls
from budgetctl.outcomes import Sink, attach
from budgetctl.policy import Policy
from budgetctl.types import CallerValues, Timing

CHAT = ("acompletion", "completion")
REMEMBERED = 1000
"""Refused calls of which nobody has said yet whether they are tried again."""


class BudgetHandler(CustomLogger):
    """Decides for every chat call once its deployment is known, and records what became of it.

    In the proxy, and in a ``Router``, each attempt at a deployment is a call of its own: another deployment
    may be another model. A deployment's ``model_info`` may say ``budgetctl_endpoint: sglang`` where LiteLLM's
    provider does not tell the kind of endpoint.
    """

    def __init__(
        self,
        policy: str | Policy | None = None,
        *,
        controller: Controller | None = None,
        route: str | None = None,
        endpoint: str | None = None,
        caller_values: CallerValues | None = None,
        sink: str | os.PathLike[str] | Sink | None = None,
        **settings: Any,
    ) -> None:
        """Make a handler; arguments are those of :func:`budgetctl.integrations.litellm.wrap`.

        Raises:
            ConfigError: An argument does not fit.
        """
        super().__init__()
        controller = controller_of(
            controller, policy=policy, route=route, caller_values=caller_values, sink=sink, **settings
        )
        self._calls = Calls(controller=controller, endpoint=endpoint)
        self._running: dict[str, _Running] = {}
        self._refused: OrderedDict[str, _Running] = OrderedDict()

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> dict[str, Any]:
        """Let the proxy's router try once more when a deployment refuses a parameter (status 400).

        Only where nobody has said how often to try.
        """
        said = "num_retries" in data or "model_group_retry_policy" in data or _router_decides()
        if call_type in CHAT and self._calls.controller.mode == "enforce" and not said:
            once = {"BadRequestErrorRetries": 1, "ContentPolicyViolationErrorRetries": 0}
            data["model_group_retry_policy"] = {data.get("model"): once}
        return data

    async def async_pre_call_deployment_hook(
        self, kwargs: dict[str, Any], call_type: Any
    ) -> dict[str, Any] | None:
        """Write the budget into what goes to the deployment."""
        if getattr(call_type, "value", call_type) not in CHAT:
            return None
        try:
            return self._begin(kwargs)
        except BudgetctlError:  # strict mode
            raise
        except Exception as error:
            logger.warning("a call of LiteLLM's goes through unchanged: %s", brief(error))
            return None

    def _begin(self, kwargs: dict[str, Any]) -> dict[str, Any] | None:
        call_id, logged = kwargs["litellm_call_id"], kwargs.get("litellm_logging_obj")
        weakref.finalize(logged, self._forgotten, call_id)
        again = self._refused.pop(str(kwargs.get("litellm_trace_id")), None) if _retries(kwargs) else None
        if again is not None:  # with the caller's own parameters
            self._running[call_id] = again
            return None
        # What LiteLLM logs with would be kept alive by what we keep.
        params = {name: value for name, value in kwargs.items() if name != "litellm_logging_obj"}
        given = {name: getattr(logged, name, None) for name in ("model", "messages") if name not in params}
        call = self._calls.begin(
            {**params, **given},
            stream=bool(params.get("stream")),
            endpoint=(params.get("model_info") or {}).get("budgetctl_endpoint"),
        )
        if call is None:
            return None
        running = self._running[call_id] = _Running(call)
        sent = {name: value for name, value in running.params.items() if name not in given}
        return {**sent, "litellm_logging_obj": logged}

    def _forgotten(self, call_id: str) -> None:
        """Record a call that LiteLLM tells nothing more of: its task was cancelled, its stream dropped."""
        running = self._running.pop(call_id, None)
        if running is not None:
            running.left()

    async def async_post_call_streaming_iterator_hook(
        self, user_api_key_dict: Any, response: Any, request_data: Mapping[str, Any]
    ) -> AsyncIterator[Any]:
        """Pass a stream of the proxy's on, chunk by chunk; a client that leaves it ends the generation."""
        running = self._running.pop(str(request_data.get("litellm_call_id")), None)
        try:
            async for chunk in response:
                if running is not None:
                    running.hear(chunk)
                yield chunk
        except Exception as error:
            if running is not None:
                running.failed(error)
            raise
        else:
            if running is not None:
                running.ended()
        finally:
            if running is not None:
                running.left()

    async def async_post_call_success_deployment_hook(
        self, request_data: Mapping[str, Any], response: Any, call_type: Any
    ) -> None:
        """Record a whole response, and make ``budgetctl.outcome`` find it."""
        running = self._running.pop(str(request_data.get("litellm_call_id")), None)
        if running is not None:
            running.whole(response)

    async def async_log_success_event(
        self, kwargs: Mapping[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """Record a stream that nobody but its caller has heard: outside the proxy, and only at its end."""
        running = self._running.pop(str(kwargs.get("litellm_call_id")), None)
        if running is not None:
            first = kwargs.get("completion_start_time") or end_time
            running.replayed(
                response_obj,
                Timing(
                    ttft_s=(first - start_time).total_seconds(),
                    e2e_s=(end_time - start_time).total_seconds(),
                ),
            )

    async def async_post_call_failure_deployment_hook(
        self, request_data: Mapping[str, Any], exception: Exception, call_type: Any, **_: Any
    ) -> None:
        """Record a failure; where a router may try again without our parameters, wait for what comes."""
        running = self._running.pop(str(request_data.get("litellm_call_id")), None)
        if running is None:
            return
        running.failed(exception)
        if running.refused and _metadata(request_data).get("model_group"):
            self._refused[str(request_data.get("litellm_trace_id"))] = running
            while len(self._refused) > REMEMBERED:
                self._refused.popitem(last=False)[1].failed(exception)
        elif running.refused:
            running.failed(exception)

    async def async_post_call_failure_hook(
        self, request_data: Mapping[str, Any], original_exception: Exception, user_api_key_dict: Any, **_: Any
    ) -> None:
        """Record a request of the proxy's that has failed for good."""
        for calls, name in ((self._running, "litellm_call_id"), (self._refused, "litellm_trace_id")):
            running = calls.pop(str(request_data.get(name)), None)
            if running is not None:
                running.failed(original_exception)


def _router_decides() -> bool:
    """Whether the proxy's router has a retry policy of its own, which one for a request would replace."""
    router = getattr(sys.modules.get("litellm.proxy.proxy_server"), "llm_router", None)
    return router is None or bool(router.retry_policy or router.model_group_retry_policy)


def _metadata(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    return kwargs.get("litellm_metadata") or kwargs.get("metadata") or {}


def _retries(kwargs: Mapping[str, Any]) -> bool:
    """Whether a router has tried before."""
    return bool(_metadata(kwargs).get("attempted_retries"))


class _Running:
    """A call under way: LiteLLM tells what happens, its machine what that means.

    Attributes:
        params: What goes to the deployment.
        refused: The deployment refused ours; the caller's own parameters are what goes next.
    """

    def __init__(self, call: PassingCall | SpendingCall) -> None:
        self.refused = False
        self._call = call
        self._machine = call.run()
        self._effect: Effect | None = None
        self._opened = False
        self._limited: BudgetctlError | None = None
        self._go(lambda: next(self._machine))
        if self._limited is not None:
            raise self._limited
        assert isinstance(self._effect, Send)
        self.params: dict[str, Any] = dict(self._effect.params)

    def hear(self, chunk: Any) -> None:
        """Take a chunk."""
        if not self._opened:
            self._opened = True
            self._go(lambda: self._machine.send(self))
        self._go(lambda: self._machine.send(chunk))

    def whole(self, response: Any) -> None:
        """Take a whole response."""
        self._go(lambda: self._machine.send(response))
        if self._call.outcome is not None:
            attach(response, self._call.outcome)

    def replayed(self, response: Any, timing: Timing) -> None:
        """Take a whole stream in after the event. Its usage may be LiteLLM's own count, so it is left out."""
        passing: Any = getattr(self._call, "inner", self._call)
        passing.timing = timing
        body = response.model_dump()
        self.hear({"choices": body["choices"]})
        self.ended()

    def ended(self) -> None:
        """The last chunk was heard."""
        self._go(lambda: self._machine.send(ENDED))

    def left(self) -> None:
        """The caller wants no more."""
        self._go(lambda: self._machine.throw(CallerClosed()))

    def failed(self, error: Exception) -> None:
        """The deployment, or the stream, failed."""
        self._go(lambda: self._machine.throw(error))
        self.refused = isinstance(self._effect, Send)

    def _go(self, step: Callable[[], Effect]) -> None:
        """Let the machine go on until it waits again; it has nothing to say about what it emits."""
        try:
            effect = step()
            while isinstance(effect, Emit | Close | Wait):
                effect = self._waited(effect) if isinstance(effect, Wait) else next(self._machine)
            self._effect = effect
        except (StopIteration, CallerClosed):
            self._effect = None
        except BudgetctlError as error:  # a limit's, before anything is sent
            self._effect, self._limited = None, error
        except Exception:  # the provider's, which LiteLLM raises itself
            self._effect = None

    def _waited(self, effect: Wait) -> Effect:
        try:
            value = effect.work()
        except Exception as error:
            return self._machine.throw(error)
        return self._machine.send(value)
