"""Likelihood of flows on two moons, above the entropy that no model can beat."""

from __future__ import annotations

import torch

from benchmarks.quality import Figure, Quality, train
from genmodels.data.points import density
from genmodels.evaluation.points import nll_gap

BOX = [(-2.5, 3.5), (-2.0, 2.5)]
PROTOCOL = "two moons (noise 0.1), −log-likelihood above the true entropy, both by quadrature (600 × 600 cells)"


def moons(name: str, seed: int) -> tuple[list[Figure], int]:
    """The default recipe, and the gap; the bar is for one minute of training on two cores."""
    run = train(name, data="moons", seed=seed)
    with torch.no_grad():
        gap = nll_gap(density("moons"), run.model.log_prob, BOX, 600)  # type: ignore[operator]
    return [
        Figure("NLL − entropy", gap, 0.05, 0.02, "nats"),
        Figure("training", run.seconds, 60.0, 25.0, unit="s"),
    ], run.parameters


QUALITY = {
    name: Quality(lambda data_root, seed, name=name: moons(name, seed), f"{name} on {PROTOCOL}")  # type: ignore[misc]
    for name in ("realnvp", "maf", "iaf")
}
