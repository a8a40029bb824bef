"""The classification accuracy score against Bayes' classifier of known Gaussians."""

from __future__ import annotations

import pytest
import torch

from genmodels.errors import UserError
from genmodels.evaluation.classifier import classifier_accuracy_score as score


def two_classes(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """N(+-1, 1) along the first axis, noise along the second."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = torch.randn(n, 2, generator=g)
    x[:, 0] += 2.0 * y - 1
    return x, y


def test_reaches_bayes_accuracy() -> None:
    bayes = torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(1.0)).item()  # 0.841
    assert score(*two_classes(4000, 0), *two_classes(8000, 1)) == pytest.approx(bayes, abs=0.015)


def test_wrong_labels_teach_the_wrong_thing() -> None:
    x, y = two_classes(2000, 0)
    assert score(x, 1 - y, *two_classes(4000, 1)) == pytest.approx(0.159, abs=0.03)


def test_shuffled_labels_teach_nothing() -> None:
    x, y = two_classes(4000, 0)
    y = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(0))]
    assert 0.2 < score(x, y, *two_classes(4000, 1)) < 0.8


def test_images_and_units_of_the_inputs() -> None:
    x, y = two_classes(1000, 0)
    x_test, y_test = two_classes(1000, 1)
    as_images = score(1000 * x.view(-1, 1, 1, 2) + 5000, y, 1000 * x_test.view(-1, 1, 1, 2) + 5000, y_test)
    assert as_images == pytest.approx(score(x, y, x_test, y_test), abs=2e-3)


def test_real_digits_against_themselves() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x, y = torch.tensor(digits.images) / 16, torch.tensor(digits.target)
    assert score(x[:1400], y[:1400], x[1400:], y[1400:]) > 0.88


def test_mistakes_are_one_line() -> None:
    x, y = two_classes(10, 0)
    with pytest.raises(UserError, match="label"):
        score(x, y[:5], x, y)
    with pytest.raises(UserError, match="not finite"):
        score(x * float("nan"), y, x, y)
