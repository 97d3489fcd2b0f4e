"""Soft criteria on the rows of ``model.generate``.

What the scores of a step show (close margin, token confidence) is exact, over the whole vocabulary, as the
processors before ours leave it. It is read back once per step.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from budgetctl.errors import brief
from budgetctl.integrations._probes import Prober
from budgetctl.stopping import Criterion, ProbeLedger
from budgetctl.stopping.compose import Signal, asks, needs
from budgetctl.types import Evidence, Progress

if TYPE_CHECKING:
    from budgetctl.integrations._rows import RowBudgets

logger = logging.getLogger("budgetctl")

LIKELIEST = 20
"""Tokens in the token confidence."""

_TEXT_TOKENS, _TEXT_CHARS = 8192, 16384


@dataclass(slots=True, kw_only=True)
class _Seat:
    """One watched row."""

    criterion: Criterion
    ledger: ProbeLedger
    evidence: Evidence | None = None
    over: bool = False


class Watch:
    """Looks at every row of a batch once per step, for those that have soft criteria.

    A criterion or a probe that fails never fails the call: from then on the rows keep their hard limits only.

    Args:
        criteria: One per row, fresh; None for rows without any.
        prober: Asks the model.
        padding: Tokens of padding on the left of each row.
        close_id: The token that ends thinking.

    Attributes:
        failure: Why it looks no longer, if so.
    """

    def __init__(
        self,
        criteria: Sequence[Criterion | None],
        *,
        prober: Prober,
        padding: Sequence[int],
        close_id: int,
    ) -> None:
        self.failure: str | None = None
        self._prober = prober
        self._padding = padding
        self._close_id = close_id
        self._seats = {
            i: _Seat(criterion=c, ledger=ProbeLedger(gap=prober.trials.every))
            for i, c in enumerate(criteria)
            if c is not None
        }
        self._needs = frozenset().union(*(needs(seat.criterion) for seat in self._seats.values()))

    def evidence(self, row: int) -> Evidence | None:
        """Return what ended the thinking of a row, if a soft criterion did."""
        return self._seats[row].evidence if row in self._seats else None

    def ledger(self, row: int) -> ProbeLedger | None:
        """Return what the probes of a row have cost; None for a row that is not watched."""
        return self._seats[row].ledger if row in self._seats else None

    def look(self, ids: Tensor, scores: Tensor, rows: RowBudgets) -> None:
        """Show the step to the criteria, run the probes that they ask for, and close what they end."""
        if self.failure is not None:
            return
        try:
            found = self._evidence(ids, scores, rows)
        except Exception as error:
            self.failure = f"soft stops given up: {brief(error)}"
            logger.warning("%s", self.failure)
            return
        for i, evidence in found.items():
            self._seats[i].evidence = evidence
            rows.settle(i)

    def _evidence(self, ids: Tensor, scores: Tensor, rows: RowBudgets) -> dict[int, Evidence]:
        """Return the rows that may stop here, and why."""
        asked: dict[int, Progress] = {}
        found: dict[int, Evidence] = {}
        for i, progress in self._progress(ids, scores, rows).items():
            evidence = self._seats[i].criterion.observe(progress)
            if evidence is not None:
                found[i] = evidence
            elif progress.at_boundary:
                asked[i] = progress
        return found | self._ask(ids, asked)

    def _progress(self, ids: Tensor, scores: Tensor, rows: RowBudgets) -> dict[int, Progress]:
        """Return where the watched rows stand that are thinking."""
        signals = self._signals(scores)
        found: dict[int, Progress] = {}
        for i, seat in self._seats.items():
            row = rows.rows[i]
            seat.over = seat.over or (bool(rows.stamps) and int(ids[i, -1]) in self._prober.ends)
            if not row.thinking or row.at >= 0 or seat.over:
                continue
            found[i] = Progress(
                reasoning_tokens=row.spent,
                reasoning=self._text(ids[i], row.spent) if "text" in needs(seat.criterion) else "",
                elapsed_s=rows.elapsed_s,
                s_per_token=rows.s_per_token,
                at_boundary=row.boundary,
                close_margin=signals["close_margin"][i] if "close_margin" in signals else None,
                token_confidence=signals["token_confidence"][i] if "token_confidence" in signals else None,
            )
        return found

    def _signals(self, scores: Tensor) -> dict[Signal, list[float]]:
        """Return what the scores show of every row, as far as it is read. Waits for the device."""
        found: dict[Signal, list[float]] = {}
        if "close_margin" in self._needs:
            found["close_margin"] = (scores.max(dim=1).values - scores[:, self._close_id]).tolist()
        if "token_confidence" in self._needs:
            likeliest = scores.float().log_softmax(dim=1).topk(min(LIKELIEST, scores.shape[1])).values
            found["token_confidence"] = (-likeliest.mean(dim=1)).tolist()
        return found

    def _text(self, row: Tensor, spent: int) -> str:
        last = row[max(len(row) - min(spent, _TEXT_TOKENS), 0) :]
        return self._prober.text(last.tolist())[-_TEXT_CHARS:]

    def _ask(self, ids: Tensor, asked: dict[int, Progress]) -> dict[int, Evidence]:
        """Run the probes that are wanted, due and paid for; return the evidence that comes of them."""
        wanted = {i: kind for i, progress in asked.items() if (kind := self._kind(self._seats[i], progress))}
        if not wanted:
            return {}
        readings = self._prober(
            [ids[i, self._padding[i] :].tolist() for i in wanted],
            trial=[kind == "trial" for kind in wanted.values()],
        )
        found: dict[int, Evidence] = {}
        for i, reading in zip(wanted, readings, strict=True):
            seat, thought = self._seats[i], asked[i].reasoning_tokens
            seat.ledger.charge(generated=reading.generated, prefilled=reading.prefilled)
            # Only what is new: the rest of this point was observed before.
            news = replace(asked[i], close_margin=None, token_confidence=None)
            news = replace(news, trial=reading.trial, entropy_after=reading.entropy)
            evidence = seat.criterion.observe(news)
            if evidence is not None:
                found[i] = evidence
            elif reading.trial is not None:
                seat.ledger.in_vain(thought=thought)
        return found

    def _kind(self, seat: _Seat, progress: Progress) -> str | None:
        """Return which probe a row gets here: a trial answer, the entropy alone, or none."""
        wanted, thought = asks(seat.criterion, progress), progress.reasoning_tokens
        ledger, window = seat.ledger, self._prober.window
        if "trial" in wanted and ledger.due(thought=thought) and ledger.affords(window, thought=thought):
            return "trial"
        return "entropy" if "entropy_after" in wanted and ledger.affords(1, thought=thought) else None
