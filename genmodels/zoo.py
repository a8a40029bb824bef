"""The table of recipes: for each model, the data, sizes and steps with which it reaches its bar on a CPU.

Importing this table imports no model and no torch; `build` resolves the dotted path only when it is asked to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """How one model is built and trained by default.

    `model` is "module:Class". `options` are the constructor's keyword arguments (its `shape`, `num_classes` and
    `vocab_size`, where it takes them, come from the data); `train` holds fields of `training.TrainSettings`. `on`
    changes both for another data set or kind of data ("mnist", "image", "text"), the data set's name going first.
    `measure` names the function in `measures.py` whose figure the tour shows; `must` and `aim` are its bars, or None
    where the measure computes its own baseline in the same run; `bar_source` says where the bar comes from.
    """

    model: str
    data: str
    options: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    on: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    measure: str = ""
    must: float | None = None
    aim: float | None = None
    bar_source: str = ""


RECIPES: dict[str, Recipe] = {
    # maximum_likelihood, mixtures
    # latent
    # flows
    # gans
    "gan": Recipe(
        model="genmodels.gans.gan:GAN",
        data="grid_25",
        options={"latent": 2, "r1": 0.001},
        train={
            "steps": 6000,
            "batch_size": 256,
            "lr": 1e-3,
            "betas": (0.5, 0.99),
            "schedule": "cosine",
            "final_lr": 0.02,
            "ema": 0.99,
        },
        on={
            "image": {
                "options": {"latent": 64, "width": 16, "r1": 1.0},
                "train": {"steps": 3000, "batch_size": 64, "lr": 5e-4, "betas": (0.0, 0.99), "ema": 0.995},
            }
        },
        measure="mode_coverage",
        must=0.90,
        aim=0.97,
        bar_source="PacGAN (arXiv:1712.04086): 24.8 of 25 modes, 93.6 % within 3σ",
    ),
    "wgan_gp": Recipe(
        model="genmodels.gans.wgan_gp:WGANGP",
        data="grid_25",
        options={"latent": 2, "penalty": 0.1, "n_critic": 3},
        train={
            "steps": 1500,
            "batch_size": 256,
            "lr": 1e-3,
            "betas": (0.0, 0.99),
            "schedule": "cosine",
            "final_lr": 0.02,
            "ema": 0.99,
        },
        on={
            "image": {
                "options": {"latent": 64, "width": 16, "penalty": 10.0, "n_critic": 3},
                "train": {"steps": 1000, "batch_size": 64, "lr": 5e-4, "ema": 0.995},
            }
        },
        measure="mode_coverage",
    ),
    # energy
    "ebm": Recipe(
        model="genmodels.energy.ebm:EBM",
        data="eight_gaussians",
        options={"hidden": (128, 128, 128), "steps": 10, "step_size": 0.03, "reinit": 0.001, "buffer_size": 1024},
        train={
            "steps": 1500,
            "batch_size": 256,
            "lr": 4e-3,
            "betas": (0.9, 0.99),
            "schedule": "cosine",
            "final_lr": 0.02,
            "ema": 0.99,
        },
        measure="kl_grid",
        must=0.1,
        aim=0.03,
        bar_source="KL(data || model) in nats, the project's bar",
    ),
    # diffusion
    # flow_matching
    # language
    # discrete_diffusion
}
