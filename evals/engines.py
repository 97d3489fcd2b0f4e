"""Where the calls of a live run are made: on threads of this process, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Literal, Protocol

from budgetctl.types import Budget

if TYPE_CHECKING:
    from budgetctl.evals.questions import Backend, LiveQuestion
    from budgetctl.evals.results import Result

EngineName = Literal["local", "ray"]


class Engine(Protocol):
    """Makes calls in the background."""

    def submit(
        self,
        questions: Sequence[LiveQuestion],
        budgets: Sequence[Budget],
        *,
        seeds: Sequence[int],
        thoughts: Sequence[Sequence[int]] = (),
    ) -> Future[list[Result]]:
        """Begin to answer some questions, as :meth:`Backend.generate` does.

        Args:
            thoughts: What the backend goes on from, by :attr:`Result.thought` of earlier answers of it.
        """
        ...

    def close(self) -> None:
        """Wait for what is running and give up what the engine holds."""
        ...


class LocalEngine:
    """Threads of this process, as many as the backend takes calls at once."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._pool = ThreadPoolExecutor(backend.concurrency)

    def submit(
        self,
        questions: Sequence[LiveQuestion],
        budgets: Sequence[Budget],
        *,
        seeds: Sequence[int],
        thoughts: Sequence[Sequence[int]] = (),
    ) -> Future[list[Result]]:
        return self._pool.submit(_generate, self._backend, questions, budgets, seeds, thoughts)

    def close(self) -> None:
        self._pool.shutdown()


class RayEngine:
    """Actors on a Ray cluster, each with its copy of the backend; every call has one of them to itself.

    A cluster that ``RAY_ADDRESS`` names is used, else one is started on this machine. All else stays here:
    the order of the calls, their seeds, the decisions and the records; results are those of a local run.

    Raises:
        ModuleNotFoundError: ray is not installed (extra ``ray``).
    """

    def __init__(self, backend: Backend) -> None:
        import ray  # type: ignore[import-not-found, unused-ignore]  # an extra

        ray.init(ignore_reinit_error=True, log_to_driver=False, include_dashboard=False)
        # Asking an endpoint is waiting; a model in the actor needs a core of its own.
        actor: Any = ray.remote(num_cpus=1 if backend.batched else 0)(_Answerer)
        held = ray.put(backend)
        self._actors = [actor.remote(held) for _ in range(backend.concurrency)]
        self._free: SimpleQueue[Any] = SimpleQueue()
        for one in self._actors:
            self._free.put(one)
        self._ray: Any = ray

    def submit(
        self,
        questions: Sequence[LiveQuestion],
        budgets: Sequence[Budget],
        *,
        seeds: Sequence[int],
        thoughts: Sequence[Sequence[int]] = (),
    ) -> Future[list[Result]]:
        actor = self._free.get()
        found: Future[list[Result]] = actor.generate.remote(questions, budgets, seeds, thoughts).future()
        found.add_done_callback(lambda _: self._free.put(actor))
        return found

    def close(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)


class _Answerer:
    """An actor of the cluster."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def generate(self, *arguments: Any) -> list[Result]:
        return _generate(self._backend, *arguments)


def _generate(
    backend: Backend,
    questions: Sequence[LiveQuestion],
    budgets: Sequence[Budget],
    seeds: Sequence[int],
    thoughts: Sequence[Sequence[int]],
) -> list[Result]:
    if not any(thoughts):
        return backend.generate(questions, budgets, seeds=seeds)
    going_on: Any = backend  # one whose results have thoughts
    found: list[Result] = going_on.generate(questions, budgets, seeds=seeds, thoughts=thoughts)
    return found


def start(name: EngineName, backend: Backend) -> Engine:
    """Return the engine of a name, ready for calls."""
    return RayEngine(backend) if name == "ray" else LocalEngine(backend)
