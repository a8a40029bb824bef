"""Squared Wasserstein distance and NLL gap beside closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from genmodels.evaluation.points import nll_gap, squared_wasserstein2
from tests.flows.oracles import draws


def test_shift_and_order() -> None:
    """W_2² of a shifted cloud is the squared shift, whatever the order of the points."""
    x = draws(200, 3)
    y = (x + torch.tensor([0.3, -0.4, 1.2]).double())[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    assert squared_wasserstein2(x, y) == pytest.approx(0.09 + 0.16 + 1.44)
    assert squared_wasserstein2(y, x) == pytest.approx(0.09 + 0.16 + 1.44)


def test_line() -> None:
    """In one dimension: the mean squared difference of the sorted values."""
    x, y = draws(500, 1), 2 * draws(500, 1, seed=2) + 1
    truth = (x.sort(0).values - y.sort(0).values).square().mean().item()
    assert squared_wasserstein2(x, y) == pytest.approx(truth)


def test_gaussians() -> None:
    """Between N(0, I) and N(m, s² I) in the plane: |m|² + 2 (s − 1)², up to sampling error."""
    x, y = draws(1500, 2), torch.tensor([2.0, 1.0]).double() + 0.5 * draws(1500, 2, seed=2)
    assert squared_wasserstein2(x, y) == pytest.approx(5 + 2 * 0.25, rel=0.05)


def gaussian(mean: float, std: float):
    return lambda x: torch.distributions.Normal(mean, std).log_prob(x).sum(-1)


def test_nll_gap_is_the_kl_between_gaussians() -> None:
    m, s = 0.7, 1.6
    per_dimension = math.log(s / 1.0) + (1 + m**2) / (2 * s**2) - 0.5
    gap = nll_gap(gaussian(0, 1), gaussian(m, s), [(-9, 9)] * 2, 300, dtype=torch.float64)
    assert gap == pytest.approx(2 * per_dimension, abs=1e-6)
    assert nll_gap(gaussian(0, 1), gaussian(0, 1), [(-9, 9)] * 2, 200) == pytest.approx(0, abs=1e-5)


def test_nll_gap_charges_for_missing_mass() -> None:
    """A model whose density is too low by a factor everywhere pays its logarithm; normalising would hide it."""
    gap = nll_gap(gaussian(0, 1), lambda x: gaussian(0, 1)(x) - 0.25, [(-9, 9)] * 2, 200, dtype=torch.float64)
    assert gap == pytest.approx(0.25, abs=1e-6)
