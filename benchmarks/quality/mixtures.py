"""EM beside scikit-learn's: the same path from the same start, and the best of ten starts."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from benchmarks.quality import Figure, Quality
from genmodels.data import load
from genmodels.mixtures.gmm import COVARIANCE_TYPES, GaussianMixture

ITERATIONS = 50


def sets() -> dict[str, tuple[Tensor, int]]:
    """Data (N, D) in float64 and the number of components to fit."""
    from sklearn.datasets import load_iris, load_wine

    found = {name: (load(name).train[:4000], k) for name, k in (("pinwheel", 10), ("two_spirals", 12), ("grid_25", 25))}
    found |= {"iris": (torch.from_numpy(load_iris().data), 3), "wine": (torch.from_numpy(load_wine().data), 3)}
    return {name: (x.double(), k) for name, (x, k) in found.items()}


def gmm(data_root: str | None, seed: int) -> tuple[list[Figure], int]:
    """The largest relative difference of the log-likelihood over iterations, sets and covariance types; and how far
    the best of ten starts falls short of scikit-learn's best of ten, at worst."""
    from sklearn.mixture import GaussianMixture as Theirs

    apart, short, gain = 0.0, -float("inf"), 0.0
    parameters = 0
    warnings.simplefilter("ignore")  # a peer that is stopped after each iteration says each time that it isn't done
    for x, k in sets().values():
        for kind in COVARIANCE_TYPES:
            g = torch.Generator().manual_seed(seed)
            peer_kind = {"diagonal": "diag"}.get(kind, kind)
            model = GaussianMixture(tuple(x.shape[1:]), k, kind).double()
            model.initialize(x, generator=g)
            precision = torch.linalg.inv if model.dense else torch.reciprocal
            peer = Theirs(
                k,
                covariance_type=peer_kind,
                weights_init=model.weights.detach().numpy(),
                means_init=model.mu.detach().clone().numpy(),
                precisions_init=precision(model.covariances.detach()).numpy(),
                max_iter=1,
                warm_start=True,
            )
            for _ in range(ITERATIONS):
                ours = -float(model.fit_step(x))
                theirs = peer.fit(x.numpy()).lower_bound_
                apart = max(apart, abs(ours - theirs) / abs(theirs))
            best = -model.fit(x, n_init=10, generator=g)[-1]
            theirs = Theirs(k, covariance_type=peer_kind, n_init=10, random_state=seed).fit(x.numpy()).score(x.numpy())
            short, gain = max(short, theirs - best), gain + best - theirs
            parameters = max(parameters, sum(p.numel() for p in model.parameters()))
    return [
        Figure("log-likelihood per iteration, largest relative difference", apart, must=1e-8),
        Figure("best of 10 starts, largest shortfall", short, must=1e-3, unit="nats"),
        Figure("best of 10 starts, mean gain", gain / (4 * len(sets())), must=None, unit="nats", higher_is_better=True),
    ], parameters


QUALITY: dict[str, Quality] = {
    "gmm": Quality(
        gmm,
        "5 data sets x 4 covariance types in float64, 50 iterations beside scikit-learn's from the same start; then "
        "the best of 10 starts each, where 1e-3 nats is the gain at which scikit-learn stops",
    )
}
