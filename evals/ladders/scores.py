"""Scores that say how much a question wants the large model, before anything is asked.

===========  ============================================================================================
``need``     the estimate's p(right) at the last rung less that at the first
``doubt``    1 - p(right) at the first rung: all there is to say where both rungs think as they like
a rule       a published rule (:data:`budgetctl.evals.bench.peers.PEERS`), or ``prompt-length``
===========  ============================================================================================

Estimates come from a classifier as it is, or from one that was fitted five times, each time without the fifth
of the questions that it then scores (:mod:`budgetctl.evals.bench.splits`): on what both rungs recorded, alone
or together with other recordings. Questions are the same where their texts are. Of such scores only the rank
within the fifth counts: a fifth with many errors leaves fewer to the classifier that scores it, which would
set errors and scores against each other even where there is nothing to learn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from budgetctl.classifiers.targets import Example
from budgetctl.evals.columns import Floats
from budgetctl.evals.ladders.choices import DRAFTED, router
from budgetctl.evals.ladders.recorded import Recorded

from budgetctl.controller import Classifier
from budgetctl.errors import ConfigError, EvalError
from budgetctl.ladder import Rung
from budgetctl.policy import Cap, Off, parse
from budgetctl.types import Estimate, Query

if TYPE_CHECKING:
    from budgetctl.evals.bench.peers import Peer

ESTIMATED = ("need", "doubt")
FOLDS = 5
"""Parts that questions are dealt into, each scored by a classifier that was fitted on the others."""


def rules() -> dict[str, Peer]:
    """Return the scores that need nothing but the text, by name, installed or not."""
    from budgetctl.evals.bench.peers import PEERS, PROMPT_LENGTH

    return {peer.name: peer for peer in (PROMPT_LENGTH, *PEERS.values())}


def check(name: str) -> None:
    """Refuse a score that there is not, or whose package is not installed.

    Raises:
        ConfigError: Names those there are, or what to install.
    """
    known = rules()
    allowed = (*ESTIMATED, *DRAFTED, *known)
    if name in known and not known[name].installed:
        raise ConfigError(f"score {name!r} is asked of its package: pip install {known[name].package}")
    if name not in allowed:
        raise ConfigError(f"score {name!r}: allowed are {', '.join(allowed)}")


def asked(calls: Recorded) -> list[tuple[str, str]]:
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


def by_rule(calls: Recorded, name: str) -> Floats:
    """Return what a rule says of every question."""
    rule = rules()[name].score
    return np.array([rule(text) for _, text in asked(calls)])


def by_estimate(calls: Recorded, name: str, classifier: Classifier) -> Floats:
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
    calls: Recorded,
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


def _examples(calls: Recorded) -> list[Example]:
    choice = router(calls, np.zeros(len(np.unique(calls.question))), None)
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
