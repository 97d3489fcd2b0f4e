"""How recorded examples are parted into what is trained on, calibrated on and tested.

Each way of splitting deals something into ``folds`` parts; every part is tested once, by a classifier that
was fitted on the others. No question is on two sides: examples belong to one question where their texts are
the same, white space aside, or where their source gives them the same id.

``random``  Questions are dealt, by a hash of their text.
``tasks``   Whole task types are dealt, in the order of a hash of their names. A name that is also that of a
            kind of traffic covers all task types of this kind. A question that sources put under several is
            tested with the first, and trained on only where none of them is tested.
``models``  Models are dealt, in the order of a hash of their names, and questions as in ``random``. Part i
            tests the examples that models of part i have on questions of part i; it trains on the other
            models' examples of the other questions. So neither the model nor the question was seen, each
            question is tested at most once, and what is known of it in the test (shares of models that are
            right, tokens) comes from the unseen models alone. Examples of no named model are trained on but
            not tested.

Of the questions that are not tested, a fifth calibrates, by another hash of their text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from budgetctl.classifiers import train
from budgetctl.classifiers.targets import Example, Question, normalised
from budgetctl.classifiers.weights import CALIBRATION

from budgetctl.errors import NotEnoughEvidence

SPLITS = ("random", "tasks", "models")
NO_PART = -1

Dealt = tuple[list[int], list[set[int]]]
"""For every example the part that tests it, and the parts whose training it is kept out of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part: who is fitted on what, and what it is tested on.

    Attributes:
        questions: Number of questions in ``training``.
        held: Number of questions in ``calibration``.
    """

    training: tuple[Example, ...]
    calibration: tuple[Example, ...]
    test: tuple[Example, ...]
    questions: int
    held: int


class Dealer:
    """Deals examples in any of the ways of ``SPLITS``; the same seed deals them the same way everywhere."""

    def __init__(self, examples: Sequence[Example], *, seed: int, folds: int) -> None:
        self._examples = examples
        self._seed, self._folds = seed, folds
        texts = [normalised(e.text) for e in examples]
        same = joined(_by_first(zip((e.question_id for e in examples), texts, strict=True)))
        self._questions = [same[text] for text in texts]
        names = {e.task for e in examples}
        self._tasks = joined((e.task, e.kind if e.kind in names else e.task) for e in examples)

    def cluster(self, question: Question, split: str) -> str:
        """Return what the bootstrap draws a question with: its task type where those were dealt."""
        return self._tasks[question.task] if split == "tasks" else normalised(question.text)

    def parts(self, split: str) -> list[Part]:
        """Return the parts that have something to test.

        Raises:
            NotEnoughEvidence: Too little is left on one of the sides; says how much is needed.
        """
        tested, kept_out = {"random": self._random, "tasks": self._by_task, "models": self._by_model}[split]()
        return _checked([self._part(i, tested, kept_out) for i in range(self._folds)], split)

    def _random(self) -> Dealt:
        tested = [self._fold(question) for question in self._questions]
        return tested, [{fold} for fold in tested]

    def _by_task(self) -> Dealt:
        dealt = self._in_turn(set(self._tasks.values()), what="task types")
        of_question: dict[str, list[int]] = {}
        for example, question in zip(self._examples, self._questions, strict=True):
            of_question.setdefault(question, []).append(dealt[self._tasks[example.task]])
        tested = [of_question[question][0] for question in self._questions]
        return tested, [set(of_question[question]) for question in self._questions]

    def _by_model(self) -> Dealt:
        dealt = self._in_turn({e.model for e in self._examples if e.model}, what="models")
        of_model = [dealt.get(e.model, NO_PART) for e in self._examples]
        of_question = [self._fold(question) for question in self._questions]
        both = list(zip(of_model, of_question, strict=True))
        return [m if m == q else NO_PART for m, q in both], [set(pair) for pair in both]

    def _part(self, i: int, tested: Sequence[int], kept_out: Sequence[set[int]]) -> Part:
        sides: tuple[list[Example], list[Example]] = [], []
        names: tuple[set[str], set[str]] = set(), set()
        for example, question, parts in zip(self._examples, self._questions, kept_out, strict=True):
            if i not in parts:
                held = train.split(f"calibration:{question}", seed=self._seed) < CALIBRATION
                sides[held].append(example)
                names[held].add(question)
        return Part(
            training=tuple(sides[0]),
            calibration=tuple(sides[1]),
            test=tuple(e for e, part in zip(self._examples, tested, strict=True) if part == i),
            questions=len(names[0]),
            held=len(names[1]),
        )

    def _fold(self, question: str) -> int:
        return int(train.split(question, seed=self._seed) * self._folds)

    def _in_turn(self, names: Iterable[str], *, what: str) -> dict[str, int]:
        """Deal names out one by one: there are few, and a hash alone would leave some parts empty."""
        ordered = sorted(names, key=lambda name: (train.split(name, seed=self._seed), name))
        if len(ordered) < 2:
            raise NotEnoughEvidence(f"split by {what}: seen {len(ordered)}; at least 2 are needed")
        return {name: i % self._folds for i, name in enumerate(ordered)}


def _checked(parts: Sequence[Part], split: str) -> list[Part]:
    found = [part for part in parts if part.test]
    if not found:
        raise NotEnoughEvidence(f"split {split!r}: nothing is left to test on")
    for part in found:
        for side, n in (("train", part.questions), ("calibrate", part.held)):
            if n < train.MIN_QUESTIONS:
                raise NotEnoughEvidence(
                    f"split {split!r}: one of its parts leaves {n} questions to {side} on; "
                    f"at least {train.MIN_QUESTIONS} are needed"
                )
    return found


def judged(question: Question) -> bool:
    """Return whether anything is known of a question that a classifier can be judged by."""
    return (question.off is not None and question.full is not None) or bool(
        question.natural or question.settled
    )


def joined(links: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return for every name the first, in order, of all that it is linked with, however indirectly."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    for a, b in links:
        first, second = sorted((root(a), root(b)))
        parent[second] = first
    return {name: root(name) for name in list(parent)}


def _by_first(pairs: Iterable[tuple[str, str]]) -> Iterable[tuple[str, str]]:
    """Link every value to the first that came with the same key."""
    first: dict[str, str] = {}
    for key, value in pairs:
        yield value, first.setdefault(key, value)
