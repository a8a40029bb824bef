r"""RealNVP: a flow of affine couplings.

A coupling layer splits x into two parts, leaves one alone and lets it choose an affine map for the other. However
complicated the networks that choose, the layer is inverted by a subtraction and a division, and its Jacobian is
triangular: the log-determinant is a sum. Successive layers swap the parts, so that everything is transformed.
Density and sampling both take one pass, which neither MAF nor IAF can offer; the price is that half of the
dimensions stand still in each layer, so more layers are needed.

With $x_a$ the part that stays and $x_b$ the part that moves, equations (4)-(8) of the paper:

$$z_a = x_a, \qquad z_b = x_b \odot \exp(s(x_a)) + t(x_a), \qquad \log\left|\det \frac{\partial z}{\partial x}\right|
= \sum_j s_j(x_a), \qquad x_b = (z_b - t(z_a)) \odot \exp(-s(z_a)).$$

| symbol | code | shape |
|---|---|---|
| x_a, x_b | `x_a`, `x_b` | (B, D/2) |
| s, t | `s`, `t` | (B, D/2), log-scale and shift |
| z | `z` | (B, D), standard normal |

Data: vectors (D,) with D ≥ 2 in any units near 1, or images (C, H, W) in [0, 1] (flattened; see `flows/flow.py`).

Reference: Dinh, Sohl-Dickstein and Bengio 2016, arXiv:1605.08803. We differ: halves (for images, even and odd
positions) instead of a multi-scale architecture, one network for both s and t, a smoothly bounded log-scale
(`flow.bounded` says why), and no batch normalisation, which would make log p(x) depend on the rest of the batch.

Where students go wrong: without the swap half of x is never modelled and stays as it is; the inverse adds t before
it divides instead of subtracting it first; the log-determinant keeps its sign in the inverse.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genmodels.errors import UserError
from genmodels.flows.flow import Flow, bounded, widths
from genmodels.nets.mlp import MLP


class AffineCoupling(nn.Module):
    """One coupling; `swap` makes the second half choose the map of the first."""

    def __init__(self, d: int, hidden: Sequence[int], *, swap: bool = False) -> None:
        super().__init__()
        self.swap = swap
        self.split = [d // 2, d - d // 2]
        d_a, d_b = reversed(self.split) if swap else self.split
        self.net = MLP(d_a, hidden, 2 * d_b, activation=nn.ReLU)
        for parameter in self.net[-1].parameters():
            nn.init.zeros_(parameter)  # the flow starts as the identity

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, D) to the part that stays x_a (B, d_a) and the part that moves x_b (B, d_b)."""
        first, second = x.split(self.split, dim=-1)
        return (second, first) if self.swap else (first, second)

    def join(self, x_a: Tensor, x_b: Tensor) -> Tensor:
        return torch.cat([x_b, x_a] if self.swap else [x_a, x_b], dim=-1)

    def scale_and_shift(self, x_a: Tensor) -> tuple[Tensor, Tensor]:
        """s, t (B, d_b) from x_a (B, d_a)."""
        s, t = self.net(x_a).chunk(2, dim=-1)
        return bounded(s), t

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x_a, x_b = self.halves(x)
        s, t = self.scale_and_shift(x_a)
        z_b = torch.addcmul(t, x_b, s.exp())  # eq. (7)
        return self.join(x_a, z_b), s.sum(-1)  # eq. (6)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        z_a, z_b = self.halves(z)
        s, t = self.scale_and_shift(z_a)  # the part that stayed is known, so the map is too
        x_b = (z_b - t) / s.exp()  # eq. (8)
        return self.join(z_a, x_b), -s.sum(-1)


class EvenOdd(nn.Module):
    """Even positions first, then odd: neighbouring pixels fall into different halves and so can explain each other."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([x[:, ::2], x[:, 1::2]], dim=-1), x.new_zeros(len(x))

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.empty_like(z)
        x[:, ::2], x[:, 1::2] = z.tensor_split([(z.shape[-1] + 1) // 2], dim=-1)
        return x, z.new_zeros(len(z))


class RealNVP(Flow):
    """`num_layers` couplings whose networks have the hidden widths `hidden` (a number means two such layers)."""

    def __init__(
        self, shape: Sequence[int], num_layers: int = 8, hidden: int | Sequence[int] = 128, *, levels: int = 256
    ) -> None:
        d = math.prod(shape)
        if d < 2:
            raise UserError("a coupling needs at least 2 dimensions to split; for one use flows.maf")
        couplings = [AffineCoupling(d, widths(hidden), swap=k % 2 == 1) for k in range(num_layers)]
        first = [EvenOdd()] if len(shape) == 3 else []
        super().__init__(shape, [*first, *couplings], levels=levels)


if __name__ == "__main__":
    from genmodels.cli import run_recipe

    run_recipe("realnvp")
