"""Multi-layer perceptrons: a plain one, and one that is told the time (and the class) for points in the plane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from genmodels.nets.embeddings import ClassEmbedding, TimeEmbedding


class MLP(nn.Sequential):
    """Linear layers with an activation between them: (B, d_in) to (B, d_out)."""

    def __init__(
        self, d_in: int, hidden: Sequence[int], d_out: int, *, activation: Callable[[], nn.Module] = nn.SiLU
    ) -> None:
        widths = [d_in, *hidden]
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b), activation()]
        super().__init__(*layers, nn.Linear(widths[-1], d_out))


class TimeMLP(nn.Module):
    """A perceptron for vectors x (B, D) at times t (B,), optionally with a class y (B,).

    Time (and class) enter as a vector added to the first layer's features; `time_scale` stretches t before the
    sinusoids (1 for t = 1..T, 1,000 for t in [0, 1]). With `frequencies` = F > 0 the first layer also sees
    sin(w x) and cos(w x) of each coordinate for w = 1/2, 1, 2, ..., 2^(F-2): a perceptron of few layers learns fine
    structure much sooner from them (Tancik et al. 2020, arXiv:2006.10739).
    """

    omega: Tensor

    def __init__(
        self,
        d: int,
        *,
        width: int = 256,
        depth: int = 3,
        num_classes: int | None = None,
        time_scale: float = 1.0,
        frequencies: int = 0,
    ) -> None:
        super().__init__()
        self.register_buffer("omega", 0.5 * 2.0 ** torch.arange(frequencies), persistent=False)
        self.embed_x = nn.Linear(d * (1 + 2 * frequencies), width)
        self.embed_t = TimeEmbedding(width, scale=time_scale)
        self.embed_y = ClassEmbedding(num_classes, width) if num_classes else None
        self.net = nn.Sequential(nn.SiLU(), MLP(width, [width] * (depth - 1), d))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        angle = (x[..., None] * self.omega).flatten(1)  # (B, D * F)
        h = self.embed_x(torch.cat([x, angle.sin(), angle.cos()], dim=1)) + self.embed_t(t)  # (B, width)
        if self.embed_y is not None:
            h = h + self.embed_y(y, len(x))
        out: Tensor = self.net(h)
        return out  # (B, D)


def time_network(
    shape: tuple[int, ...],
    *,
    width: int | None = None,
    depth: int = 3,
    num_classes: int | None = None,
    time_scale: float = 1.0,
    frequencies: int = 0,
) -> nn.Module:
    """The usual network for data of this shape: a `TimeMLP` for vectors (D,), a `UNet` for images (C, H, W).

    `width` is the hidden width of the one (default 256) or the base channels of the other (default 32); `depth` and
    `frequencies` are the former's.
    """
    if len(shape) == 1:
        return TimeMLP(
            shape[0],
            width=width or 256,
            depth=depth,
            num_classes=num_classes,
            time_scale=time_scale,
            frequencies=frequencies,
        )
    from genmodels.nets.unet import UNet

    return UNet(shape, width=width or 32, num_classes=num_classes, time_scale=time_scale)
