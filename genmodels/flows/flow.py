r"""Change of variables: what every normalizing flow shares.

A flow is an invertible map $f = f_K \circ \dots \circ f_1$ from data x to noise $z = f(x)$ whose Jacobian
determinant is cheap. Probability mass is conserved, so that the density of x is the density of the noise it is sent
to, times the volume that the map stretches space by:

$$\log p(x) = \log \mathcal N(f(x); 0, I) + \sum_k \log\left|\det \frac{\partial f_k}{\partial f_{k-1}}\right|.$$

A flow layer has `forward(x) -> (z, log_det)`, towards the noise, and `inverse(z) -> (x, log_det)`, towards the data;
each log_det (B,) is that of the map which was just applied, so the two differ in sign. Fitting is maximum likelihood:
`loss` is the mean of −log p(x) in nats.

| symbol | code | shape |
|---|---|---|
| x | `x` | (B, *shape), images in [0, 1] |
| f(x), f^{-1}(z) | `forward`, `inverse` | (B, D), D the product of shape |
| log\|det\| | `log_det` | (B,), nats |

Images are flattened after a first layer, `Logit`, which opens (0, 1) to the whole line (Dinh et al. 2016,
arXiv:1605.08803, section 4.1). Pixels are integers, and a density may grow without bound on the points of a lattice;
`loss` therefore spreads each pixel uniformly over its bin of width 1/levels (dequantisation), which makes −loss a
lower bound on the log-probability of the integers, up to D log(levels).

Where students go wrong: a log_det of the wrong sign still trains, to a "likelihood" that grows without bound; a
log_det summed over the batch as well; a density quoted in logit space instead of pixel space.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genmodels.model import GenerativeModel, check_batch

LOG_2PI = math.log(2 * math.pi)


def widths(hidden: int | Sequence[int]) -> list[int]:
    """The hidden widths of a conditioner; a single number means two layers of that width."""
    return [hidden, hidden] if isinstance(hidden, int) else list(hidden)


def bounded(raw: Tensor) -> Tensor:
    """A log-scale in (-2, 2): raw itself near 0, but no layer stretches a direction by more than e^2.

    Left unbounded, one outlier early in training gives exp(raw) = inf, and the loss never comes back. This is
    2 tanh(raw / 2), written with the sigmoid, which takes half of the time on a CPU.
    """
    return 4 * torch.sigmoid(raw) - 2


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z; 0, I) of z (B, D), in nats: (B,)."""
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * LOG_2PI)


class Reverse(nn.Module):
    """Reverses the order of the dimensions: an autoregressive layer then sees the former last one first."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.flip(-1), x.new_zeros(len(x))

    inverse = forward


class Logit(nn.Module):
    """Pixels in [0, 1] to the real line: x -> logit(alpha + (1 - 2 alpha) x).

    alpha keeps black and white finite; the slack beyond 0 and 1 is where a sample may fall outside of the range.
    """

    def __init__(self, alpha: float = 0.05) -> None:
        super().__init__()
        self.alpha = alpha

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p = self.alpha + (1 - 2 * self.alpha) * x
        z = p.log() - (-p).log1p()
        return z, (math.log(1 - 2 * self.alpha) - p.log() - (-p).log1p()).sum(-1)  # dz/dp = 1 / (p (1 - p))

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x = (torch.sigmoid(z) - self.alpha) / (1 - 2 * self.alpha)
        return x, (F.logsigmoid(z) + F.logsigmoid(-z) - math.log(1 - 2 * self.alpha)).sum(-1)


class Flow(GenerativeModel):
    """A stack of flow layers over a standard normal. `levels` is the number of grey levels of an image's pixels."""

    def __init__(self, shape: Sequence[int], layers: Iterable[nn.Module], *, levels: int = 256) -> None:
        super().__init__()
        self.shape, self.levels = tuple(shape), levels
        self.is_image = len(self.shape) == 3
        self.layers = nn.ModuleList([Logit(), *layers] if self.is_image else layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Data x (B, *shape) to noise z (B, D) and log|det dz/dx| (B,)."""
        check_batch(x, self.shape)
        z = x.flatten(1)  # (B, D)
        total = z.new_zeros(len(z))
        for layer in self.layers:
            z, log_det = layer(z)
            total = total + log_det
        return z, total

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Noise z (B, D) to data x (B, *shape) and log|det dx/dz| (B,)."""
        x, total = z, z.new_zeros(len(z))
        for layer in reversed(self.layers):
            x, log_det = layer.inverse(x)  # type: ignore[operator]
            total = total + log_det
        return x.unflatten(1, self.shape), total

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), in nats: (B,)."""
        z, log_det = self(x)
        return standard_normal_log_prob(z) + log_det

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Mean negative log-likelihood in nats; an image's pixels are dequantised first."""
        if self.is_image:
            x = (x * (self.levels - 1) + torch.rand_like(x)) / self.levels
        return -self.log_prob(x).mean()

    @torch.no_grad()
    def sample(
        self,
        n: int,
        y: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """n draws (n, *shape) from noise (n, D), which is drawn unless it is given; images are clamped to [0, 1]."""
        if noise is None:
            like = next(self.parameters(), torch.empty(0))
            noise = torch.randn(n, math.prod(self.shape), generator=generator, device=like.device, dtype=like.dtype)
        x, _ = self.inverse(noise)
        return x.clamp(0, 1) if self.is_image else x


if __name__ == "__main__":
    # The simplest flow of all: the logit alone. Its density is the logistic-normal's, and it integrates to 1.
    logit = Flow((1, 1, 1), [])
    x = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    p = logit.log_prob(x.reshape(-1, 1, 1, 1)).exp()
    mass = torch.trapezoid(p, x).item()
    inside = torch.erf(torch.tensor(math.log(0.95 / 0.05) / math.sqrt(2))).item()
    print(f"mass on [0, 1] by quadrature: {mass:.6f}; mass of the noise that lands there: {inside:.6f}")
