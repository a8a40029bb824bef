r"""The multivariate Gaussian, fitted by maximum likelihood: in closed form, or by gradient descent.

It is the one model for which everything can be written down: the density, the estimate, the divergence between two
of them. What later modules approximate (a likelihood, a gradient, a KL term) can be checked here against the truth.

Density and log-likelihood of N points (Bishop 2006, *Pattern Recognition and Machine Learning*, eqs 2.43, 2.118):

$$\log p(x) = -\tfrac12 (x-\mu)^\top \Sigma^{-1} (x-\mu) - \tfrac12 \log|\Sigma| - \tfrac D2 \log 2\pi$$

Its gradient vanishes at the sample moments (eqs 2.121, 2.122), whose covariance divides by N, not by N - 1:

$$\hat\mu = \tfrac1N \sum_n x_n, \qquad \hat\Sigma = \tfrac1N \sum_n (x_n-\hat\mu)(x_n-\hat\mu)^\top$$

Divergence: $\mathrm{KL}(p \| q) = \tfrac12 \big[\mathrm{tr}(\Sigma_q^{-1}\Sigma_p)
+ (\mu_q-\mu_p)^\top \Sigma_q^{-1} (\mu_q-\mu_p) - D + \log(|\Sigma_q| / |\Sigma_p|)\big]$.

| symbol | code | shape |
|---|---|---|
| $\mu$ | `mu` | (D,) |
| $L$, lower, with $\Sigma = L L^\top$ | `cholesky_factor(raw)` | (D, D) |
| $L$ below the diagonal, $\log L_{ii}$ on it | `raw` | (D, D), any real numbers |
| $L^{-1}(x-\mu)$, white noise under the model | `z` | (B, D) |

Data: real vectors of any scale; other shapes (images) are flattened to D numbers. No time.

Where students go wrong: stepping along the gradient of $\Sigma$ itself soon leaves the positive definite matrices,
after which the log-determinant is not a number; `raw` may go anywhere. Forgetting $\log|\Sigma|$ lets $\Sigma$ grow
without end. Solving with L costs less than inverting $\Sigma$, and loses half as many digits.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from genmodels.errors import UserError
from genmodels.model import GenerativeModel, check_batch


def cholesky_factor(raw: Tensor) -> Tensor:
    """Any square matrices (..., D, D) to lower triangular ones with a positive diagonal."""
    return raw.tril(-1) + torch.diag_embed(raw.diagonal(dim1=-2, dim2=-1).exp())


def unconstrained(covariance: Tensor) -> Tensor:
    """The inverse: `raw` (..., D, D) with cholesky_factor(raw) cholesky_factor(raw)^T = covariance (..., D, D).

    Raises UserError where a covariance is not positive definite (fewer points than dimensions, equal columns).
    """
    factor, info = torch.linalg.cholesky_ex(covariance)
    if bool((info != 0).any()) or not bool(factor.isfinite().all()):
        raise UserError("a covariance is not positive definite: too few or degenerate points for its dimensions")
    return factor.tril(-1) + torch.diag_embed(factor.diagonal(dim1=-2, dim2=-1).log())


class Gaussian(GenerativeModel):
    """N(mu, Sigma) with a full covariance; starts as the standard normal."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.d = math.prod(self.shape)
        self.mu = nn.Parameter(torch.zeros(self.d))
        self.raw = nn.Parameter(torch.zeros(self.d, self.d))

    @property
    def covariance(self) -> Tensor:
        """Sigma (D, D)."""
        factor = cholesky_factor(self.raw)
        return factor @ factor.T

    @torch.no_grad()
    def set_parameters(self, mean: Tensor, covariance: Tensor) -> None:
        """Set mu (D,) and Sigma (D, D)."""
        self.mu.copy_(mean.reshape(self.d))
        self.raw.copy_(unconstrained(covariance))

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, (B,), for x (B, *shape)."""
        check_batch(x, self.shape)
        factor = cholesky_factor(self.raw)
        centred = x.flatten(1) - self.mu  # (B, D)
        z = torch.linalg.solve_triangular(factor, centred.T, upper=False).T  # (B, D)
        half_log_det = self.raw.diagonal().sum()  # log|L| = 1/2 log|Sigma|
        return -0.5 * z.square().sum(1) - half_log_det - 0.5 * self.d * math.log(2 * math.pi)

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Mean negative log-likelihood in nats: the road by gradient descent."""
        return -self.log_prob(x).mean()

    @torch.no_grad()
    def fit_step(self, x: Tensor) -> Tensor:
        """Put the parameters at the maximum of the likelihood of x (N, *shape); returns the loss before.

        Raises UserError for points that are not finite or do not span the D dimensions.
        """
        before = self.loss(x)
        points = x.flatten(1)  # (N, D)
        if len(points) == 0 or not bool(points.isfinite().all()):
            raise UserError("the data holds no points, or some that are infinite or not a number")
        mean = points.mean(0)
        centred = points - mean
        self.set_parameters(mean, centred.T @ centred / len(points))
        return before

    def fit(self, x: Tensor) -> Gaussian:
        """The maximum-likelihood estimate from x (N, *shape), in one step; returns the model itself."""
        self.fit_step(x)
        return self

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw (n, *shape): x = mu + L z for white noise z."""
        z = torch.randn(n, self.d, generator=generator, device=self.device, dtype=self.mu.dtype)
        return (self.mu + z @ cholesky_factor(self.raw).T).view(n, *self.shape)


def kl_divergence(p: Gaussian, q: Gaussian) -> Tensor:
    """KL(p || q) in nats, a scalar that gradients pass through; raises UserError for different dimensions."""
    if p.d != q.d:
        raise UserError(f"Gaussians of {p.d} and {q.d} dimensions have no divergence")
    factor_q = cholesky_factor(q.raw)
    right = torch.cat([cholesky_factor(p.raw), (p.mu - q.mu)[:, None]], dim=1)  # (D, D + 1)
    whitened = torch.linalg.solve_triangular(factor_q, right, upper=False)  # trace and distance in one solve
    return 0.5 * (whitened.square().sum() - p.d) + q.raw.diagonal().sum() - p.raw.diagonal().sum()


if __name__ == "__main__":
    from genmodels.cli import run_recipe

    run_recipe("gaussian")
