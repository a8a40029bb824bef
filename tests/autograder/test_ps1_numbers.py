"""The solution of problem set 1, sections 1 and 2, against scipy, scikit-learn, integrals and autograd."""

from __future__ import annotations

import itertools
import math
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from autograder.executor import load_cells
from autograder.problem_set import ProblemSet, load

FOLDER = "ps1"


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def spd(k: int, d: int, seed: int = 0) -> Tensor:
    a = randn(k, d, d, seed=seed)
    return a @ a.mT / d + 0.3 * torch.eye(d, dtype=torch.float64)


@pytest.fixture(scope="module")
def ps() -> ProblemSet:
    return load(FOLDER)


@pytest.fixture(scope="module")
def s(ps: ProblemSet) -> SimpleNamespace:
    """The names that the solution defines."""
    namespace: dict[str, object] = {}
    problems = load_cells(namespace, ps.solution_cells())["problems"]
    assert not problems
    return SimpleNamespace(**namespace)


def close(actual: Any, expected: Any, rtol: float = 1e-9, atol: float = 1e-11) -> None:
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=rtol, atol=atol)


# 1. Maximum likelihood


@pytest.mark.parametrize("seed", range(3))
def test_gaussian_mle_is_a_maximum(s: SimpleNamespace, seed: int) -> None:
    """The gradient of the likelihood vanishes at the estimate, and any other parameters are worse."""
    stats = pytest.importorskip("scipy.stats")
    x = randn(40, 3, seed=seed) @ randn(3, 3, seed=seed + 10) + 5
    mean, cov = s.gaussian_mle(x)
    leaves = mean.clone().requires_grad_(), cov.clone().requires_grad_()
    likelihood = torch.distributions.MultivariateNormal(leaves[0], covariance_matrix=leaves[1]).log_prob(x).sum()
    for gradient in torch.autograd.grad(likelihood, leaves):
        assert float(gradient.abs().max()) < 1e-7
    close(likelihood.detach(), stats.multivariate_normal(mean.numpy(), cov.numpy()).logpdf(x.numpy()).sum())
    for i in range(20):
        other = mean + 0.1 * randn(3, seed=i), cov + 0.05 * cov.diagonal().min() * torch.diag(randn(3, seed=i + 50))
        assert stats.multivariate_normal(other[0].numpy(), other[1].numpy()).logpdf(x.numpy()).sum() < likelihood


def test_gaussian_mle_far_from_the_origin(s: SimpleNamespace) -> None:
    x = (randn(50, 2) * 1024).round() / 1024  # on a grid, so that adding 1e8 loses nothing
    near, far = s.gaussian_mle(x)[1], s.gaussian_mle(x + 1e8)[1]
    close(far, near, rtol=1e-7)


def test_bernoulli_against_scipy(s: SimpleNamespace) -> None:
    stats = pytest.importorskip("scipy.stats")
    logits, x = 3 * randn(6), (rand(40, 6) < 0.4).double()
    theta = 1 / (1 + np.exp(-logits.numpy()))
    close(s.bernoulli_log_prob(logits, x), stats.bernoulli(theta).logpmf(x.numpy()).sum(1))
    everything = torch.tensor(list(itertools.product([0.0, 1.0], repeat=6)), dtype=torch.float64)
    close(s.bernoulli_log_prob(logits, everything).exp().sum(), 1.0)


def test_bernoulli_at_the_edge(s: SimpleNamespace) -> None:
    logits = torch.tensor([1e4, -1e4, 1e5], dtype=torch.float64)
    x = torch.tensor([[1, 0, 1], [0, 0, 1], [0, 1, 0]], dtype=torch.float64)
    close(s.bernoulli_log_prob(logits, x), [0.0, -1e4, -1.2e5])
    leaf = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(s.bernoulli_log_prob(leaf, x).sum(), leaf)
    close(gradient, [-2.0, 1.0, -1.0])


def test_bernoulli_mle_is_a_maximum(s: SimpleNamespace) -> None:
    x = (rand(60, 4, seed=3) < 0.3).double()
    logits = s.bernoulli_mle(x).requires_grad_()
    (gradient,) = torch.autograd.grad(s.bernoulli_log_prob(logits, x).sum(), logits)
    assert float(gradient.abs().max()) < 1e-9


def test_categorical(s: SimpleNamespace) -> None:
    special = pytest.importorskip("scipy.special")
    logits = 5 * randn(7)
    close(s.categorical_log_prob(logits, torch.arange(7)), special.log_softmax(logits.numpy()))
    some = torch.tensor([5, 1, 5])  # the normaliser counts all classes, not those that are asked for
    close(s.categorical_log_prob(logits, some), special.log_softmax(logits.numpy())[[5, 1, 5]])
    extreme = torch.tensor([1e4, -1e4, 1e4, 0.0], dtype=torch.float64)
    edges = [-math.log(2), -2e4 - math.log(2), -math.log(2), -1e4 - math.log(2)]
    close(s.categorical_log_prob(extreme, torch.arange(4)), edges)
    x = torch.tensor([0, 2, 2, 1, 2])
    close(s.categorical_mle(x, 4), [0.2, 0.2, 0.6, 0.0])
    # the mean of a Dirichlet posterior under a prior of 0.5 each
    dirichlet = pytest.importorskip("scipy.stats").dirichlet([1.5, 1.5, 3.5, 0.5])
    close(s.categorical_mle(x, 4, pseudo_count=0.5), dirichlet.mean())


def test_sgd_is_torch_optim_and_leaves_its_inputs(s: SimpleNamespace) -> None:
    x, batches = randn(30, 2), torch.randint(30, (9, 5), generator=torch.Generator().manual_seed(0))
    start = [randn(2, seed=1), randn(2, seed=2)]
    kept = [p.clone() for p in start]

    def log_prob(b: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
        return torch.distributions.Normal(mean, log_std.exp()).log_prob(b).sum(1)

    theirs = [torch.nn.Parameter(p.clone()) for p in start]
    optimizer = torch.optim.SGD(theirs, lr=0.07)
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        loss = -log_prob(x[batch], *theirs).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    ours, our_losses = s.fit_by_sgd(log_prob, start, x, batches, 0.07)
    close(our_losses, losses)
    for a, b, c, d in zip(ours, theirs, start, kept, strict=True):
        close(a, b.detach())
        assert torch.equal(c, d)
        assert not a.requires_grad


# 2. Mixtures and EM


def mixture(k: int, d: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    return randn(k, seed=seed), 2 * randn(k, d, seed=seed + 1), spd(k, d, seed=seed + 2)


@pytest.mark.parametrize("seed", range(3))
def test_densities_against_scipy(s: SimpleNamespace, seed: int) -> None:
    stats, special = pytest.importorskip("scipy.stats"), pytest.importorskip("scipy.special")
    logits, means, covs = mixture(4, 3, seed)
    x = 3 * randn(25, 3, seed=seed + 9)
    normals = [stats.multivariate_normal(m.numpy(), c.numpy()) for m, c in zip(means, covs, strict=True)]
    log_density = np.stack([n.logpdf(x.numpy()) for n in normals], 1)
    close(s.gaussian_log_prob(x, means, covs), log_density)
    joint = special.log_softmax(logits.numpy()) + log_density
    close(s.mixture_log_prob(x, logits, means, covs), special.logsumexp(joint, 1))
    close(s.log_sum_exp(torch.tensor(joint)), special.logsumexp(joint, 1))
    close(s.responsibilities(logits, torch.tensor(log_density)), special.softmax(joint, 1))


def test_mixture_integrates_to_one(s: SimpleNamespace) -> None:
    axis = torch.linspace(-14, 14, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    logits, means, covs = mixture(3, 2)
    mass = s.mixture_log_prob(grid, logits, means, covs).exp().sum() * (axis[1] - axis[0]) ** 2
    close(mass, 1.0, rtol=1e-5)


def test_edges_of_floats(s: SimpleNamespace) -> None:
    special = pytest.importorskip("scipy.special")
    a = torch.tensor([[1e4, 1e4 - 1, -1e4], [-1e4, -1e4 - 2, -2e4], [1e300, 0, -1e300]], dtype=torch.float64)
    close(s.log_sum_exp(a), special.logsumexp(a.numpy(), 1), rtol=1e-14)
    logits = torch.tensor([1e4, -1e4, 0.0], dtype=torch.float64)
    log_density = torch.tensor([[-1.0, 2e4, 1e4], [-1e6, -1e6, -1e6 + 1e4]], dtype=torch.float64)
    close(s.responsibilities(logits, log_density).sum(1), [1.0, 1.0])
    close(s.responsibilities(logits, log_density)[0], special.softmax([9999.0, 1e4, 1e4]))
    close(s.responsibilities(logits, log_density)[1], special.softmax([1e4, -1e4, 1e4]))
    _, means, covs = mixture(3, 2)
    far = means[:1] + 1e3  # every density is 0 here in floating point, and one component is all that counts
    joint = torch.tensor([0.0, -2e4, -1e4]) + s.gaussian_log_prob(far, means, covs)
    close(s.mixture_log_prob(far, logits, means, covs), joint.max(1).values, rtol=1e-12)


def test_one_component_is_the_closed_form(s: SimpleNamespace) -> None:
    x = randn(30, 3) + 4
    weights, means, covs = s.m_step(x, torch.ones(30, 1, dtype=torch.float64), ridge=0.0)
    mean, cov = s.gaussian_mle(x)
    close(weights, [1.0])
    close(means[0], mean)
    close(covs[0], cov)
    close(s.m_step(x, torch.ones(30, 1, dtype=torch.float64), ridge=0.25)[2][0], cov + 0.25 * np.eye(3))


def test_m_step_maximises_the_expected_likelihood(s: SimpleNamespace) -> None:
    """The gradient of sum r log(pi N) vanishes, along all directions that keep the weights' sum."""
    x, r = randn(50, 2), randn(50, 3, seed=1).softmax(1)
    weights, means, covs = (p.requires_grad_() for p in s.m_step(x, r, ridge=0.0))
    log_density = torch.distributions.MultivariateNormal(means, covariance_matrix=covs).log_prob(x[:, None])
    expected = (r * (weights.log() + log_density)).sum()
    of_weights, of_means, of_covs = torch.autograd.grad(expected, (weights, means, covs))
    assert float((of_weights - of_weights.mean()).abs().max()) < 1e-9
    assert float(of_means.abs().max()) < 1e-9
    assert float((of_covs + of_covs.mT).abs().max()) < 1e-9


@pytest.mark.parametrize("ridge", [0.0, 0.05])
def test_em_is_scikit_learns(s: SimpleNamespace, ridge: float) -> None:
    sklearn = pytest.importorskip("sklearn.mixture")
    x = torch.cat([randn(80, 2), randn(70, 2, seed=1) + 3, 0.5 * randn(50, 2, seed=2) - 2])
    init = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64), x[[0, 100, 180]], spd(3, 2)
    (weights, means, covs), history = s.em(x, init, 12, ridge=ridge)
    theirs = sklearn.GaussianMixture(
        3,
        reg_covar=ridge,
        weights_init=init[0].numpy(),
        means_init=init[1].numpy(),
        precisions_init=torch.linalg.inv(init[2]).numpy(),
        max_iter=12,
        tol=0.0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs.fit(x.numpy())
    close(weights, theirs.weights_, rtol=1e-8)
    close(means, theirs.means_, rtol=1e-8, atol=1e-9)
    close(covs, theirs.covariances_, rtol=1e-8, atol=1e-9)
    close(history[-1], theirs.score(x.numpy()))
    assert len(history) == 13
    if ridge == 0:
        assert all(b > a for a, b in itertools.pairwise(history))


def test_samples_have_the_mixtures_moments(s: SimpleNamespace) -> None:
    logits, means, covs = mixture(3, 2)
    weights = logits.softmax(0)
    u, eps = rand(200_000, seed=5), randn(200_000, 2, seed=6)
    x = s.sample_mixture(u, eps, weights, means, covs)
    mean = weights @ means
    centred = means - mean
    cov = (weights[:, None, None] * (covs + centred[:, :, None] * centred[:, None])).sum(0)
    close(x.mean(0), mean, rtol=0, atol=0.03)
    close(torch.cov(x.T), cov, rtol=0, atol=0.1)
    for k in range(3):  # the columns of the factor that was used: the sum of their outer products is the covariance
        only = torch.zeros(3, dtype=torch.float64).index_fill(0, torch.tensor(k), 1.0)
        columns = s.sample_mixture(rand(2), torch.eye(2, dtype=torch.float64), only, means, covs) - means[k]
        close(columns.T @ columns, covs[k])
    # each component is drawn on its own stretch of u, and u = 1 - 2^-53 stays inside even where the sum rounds below it
    edge = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    tenth = torch.full((10,), 0.1, dtype=torch.float64)
    ends = s.sample_mixture(edge, torch.zeros(2, 1).double(), tenth, torch.arange(10.0).double()[:, None], spd(10, 1))
    close(ends[:, 0], [0.0, 9.0])


def test_choose_k(s: SimpleNamespace) -> None:
    fits = []

    def fit(x: Tensor, k: int) -> Any:
        fits.append((len(x), k))
        return lambda points: -((k - 3) ** 2) * points[:, 0]

    best, scores = s.choose_k(fit, torch.zeros(5, 2), torch.ones(4, 2), [5, 2, 7])
    assert best == 2
    assert scores == [-4.0, -1.0, -16.0]
    assert fits == [(5, 5), (5, 2), (5, 7)]


def test_digits_are_those_of_scikit_learn(s: SimpleNamespace, ps: ProblemSet) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    images = datasets.load_digits().images
    with np.load(ps.folder / "data" / "digits.npz", allow_pickle=False) as stored:
        held_out = np.arange(len(images)) % 4 == 3
        np.testing.assert_array_equal(stored["train"], images[~held_out])
        np.testing.assert_array_equal(stored["test"], images[held_out])
    assert (ps.folder / "data" / "digits.npz").stat().st_size < 200_000


def test_the_digits_gain_is_what_scikit_learn_measures(s: SimpleNamespace, ps: ProblemSet) -> None:
    """The check's own density, and the solution's place in the bands."""
    sklearn = pytest.importorskip("sklearn.mixture")
    import sys

    checks = sys.modules[f"_checks_of_{ps.name}"]
    generator = np.random.default_rng(0)
    images = checks.digits()
    x = (images + generator.random(images.shape))[generator.permutation(len(images))] / 17
    torch.manual_seed(0)
    parameters = [p.numpy() for p in s.fit_digits(torch.from_numpy(x[:1348]))]
    close(parameters[0].sum(), 1.0)
    model = sklearn.GaussianMixture(len(parameters[0]))
    model.weights_, model.means_, model.covariances_ = parameters
    model.precisions_cholesky_ = np.linalg.inv(np.linalg.cholesky(parameters[2])).transpose(0, 2, 1)
    ours = checks.mixture_log_density(x[1348:], *parameters)
    close(ours, model.score_samples(x[1348:]), rtol=1e-7)
    single = sklearn.GaussianMixture(1, reg_covar=0).fit(x[:1348])
    gain = ours.mean() - single.score(x[1348:])
    assert gain > checks.BANDS[-1][0] + 0.5
    torch.manual_seed(1)
    pictures = s.sample_digits(50, *(torch.from_numpy(p) for p in parameters))
    assert pictures.shape == (50, 8, 8)
    assert float(pictures.min()) >= 0
    assert float(pictures.max()) <= 1
    assert float(pictures.std(0).mean()) > 0.05
    levels = torch.tensor([0.3, 0.7], dtype=torch.float64)[:, None].expand(2, 64)
    covs = 1e-4 * torch.eye(64, dtype=torch.float64).expand(2, 64, 64)
    plain = s.sample_digits(4000, torch.tensor([0.25, 0.75], dtype=torch.float64), levels, covs).flatten(1)
    dark = plain.mean(1) > 0.5
    close(dark.double().mean(), 0.75, rtol=0, atol=0.04)
    close(plain[dark].mean(), 0.7, rtol=0, atol=1e-3)
    close(plain[dark].std(0).mean(), 0.01, rtol=0.03)
