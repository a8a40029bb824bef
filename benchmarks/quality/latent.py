"""The VAE and the IWAE on MNIST with dynamic binarisation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.quality import Figure, Quality, train
from genmodels.latent.iwae import importance_bound
from genmodels.latent.vae import VAE
from genmodels.runs import Run

# Fifty codes per image cost: both models of that comparison take these steps.
SAME: dict[str, Any] = {"steps": 3000, "batch_size": 64}


def binary_test_set(run: Run, seed: int) -> Tensor:
    """MNIST's 10,000 test images, each grey value drawn as black or white."""
    assert run.data is not None
    return torch.bernoulli(run.data.test, generator=torch.Generator().manual_seed(seed))


def negative_elbo(run: Run, x: Tensor) -> float:
    """In nats per image, one code each."""
    assert isinstance(run.model, VAE)
    with torch.no_grad():
        return -float(torch.cat([run.model.elbo(part) for part in x.split(1000)]).mean())


def vae(data_root: str | None, seed: int) -> tuple[list[Figure], int]:
    """Train by the recipe, then the bound on the whole test set."""
    run = train("vae", data="mnist", data_root=data_root, seed=seed)
    x = binary_test_set(run, seed)
    assert isinstance(run.model, VAE)
    bound = -float(importance_bound(run.model, x[::20], 1000).mean())
    return [
        Figure("test -ELBO", negative_elbo(run, x), must=101, aim=97, unit="nats"),
        Figure("training time", run.seconds, must=None, unit="s (120 on two free cores)"),
        Figure("1,000-sample bound, every 20th image", bound, must=None, unit="nats"),
    ], run.parameters


def iwae(data_root: str | None, seed: int) -> tuple[list[Figure], int]:
    """The same network, batches and steps under both objectives; every fifth test image under the same bound."""
    runs = {name: train(name, data="mnist", data_root=data_root, seed=seed, **SAME) for name in ("vae", "iwae")}
    x = binary_test_set(runs["vae"], seed)
    values = {}
    for name, run in runs.items():
        assert isinstance(run.model, VAE)
        torch.manual_seed(seed)
        values[name] = -float(importance_bound(run.model, x[::5], 1000).mean())
    elbo = negative_elbo(runs["vae"], x[::5])
    figures = [
        Figure("VAE, -ELBO", elbo, must=None, unit="nats"),
        Figure("VAE, 1,000-sample bound", values["vae"], must=None, unit="nats"),
        Figure("IWAE, 1,000-sample bound", values["iwae"], must=None, unit="nats"),
        Figure("IWAE below the VAE's -ELBO", elbo - values["iwae"], 1.5, 2.0, "nats", True),
        Figure("IWAE below the VAE, same bound", values["vae"] - values["iwae"], 1.5, 2.0, "nats", True),
    ]
    figures += [Figure(f"{k}, training time", run.seconds, None, None, "s") for k, run in runs.items()]
    return figures, runs["iwae"].parameters


QUALITY: dict[str, Quality] = {
    "vae": Quality(vae, "MNIST, dynamic binarisation, the whole test set, 2 minutes on 2 cores"),
    "iwae": Quality(
        iwae,
        "MNIST, dynamic binarisation, k = 50, the VAE's network and steps; bound with 1,000 samples on every fifth "
        "test image (Burda et al. 2016, table 1: 86.76 for a VAE, 84.78 for k = 50, after days)",
    ),
}
