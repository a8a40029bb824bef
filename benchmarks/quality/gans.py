"""The grid of 25 Gaussians by the protocol of PacGAN (Lin et al. 2018, arXiv:1712.04086)."""

from __future__ import annotations

import torch

from benchmarks.quality import Figure, Quality, train
from genmodels.data.points import centres
from genmodels.evaluation.modes import mode_coverage

PROTOCOL = (
    "25 Gaussians (σ = 0.05, 2 apart), 2,500 samples: modes with a sample within 3σ, share within 3σ; "
    "published PacGAN4: 24.8 modes, 93.6 %"
)


def grid(name: str, seed: int, **changes: object) -> tuple[list[Figure], int]:
    """Two minutes of training on two cores, then the two figures."""
    run = train(name, data="grid_25", seed=seed, **changes)
    x = run.model.sample(2500, generator=torch.Generator(run.model.device).manual_seed(seed))
    means, sigma = centres("grid_25")
    modes, share = mode_coverage(x.cpu(), means, sigma)
    figures = [
        Figure("modes", modes, 24, 25, "of 25", higher_is_better=True),
        Figure("share within 3σ", 100 * share, 90.0, 97.0, "%", higher_is_better=True),
        Figure("training", run.seconds, None, unit="s"),
    ]
    return figures, run.parameters


def gan(data_root: str | None, seed: int) -> tuple[list[Figure], int]:
    return grid("gan", seed, steps=16_000)


def wgan_gp(data_root: str | None, seed: int) -> tuple[list[Figure], int]:
    # the critic learns at twice the generator's rate: fewer steps are enough (12,000 at one rate: 94 %)
    return grid("wgan_gp", seed, steps=10_000, options={"penalty": 0.5}, lrs={"critic": 4e-3, "generator": 2e-3})


QUALITY = {
    "gan": Quality(gan, "GAN, non-saturating. " + PROTOCOL),
    "wgan_gp": Quality(wgan_gp, "WGAN-GP. " + PROTOCOL),
}
