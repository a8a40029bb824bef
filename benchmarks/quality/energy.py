"""The energy-based model on eight Gaussians, against their exact density."""

from __future__ import annotations

import torch

from benchmarks.quality import Figure, Quality, train
from genmodels.data.points import density
from genmodels.energy.ebm import EBM
from genmodels.evaluation.quadrature import grid_kl

BOX = ((-9.0, 9.0), (-9.0, 9.0))  # the data ends near 4.2; the model's Gaussian has σ = 4


def ebm(data_root: str | None, seed: int) -> tuple[list[Figure], int]:
    run = train("ebm", data="eight_gaussians", seed=seed)
    model = run.model
    assert isinstance(model, EBM)
    kl = grid_kl(density("eight_gaussians"), lambda x: -model.energy(x), BOX, 360, dtype=torch.float32)
    figures = [
        Figure("KL(data || model)", kl.item(), 0.1, 0.03, "nats"),
        Figure("training", run.seconds, None, unit="s"),
    ]
    return figures, run.parameters


QUALITY = {"ebm": Quality(ebm, "eight Gaussians (σ = 0.354): KL(data || model) by quadrature on a 360 × 360 grid")}
