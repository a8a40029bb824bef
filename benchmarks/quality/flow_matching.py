"""Eight Gaussians to moons by flow matching with optimal-transport pairs.

The data are those of Tong et al. 2023 (arXiv:2302.00482): eight Gaussians of variance 0.1 at radius 5, and 3 · moons
(noise 0.2) − 1. The figures and the protocol are those of Cheng and Schwing 2025 (arXiv:2503.10636, figure 1 and the
script that they publish): 10,000 fresh samples of each, squared 2-Wasserstein distance by exact transport between the
real and the generated ones; .072 ± .025 after one Euler step and .050 ± .040 with Dormand-Prince at tolerance 1e-4,
over 10 seeds of 20,000 steps.
"""

from __future__ import annotations

import torch

from benchmarks.quality import Figure, Quality, train
from genmodels.data.points import draw
from genmodels.evaluation.points import squared_wasserstein2

SAMPLES = 10_000


def ot_cfm(data_root: str | None, seed: int) -> tuple[list[Figure], int]:
    run = train("ot_cfm", data="moons_cfm", seed=seed)
    generator = torch.Generator().manual_seed(10_000 + seed)
    x_0, real = draw("eight_gaussians_cfm", SAMPLES, generator), draw("moons_cfm", SAMPLES, generator)
    fresh = draw("moons_cfm", SAMPLES, generator)
    sample = run.model.sample
    one = sample(SAMPLES, noise=x_0, steps=1, method="euler")  # type: ignore[call-arg]
    adaptive = sample(SAMPLES, noise=x_0, method="dopri5", tolerance=1e-4)  # type: ignore[call-arg]
    return [
        Figure("squared W2, one Euler step", squared_wasserstein2(one, real), 0.10, 0.05),
        Figure("squared W2, adaptive", squared_wasserstein2(adaptive, real), 0.08, 0.03),
        Figure("squared W2, real against real", squared_wasserstein2(fresh, real), None),
        Figure("training", run.seconds, None, unit="s"),
    ], run.parameters


QUALITY = {
    "ot_cfm": Quality(
        ot_cfm,
        "eight Gaussians -> moons (Tong et al. 2023), squared 2-Wasserstein, 10,000 samples; published (Cheng and "
        "Schwing 2025): .072 in one Euler step, .050 adaptive",
    )
}
