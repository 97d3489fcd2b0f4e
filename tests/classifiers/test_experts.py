"""Several classifiers as one."""

from __future__ import annotations

from dataclasses import dataclass

from budgetctl.classifiers import Classifier
from budgetctl.classifiers.experts import Experts

from budgetctl.types import Estimate, Quantiles, Query

FLAT = Quantiles(p50=1, p80=2, p90=3, p95=4)


@dataclass(frozen=True)
class Fixed:
    name: str
    confidence: float
    models: tuple[str, ...] = ()

    @property
    def hash(self) -> str:
        return self.name

    def estimate(self, query: Query) -> Estimate:
        return Estimate(
            p_off=0.5, p_full=0.5, settled=FLAT, natural=FLAT, confidence=self.confidence, source=self.name
        )

    def describe(self, query: Query) -> dict[str, float]:
        return {"from": float(len(self.name))}


def who(experts: Experts, model: str | None = None) -> str:
    return experts.estimate(Query.from_text("?", model=model)).source


def test_it_is_a_classifier_whose_hash_binds_all() -> None:
    one, other = Experts([Fixed("a", 1)], name="x"), Experts([Fixed("a", 1), Fixed("b", 1)], name="x")
    assert isinstance(other, Classifier)
    assert one.hash != other.hash


def test_without_a_model_the_first_answers_however_unsure() -> None:
    assert who(Experts([Fixed("a", 0.2), Fixed("b", 1.0)], name="x")) == "a"


def test_a_model_goes_to_who_knows_it_however_unsure() -> None:
    experts = Experts([Fixed("a", 0.9), Fixed("b", 0.1, ("Small-1",))], name="x")
    assert who(experts, "somewhere/small-1:free") == "b"
    assert who(experts, "large") == "a"
