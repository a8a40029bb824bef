"""One EM iteration of a mixture of Gaussians, beside scikit-learn's, from the same parameters on the same points."""

from __future__ import annotations

import functools
import warnings

import torch

from benchmarks.speed import Case, Contender
from genmodels.mixtures.gmm import GaussianMixture

N, D, K = 100_000, 16, 16


def em_iteration(kind: str) -> dict[str, Contender]:
    """E-step, M-step and the new Cholesky factors. scikit-learn runs the two methods that its own `fit` repeats, so
    that neither its checks of the input nor its start are counted."""
    from sklearn.mixture import GaussianMixture as Theirs

    torch.manual_seed(0)
    centres = 3 * torch.randn(K, D, dtype=torch.float64)
    x = centres[torch.randint(K, (N,))] + torch.randn(N, D, dtype=torch.float64) @ torch.randn(D, D).double() / 2
    ours = GaussianMixture((D,), K, kind).double()
    ours.initialize(x)
    points = x.numpy()
    peer_kind = {"diagonal": "diag"}.get(kind, kind)
    precision = {"full": torch.linalg.inv, "tied": torch.linalg.inv}.get(kind, torch.reciprocal)
    theirs = Theirs(
        K,
        covariance_type=peer_kind,
        max_iter=1,
        weights_init=ours.weights.detach().numpy(),
        means_init=ours.mu.detach().clone().numpy(),
        precisions_init=precision(ours.covariances.detach()).numpy(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that one iteration is not convergence
        theirs.fit(points)
    ours.fit_step(x)

    def peer() -> None:
        _, log_responsibilities = theirs._e_step(points)
        theirs._m_step(points, log_responsibilities)

    count = sum(p.numel() for p in ours.parameters())
    return {"ours": Contender(lambda: ours.fit_step(x), count), "scikit-learn": Contender(peer, count)}


CASES: list[Case] = [
    Case(
        f"EM iteration, {kind}, N = {N:,}, d = {D}, K = {K}, float64",
        functools.partial(em_iteration, kind),
        must=0.7 if kind == "full" else None,
        aim=0.4 if kind == "full" else None,
    )
    for kind in ("full", "tied", "diagonal", "spherical")
]
