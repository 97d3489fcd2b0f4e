"""The methods by which a chat model makes a call, each with a budget around it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import Any, ClassVar, cast

from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from budgetctl.integrations._langchain_call import Setup


class BudgetedCalls:
    """Mixed into the class of a budgeted chat model: its calls that do not stream."""

    _budgetctl: ClassVar[Setup]

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        plain = super()._generate  # type: ignore[misc]  # the model's own class comes next in the mro
        call = self._budgetctl.begin(cast("Any", self), messages, stop=stop, kwargs=kwargs)
        call.reserve()
        try:
            with call.sending():
                try:
                    result = plain(messages, stop=stop, run_manager=run_manager, **call.kwargs)
                except Exception as error:
                    result = plain(messages, stop=stop, run_manager=run_manager, **call.again(error))
        except BaseException as error:
            call.failed(error)
            call.settle(error)
            raise
        whole = call.whole(result)
        call.settle()
        return whole

    async def _agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        plain = super()._agenerate  # type: ignore[misc]  # the model's own class comes next in the mro
        call = self._budgetctl.begin(cast("Any", self), messages, stop=stop, kwargs=kwargs)
        await call.areserve()
        try:
            with call.sending():
                try:
                    result = await plain(messages, stop=stop, run_manager=run_manager, **call.kwargs)
                except Exception as error:
                    result = await plain(messages, stop=stop, run_manager=run_manager, **call.again(error))
        except BaseException as error:
            call.failed(error)
            await call.asettle(error)
            raise
        whole = call.whole(result)
        await call.asettle()
        return whole


class BudgetedStreams:
    """The same for its streams. Chunks are passed on as they come; one more, empty, brings the outcome."""

    _budgetctl: ClassVar[Setup]

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        plain = super()._stream  # type: ignore[misc]  # the model's own class comes later in the mro
        call = self._budgetctl.begin(cast("Any", self), messages, stop=stop, kwargs=kwargs)
        call.reserve()
        chunks: Any = None
        try:
            with call.sending():
                try:
                    chunks = plain(messages, stop=stop, run_manager=run_manager, **call.kwargs)
                    chunk = next(chunks, None)
                except Exception as error:
                    chunks = plain(messages, stop=stop, run_manager=run_manager, **call.again(error))
                    chunk = next(chunks, None)
            while chunk is not None:
                call.hear(chunk)
                yield chunk
                with call.sending():
                    chunk = next(chunks, None)
        except BaseException as error:
            if isinstance(chunks, Generator):
                chunks.close()
            call.failed(error)
            call.settle(error)
            raise
        last = call.ended()
        call.settle()
        if last is not None:
            yield last


class BudgetedAsyncStreams:
    """The asynchronous twin of :class:`BudgetedStreams`."""

    _budgetctl: ClassVar[Setup]

    async def _astream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        plain = super()._astream  # type: ignore[misc]  # the model's own class comes later in the mro
        call = self._budgetctl.begin(cast("Any", self), messages, stop=stop, kwargs=kwargs)
        await call.areserve()
        chunks: Any = None
        try:
            with call.sending():
                try:
                    chunks = plain(messages, stop=stop, run_manager=run_manager, **call.kwargs)
                    chunk = await anext(chunks, None)
                except Exception as error:
                    chunks = plain(messages, stop=stop, run_manager=run_manager, **call.again(error))
                    chunk = await anext(chunks, None)
            while chunk is not None:
                call.hear(chunk)
                yield chunk
                with call.sending():
                    chunk = await anext(chunks, None)
        except BaseException as error:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()
            call.failed(error)
            await call.asettle(error)
            raise
        last = call.ended()
        await call.asettle()
        if last is not None:
            yield last
