"""Networks that know the truth: the exact denoiser of noised Gaussians and mixtures, from textbook conditioning.

Nothing here comes from genmodels: schedules are rebuilt with numpy, posterior means by conditioning a joint Gaussian,
scores by differentiating a log-density.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import Phase, settings
from torch import Tensor, nn

# Few examples, and none of the search for a smaller one: a fault is seen in a second.
few = settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.generate], database=None)


def alpha_bar(T: int, schedule: str) -> np.ndarray:
    """alpha_bar_0..T by numpy: (T + 1,)."""
    if schedule == "linear":
        betas = np.minimum(np.linspace(0.1 / T, 20 / T, T), 0.999)
    else:
        f = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
        betas = np.minimum(1 - f[1:] / f[:-1], 0.999)
    return np.concatenate([[1.0], np.cumprod(1 - betas)])


class GaussianNet(nn.Module):
    """The exact prediction ("eps", "x0" or "v") for data N(mean, cov) in the model's range."""

    def __init__(self, mean: list[float], cov: list[list[float]], T: int, schedule: str, prediction: str) -> None:
        super().__init__()
        self.mean, self.cov = torch.tensor(mean, dtype=torch.float64), torch.tensor(cov, dtype=torch.float64)
        self.bar = torch.from_numpy(alpha_bar(T, schedule))
        self.prediction = prediction

    def guess(self, x: Tensor, t: int) -> Tensor:
        """E[x_0 | x_t = x]."""
        a2 = self.bar[t]
        noisy = a2 * self.cov + (1 - a2) * torch.eye(len(self.mean), dtype=torch.float64)
        gain = a2.sqrt() * self.cov @ torch.linalg.inv(noisy)
        return self.mean + (x - a2.sqrt() * self.mean) @ gain.T

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        out = torch.empty_like(x)
        for step in t.unique().tolist():
            rows = t == step
            a2 = self.bar[step]
            x_0 = self.guess(x[rows], step)
            eps = (x[rows] - a2.sqrt() * x_0) / (1 - a2).sqrt()
            v = a2.sqrt() * eps - (1 - a2).sqrt() * x_0
            out[rows] = {"eps": eps, "x0": x_0, "v": v}[self.prediction]
        return out


class MixtureNet(nn.Module):
    """The exact prediction for a mixture of isotropic Gaussians, one per class; y = K or None is the whole mixture."""

    def __init__(self, T: int, schedule: str, prediction: str) -> None:
        super().__init__()
        self.means = torch.tensor([[-1.0, 0.5], [1.2, 0.0], [0.0, -1.5]], dtype=torch.float64)
        self.weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
        self.sigma = 0.4
        self.bar = torch.from_numpy(alpha_bar(T, schedule))
        self.prediction = prediction

    def log_joint(self, x: Tensor, t: Tensor) -> Tensor:
        """log p_t(x, c) for every class: (B, K)."""
        a2 = self.bar[t][:, None]
        variance = a2 * self.sigma**2 + 1 - a2
        square = ((x[:, None] - a2.sqrt()[..., None] * self.means) ** 2).sum(-1)
        return self.weights.log() - 0.5 * square / variance - torch.log(2 * math.pi * variance)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            joint = self.log_joint(x, t)
            log_p = torch.logsumexp(joint, 1)
            if y is not None:
                own = joint.gather(1, y.clamp(max=2)[:, None])[:, 0]
                log_p = torch.where(y == 3, log_p, own)
            (score,) = torch.autograd.grad(log_p.sum(), x)
        a, s = self.bar[t].sqrt()[:, None], (1 - self.bar[t]).sqrt()[:, None]
        eps = -s * score
        x_0 = (x.detach() - s * eps) / a
        return {"eps": eps, "x0": x_0, "v": a * eps - s * x_0}[self.prediction]


class Recorder(nn.Module):
    """A network that returns zeros and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.asked.append((x, t, y))
        return torch.zeros_like(x)


def randomise(model: nn.Module, seed: int = 0, scale: float = 0.3) -> None:
    """Give every parameter a random, non-zero value: a zero start hides faults."""
    g = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        fan_in = p[0].numel() if p.ndim > 1 else 4
        p.data.copy_(torch.randn(p.shape, generator=g, dtype=torch.float64) * 2 * scale / fan_in**0.5 + 0.01)
