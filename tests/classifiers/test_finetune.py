"""How an encoder is fitted: by the loss of the built-in classifier."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from budgetctl.classifiers import fit, habits, objectives
from budgetctl.classifiers.finetune import loss_of
from budgetctl.classifiers.targets import Example, pool

torch = pytest.importorskip("torch")


def test_the_gradient_is_that_of_the_built_in_classifier(recorded: dict[str, list[Example]]) -> None:
    asked = [replace(q, weight=1.0 + i % 3) for i, q in enumerate(pool(recorded["train"][:50]))]
    kinds = sorted({q.kind for q in asked})
    labels, rows = objectives.labels(asked, habits.fit(asked), kinds), np.arange(50)
    out = np.random.default_rng(0).normal(0, 1, (50, 12 + len(kinds)))
    tensor = torch.tensor(out, requires_grad=True)
    loss_of(tensor, labels, rows).backward()
    found = 50 * tensor.grad.numpy()
    chosen, recipe = fit.softmax(out[:, :4]), fit.Recipe()
    wanted = objectives.shares(chosen, objectives.majority(labels.off), objectives.majority(labels.full))
    assert found[:, :4] == pytest.approx(labels.weight[:, None] * (chosen - wanted), abs=1e-5)
    tokens = np.repeat(labels.tokens, 4, axis=1)
    slopes = (tokens < out[:, 4:12]) - np.tile((0.5, 0.8, 0.9, 0.95), 2)
    expected = recipe.pinball * slopes * np.repeat(labels.weights, 4, axis=1)
    assert found[:, 4:12] == pytest.approx(expected, abs=1e-5)
    assert found[:, 12:] == pytest.approx(recipe.kind * (fit.softmax(out[:, 12:]) - labels.kinds), abs=1e-5)
