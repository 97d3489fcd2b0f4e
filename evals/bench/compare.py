"""Compares classifiers and rules on recorded outcomes, as they are or fitted anew on parts of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from budgetctl.classifiers import Classifier, train
from budgetctl.classifiers.targets import Example, Question, normalised, pool
from budgetctl.evals.bench import scores
from budgetctl.evals.bench.peers import Peer
from budgetctl.evals.bench.predictors import Answer, Predictor, Refit, answer
from budgetctl.evals.bench.resample import Bootstrap
from budgetctl.evals.bench.rows import Row
from budgetctl.evals.bench.splits import Dealer, Part, judged
from budgetctl.evals.bench.stability import Pair, pairs, stability

from budgetctl.errors import NotEnoughEvidence

CURVE = (0.125, 0.25, 0.5)
"""Shares of the training questions on a learning curve, besides all of them."""

NOTHING = (
    "no question is known both with and without thinking, or with its tokens of thinking: nothing to judge by"
)

Advance = Callable[[int, str], None]
"""Called with the number of training questions that are newly done with, and what they are for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One point of a learning curve: the rows after training on a share of the first part."""

    share: float
    questions: int
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows over the same questions.

    Attributes:
        split: How the examples were parted; None where nothing was fitted.
        parts: How many parts were tested.
        questions: Number of questions that were judged.
        trained: Mean number of training questions; None where nothing was fitted.
    """

    split: str | None
    parts: int
    questions: int
    trained: float | None
    rows: tuple[Row, ...]
    curve: tuple[Point, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "split": self.split,
            "parts": self.parts,
            "questions": self.questions,
            "trained": self.trained,
            "rows": [row.as_json() for row in self.rows],
            "learning_curve": [
                {"share": p.share, "questions": p.questions, "rows": [row.as_json() for row in p.rows]}
                for p in self.curve
            ],
        }


def as_they_are(examples: Sequence[Example], predictors: Sequence[Predictor], bootstrap: Bootstrap) -> Table:
    """Return the figures of predictors on all examples.

    Raises:
        NotEnoughEvidence: Nothing is known that they could be judged by.
    """
    questions = _judged(examples)
    if not questions:
        raise NotEnoughEvidence(NOTHING)
    rows = [_as_it_is(p, questions, bootstrap) for p in predictors]
    return Table(split=None, parts=1, questions=len(questions), trained=None, rows=tuple(rows))


def _as_it_is(predictor: Predictor, questions: Sequence[Question], bootstrap: Bootstrap) -> Row:
    answers = [answer(predictor, q, cluster=normalised(q.text)) for q in questions]
    found = scores.row(predictor.name, answers, bootstrap)
    if isinstance(predictor, Peer):
        return found
    return replace(found, stable=stability(pairs(predictor, [q.text for q in questions]), bootstrap))


class Comparison:
    """A split with everything that is to be fitted on it.

    Args:
        dealer: Deals the examples.
        split: How.
        refits: Classifiers by name.
        parts: Test only so many, the first ones; None is all.
        curve: Also fit on shares of the first part's training questions.
        seed: Of those shares.

    Raises:
        NotEnoughEvidence: Too little is left to train, calibrate or test on.
    """

    def __init__(
        self,
        dealer: Dealer,
        split: str,
        *,
        refits: Mapping[str, Refit],
        parts: int | None = None,
        curve: bool = False,
        seed: int = 0,
    ) -> None:
        self._dealer, self._split, self._refits = dealer, split, refits
        self._parts = dealer.parts(split)[:parts]
        self._curve = [(share, _thinned(self._parts[0], share, seed)) for share in CURVE if curve]
        if not any(_judged(part.test) for part in self._parts):
            raise NotEnoughEvidence(f"split {split!r}: {NOTHING}")
        for share, part in self._curve:
            if part.questions < train.MIN_QUESTIONS:
                raise NotEnoughEvidence(
                    f"learning curve: a share of {share:g} leaves {part.questions} questions to train on; "
                    f"at least {train.MIN_QUESTIONS} are needed"
                )

    @property
    def work(self) -> int:
        """Number of training questions of all fits together."""
        fitted = [*self._parts, *(part for _, part in self._curve)]
        return len(self._refits) * sum(part.questions for part in fitted)

    def run(self, rules: Sequence[Predictor], bootstrap: Bootstrap, *, advance: Advance) -> Table:
        """Fit, ask and score; the parts' questions are pooled before they are scored."""
        answers: dict[str, list[Answer]] = {name: [] for name in (*self._refits, *(r.name for r in rules))}
        of_first: dict[str, list[Answer]] = {}
        edited: dict[str, list[Pair]] = {name: [] for name in self._refits}
        for number, part in enumerate(self._parts, 1):
            where = f"{self._split} {number}/{len(self._parts)}"
            questions = _judged(part.test)
            for name, predictor in self._predictors(part, rules, where=where, advance=advance):
                answers[name] += self._ask(predictor, questions, part=number)
                if name in self._refits:
                    edited[name] += pairs(cast(Classifier, predictor), [q.text for q in questions])
            of_first = of_first or {name: list(answers[name]) for name in self._refits}
        return Table(
            split=self._split,
            parts=len(self._parts),
            questions=len(next(iter(answers.values()))),
            trained=sum(part.questions for part in self._parts) / len(self._parts),
            rows=tuple(
                replace(row, stable=stability(edited[row.name], bootstrap)) if row.name in edited else row
                for row in self._scored(answers, bootstrap, advance)
            ),
            curve=tuple(self._learn(of_first, bootstrap, advance=advance)) if self._curve else (),
        )

    def _scored(
        self, answers: Mapping[str, list[Answer]], bootstrap: Bootstrap, advance: Advance
    ) -> Iterator[Row]:
        for name, found in answers.items():
            advance(0, f"{self._split}: scoring {name}")
            yield scores.row(name, found, bootstrap)

    def _predictors(
        self, part: Part, rules: Sequence[Predictor], *, where: str, advance: Advance
    ) -> Iterator[tuple[str, Predictor]]:
        for name, refit in self._refits.items():
            yield name, refit(part, _steps(part.questions, f"{where}: {name}", advance))
        yield from ((rule.name, rule) for rule in rules)

    def _ask(self, predictor: Predictor, questions: Sequence[Question], *, part: int) -> list[Answer]:
        clusters = [self._dealer.cluster(q, self._split) for q in questions]
        return [
            answer(predictor, q, cluster=cluster, part=part)
            for q, cluster in zip(questions, clusters, strict=True)
        ]

    def _learn(
        self, of_all: Mapping[str, list[Answer]], bootstrap: Bootstrap, *, advance: Advance
    ) -> Iterator[Point]:
        questions = _judged(self._parts[0].test)
        for share, part in self._curve:
            fitted = self._predictors(part, (), where=f"{self._split} at {share:g}", advance=advance)
            answers = {name: self._ask(found, questions, part=1) for name, found in fitted}
            rows = tuple(self._scored(answers, bootstrap, advance))
            yield Point(share=share, questions=part.questions, rows=rows)
        rows = tuple(self._scored(of_all, bootstrap, advance))
        yield Point(share=1.0, questions=self._parts[0].questions, rows=rows)


def _judged(examples: Sequence[Example]) -> list[Question]:
    return [question for question in pool(examples) if judged(question)]


def _thinned(part: Part, share: float, seed: int) -> Part:
    """Return the part with a share of its training questions; a larger share holds the smaller ones."""
    texts = [normalised(e.text) for e in part.training]
    kept = {text for text in texts if train.split(f"curve:{text}", seed=seed) < share}
    return Part(
        training=tuple(e for e, text in zip(part.training, texts, strict=True) if text in kept),
        calibration=part.calibration,
        test=part.test,
        questions=len(kept),
        held=part.held,
    )


def _steps(questions: int, what: str, advance: Advance) -> Callable[[int, int], None]:
    """Return what turns steps of one fit into training questions of the whole work."""
    counted = 0

    def progress(done: int, total: int) -> None:
        nonlocal counted
        now = questions * done // total
        advance(now - counted, what)
        counted = now

    return progress
