"""What a live run asks, and what answers it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from budgetctl.evals.results import ClusterBy, Result

from budgetctl.types import Budget, ModelFacts

if TYPE_CHECKING:
    from budgetctl.adapters import Rendered


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveQuestion:
    """One question of a suite.

    Attributes:
        id: Unique within the suite.
        text: What the model is asked.
        reference: The right answer, as the grader wants it.
        cluster: Questions that stand or fall together.
        subject: Part of the suite that it belongs to.
        level: Difficulty by the suite's own scale.
        raw: The question in the form that the suite's grader reads.
    """

    id: str
    text: str
    reference: Any = None
    cluster: str | None = None
    subject: str | None = None
    level: int | float | str | None = None
    raw: Any = None


class Backend(Protocol):
    """Answers questions within budgets.

    Attributes:
        model: Name of the model, as the capability table knows it.
        endpoint: Kind of endpoint that it stands at, likewise.
        sampling: Sampling parameters that its calls set, for certificates.
        facts: What the model can do.
        settings: Whatever makes two runs different, as plain JSON values.
        concurrency: How many calls of :meth:`generate` may run at once.
        batched: Whether :meth:`generate` answers many questions at once; else it is given one at a time.
        priced: Whether it is known what its calls cost.
    """

    model: str
    endpoint: str
    sampling: Mapping[str, Any]
    facts: ModelFacts
    settings: Mapping[str, Any]
    concurrency: int
    batched: bool
    priced: bool

    def generate(
        self, questions: Sequence[LiveQuestion], budgets: Sequence[Budget], *, seeds: Sequence[int]
    ) -> list[Result]:
        """Return one graded result per question, in their order; ``question_id`` is the question's own id.

        A backend whose results have a ``thought`` also takes ``thoughts``: one per question, to go on from.

        Args:
            questions: What to ask.
            budgets: One per question.
            seeds: One per question, for backends that draw: the same seed gives the same draws.

        Raises:
            EvalError: The model cannot be reached; what was finished before stays on disk.
        """
        ...

    def written(self, question: LiveQuestion, budget: Budget) -> Rendered:
        """Return the call with a budget in it, as :meth:`generate` makes it, for certificates."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Questions and what answers them.

    Attributes:
        name: What rows and reports call it.
        questions: All of them.
        backend: What answers.
        cluster_by: What is independent, where nothing else is said.
    """

    name: str
    questions: tuple[LiveQuestion, ...]
    backend: Backend
    cluster_by: ClusterBy = "question"
