r"""The Fréchet distance between two Gaussians fitted to features (Heusel et al. 2017, arXiv:1706.08500).

$$d^2 = \|\mu_1 - \mu_2\|^2 + \operatorname{tr}\left(\Sigma_1 + \Sigma_2
      - 2 (\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2})^{1/2}\right),$$

which is the squared 2-Wasserstein distance between the two. The published FID takes the features of an Inception
network; what is computed here is told by the features that the caller passes, and must not be called FID unless they
are those. Samples are finite, so that real data against real data does not give 0: quote that beside it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genmodels.errors import UserError


def gaussian_frechet(mu_1: Tensor, sigma_1: Tensor, mu_2: Tensor, sigma_2: Tensor) -> Tensor:
    """Squared distance (a scalar) between N(mu_1, sigma_1) and N(mu_2, sigma_2); means (D,), covariances (D, D)."""
    values, vectors = torch.linalg.eigh(sigma_1)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T  # sigma_1^{1/2}
    cross = torch.linalg.eigvalsh(root @ sigma_2 @ root).clamp_min(0).sqrt().sum()
    return (mu_1 - mu_2).square().sum() + sigma_1.trace() + sigma_2.trace() - 2 * cross


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """Squared Fréchet distance between the features x (N, D) and y (M, D), in float64."""
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise UserError(f"expected features (N, D) and (M, D), got {tuple(x.shape)} and {tuple(y.shape)}")
    x, y = x.double(), y.double()
    return max(0.0, gaussian_frechet(x.mean(0), x.T.cov(), y.mean(0), y.T.cov()).item())


def principal_features(x: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """The mean (D,) and the first principal axes (D, components) of x (N, D): plain features for small images."""
    mu = x.mean(0)
    axes = torch.linalg.svd((x - mu).double(), full_matrices=False).Vh[:components].T
    return mu, axes.to(x.dtype)
