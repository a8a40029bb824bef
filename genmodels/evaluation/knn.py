r"""Kullback-Leibler divergence between two clouds of points, from distances to nearest neighbours alone.

A density is high where the k-th neighbour is near. With $\rho_k(i)$ the distance from the i-th of n points x ~ P to its
k-th neighbour among the other x, and $\nu_k(i)$ that to its k-th neighbour among m points y ~ Q,

$$\widehat{KL}(P \| Q) = \frac{d}{n} \sum_i \log \frac{\nu_k(i)}{\rho_k(i)} + \log \frac{m}{n - 1}$$

(Wang, Kulkarni, Verdú 2009, "Divergence estimation for multidimensional densities via k-nearest-neighbor distances",
IEEE Trans. Inf. Theory 55(5), eq. 5 with one k; Pérez-Cruz 2008 shows that it converges for any fixed k). The same
volume constants stand in both densities and cancel. Students go wrong where they let a point count as its own
neighbour, and where they take a small value for proof: for P = Q the estimate scatters about 0 with a deviation of
roughly sqrt(1/n + 1/m), so always print that of real data against real data beside it; and where P reaches far beyond
all samples of Q, the estimate is too low.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree
from torch import Tensor

from genmodels.errors import UserError


def knn_kl(p_samples: Tensor, q_samples: Tensor, k: int = 5) -> float:
    """KL(P || Q) in nats, estimated from p_samples (n, d) of P and q_samples (m, d) of Q."""
    if p_samples.ndim != 2 or q_samples.ndim != 2 or p_samples.shape[1] != q_samples.shape[1]:
        shapes = f"{tuple(p_samples.shape)} and {tuple(q_samples.shape)}"
        raise UserError(f"expected points (n, d) and (m, d), got {shapes}")
    n, m, d = len(p_samples), len(q_samples), p_samples.shape[1]
    if not 1 <= k < min(n, m + 1):
        raise UserError(f"k must be at least 1 and below the number of points, got k = {k} with {n} and {m}")
    p, q = p_samples.detach().cpu().double().numpy(), q_samples.detach().cpu().double().numpy()
    rho = cKDTree(p).query(p, k=[k + 1])[0][:, 0]  # (n,); the nearest of all is the point itself
    nu = cKDTree(q).query(p, k=[k])[0][:, 0]  # (n,)
    tiny = np.finfo(np.float64).tiny  # points that repeat are at distance 0
    return float(d * np.mean(np.log(np.maximum(nu, tiny) / np.maximum(rho, tiny))) + np.log(m / (n - 1)))
