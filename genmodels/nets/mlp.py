"""Multi-layer perceptrons: a plain one, and one that is told the time (and the class) for points in the plane."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from genmodels.nets.embeddings import ClassEmbedding, TimeEmbedding


class MLP(nn.Sequential):
    """Linear layers with an activation between them: (B, d_in) to (B, d_out)."""

    def __init__(
        self, d_in: int, hidden: Sequence[int], d_out: int, *, activation: Callable[[], nn.Module] = nn.SiLU
    ) -> None:
        widths = [d_in, *hidden]
        layers: list[nn.Module] = []
        for a, b in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(a, b), activation()]
        super().__init__(*layers, nn.Linear(widths[-1], d_out))


class TimeMLP(nn.Module):
    """A perceptron for vectors x (B, D) at times t (B,), optionally with a class y (B,).

    Time (and class) enter as a vector added to the first layer's features; `time_scale` stretches t before the
    sinusoids (1 for t = 1..T, 1,000 for t in [0, 1]).
    """

    def __init__(
        self,
        d: int,
        *,
        width: int = 256,
        depth: int = 3,
        num_classes: int | None = None,
        time_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.embed_x = nn.Linear(d, width)
        self.embed_t = TimeEmbedding(width, scale=time_scale)
        self.embed_y = ClassEmbedding(num_classes, width) if num_classes else None
        self.net = nn.Sequential(nn.SiLU(), MLP(width, [width] * (depth - 1), d))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        h = self.embed_x(x) + self.embed_t(t)  # (B, width)
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
) -> nn.Module:
    """The usual network for data of this shape: a `TimeMLP` for vectors (D,), a `UNet` for images (C, H, W).

    `width` is the hidden width of the one (default 256) or the base channels of the other (default 32).
    """
    if len(shape) == 1:
        return TimeMLP(shape[0], width=width or 256, depth=depth, num_classes=num_classes, time_scale=time_scale)
    from genmodels.nets.unet import UNet

    return UNet(shape, width=width or 32, num_classes=num_classes, time_scale=time_scale)
