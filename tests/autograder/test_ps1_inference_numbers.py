"""The solution of problem set 1, sections 3 and 4, against quadrature, enumeration, closed forms and autograd."""

from __future__ import annotations

import itertools
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

from autograder.executor import load_cells
from autograder.problem_set import load

FOLDER = "ps1"
GRID = torch.linspace(-25, 25, 50_001, dtype=torch.float64)  # for integrals over the line, by sums
STEP = 0.001
NODES, WEIGHTS = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(60))
WEIGHTS = WEIGHTS / WEIGHTS.sum()  # expectations under N(0, 1)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def gaussian(mean: float, std: float) -> Normal:
    """In float64: of plain numbers torch makes float32."""
    return Normal(torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64))


@pytest.fixture(scope="module")
def s() -> SimpleNamespace:
    """The names that the solution defines."""
    namespace: dict[str, object] = {}
    problems = load_cells(namespace, load(FOLDER).solution_cells())["problems"]
    assert not problems
    return SimpleNamespace(**namespace)


# -- 3a


@pytest.mark.parametrize("seed", range(3))
def test_kl_is_its_integral(s: SimpleNamespace, seed: int) -> None:
    mean, prior_mean = randn(2, 3, seed=seed), randn(2, 3, seed=seed + 50)
    log_std, prior_log_std = 0.4 * randn(2, 3, seed=seed + 100), 0.4 * randn(2, 3, seed=seed + 150)
    want = torch.zeros(2, dtype=torch.float64)
    for b, d in itertools.product(range(2), range(3)):
        q, p = Normal(mean[b, d], log_std[b, d].exp()), Normal(prior_mean[b, d], prior_log_std[b, d].exp())
        want[b] += (q.log_prob(GRID).exp() * (q.log_prob(GRID) - p.log_prob(GRID))).sum() * STEP
    torch.testing.assert_close(s.gaussian_kl(mean, log_std, prior_mean, prior_log_std), want, rtol=1e-8, atol=1e-9)
    assert float(s.gaussian_kl(mean, log_std, mean, log_std).abs().max()) < 1e-12


def log_joint_on_grid(x: Tensor, sigma: float, tau: float) -> Tensor:
    """log p(x, z) on the grid, for x (N,)."""
    return gaussian(0.0, sigma).log_prob(GRID) + Normal(GRID[:, None], tau).log_prob(x).sum(1)


@pytest.mark.parametrize("seed", range(3))
def test_elbo_is_its_integral_and_below_the_evidence(s: SimpleNamespace, seed: int) -> None:
    sigma, tau, x = 1.7, 0.8, 1 + randn(5, 2, seed=seed)
    mean, log_std = randn(2, seed=seed + 20), 0.3 * randn(2, seed=seed + 40)
    bound = evidence = torch.zeros((), dtype=torch.float64)
    for d in range(2):
        log_joint, q = log_joint_on_grid(x[:, d], sigma, tau), Normal(mean[d], log_std[d].exp())
        bound = bound + (q.log_prob(GRID).exp() * (log_joint - q.log_prob(GRID))).sum() * STEP
        evidence = evidence + log_joint.logsumexp(0) + math.log(STEP)
    found = s.elbo(x, mean, log_std, sigma, tau)
    torch.testing.assert_close(found, bound, rtol=1e-8, atol=1e-8)
    assert float(found) < float(evidence)
    # climbing the bound must end at the evidence: the family holds the posterior
    parameters = torch.stack([mean, log_std]).requires_grad_()
    optimizer = torch.optim.LBFGS([parameters], max_iter=200, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -s.elbo(x, parameters[0], parameters[1], sigma, tau)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert abs(float((s.elbo(x, *parameters, sigma, tau) - evidence).detach())) < 1e-7


# -- 3b


def test_mixture_bound_is_its_definition(s: SimpleNamespace) -> None:
    """E_q[log p(x, mu, c) - log q(mu, c)] by quadrature over two means and a sum over all assignments."""
    x, sigma = randn(3, 1), 1.3
    m, s2, phi = randn(2, 1, seed=1), torch.tensor([0.3, 0.8]).double(), randn(3, 2, seed=2).softmax(1)
    mu = torch.cartesian_prod(NODES, NODES) * s2.sqrt() + m[:, 0]  # (S, 2)
    weight = torch.cartesian_prod(WEIGHTS, WEIGHTS).prod(1)
    log_ratio = (gaussian(0.0, sigma).log_prob(mu) - Normal(m[:, 0], s2.sqrt()).log_prob(mu)).sum(1)
    want = torch.zeros((), dtype=torch.float64)
    for c in itertools.product(range(2), repeat=3):
        chosen = phi[range(3), list(c)]
        log_x = Normal(mu[:, list(c)], 1.0).log_prob(x[:, 0]).sum(1)
        want += chosen.prod() * (weight * (log_ratio + log_x + 3 * math.log(0.5) - chosen.log().sum())).sum()
    torch.testing.assert_close(s.mixture_elbo(x, phi, m, s2, sigma), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_each_factor_of_a_sweep_is_the_best_one(s: SimpleNamespace, seed: int) -> None:
    x, m, s2, sigma = randn(30, 2, seed=seed), randn(3, 2, seed=seed + 9), randn(3, seed=seed + 7).exp(), 0.8
    phi, new_m, new_s2 = s.cavi_sweep(x, m, s2, sigma)
    torch.testing.assert_close(phi.sum(1), torch.ones(30, dtype=torch.float64))
    logits = phi.log().requires_grad_()  # at the best phi the bound does not change to first order
    (slope,) = torch.autograd.grad(s.mixture_elbo(x, logits.softmax(1), m, s2, sigma), logits)
    assert float(slope.abs().max()) < 1e-9
    best_m, best_s2 = new_m.clone().requires_grad_(), new_s2.clone().requires_grad_()
    for slope in torch.autograd.grad(s.mixture_elbo(x, phi, best_m, best_s2, sigma), (best_m, best_s2)):
        assert float(slope.abs().max()) < 1e-9
    for factor in (0.9, 1.1):  # a maximum, not a saddle
        top = s.mixture_elbo(x, phi, new_m, new_s2, sigma)
        assert float(s.mixture_elbo(x, phi, factor * new_m, new_s2, sigma)) < float(top)
        assert float(s.mixture_elbo(x, phi, new_m, factor * new_s2, sigma)) < float(top)


def test_sweeps_rise_to_a_bound_below_the_exact_evidence(s: SimpleNamespace) -> None:
    x, sigma = torch.tensor([[2.5], [3.1], [-2.0], [-2.4], [-1.7]]).double(), 2.0
    terms = []
    for c in itertools.product(range(2), repeat=5):
        same = (torch.tensor(c)[:, None] == torch.tensor(c)).double()  # points of one class share its mean
        cov = torch.eye(5, dtype=torch.float64) + sigma**2 * same
        terms.append(MultivariateNormal(torch.zeros(5).double(), cov).log_prob(x[:, 0]) - 5 * math.log(2))
    evidence = float(torch.stack(terms).logsumexp(0))
    m, s2, bounds = randn(2, 1, seed=3), torch.ones(2).double(), []
    for _ in range(40):
        phi, m, s2 = s.cavi_sweep(x, m, s2, sigma)
        bounds.append(float(s.mixture_elbo(x, phi, m, s2, sigma)))
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(bounds))
    assert evidence - 1.0 < bounds[-1] < evidence  # log 2 is lost to the two labellings, little else


# -- 3c, 3d, 3e


def target(z: Tensor) -> Tensor:
    """A skew log p(x, z) with two humps, (S, 1) -> (S,)."""
    return torch.logaddexp(gaussian(-1.0, 0.7).log_prob(z), gaussian(2.0, 1.2).log_prob(z) + 0.4).sum(-1) + 0.3 * z.sum(
        -1
    )


def exact_gradient(mean: Tensor, log_std: Tensor) -> tuple[Tensor, ...]:
    """Of the ELBO as an integral over z, so that neither estimator's formula is used."""
    mean, log_std = mean.clone().requires_grad_(), log_std.clone().requires_grad_()
    log_q = Normal(mean, log_std.exp()).log_prob(GRID[:, None])[:, 0]
    return torch.autograd.grad((log_q.exp() * (target(GRID[:, None]) - log_q)).sum() * STEP, (mean, log_std))


@pytest.mark.parametrize("name", ["reparam", "score", "baseline"])
def test_gradients_have_the_right_expectation(s: SimpleNamespace, name: str) -> None:
    mean, log_std = torch.tensor([0.4]).double(), torch.tensor([-0.3]).double()
    want = exact_gradient(mean, log_std)
    total = torch.zeros(2, dtype=torch.float64)
    if name == "baseline":  # two samples: a sum over all pairs of nodes
        for (a, u), (b, v) in itertools.product(zip(NODES, WEIGHTS, strict=True), repeat=2):
            z = mean + log_std.exp() * torch.stack([a, b])[:, None]
            total += u * v * torch.cat(s.score_gradient(target, mean, log_std, z, baseline=True))
    else:
        for node, w in zip(NODES, WEIGHTS, strict=True):
            eps = node.view(1, 1)
            pair = (
                s.reparam_gradient(target, mean, log_std, eps)
                if name == "reparam"
                else s.score_gradient(target, mean, log_std, mean + log_std.exp() * eps)
            )
            total += w * torch.cat(pair)
    torch.testing.assert_close(total, torch.cat(want), rtol=1e-4, atol=1e-5)  # the rule's own error on this target


def test_gradients_are_means_over_samples(s: SimpleNamespace) -> None:
    def wide(z: Tensor) -> Tensor:
        return torch.sin(z).sum(-1) - 0.1 * (z**4).sum(-1)

    mean, log_std, eps = randn(3), 0.2 * randn(3, seed=1), randn(5, 3, seed=2)
    z = mean + log_std.exp() * eps
    for estimator, noise in ((s.reparam_gradient, eps), (s.score_gradient, z)):
        together = torch.cat(estimator(wide, mean, log_std, noise))
        alone = torch.stack([torch.cat(estimator(wide, mean, log_std, one[None])) for one in noise])
        torch.testing.assert_close(together, alone.mean(0))
    shifted = torch.cat(s.score_gradient(lambda v: wide(v) + 1e3, mean, log_std, z, baseline=True))
    torch.testing.assert_close(shifted, torch.cat(s.score_gradient(wide, mean, log_std, z, baseline=True)))


def test_variances_match_closed_forms(s: SimpleNamespace) -> None:
    """For -p (z - c)^2 / 2 the reparameterised gradient in m has variance p^2 s^2 / S; the score's is an integral."""
    p, c, mean, log_std, samples = 1.7, 0.5, torch.tensor([0.2]).double(), torch.tensor([-0.4]).double(), 4

    def log_joint(z: Tensor) -> Tensor:
        return -0.5 * p * ((z - c) ** 2).sum(-1)

    def score(target: object, m: Tensor, log_s: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        return s.score_gradient(target, m, log_s, m + log_s.exp() * eps)

    eps, std = randn(4000, samples, 1), float(log_std.exp())
    found = [float(v) for v in s.gradient_variance(s.reparam_gradient, log_joint, mean, log_std, eps)]
    gap = float(mean) - c
    assert found[0] == pytest.approx(p**2 * std**2 / samples, rel=0.1)
    assert found[1] == pytest.approx(p**2 * std**2 * (gap**2 + 2 * std**2) / samples, rel=0.15)
    f = log_joint(mean + std * NODES[:, None]) - Normal(mean, std).log_prob(mean + std * NODES)
    g = f * NODES / std
    variance = float((WEIGHTS * g**2).sum() - (WEIGHTS * g).sum() ** 2) / samples
    assert float(s.gradient_variance(score, log_joint, mean, log_std, eps)[0]) == pytest.approx(variance, rel=0.15)


def test_variance_is_numpy_s(s: SimpleNamespace) -> None:
    def noise(target: object, m: Tensor, log_s: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        return eps.sum(0), eps.prod(0)

    eps = randn(7, 3, 2)
    first, second = s.gradient_variance(noise, target, torch.zeros(2), torch.zeros(2), eps)
    np.testing.assert_allclose(first, np.var(eps.numpy().sum(1), axis=0, ddof=1))
    np.testing.assert_allclose(second, np.var(eps.numpy().prod(1), axis=0, ddof=1))


# -- 4


def expression(a: object, b: object, c: object, seed: int) -> object:
    """A random expression of three numbers, for Values and for tensors alike; inner results are used again."""
    rng, pool = random.Random(seed), [a, b, c]
    unary = [
        lambda v: v.tanh(),
        lambda v: (v * 0.1).exp(),
        lambda v: (v * v + 1.5).log(),
        lambda v: v.relu(),
        lambda v: -v,
        lambda v: (v**2 + 1) ** -0.5,
        lambda v: 2 - v,
        lambda v: 3 / (v**2 + 2),
        lambda v: v / 4,
        lambda v: 0.5 * v + 1,
    ]
    binary = [lambda u, v: u + v, lambda u, v: u * v, lambda u, v: u - v, lambda u, v: u / (v**2 + 1)]
    for _ in range(12):
        u, v = rng.choice(pool), rng.choice(pool)
        pool.append(rng.choice(unary)(u) if rng.random() < 0.5 else rng.choice(binary)(u, v).tanh())
    return sum(pool[3:], a * b * c)


@pytest.mark.parametrize("seed", range(40))
def test_engine_matches_torch(s: SimpleNamespace, seed: int) -> None:
    numbers = randn(3, seed=seed).tolist()
    values = [s.Value(v) for v in numbers]
    tensors = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in numbers]
    out, want = expression(*values, seed), expression(*tensors, seed)
    assert out.data == pytest.approx(want.item(), rel=1e-12)
    for times in (1, 2):  # the second pass over the same graph adds the same again
        s.backward(out)
        for v, g in zip(values, torch.autograd.grad(want, tensors, retain_graph=True), strict=True):
            assert v.grad == pytest.approx(times * g.item(), rel=1e-9, abs=1e-12)


def test_shared_hidden_values_and_deep_chains(s: SimpleNamespace) -> None:
    a = s.Value(0.7)
    hidden = a * a
    s.backward(hidden * 3)
    s.backward(hidden.exp())
    assert a.grad == pytest.approx(2 * 0.7 * (3 + math.exp(0.49)))
    assert hidden.grad == pytest.approx(3 + math.exp(0.49))
    x = y = s.Value(1.0)
    for _ in range(20_000):
        y = y * 0.9999 + 0.1
    s.backward(y)
    assert x.grad == pytest.approx(0.9999**20_000)
    x = y = s.Value(1.0)
    for _ in range(60):
        y = y + y
    s.backward(y)
    assert x.grad == 2.0**60


def test_training_matches_torch_modules(s: SimpleNamespace) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1)).double()
    points, labels = randn(12, 2), torch.tensor([1.0, -1.0] * 6).double()
    (w1, b1, w2, b2) = [p.detach().clone() for p in net.parameters()]
    params = {
        "W1": [[s.Value(w) for w in row] for row in w1.tolist()],
        "b1": [s.Value(b) for b in b1.tolist()],
        "w2": [s.Value(w) for w in w2[0].tolist()],
        "b2": s.Value(b2.item()),
    }
    outputs = [s.network(params, point).data for point in points.tolist()]
    np.testing.assert_allclose(outputs, net(points)[:, 0].detach(), rtol=1e-12)
    losses = s.train_network(params, points.tolist(), labels.tolist(), 0.8, 25)
    optimizer, want = torch.optim.SGD(net.parameters(), lr=0.8), []
    for _ in range(25):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(net(points)[:, 0], (labels + 1) / 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        want.append(loss.item())
    np.testing.assert_allclose(losses, want, rtol=1e-9)
    final = torch.cat([p.detach().flatten() for p in net.parameters()])
    np.testing.assert_allclose([v.data for v in s.parameters_of(params)], final, rtol=1e-8, atol=1e-12)
    assert losses[-1] < losses[0]
