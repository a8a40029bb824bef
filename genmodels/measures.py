"""What the tour and `genmodels evaluate` measure: one function per figure, each beside its bar.

A measure takes a trained model, its data and a generator on the model's device, and returns one `Measured`, or a list
of them, the first being the one that a recipe's bar is for. Where no figure is published for a recipe's data, the bar
is a baseline that the measure itself computes in the same run (a well-fitted mixture, a bigram, real data against real
data).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from genmodels.data import Data
from genmodels.data.points import centres, density
from genmodels.errors import UserError
from genmodels.evaluation.frechet import frechet_distance, principal_features
from genmodels.evaluation.modes import mode_coverage
from genmodels.evaluation.quadrature import grid_kl
from genmodels.model import GenerativeModel, HasElbo, HasLogProb, bits_per_dim
from genmodels.zoo import RECIPES


@dataclass(frozen=True)
class Measured:
    """One figure. `must` and `aim` are baselines computed in the same run; None means that the recipe carries them."""

    value: float
    unit: str
    must: float | None = None
    aim: float | None = None
    higher_is_better: bool = False
    note: str = ""  # one line: what the figure means, what the baseline is
    extra: dict[str, float] = field(default_factory=dict)  # further figures worth a line
    name: str = ""  # told apart where a measure returns several


Measure = Callable[[GenerativeModel, Data, torch.Generator], Measured | list[Measured]]
MEASURES: dict[str, Measure] = {}


def measure(name: str) -> Callable[[Measure], Measure]:
    """Register a function under the name by which recipes ask for it."""

    def register(function: Measure) -> Measure:
        MEASURES[name] = function
        return function

    return register


def evaluate(model: GenerativeModel, data: Data, recipe: str, *, seed: int = 0) -> list[dict[str, Any]]:
    """The recipe's figures on this data, each with its bar and whether it is met, as JSON-able dictionaries.

    On the recipe's own kind of data this is its measure, with its bar on the recipe's own data set; on another kind it
    is what the model is capable of (a density, a bound), and for images the Fréchet distance of plain features.
    """
    chosen = RECIPES[recipe]
    changed = {**chosen.on.get(data.kind, {}), **chosen.on.get(data.name.partition(":")[0], {})}
    own = data.name == chosen.data
    name = str(changed.get("measure", chosen.measure)) if not own else chosen.measure
    generator = torch.Generator(model.device).manual_seed(seed)
    model.eval()
    if not own and "measure" not in changed and not _same_kind(data, chosen.data):
        found = generic(model, data, generator)
    elif name not in MEASURES:
        raise UserError(f"recipe {recipe!r} names the measure {name!r}, which does not exist")
    else:
        result = MEASURES[name](model, data, generator)
        found = result if isinstance(result, list) else [result]
    rows = []
    for i, m in enumerate(found):
        bars = (chosen.must, chosen.aim) if own and i == 0 and m.must is None else (m.must, m.aim)
        rows.append(
            {
                "name": m.name or name,
                "value": m.value,
                "unit": m.unit,
                "must": bars[0],
                "aim": bars[1],
                "higher_is_better": m.higher_is_better,
                "passed": meets(m.value, bars[0], m.higher_is_better),
                "note": m.note or (chosen.bar_source if own else ""),
                "extra": m.extra,
            }
        )
    return rows


def meets(value: float, bar: float | None, higher_is_better: bool = False) -> bool | None:
    """Whether a figure reaches its bar; None where there is no bar."""
    if bar is None:
        return None
    return value >= bar if higher_is_better else value <= bar


def line(row: dict[str, Any]) -> str:
    """One figure as a line for the terminal."""
    sign = "≥" if row["higher_is_better"] else "≤"
    bars = "".join(f"  {k} {sign} {row[k]:.4g}" for k in ("must", "aim") if row[k] is not None)
    verdict = {True: "  reached", False: "  MISSED", None: ""}[row["passed"]]
    extra = "".join(f"; {k} {v:.4g}" for k, v in row["extra"].items())
    note = f"\n    {row['note']}" if row["note"] else ""
    return f"{row['name']}: {row['value']:.4g} {row['unit']}{bars}{verdict}{extra}{note}"


def _same_kind(data: Data, name: str) -> bool:
    kinds = {"digits": "image", "shapes": "image", "text": "text", "arithmetic": "text"}
    return kinds.get(name, "points") == data.kind


def in_chunks(f: Callable[[Tensor], Tensor], x: Tensor, device: torch.device, size: int = 1000) -> Tensor:
    """f over x in chunks on the device, without gradients, back on the CPU."""
    with torch.no_grad():
        return torch.cat([f(chunk.to(device)).cpu() for chunk in x.split(size)])


def generic(model: GenerativeModel, data: Data, generator: torch.Generator, n: int = 2000) -> list[Measured]:
    """What can be said of any model on any points or images: by its density or bound, and by its samples."""
    found = []
    x = data.test[:n]
    if isinstance(model, HasLogProb):
        log_prob = in_chunks(model.log_prob, x, model.device)
        extra = {"bits/dim": bits_per_dim(log_prob, data.shape).mean().item()} if data.kind == "image" else {}
        found.append(Measured(-log_prob.mean().item(), "nats", note="−log p of test data", extra=extra, name="nll"))
    elif isinstance(model, HasElbo):
        elbo = in_chunks(model.elbo, x, model.device)
        found.append(Measured(-elbo.mean().item(), "nats", note="−ELBO of test data", name="negative_elbo"))
    if data.kind == "image":
        found.append(pixel_frechet(model, data, generator, n))
    if not found:
        raise UserError(f"nothing is known to measure {type(model).__name__} by on {data.name}")
    return found


def pixel_frechet(model: GenerativeModel, data: Data, generator: torch.Generator, n: int = 2000) -> Measured:
    """Squared Fréchet distance of samples to test images in the training images' first 64 principal axes."""
    if not isinstance(data.train, Tensor):
        raise UserError(f"{data.name} is streamed: measuring needs a set that is held in memory")
    train, test = data.train[: 10 * n].flatten(1), data.test[:n].flatten(1)
    n = len(test)
    mu, axes = principal_features(train[:5000], min(64, train.shape[1]))
    labels = None
    if data.num_classes and getattr(model, "num_classes", None):
        labels = torch.arange(n, device=model.device) % data.num_classes
    with torch.no_grad():
        parts = []
        for i in range(0, n, 500):
            y = labels[i : i + 500] if labels is not None else None
            parts.append(model.sample(min(500, n - i), y, generator=generator).cpu())
    samples = torch.cat(parts).flatten(1)
    real = frechet_distance((train[:n] - mu) @ axes, (test - mu) @ axes)
    ours = frechet_distance((samples - mu) @ axes, (test - mu) @ axes)
    note = f"not FID: Fréchet distance in 64 principal axes of the pixels, {n} samples; real against real {real:.3g}"
    return Measured(ours, "", note=note, extra={"real against real": real}, name="pixel_frechet")


@measure("mode_coverage")
def mode_coverage_25(model: GenerativeModel, data: Data, generator: torch.Generator) -> list[Measured]:
    """PacGAN's two figures for a mixture of Gaussians, from 2,500 samples: share within 3σ, and modes found."""
    means, sigma = centres(data.name)
    with torch.no_grad():
        x = model.sample(2500, generator=generator).cpu()
    modes, share = mode_coverage(x, means, sigma)
    k = len(means)
    return [
        Measured(share, "of 2,500", higher_is_better=True, name="share_within_3_sigma"),
        Measured(modes, f"of {k}", must=k - 1, aim=k, higher_is_better=True, name="modes"),
    ]


@measure("kl_grid")
def kl_grid(model: GenerativeModel, data: Data, generator: torch.Generator) -> Measured:
    """KL(data || model) of a model of points in the plane, log Z and the integral by a grid twice the data's size."""

    def log_q(x: Tensor) -> Tensor:
        return model.log_prob(x) if isinstance(model, HasLogProb) else -model.energy(x)  # type: ignore[operator]

    low, high = data.test.amin(0), data.test.amax(0)
    margin = (high - low) / 2
    box = list(zip((low - margin).tolist(), (high + margin).tolist(), strict=True))
    kl = grid_kl(density(data.name), log_q, box, 300, dtype=torch.float32, device=model.device)
    return Measured(kl.item(), "nats", note="KL(data || model) by quadrature on a grid of 300 × 300 cells")
