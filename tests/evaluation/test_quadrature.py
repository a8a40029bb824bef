import math

import pytest
import torch
from scipy import integrate

from genmodels.evaluation.quadrature import grid, grid_entropy, grid_kl, grid_log_partition

BOX = ((-9.0, 9.0), (-8.0, 10.0))


def gaussian(mean: list[float], covariance: list[list[float]], scale: float = 1.0):
    """A Gaussian's log-density times an arbitrary constant factor `scale`."""
    law = torch.distributions.MultivariateNormal(torch.tensor(mean).double(), torch.tensor(covariance).double())
    return law, lambda x: law.log_prob(x) + math.log(scale)


P, LOG_P = gaussian([0.3, -0.2], [[1.0, 0.4], [0.4, 0.7]])
Q, LOG_Q = gaussian([-0.5, 0.4], [[0.6, -0.1], [-0.1, 1.2]], scale=37.0)


def test_grid_covers_the_box_once() -> None:
    points, volume = grid(((0.0, 1.0), (-1.0, 2.0), (5.0, 7.0)), 4)
    assert points.shape == (64, 3)
    assert len(points) * volume == pytest.approx(6.0)
    torch.testing.assert_close(points.mean(0), torch.tensor([0.5, 0.5, 6.0]).double())
    assert len(points.unique(dim=0)) == 64


def test_partition_of_scaled_gaussian() -> None:
    assert grid_log_partition(LOG_P, BOX).item() == pytest.approx(0.0, abs=1e-10)
    assert grid_log_partition(LOG_Q, BOX).item() == pytest.approx(math.log(37.0), abs=1e-10)


def test_partition_of_quartic_energy_against_scipy() -> None:
    z, _ = integrate.quad(lambda t: math.exp(-(t**4) + t), -6, 6, epsabs=1e-13)
    ours = grid_log_partition(lambda x: -(x[:, 0] ** 4) + x[:, 0], ((-6.0, 6.0),), 500)
    assert ours.item() == pytest.approx(math.log(z), abs=1e-10)


def test_entropy_and_kl_are_those_of_gaussians() -> None:
    assert grid_entropy(LOG_P, BOX).item() == pytest.approx(P.entropy().item(), abs=1e-10)
    assert grid_entropy(LOG_Q, BOX).item() == pytest.approx(Q.entropy().item(), abs=1e-10)
    exact = torch.distributions.kl_divergence(P, Q).item()
    reverse = torch.distributions.kl_divergence(Q, P).item()
    assert grid_kl(LOG_P, LOG_Q, BOX).item() == pytest.approx(exact, abs=1e-9)
    assert grid_kl(LOG_Q, LOG_P, BOX).item() == pytest.approx(reverse, abs=1e-9)
    assert exact != pytest.approx(reverse, abs=1e-2)


def test_kl_with_zero_mass() -> None:
    def half(x: torch.Tensor) -> torch.Tensor:  # uniform on the right half of the box
        return torch.where(x[:, 0] > 0, 0.0, -math.inf)

    def whole(x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x))

    box = ((-1.0, 1.0), (0.0, 1.0))
    assert grid_kl(half, whole, box, 20).item() == pytest.approx(math.log(2.0), abs=1e-12)
    assert grid_kl(whole, half, box, 20).item() == math.inf
    assert grid_entropy(half, box, 20).item() == pytest.approx(0.0, abs=1e-12)


def test_functions_get_points_of_the_asked_type_without_gradients() -> None:
    seen = []

    def log_p(x: torch.Tensor) -> torch.Tensor:
        seen.append((x.dtype, torch.is_grad_enabled()))
        return -x.square().sum(1)

    out = grid_log_partition(log_p, BOX, 300, dtype=torch.float32)
    assert set(seen) == {(torch.float32, False)}
    assert len(seen) == 2  # 90,000 points come in chunks
    assert out.dtype == torch.float64
    assert out.item() == pytest.approx(math.log(math.pi), abs=1e-6)
