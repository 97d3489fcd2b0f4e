"""Evidence from audits, valid at any time: is the loss above epsilon (fall back), or below it (climb)?

An audit finishes a call at full thinking after its answer was delivered, and compares: the loss is 1 where
the answers differ and 0 where they agree (or anything between, in [0, 1]). Which calls are audited is drawn
by lot, whatever the query, so audited losses are a fair sample of all.

Two e-processes bet on the losses, one against "the expected loss is at most epsilon", one against "it
is at least epsilon". Each is the mean of the wealths of a few gamblers with fixed stakes::

    alarm:  W_t = mean_f prod_{i <= t} (1 + f (x_i - epsilon) / epsilon)
    proof:  W_t = mean_f prod_{i <= t} (1 - f (x_i - epsilon) / (1 - epsilon))

For stakes f in (0, 1) every factor is positive, and under its hypothesis each product is a supermartingale
that starts at 1, so is their mean, and the probability that it ever reaches 1 / alpha is at most alpha
(Ville 1939; Ramdas et al. 2023, arXiv 2210.01948). One may look after every audit and stop at any time.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from budgetctl.errors import ConfigError
from budgetctl.records import locked

STAKES = (0.03, 0.1, 0.3, 0.6, 0.9)
FORMAT = "budgetctl-audits-1"
_LOCK_WAIT_S = 1.0


@dataclass(slots=True)
class Evidence:
    """Both e-processes over a stream of losses.

    Attributes:
        epsilon: The bound on the expected loss that is in question.
        alpha: Probability with which either may ever be wrong.
        n: Losses seen.
        alarm: The loss has been shown to be above epsilon; stays set.
        proven: The loss has been shown to be below epsilon; stays set.
    """

    epsilon: float
    alpha: float
    n: int = 0
    alarm: bool = False
    proven: bool = False
    _above: list[float] = field(default_factory=lambda: [0.0] * len(STAKES))
    _below: list[float] = field(default_factory=lambda: [0.0] * len(STAKES))

    def __post_init__(self) -> None:
        for name in ("epsilon", "alpha"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name}: seen {getattr(self, name)!r}, allowed: a share between 0 and 1")

    def add(self, loss: float) -> None:
        """Take one more loss into account.

        Raises:
            ConfigError: The loss is not in [0, 1].
        """
        if not 0 <= loss <= 1:
            raise ConfigError(f"the loss of an audit lies in [0, 1], seen {loss!r}")
        excess = loss - self.epsilon
        for i, stake in enumerate(STAKES):
            self._above[i] += math.log1p(stake * excess / self.epsilon)
            self._below[i] += math.log1p(-stake * excess / (1 - self.epsilon))
        self.n += 1
        self.alarm = self.alarm or self.e_above >= 1 / self.alpha
        self.proven = self.proven or self.e_below >= 1 / self.alpha

    @property
    def e_above(self) -> float:
        """Wealth won by betting that the loss is above epsilon."""
        return _mean_exp(self._above)

    @property
    def e_below(self) -> float:
        """Wealth won by betting that the loss is below epsilon."""
        return _mean_exp(self._below)


def _mean_exp(logs: Sequence[float]) -> float:
    top = max(logs)
    log_mean = top + math.log(math.fsum(math.exp(x - top) for x in logs) / len(logs))
    return math.exp(min(log_mean, 700.0))  # beyond it a float is infinite; nothing is decided that far out


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What audits cost; as a limit, None is none.

    Attributes:
        usd: Dollars; None is unknown.
        tokens: Tokens, of prompt and output together.
    """

    usd: float | None = None
    tokens: float | None = None

    def __add__(self, other: Spent) -> Spent:
        """Add two; what is not known of one counts as nothing."""
        return Spent(
            usd=(self.usd or 0.0) + (other.usd or 0.0), tokens=(self.tokens or 0) + (other.tokens or 0)
        )

    def within(self, limit: Spent) -> bool:
        """Whether no limit is exceeded."""
        pairs = ((self.usd, limit.usd), (self.tokens, limit.tokens))
        return all(most is None or (spent or 0) <= most for spent, most in pairs)


class Monitor:
    """:class:`Evidence` in a journal that outlives the process and that several processes may share.

    Each audit is one appended line; the evidence is what the lines in their order come to. The journal names
    the policy that it speaks of, so evidence on one policy never counts for another. What audits cost is in
    it as well, by days. Safe for threads.

    Args:
        path: The journal; made when missing.
        policy: What is audited: the id of a certificate, or the name of a policy.
        epsilon: The bound on its expected loss.
        alpha: Probability of a false alarm, and of a false proof, over the life of the journal.

    Raises:
        ConfigError: The journal belongs to another policy or other bounds, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], *, policy: str, epsilon: float, alpha: float) -> None:
        self.path = Path(path)
        self._evidence = Evidence(epsilon, alpha)
        self._header = {"format": FORMAT, "policy": policy, "epsilon": epsilon, "alpha": alpha}
        self._read_to = 0
        self._spent: defaultdict[str, Spent] = defaultdict(Spent)
        self._lock = threading.Lock()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # A header that another process has just written as well says the same, and is passed over.
            if not self.path.exists() or not self.path.stat().st_size:
                self._append(self._header)
            self._catch_up()
        except OSError as error:
            raise ConfigError(f"{self.path}: audits cannot be kept: {error.strerror}") from None

    def observe(self, loss: float, *, of: str | None = None) -> Evidence:
        """Record the loss of one audit, in [0, 1], and return all evidence so far.

        Args:
            of: Id of the outcome that was audited.

        Raises:
            ConfigError: The loss is not in [0, 1].
            OSError: The journal cannot be written.
        """
        if not 0 <= loss <= 1:
            raise ConfigError(f"the loss of an audit lies in [0, 1], seen {loss!r}")
        self._append({"loss": loss} | ({} if of is None else {"of": of}))
        return self.evidence

    @property
    def evidence(self) -> Evidence:
        """All evidence so far, that of other processes included."""
        with self._lock:
            self._catch_up()
        return self._evidence

    def spend(self, day: str, cost: Spent, *, limit: Spent) -> bool:
        """Note what an audit costs at most, unless the day's limit forbids it: one process at a time.

        Raises:
            OSError: The journal cannot be written, or another process holds its lock.
        """
        with self._lock, self._alone():
            self._catch_up()
            if not (self._spent[day] + cost).within(limit):
                return False
            self._append({"day": day, "usd": cost.usd, "tokens": cost.tokens})
            return True

    def correct(self, day: str, more: Spent) -> None:
        """Note by how much an audit cost more than was noted, or less.

        Raises:
            OSError: The journal cannot be written.
        """
        self._append({"day": day, "usd": more.usd, "tokens": more.tokens})

    @contextmanager
    def _alone(self) -> Iterator[None]:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            with locked(fd, wait_s=_LOCK_WAIT_S):
                yield
        finally:
            os.close(fd)

    def _append(self, row: dict[str, Any]) -> None:
        # The newline in front closes a line that a dying writer has left torn.
        data = b"\n" + json.dumps(row).encode() + b"\n"
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)

    def _catch_up(self) -> None:
        with self.path.open("rb") as file:
            file.seek(self._read_to)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for row in _rows(whole.splitlines()):
            if "format" in row and row != self._header:
                raise ConfigError(f"{self.path}: the journal is of {row}, not of {self._header}")
            if "loss" in row:
                self._evidence.add(row["loss"])
            if "day" in row:
                self._spent[row["day"]] += Spent(usd=row["usd"], tokens=row["tokens"])


def _rows(lines: Iterable[bytes]) -> Iterable[dict[str, Any]]:
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue  # an empty line, or a torn one: that audit is lost, and lost by chance
        if isinstance(row, dict):
            yield row


def stage(rungs: Sequence[Evidence]) -> int:
    """Return the stage that ``auto`` may stand on, from the evidence on its rungs, the safest first.

    Stage 0 cuts nothing. Stage 1 rests on the certificate of the first rung; stage k + 1 is reached when
    audits have proven rung k. An alarm on any rung leads back to stage 0.
    """
    if not rungs or any(rung.alarm for rung in rungs):
        return 0
    climbed = next((k for k, rung in enumerate(rungs) if not rung.proven), len(rungs) - 1)
    return climbed + 1
