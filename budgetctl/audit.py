"""Audits: a share of the calls is made once more at full thinking, and the answers are compared.

The answer is delivered first. Then the same call is made again as its caller wrote it, at the same endpoint
and by the same client. Whether both answers agree is evidence on what the budget costs, in a journal that
outlives the process (:mod:`budgetctl.monitor`); ``auto`` stands on a certificate for as long as it raises no
alarm. This module draws, counts and compares; it does no io but the journal's.
"""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from budgetctl.adapters.paths import GRAMMARS, THINKING
from budgetctl.agreement import same_answer
from budgetctl.background import Background
from budgetctl.errors import ConfigError, brief
from budgetctl.monitor import Evidence, Monitor, Spent, stage
from budgetctl.policy import Certified, Footing, Policy, parse, policy_name, uniform
from budgetctl.types import Decision, Limits, Price

logger = logging.getLogger("budgetctl")

EPSILON = 0.05
ALPHA = 0.1
REFRESH_S = 1.0
"""How old what is known of other processes' audits may be."""
ASSUMED_TOKENS = 32_768
"""What full thinking is taken to spend at most where neither the call nor the capability table says."""

_PURE = frozenset(
    {
        *(path.partition(".")[0] for path in THINKING),
        *GRAMMARS,
        "model",
        "messages",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "frequency_penalty",
        "presence_penalty",
        "repetition_penalty",
        "logit_bias",
        "seed",
        "stop",
        "n",
        "verbosity",
        "service_tier",
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "extra_body",
    }
)
"""Parameters that only shape an answer. A call that says anything else is not made again: it may use a tool,
be stored, or do what nobody here knows of."""


def repeatable(params: Mapping[str, Any]) -> bool:
    """Whether making a call again does nothing but cost tokens."""
    said = {**params, **(params.get("extra_body") or {})}
    given = {name for name, value in said.items() if value is not None}
    return given <= _PURE and (said.get("n") or 1) == 1


class Audits:
    """Draws audits, keeps them within a day's limits, and what they show in a journal.

    Args:
        journal: The file of the evidence; made when missing, and only ever of one policy or certificate.
        certificate: What ``auto`` may stand on: the file of a certificate of a uniform cap.
        policy: The policy that is audited, where it is not ``auto`` on a certificate.
        rate: The share of calls that is audited, drawn by lot.
        usd_per_day: Dollars that audits may cost in a day (UTC), all processes of the journal together. A
            model whose price is not known is too dear, unless ``tokens_per_day`` is given.
        tokens_per_day: Tokens of prompt and output, likewise.
        epsilon: The bound on the loss; None is the certificate's, or 0.05.
        alpha: Probability of a false alarm over the life of the journal.
        agree: Whether two answers, the delivered one first, say the same.
        rng: Draws.
        clock: Seconds, monotonic.
        today: Names the day.

    Raises:
        ConfigError: An argument cannot work, or the journal is of another policy.
    """

    def __init__(
        self,
        journal: str | os.PathLike[str],
        *,
        certificate: str | Path | None = None,
        policy: str | Policy | None = None,
        rate: float = 0.0,
        usd_per_day: float | None = None,
        tokens_per_day: int | None = None,
        epsilon: float | None = None,
        alpha: float = ALPHA,
        agree: Callable[[str, str], bool] = same_answer,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        today: Callable[[], str] = lambda: datetime.now(UTC).date().isoformat(),
    ) -> None:
        if not 0 <= rate <= 1:
            raise ConfigError(f"audit rate: seen {rate!r}, allowed: a share from 0 to 1")
        if rate and usd_per_day is None and tokens_per_day is None:
            raise ConfigError("audits cost money: say usd_per_day or tokens_per_day, at most how much a day")
        if (certificate is None) == (policy is None):
            raise ConfigError("audits are of a certificate or of a policy: name one of them")
        self.certified = None if certificate is None else uniform(certificate)
        audited: Policy = self.certified or parse(policy or "")
        bound = audited.certificate if isinstance(audited, Certified) else None
        self.subject = policy_name(audited) if bound is None else bound.id
        self.rate = rate
        self.agree = agree
        self.limit = Spent(usd=usd_per_day, tokens=tokens_per_day)
        self.background = Background()
        self.today = today
        self._rng = rng or random.Random()
        self._clock = clock
        if epsilon is None:
            epsilon = EPSILON if bound is None else bound.epsilon
        self._monitor = Monitor(journal, policy=self.subject, epsilon=epsilon, alpha=alpha)
        self._lock = threading.Lock()
        self._looked = -math.inf
        self._footing: Footing | None = None

    @property
    def evidence(self) -> Evidence:
        """All evidence so far, that of other processes included."""
        return self._monitor.evidence

    def covers(self, *, policy: str, certificate: str | None) -> bool:
        """Whether a decision or an outcome is of what is audited."""
        return self.subject in (certificate, policy)

    def draw(self, decision: Decision, *, limits: Limits) -> bool:
        """Draw by lot whether a call is audited: one that may be, whatever its query."""
        if not self.rate or limits.deadline_s is not None or limits.reasoning_tokens is not None:
            return False
        covered = self.covers(policy=decision.policy, certificate=decision.certificate)
        return covered and self._rng.random() < self.rate

    def reserve(self, *, price: Price | None, prompt: float, output: float) -> Reservation | None:
        """Set aside what an audit costs at most; None where that is too much for today.

        Args:
            price: What the model costs; None is unknown.
            prompt: Tokens of the prompt.
            output: Tokens of thinking and answer, at most.

        Raises:
            OSError: The journal cannot be written.
        """
        usd = None
        if price is not None:
            costs = (price.cost(prompt=prompt, reasoning=n, answer=output - n) for n in (0, output))
            usd = max(costs)
        elif self.limit.tokens is None:
            logger.info("no audit: the price of the model is unknown, and no limit in tokens is given")
            return None
        cost, day = Spent(usd=usd, tokens=prompt + output), self.today()
        admitted = self._monitor.spend(day, cost, limit=self.limit)
        return Reservation(self._monitor, day, cost) if admitted else None

    def compare(self, delivered: str, full: str, *, of: str) -> None:
        """Take the answers of one audit for evidence, and let ``auto`` know at once.

        The loss is 1 where full thinking gave another answer, and 0 where it gave the same or none: what is
        not answered is not right, so the loss of accuracy is at most this on average.

        Args:
            of: Id of the outcome that was audited.

        Raises:
            Exception: What ``agree`` raises; that audit is no evidence.
        """
        lost = bool(full.strip()) and not self.agree(delivered, full)
        self._monitor.observe(float(lost), of=of)
        self._look()

    def same(self, *, of: str) -> None:
        """Take a call for evidence that was made at full thinking in the first place: nothing was lost."""
        self._monitor.observe(0.0, of=of)

    def footing(self) -> Footing | None:
        """Return what ``auto`` may stand on; None where no certificate is configured."""
        if self.certified is not None and self._clock() - self._looked > REFRESH_S:
            self._look()
        return self._footing

    def _look(self) -> None:
        """Read the evidence, and say so when it means another stage."""
        if self.certified is None:
            return
        with self._lock:
            self._looked = self._clock()
            now, why = self._seen()
            before = self._footing
            if before is not None and before.stage == now:
                return
            if before is not None:
                why += f"; was stage {before.stage}"
            self._footing = Footing(certified=self.certified, stage=now, reason=why)
        logger.log(logging.INFO if now else logging.WARNING, "auto stands on stage %d: %s", now, why)

    def _seen(self) -> tuple[int, str]:
        """Return the stage that the evidence means, and why."""
        named = f"certificate {self.subject}"
        try:
            evidence = self._monitor.evidence
        except (OSError, ConfigError) as error:
            return 0, f"{named}: its audits cannot be read ({brief(error)})"
        said = f"audits raised the alarm (n {evidence.n})" if evidence.alarm else "no alarm"
        return stage([evidence]), f"{named}: {said}"


class Reservation:
    """What one audit may cost, noted in the journal before it begins."""

    def __init__(self, monitor: Monitor, day: str, cost: Spent) -> None:
        self._monitor, self._day, self._cost = monitor, day, cost

    def settle(self, spent: Spent) -> None:
        """Note what it has cost. What is not known stays as it was set aside."""
        more = Spent(
            usd=None if spent.usd is None or self._cost.usd is None else spent.usd - self._cost.usd,
            tokens=None if spent.tokens is None else spent.tokens - (self._cost.tokens or 0),
        )
        self._monitor.correct(self._day, more)
