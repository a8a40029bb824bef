r"""How far a model of points is from the truth: optimal transport between samples, and likelihood beside entropy.

The squared 2-Wasserstein distance between two clouds of n points is the least mean squared distance over all
one-to-one pairings. Between samples of the same distribution it is not 0: in the plane it falls about as log(n)/n,
so figures are comparable only at one n, and `real against real` at that n is the floor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genmodels.evaluation.quadrature import Bounds, LogDensity, grid, on_grid
from genmodels.flow_matching.ot_cfm import ot_pairing


def squared_wasserstein2(x: Tensor, y: Tensor) -> float:
    """W_2² between the clouds x and y (N, D), exact: the mean squared distance of the best pairing, no root taken.

    Costs memory for some (N, N) tables in float64 and grows as N³ at worst; 10,000 points take a minute or so.
    """
    paired = y.double()[ot_pairing(x, y)]
    return float((x.double() - paired).flatten(1).square().sum(-1).mean())


def nll_gap(
    log_p: LogDensity, log_q: LogDensity, bounds: Bounds, n: int = 500, *, dtype: torch.dtype = torch.float32
) -> float:
    """E_p[−log q] − H(p) in nats: the model's negative log-likelihood above the true entropy, by quadrature.

    `log_p` is the true density and `log_q` the model's, both normalised; q is taken as it is, so a model whose density
    does not integrate to 1 gains or pays for that. `dtype` is what the model is asked in.
    """
    points, volume = grid(bounds, n)
    lp = on_grid(log_p, points)
    lq = on_grid(log_q, points.to(dtype))
    mass = lp.exp() * volume
    return float(torch.where(mass > 0, mass * (lp - lq), 0.0).sum())
