"""Integrals over a box by a grid: what an unnormalised density lacks, and how far it is from the truth.

The midpoint rule on n cells a side. For a smooth density that has died away at the box's faces its error falls faster
than any power of n, so that a few cells a standard deviation give many digits; a density with jumps gets O(1/n).
Mass outside of the box is not seen: choose the box wide, and check that doubling it changes nothing.

Densities are functions x (B, d) -> (B,) in nats, normalised or not; an energy enters as `lambda x: -model.energy(x)`.
The functions are called on chunks without gradients; sums are taken in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

LogDensity = Callable[[Tensor], Tensor]
Bounds = Sequence[tuple[float, float]]


def grid(
    bounds: Bounds, n: int, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None
) -> tuple[Tensor, float]:
    """The cells' midpoints (n^d, d) in the box `bounds`, one (low, high) per dimension, and a cell's volume."""
    axes, volume = [], 1.0
    for low, high in bounds:
        step = (high - low) / n
        axes.append(low + step * (torch.arange(n, dtype=torch.float64, device=device) + 0.5))
        volume *= step
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)  # (n, ..., n, d)
    return points.reshape(-1, len(bounds)).to(dtype), volume


@torch.no_grad()
def on_grid(f: LogDensity, points: Tensor, *, chunk: int = 65_536) -> Tensor:
    """f at the points (N, d), as float64 (N,)."""
    return torch.cat([f(part).double() for part in points.split(chunk)])


def grid_log_partition(
    log_density: LogDensity,
    bounds: Bounds,
    n: int = 400,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Tensor:
    """log Z = log of the integral of exp(log_density) over the box, a scalar in nats.

    `dtype` is that of the points which the function is given: a float32 model wants `torch.float32`.
    """
    points, volume = grid(bounds, n, dtype=dtype, device=device)
    return torch.logsumexp(on_grid(log_density, points), dim=0) + math.log(volume)


def grid_entropy(
    log_density: LogDensity,
    bounds: Bounds,
    n: int = 400,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Tensor:
    """The differential entropy −∫ p log p in nats, of the density after normalising it on the box."""
    points, volume = grid(bounds, n, dtype=dtype, device=device)
    log_p = on_grid(log_density, points)
    log_p = log_p - torch.logsumexp(log_p, dim=0)  # log of each cell's share
    return -_expectation(log_p, log_p) + math.log(volume)


def grid_kl(
    log_p: LogDensity,
    log_q: LogDensity,
    bounds: Bounds,
    n: int = 400,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Tensor:
    """KL(p || q) = ∫ p (log p − log q) in nats, after normalising both on the box; infinite where q misses p's mass."""
    points, _ = grid(bounds, n, dtype=dtype, device=device)
    lp, lq = on_grid(log_p, points), on_grid(log_q, points).to(points.device)
    lp = lp - torch.logsumexp(lp, dim=0)
    lq = lq - torch.logsumexp(lq, dim=0)
    return _expectation(lp, lp - lq)


def _expectation(log_share: Tensor, values: Tensor) -> Tensor:
    """Sum of exp(log_share) · values, where a cell without mass counts nothing whatever its value."""
    share = log_share.exp()
    return torch.where(share > 0, share * values, 0.0).sum()
