r"""Embeddings of time and of class, added to a network's features.

A time t becomes the vector $[\cos(\omega_i t), \sin(\omega_i t)]_i$ with geometric frequencies
$\omega_i = P^{-i/(d/2)}$ (Vaswani et al. 2017, arXiv:1706.03762, section 3.5), so that near and far times are
both told apart. Where time runs in [0, 1], `scale` stretches it first, since the lowest frequencies are made for
hundreds of steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoidal_embedding(t: Tensor, d: int, *, max_period: float = 10_000.0) -> Tensor:
    """Map times t (B,) to (B, d), cosines first; d must be even."""
    i = torch.arange(d // 2, device=t.device, dtype=torch.float32)
    omega = torch.exp(-math.log(max_period) * i / (d // 2))
    angle = t.float()[:, None] * omega  # (B, d/2)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)  # (B, d)


class TimeEmbedding(nn.Module):
    """Sinusoids followed by a two-layer network: t (B,) to (B, d)."""

    def __init__(self, d: int, *, d_sinusoid: int = 64, scale: float = 1.0) -> None:
        super().__init__()
        self.d_sinusoid, self.scale = d_sinusoid, scale
        self.net = nn.Sequential(nn.Linear(d_sinusoid, d), nn.SiLU(), nn.Linear(d, d))

    def forward(self, t: Tensor) -> Tensor:
        shared = t.stride(0) == 0  # one time, expanded over the batch as samplers do: it is embedded once
        features = sinusoidal_embedding((t[:1] if shared else t) * self.scale, self.d_sinusoid)
        out: Tensor = self.net(features.to(next(self.net.parameters()).dtype))
        return out.expand(len(t), -1) if shared else out


class ClassEmbedding(nn.Module):
    """A vector per class, and one more for "no class": y (B,) or None to (B, d).

    The last row, index `num_classes`, is what classifier-free guidance calls the null token.
    """

    def __init__(self, num_classes: int, d: int) -> None:
        super().__init__()
        self.null = num_classes
        self.table = nn.Embedding(num_classes + 1, d)

    def forward(self, y: Tensor | None, batch: int) -> Tensor:
        if y is None:
            y = torch.full((batch,), self.null, device=self.table.weight.device)
        out: Tensor = self.table(y)
        return out
