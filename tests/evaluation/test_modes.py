import math

import pytest
import torch

from genmodels.evaluation.modes import mode_counts, mode_coverage

CENTRES = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


def test_counts_by_hand() -> None:
    x = torch.tensor([[0.0, 0.29], [0.0, 0.31], [1.05, 0.0], [0.5, 0.0], [50.0, 50.0], [0.2, 0.2]])
    # Within 3 σ = 0.3: the first of centre 0, the third of centre 1, and the last of centre 0 (distance 0.283).
    assert mode_counts(x, CENTRES, 0.1).tolist() == [2, 1, 0]
    assert mode_coverage(x, CENTRES, 0.1) == (2, 3 / 6)


def test_a_point_counts_for_its_nearest_centre_only() -> None:
    x = torch.tensor([[0.4, 0.0]])
    assert mode_counts(x, CENTRES, 1.0).tolist() == [1, 0, 0]


def test_share_of_the_true_mixture_is_the_chi_square_mass() -> None:
    g = torch.Generator().manual_seed(0)
    n = 200_000
    x = CENTRES[torch.randint(3, (n,), generator=g)] + 0.05 * torch.randn(n, 2, generator=g)
    modes, share = mode_coverage(x, CENTRES, 0.05)
    expected = 1 - math.exp(-4.5)
    assert modes == 3
    assert share == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - expected) / n))


def test_empty_and_lost() -> None:
    assert mode_coverage(torch.empty(0, 2), CENTRES, 0.1) == (0, 0.0)
    assert mode_coverage(torch.full((5, 2), 9.0), CENTRES, 0.1) == (0, 0.0)
