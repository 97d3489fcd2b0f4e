"""Scores that say how much a call wants the large model, and the choices that they make on recordings.

A router's score is known before anything is asked:

===========  ============================================================================================
``need``     the estimate's p(right) at the last rung less that at the first
``doubt``    1 - p(right) at the first rung: all there is to say where both rungs think as they like
a rule       a published rule (:data:`budgetctl.evals.bench.peers.PEERS`), or ``prompt-length``
===========  ============================================================================================

A cascade's is read off the draft of the first rung, which is charged whether or not it is accepted:

===============  ========================================================================================
``confidence``   1 - recorded confidence of the draft (``confidence``, ``trial_confidence`` or ``p_top``)
``agreement``    1 - share of the recorded samples of the first rung that give their commonest answer; all of
                 them are charged, and that answer is the one that is kept
===============  ========================================================================================

Estimates come from a classifier as it is, or from one that was fitted five times, each time without the fifth
of the questions that it then scores (:mod:`budgetctl.evals.bench.splits`): on what both rungs recorded, alone
or together with other recordings. Questions are the same where their texts are. Of such scores only the rank
within the fifth counts: a fifth with many errors leaves fewer to the classifier that scores it, which would
set errors and scores against each other even where there is nothing to learn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from budgetctl.classifiers.targets import Example
from budgetctl.evals.columns import Floats, Ints
from budgetctl.evals.results import ClusterBy
from budgetctl.evals.rungs import SIGNALS, Climbable
from budgetctl.evals.sweep import Choice

from budgetctl.controller import Classifier
from budgetctl.errors import ConfigError, EvalError
from budgetctl.ladder import Rung
from budgetctl.policy import Cap, Off, parse
from budgetctl.types import Estimate, Query

ESTIMATED = ("need", "doubt")
DRAFTED = ("confidence", "agreement")
FOLDS = 5
"""Parts that questions are dealt into, each scored by a classifier that was fitted on the others."""

Side = tuple[Floats, Floats | None]


def rules() -> dict[str, Callable[[str], float]]:
    """Return the scores that need nothing but the text, by name."""
    from budgetctl.evals.bench.peers import PEERS, PROMPT_LENGTH

    return {peer.name: peer.score for peer in (PROMPT_LENGTH, *PEERS.values())}


def check(name: str) -> None:
    """Refuse a score that there is not.

    Raises:
        ConfigError: Names those there are.
    """
    allowed = (*ESTIMATED, *DRAFTED, *rules())
    if name not in allowed:
        raise ConfigError(f"score {name!r}: allowed are {', '.join(allowed)}")


def routed(
    calls: Climbable, scores: Floats, costs: Sequence[Floats] | None, *, cluster_by: ClusterBy = "question"
) -> Choice:
    """Return the choice of a router: one call per question, its samples averaged.

    Args:
        calls: What two rungs did.
        scores: One per question of ``calls``, in the order of :func:`asked`.
        costs: For each rung one per call; None is unknown.
        cluster_by: What the bootstrap draws.
    """
    questions, index = np.unique(calls.question, return_inverse=True)
    counts = np.bincount(index)

    def mean(values: Floats) -> Floats:
        return np.asarray(np.bincount(index, weights=values) / counts)

    small, large = (
        (mean(calls.column(i, "correct")), None if costs is None else mean(costs[i])) for i in (0, 1)
    )
    return Choice(
        score=scores,
        small=small,
        large=large,
        kept=small,
        sent=large,
        groups=_groups(calls, questions, cluster_by=cluster_by),
        weight=np.ones(len(questions)),
    )


def drafted(
    calls: Climbable, name: str, costs: Sequence[Floats] | None, *, cluster_by: ClusterBy = "question"
) -> Choice:
    """Return the choice of a cascade by what was recorded of the drafts of its first rung.

    Raises:
        EvalError: That was not recorded; says what is missing.
    """
    if name == "agreement":
        return _agreed(calls, costs, cluster_by=cluster_by)
    confidence = calls.confidence(0)
    if np.isnan(confidence).any():
        raise EvalError(
            f"score 'confidence': no confidence was recorded at {calls.rungs[0]} (a signal "
            f"{', '.join(SIGNALS)} of every row), so no draft can be judged by it"
        )
    right = [calls.column(i, "correct") for i in (0, 1)]
    dear = None if costs is None else costs[0] + costs[1]
    questions, index = np.unique(calls.question, return_inverse=True)
    return Choice(
        score=1 - confidence,
        small=(right[0], None if costs is None else costs[0]),
        large=(right[1], None if costs is None else costs[1]),
        kept=(right[0], None if costs is None else costs[0]),
        sent=(right[1], dear),
        groups=_groups(calls, questions, cluster_by=cluster_by)[index],
        weight=1 / np.bincount(index)[index],
    )


def _agreed(calls: Climbable, costs: Sequence[Floats] | None, *, cluster_by: ClusterBy) -> Choice:
    """Return the cascade that asks the first rung as often as it was recorded, and counts the votes."""
    answers = calls.answers(0)
    questions, index = np.unique(calls.question, return_inverse=True)
    counts = np.bincount(index)
    if answers is None or counts.min() < 2:
        missing = "an answer of every row" if answers is None else "a second sample of every question"
        raise EvalError(f"score 'agreement': {missing} of {calls.rungs[0]} was not recorded")
    router = routed(calls, np.zeros(len(questions)), costs, cluster_by=cluster_by)
    pair = index.astype(np.int64) * (int(answers.max()) + 1) + answers
    _, first, votes = np.unique(pair, return_index=True, return_counts=True)
    # The commonest answer of each question; of equally common ones the first in the order of answers.
    order = np.lexsort([np.arange(len(votes)), -votes, index[first]])
    best = order[np.unique(index[first][order], return_index=True)[1]]
    share = votes[best] / counts
    kept = calls.column(0, "correct")[first[best]]
    (_, cheap), (right, dear) = router.small, router.large
    spent = None if cheap is None else cheap * counts
    return Choice(
        score=1 - share,
        small=router.small,
        large=router.large,
        kept=(kept, spent),
        sent=(right, None if spent is None or dear is None else spent + dear),
        groups=router.groups,
        weight=router.weight,
    )


def _groups(calls: Climbable, questions: Ints, *, cluster_by: ClusterBy) -> Ints:
    if cluster_by == "question":
        return np.arange(len(questions))
    named = [calls.clusters[q] for q in questions.tolist()]
    if None in named:
        first = calls.names[int(questions[named.index(None)])]
        raise EvalError(f"question {first!r} names no cluster: resample by question instead")
    return np.unique(np.array(named), return_inverse=True)[1]


def asked(calls: Climbable) -> list[tuple[str, str]]:
    """Return (name, text) of every question, in the order of scores.

    Raises:
        EvalError: A text was not recorded, so nothing can be said of the question beforehand.
    """
    found = []
    for question in np.unique(calls.question).tolist():
        text = calls.texts[question]
        if text is None:
            raise EvalError(
                f"the text of question {calls.names[question]!r} was not recorded, so a router has nothing "
                f"to score; allowed are scores of drafts: {', '.join(DRAFTED)}"
            )
        found.append((calls.names[question], text))
    return found


def by_rule(calls: Climbable, name: str) -> Floats:
    """Return what a rule says of every question."""
    rule = rules()[name]
    return np.array([rule(text) for _, text in asked(calls)])


def by_estimate(calls: Climbable, name: str, classifier: Classifier) -> Floats:
    """Return ``need`` or ``doubt`` of every question by a classifier as it is.

    Raises:
        EvalError: ``need`` of two rungs that an estimate does not tell apart.
    """
    first, last = calls.rungs[0], calls.rungs[-1]
    if name == "need" and _place(first) == _place(last):
        raise EvalError(
            f"score 'need': an estimate does not tell {first} and {last} apart, as it knows how much they "
            "may think and not which is the better model; use 'doubt', or fit on them (--classifier fit)"
        )
    return np.array(
        [
            _score(
                name,
                p_right(first, classifier.estimate(Query.from_text(text, model=first.model))),
                p_right(last, classifier.estimate(Query.from_text(text, model=last.model))),
            )
            for _, text in asked(calls)
        ]
    )


def _score(name: str, first: float, last: float) -> float:
    return last - first if name == "need" else 1 - first


def _place(rung: Rung) -> float:
    """Return the tokens of thinking that a rung allows; infinity where it does not say."""
    policy = parse(rung.policy)
    return 0.0 if isinstance(policy, Off) else policy.tokens if isinstance(policy, Cap) else np.inf


def p_right(rung: Rung, estimate: Estimate) -> float:
    """Return the probability of a right answer that an estimate gives a rung."""
    tokens = _place(rung)
    return estimate.p_correct(None if tokens == np.inf else tokens)


def by_fit(
    calls: Climbable,
    name: str,
    *,
    more: Sequence[Example] = (),
    seed: int = 0,
    fitted: Callable[[], None] = lambda: None,
) -> Floats:
    """Return the rank of ``need`` or ``doubt``, 0 to 1, by classifiers that were fitted without the question.

    Args:
        calls: What two rungs did: right at the first one is what ``off`` stands for, at the last ``full``.
        name: The score.
        more: Examples of other recordings to fit on as well.
        seed: Of the parts.
        fitted: Called after each part.

    Raises:
        NotEnoughEvidence: Too few questions to fit on.
        ClassifierError: The ``train`` extra is missing.
    """
    from budgetctl.evals.bench.predictors import linear
    from budgetctl.evals.bench.splits import Dealer

    mine = _examples(calls)
    place = {id(example): i for i, example in enumerate(mine)}
    scores = np.full(len(mine), np.nan)
    # The others come first: they say which kind of traffic a question of both is.
    parts = Dealer([*more, *mine], seed=seed, folds=FOLDS).parts("random")
    for part in parts:
        tested = [example for example in part.test if id(example) in place]
        if tested:
            classifier = linear(part, lambda epoch, epochs: None)
            said = [classifier.estimate(Query.from_text(e.text, model=e.model)) for e in tested]
            found = np.array([_score(name, one.p_off, one.p_full) for one in said])
            scores[[place[id(e)] for e in tested]] = _ranks(found)
        fitted()
    return scores


def _ranks(values: Floats) -> Floats:
    """Return the share of values below each, ties counting half."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray(((np.cumsum(counts) - counts / 2) / len(values))[index])


def _examples(calls: Climbable) -> list[Example]:
    choice = routed(calls, np.zeros(len(np.unique(calls.question))), None)
    tokens = calls.column(-1, "reasoning_tokens")
    tokens = np.where(np.isnan(tokens), calls.column(-1, "output_tokens"), tokens)
    _, index = np.unique(calls.question, return_inverse=True)
    natural = np.bincount(index, weights=tokens) / np.bincount(index)
    return [
        Example(
            question_id=question,
            dataset=question.partition("/")[0],
            model=calls.rungs[-1].model,
            kind=question.partition("/")[0],
            task=calls.clusters[number] or "",
            text=text,
            off=float(small),
            full=float(large),
            natural=None if np.isnan(length) else float(length),
        )
        for number, (question, text), small, large, length in zip(
            np.unique(calls.question).tolist(),
            asked(calls),
            choice.small[0],
            choice.large[0],
            natural,
            strict=True,
        )
    ]
