"""Classifiers: from a query to an estimate of how much thinking it deserves.

``load("default").estimate(Query.from_text(text, model=None))`` is the whole interface; :class:`Classifier` is
what a classifier of one's own implements. The default weights were trained on recorded outcomes of real
models on public questions, and on the traffic of the package's own pocket reasoner. On any other traffic they
answer with a low confidence, and the controller then leaves the caller's parameters alone.
``budgetctl train`` makes weights for other traffic from its recordings and outcome logs.
"""

from budgetctl.classifiers.base import Classifier
from budgetctl.classifiers.registry import load

__all__ = ["Classifier", "load"]
