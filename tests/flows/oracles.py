"""What any flow must satisfy, whatever its formula: shared by the tests of each."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def randomise(module: nn.Module, seed: int = 0, scale: float = 0.6) -> nn.Module:
    """Float64 and every parameter, biases too, away from zero: a zero start hides wrong signs."""
    generator = torch.Generator().manual_seed(seed)
    module.double()
    with torch.no_grad():
        for p in module.parameters():
            fan = p.shape[-1] if p.ndim > 1 else 1
            p.copy_(scale / math.sqrt(fan) * torch.randn(p.shape, generator=generator, dtype=torch.float64) + 0.05)
    return module


def draws(*size: int, seed: int = 1) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check_round_trip(layer: nn.Module, x: Tensor, tolerance: float = 1e-9) -> None:
    """inverse(forward(x)) = x, forward(inverse(x)) = x, and the two log-determinants cancel."""
    z, log_det = layer(x)
    back, back_log_det = layer.inverse(z)
    assert log_det.shape == (len(x),)
    assert back_log_det.shape == (len(x),)
    assert not torch.allclose(z.reshape(len(x), -1), x.reshape(len(x), -1)), "the map must not be the identity"
    torch.testing.assert_close(back, x, atol=tolerance, rtol=0)
    torch.testing.assert_close(log_det, -back_log_det, atol=tolerance, rtol=0)
    if z.shape == x.shape:
        there, _ = layer(layer.inverse(x)[0])
        torch.testing.assert_close(there, x, atol=tolerance, rtol=0)


def jacobians(f, x: Tensor) -> Tensor:
    """The Jacobian of f at each row of x (B, D), by autograd: (B, D, D)."""
    rows = [
        torch.autograd.functional.jacobian(lambda v: f(v[None])[0].flatten(), row).reshape(row.numel(), -1) for row in x
    ]
    return torch.stack(rows)


def check_log_det(layer: nn.Module, x: Tensor, tolerance: float = 1e-9) -> None:
    """Both reported log-determinants equal the Jacobian's, taken by autograd, and differ between examples."""
    for f in (layer, layer.inverse):
        truth = torch.linalg.slogdet(jacobians(lambda v, f=f: f(v)[0], x)).logabsdet
        assert truth.std() > 1e-3
        torch.testing.assert_close(f(x)[1], truth, atol=tolerance, rtol=0)


def mass(log_prob, low: float, high: float, n: int) -> float:
    """The integral of exp(log_prob) over [low, high]² by the midpoint rule."""
    h = (high - low) / n
    axis = low + h * (torch.arange(n, dtype=torch.float64) + 0.5)
    with torch.no_grad():
        return float(log_prob(torch.cartesian_prod(axis, axis)).exp().sum() * h * h)
