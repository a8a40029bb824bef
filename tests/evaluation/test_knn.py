"""The nearest-neighbour estimator against closed forms of the divergence between Gaussians."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genmodels.errors import UserError
from genmodels.evaluation.knn import knn_kl


def normal(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_gaussians_in_the_plane(k: int) -> None:
    """KL(N(0, I) || N(m, s^2 I)) = log s^2 + (2 + |m|^2) / (2 s^2) - 1 in two dimensions."""
    p, q = normal(8000, 2, 0), normal(10_000, 2, 1) * 1.5 + torch.tensor([0.7, -0.2])
    truth = math.log(1.5**2) + (2 + 0.53) / (2 * 1.5**2) - 1
    assert knn_kl(p, q, k) == pytest.approx(truth, abs=0.06)


def test_direction() -> None:
    """KL(N(0, I) || N(0, s^2 I)) = log s^2 + 1 / s^2 - 1; the other way round it is greater."""
    narrow, wide = normal(8000, 2, 0), normal(8000, 2, 1) * 1.25
    assert knn_kl(narrow, wide) == pytest.approx(math.log(1.25**2) + 1 / 1.25**2 - 1, abs=0.03)
    assert knn_kl(wide, narrow) == pytest.approx(-math.log(1.25**2) + 1.25**2 - 1, abs=0.03)


@pytest.mark.parametrize("d", [1, 3])
def test_other_dimensions(d: int) -> None:
    p, q = normal(6000, d, 0), normal(3000, d, 1) + 0.5
    assert knn_kl(p, q, 5) == pytest.approx(d * 0.125, abs=0.08)


def test_same_law_gives_about_zero_whatever_the_sizes() -> None:
    for n, m in ((2000, 2000), (1000, 8000), (8000, 1000)):
        assert knn_kl(normal(n, 2, 0), normal(m, 2, 1)) == pytest.approx(0, abs=0.08)


def test_by_hand() -> None:
    """p at 0, 1, 3; q at 0.5, 2: nearest distances 1, 1, 2 within, .5, .5, 1 across; log(m / (n - 1)) = 0."""
    p, q = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.5], [2.0]])
    assert knn_kl(p, q, 1) == pytest.approx(math.log(0.5))
    assert knn_kl(p, q, 2) == pytest.approx(np.log([2 / 3, 1 / 2, 2.5 / 3]).mean())


@given(scale=st.floats(0.01, 100), shift=st.floats(-10, 10))
@settings(max_examples=15, deadline=None)
def test_units_do_not_matter(scale: float, shift: float) -> None:
    p, q = normal(300, 2, 0), normal(300, 2, 1) + 0.3
    assert knn_kl(p * scale + shift, q * scale + shift) == pytest.approx(knn_kl(p, q), abs=1e-6)


def test_repeated_points_give_a_number() -> None:
    assert math.isfinite(knn_kl(torch.zeros(20, 2), normal(20, 2, 0)))


def test_mistakes_are_one_line() -> None:
    with pytest.raises(UserError, match="expected points"):
        knn_kl(torch.zeros(5, 2), torch.zeros(5, 3))
    with pytest.raises(UserError, match="k must be"):
        knn_kl(torch.zeros(5, 2), torch.zeros(5, 2), k=5)
