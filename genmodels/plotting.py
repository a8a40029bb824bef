"""Pictures: what samples, curves, densities, codes and trajectories look like. Every function returns a `Figure`.

Figures are made without pyplot, so that no window system and no global state is involved; in a notebook a returned
figure shows itself.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

INK, PAPER, ACCENT, SECOND = "#22223b", "#ffffff", "#2a6f97", "#e07a5f"


def png(figure: Figure, *, dpi: int = 110) -> bytes:
    """The figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor=PAPER, bbox_inches="tight")
    return buffer.getvalue()


def _square(figure: Figure, limits: tuple[float, float, float, float] | None = None) -> object:
    axes = figure.add_subplot()
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color("#cccccc")
    if limits:
        axes.set_xlim(*limits[:2])
        axes.set_ylim(*limits[2:])
    return axes


def bounds(x: Tensor, margin: float = 0.12) -> tuple[float, float, float, float]:
    """Limits (left, right, bottom, top) that hold the points (N, 2) with a margin."""
    lower, upper = x.amin(0), x.amax(0)
    pad = margin * (upper - lower).max()
    (a, c), (b, d) = (lower - pad).tolist(), (upper + pad).tolist()
    return a, b, c, d


def points(samples: Tensor, data: Tensor | None = None, *, title: str = "") -> Figure:
    """Samples (N, 2) over the data in grey; only the first two coordinates are shown."""
    samples = samples.detach().float().cpu()[:, :2]
    figure = Figure(figsize=(4, 4))
    shown = data.detach().float().cpu()[:, :2] if data is not None else None
    axes = _square(figure, bounds(shown if shown is not None else samples))
    if shown is not None:
        axes.scatter(*shown[:4000].T.tolist(), s=2, color="#c9c9c9", linewidths=0, label="data")  # type: ignore[attr-defined]
    axes.scatter(*samples[:4000].T.tolist(), s=2, color=ACCENT, linewidths=0, label="samples")  # type: ignore[attr-defined]
    if shown is not None:
        axes.legend(loc="upper right", frameon=False, markerscale=4, fontsize=8)  # type: ignore[attr-defined]
    axes.set_title(title, fontsize=10)  # type: ignore[attr-defined]
    return figure


def density(log_density: Tensor, limits: tuple[float, float, float, float], *, title: str = "") -> Figure:
    """A log-density on a grid (rows: second coordinate, upwards), shown as a density."""
    figure = Figure(figsize=(4, 4))
    axes = _square(figure, limits)
    values = (log_density - log_density.max()).exp().cpu().numpy()
    axes.imshow(values, origin="lower", extent=limits, cmap="magma", interpolation="bilinear", aspect="auto")  # type: ignore[attr-defined]
    axes.set_title(title, fontsize=10)  # type: ignore[attr-defined]
    return figure


def images(x: Tensor, *, columns: int | None = None, title: str = "") -> Figure:
    """A grid of images (N, C, H, W) in [0, 1]."""
    x = x.detach().float().cpu().clamp(0, 1)
    n = len(x)
    columns = columns or min(n, math.ceil(math.sqrt(n)))
    rows = math.ceil(n / columns)
    h, w = x.shape[2:]
    canvas = torch.ones(x.shape[1], rows * (h + 1) + 1, columns * (w + 1) + 1)
    for i, image in enumerate(x):
        top, left = (i // columns) * (h + 1) + 1, (i % columns) * (w + 1) + 1
        canvas[:, top : top + h, left : left + w] = image
    figure = Figure(figsize=(min(8.0, 0.55 * columns + 0.5), min(8.0, 0.55 * rows * h / w + 0.5)))
    axes = figure.add_subplot()
    picture = canvas.permute(1, 2, 0).squeeze(-1).numpy()
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=10)
    return figure


def text(passage: str, *, title: str = "", width: int = 72, lines: int = 22) -> Figure:
    """A passage as it would be typed."""
    rows = [row[i : i + width] for row in passage.split("\n") for i in range(0, max(1, len(row)), width)][:lines]
    figure = Figure(figsize=(6.2, 0.19 * len(rows) + 0.5))
    shown = "\n".join(rows).replace("$", r"\$")
    figure.text(0.02, 0.95, shown, family="monospace", fontsize=8, va="top", color=INK)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def curves(log: Sequence[Mapping[str, float]], *, title: str = "") -> Figure:
    """The training losses of a run's log against the step."""
    figure = Figure(figsize=(4.6, 2.8))
    axes = figure.add_subplot()
    names = [k for k in (log[-1] if log else {}) if k.startswith("loss")]
    for name, colour in zip(names, (ACCENT, SECOND, INK), strict=False):
        axes.plot([r["step"] for r in log], [r[name] for r in log], lw=0.9, color=colour, label=name)
    values = sorted(r[n] for r in log for n in names)
    if len(values) > 20:  # the first steps would flatten the rest of the curve
        low, high = values[0], values[int(0.97 * len(values))]
        axes.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low) + 1e-9)
    axes.set_xlabel("step", fontsize=8)
    axes.set_ylabel("loss", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    if len(names) > 1:
        axes.legend(frameon=False, fontsize=7)
    axes.set_title(title, fontsize=10)
    return figure


def codes(z: Tensor, labels: Tensor | None = None, *, title: str = "") -> Figure:
    """Codes (N, d), by their first two principal axes where d > 2, coloured by class."""
    z = z.detach().float().cpu()
    if z.shape[1] > 2:
        z = z - z.mean(0)
        z = z @ torch.linalg.svd(z, full_matrices=False).Vh[:2].T
    figure = Figure(figsize=(4, 4))
    axes = _square(figure, bounds(z))
    colour = labels.cpu().tolist() if labels is not None else ACCENT
    axes.scatter(*z.T.tolist(), s=5, c=colour, cmap="tab10", linewidths=0)  # type: ignore[attr-defined]
    axes.set_title(title, fontsize=10)  # type: ignore[attr-defined]
    return figure


def trajectory(path: Tensor, *, title: str = "") -> Figure:
    """Paths (T, N, 2) from their start (dark) to their end (bright)."""
    path = path.detach().float().cpu()[..., :2]
    figure = Figure(figsize=(4, 4))
    axes = _square(figure, bounds(path.reshape(-1, 2)))
    axes.plot(path[..., 0].tolist(), path[..., 1].tolist(), lw=0.4, color="#9a9a9a", alpha=0.5)  # type: ignore[attr-defined]
    axes.scatter(*path[0].T.tolist(), s=4, color=INK, linewidths=0, zorder=3, label="start")  # type: ignore[attr-defined]
    axes.scatter(*path[-1].T.tolist(), s=4, color=SECOND, linewidths=0, zorder=3, label="end")  # type: ignore[attr-defined]
    axes.legend(loc="upper right", frameon=False, markerscale=3, fontsize=8)  # type: ignore[attr-defined]
    axes.set_title(title, fontsize=10)  # type: ignore[attr-defined]
    return figure
