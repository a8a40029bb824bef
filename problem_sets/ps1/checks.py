"""Checks of problem set 1.

Each check asks for values that have one right answer: closed forms, one step of an algorithm, noise that is handed in.
Only the figure of 2g is statistical, with bands that leave room for any reasonable choice. The reference is always
asked before the student: what fails in one part does not shift the questions of the next.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from autograder.checks import bands, compare, expect, monotone, part, question, same_distribution, sums_to_one

Array = np.ndarray[Any, Any]


def several(answer: Any, count: int, line: str) -> Any:
    """The answer, if it is a tuple or list of `count` values; otherwise the line that says what is expected."""
    expect(isinstance(answer, (tuple, list)) and len(answer) == count, line)
    return answer


# 1. Maximum likelihood


@question("1a", points=4, names=["gaussian_mle"], title="A Gaussian in closed form")
def check_gaussian_mle(student: Any, reference: Any, draw: Any) -> None:
    x = draw.normal(40, 3) @ (np.eye(3) + 0.5 * draw.normal(3, 3)) + draw.uniform(2, 5, 3)
    right_mean, right_cov = reference.gaussian_mle(x)
    mean, cov = several(student.gaussian_mle(x), 2, "gaussian_mle returns two tensors: mean and covariance")
    with part("mean", 1):
        compare(mean, right_mean, "mean")
    with part("covariance", 2):
        compare(cov, right_cov, "covariance")
    with part("covariance of points far from the origin", 1):
        far = draw.normal(40, 3) + 1e7
        right = reference.gaussian_mle(far)[1]
        answer = several(student.gaussian_mle(far), 2, "gaussian_mle returns two tensors: mean and covariance")
        compare(answer[1], right, "covariance")


@question("1b", points=4, names=["bernoulli_log_prob", "bernoulli_mle"], title="Bernoulli pixels")
def check_bernoulli(student: Any, reference: Any, draw: Any) -> None:
    with part("log-probability", 1):
        logits, x = draw.normal(5, scale=2.0), draw.bernoulli(0.5, 30, 5)
        right = reference.bernoulli_log_prob(logits, x)
        compare(student.bernoulli_log_prob(logits, x), right, "log-probabilities")
    with part("log-probability at logits of 1e4 and -1e4", 2):
        logits = np.array([1e4, -1e4, 40.0, -800.0, 0.5]) + draw.normal(5)
        x = draw.bernoulli(0.5, 30, 5)
        x[:2] = [[1, 0, 1, 0, 1], [0, 1, 0, 1, 1]]  # the most and the least likely images
        right = reference.bernoulli_log_prob(logits, x)
        compare(student.bernoulli_log_prob(logits, x), right, "log-probabilities")
    with part("most likely logits", 1):
        x = draw.bernoulli(draw.uniform(0.2, 0.7, 4), 50, 4)
        x[0], x[1] = 0, 1
        right = reference.bernoulli_mle(x)
        compare(student.bernoulli_mle(x), right, "logits")


@question("1c", points=4, names=["categorical_log_prob", "categorical_mle"], title="Categorical data")
def check_categorical(student: Any, reference: Any, draw: Any) -> None:
    with part("log-probability", 1):
        logits, x = draw.normal(6, scale=2.0), draw.integers(0, 6, 30)
        right = reference.categorical_log_prob(logits, x)
        compare(student.categorical_log_prob(logits, x), right, "log-probabilities")
    with part("log-probability at logits of 1e4 and -1e4", 1):
        logits = np.array([1e4, -1e4, 1e4, 0.0, 2e3, 9.9e3]) + draw.normal(6)
        right = reference.categorical_log_prob(logits, x)
        compare(student.categorical_log_prob(logits, x), right, "log-probabilities", rtol=1e-9)
    with part("counts", 1):
        x = draw.integers(0, 4, 30)  # 4 and 5 are never seen
        x[:5] = [0, 1, 2, 3, 0]
        right = reference.categorical_mle(x, 6)
        compare(student.categorical_mle(x, 6), right, "probabilities")
    with part("pseudo-counts", 1):
        x, alpha = draw.integers(0, 3, 20), float(draw.uniform(0.3, 0.9))
        right = reference.categorical_mle(x, 5, pseudo_count=alpha)
        compare(student.categorical_mle(x, 5, pseudo_count=alpha), right, "probabilities")


# A one-dimensional Gaussian by its mean and log standard deviation, for the loop to fit.
FIT_GAUSSIAN = """
def log_prob(x, mean, log_std):
    return (-0.5 * ((x - mean) / log_std.exp()) ** 2 - log_std - 0.5 * math.log(2 * math.pi)).sum(1)
parameters, losses = fit_by_sgd(log_prob, [mean, log_std], x, batches, rate)
return [p.detach() for p in parameters], [float(loss) for loss in losses]
"""


@question("1d", points=4, names=["fit_by_sgd"], title="Stochastic gradient descent")
def check_sgd(student: Any, reference: Any, draw: Any) -> None:
    start = {"mean": draw.uniform(0, 0.5, 2), "log_std": draw.uniform(0.2, 0.6, 2)}
    x = draw.normal(16, 2)
    x = (x - x.mean(0)) / x.std(0)  # moments that are known: the speed of the descent hangs on them, not on luck
    x = x * draw.uniform(0.9, 1.3, 2) + draw.uniform(0.6, 1.2, 2)
    with part("one step", 1):
        inputs = {**start, "x": x, "batches": draw.integers(0, 16, 1, 6), "rate": 0.3}
        right_parameters, right_losses = reference.script(FIT_GAUSSIAN, **inputs)
        parameters, losses = student.script(FIT_GAUSSIAN, **inputs)
        compare(losses, right_losses, "loss before the step")
        compare(parameters, right_parameters, "parameters after a step")
    with part("several steps", 2):
        inputs = {**start, "x": x, "batches": draw.integers(0, 16, 6, 6), "rate": 0.1}
        right_parameters, right_losses = reference.script(FIT_GAUSSIAN, **inputs)
        parameters, losses = student.script(FIT_GAUSSIAN, **inputs)
        compare(parameters, right_parameters, "parameters after 6 steps")
        compare(losses, right_losses, "losses before each step")
    with part("ends at the closed form", 1):
        batches = np.stack([draw.permutation(16) for _ in range(50)])  # all points in each batch: no noise is left
        parameters, _ = student.script(FIT_GAUSSIAN, **start, x=x, batches=batches, rate=0.3)
        compare(parameters, [x.mean(0), np.log(x.std(0))], "parameters after 50 steps on all points", rtol=1e-3)


# 2. Mixtures and EM


def random_mixture(draw: Any, k: int, d: int, spread: float = 2.0) -> tuple[Array, Array, Array]:
    """Weights (k,), none of them small, means (k, d) and covariances (k, d, d)."""
    weights = draw.uniform(0.5, 1.5, k)
    return weights / weights.sum(), draw.normal(k, d, scale=spread), draw.spd(d, k)


@question(
    "2a",
    points=5,
    names=["log_sum_exp", "gaussian_log_prob", "mixture_log_prob"],
    title="The likelihood of a mixture",
)
def check_mixture_log_prob(student: Any, reference: Any, draw: Any) -> None:
    with part("log_sum_exp", 1):
        a = draw.normal(6, 4)
        right = reference.log_sum_exp(a)
        compare(student.log_sum_exp(a), right, "log_sum_exp")
    with part("log_sum_exp of 1e4 and -1e4", 1):
        a = draw.normal(4, 3) + np.array([[1e4], [-1e4], [0.0], [3e3]])
        a[2] += [1e4, -1e4, 0]
        right = reference.log_sum_exp(a)
        compare(student.log_sum_exp(a), right, "log_sum_exp", rtol=1e-10)
    logits, x = draw.normal(4), draw.normal(20, 3, scale=2.0)
    _, means, covs = random_mixture(draw, 4, 3)
    with part("gaussian_log_prob", 1):
        right = reference.gaussian_log_prob(x, means, covs)
        compare(student.gaussian_log_prob(x, means, covs), right, "log-densities")
    with part("mixture_log_prob", 1):
        right = reference.mixture_log_prob(x, logits, means, covs)
        compare(student.mixture_log_prob(x, logits, means, covs), right, "log-densities of the mixture")
    with part("mixture_log_prob at logits of 1e4 and -1e4", 1):
        logits = np.array([1e4, 0.0, 1e4, -1e4]) + draw.normal(4)
        right = reference.mixture_log_prob(x, logits, means, covs)
        compare(student.mixture_log_prob(x, logits, means, covs), right, "log-densities of the mixture")


@question("2b", points=4, names=["responsibilities"], title="Responsibilities")
def check_responsibilities(student: Any, reference: Any, draw: Any) -> None:
    with part("responsibilities", 2):
        logits, log_density = draw.normal(4), draw.normal(30, 4) - 3
        right = reference.responsibilities(logits, log_density)
        answer = student.responsibilities(logits, log_density)
        compare(answer, right, "responsibilities")
        sums_to_one(answer, what="responsibilities of a point")
    with part("at logits of 1e4 and -1e4", 1):
        logits, log_density = np.array([1e4, 1e4, 0.0, -1e4]) + draw.normal(4), draw.normal(30, 4) - 3
        log_density[:10, 2] += 1e4  # a third component that is improbable, but describes these points best
        right = reference.responsibilities(logits, log_density)
        compare(student.responsibilities(logits, log_density), right, "responsibilities")
    with part("far from all components", 1):
        logits, log_density = draw.normal(4), draw.normal(30, 4) - draw.uniform(1e3, 1e6, 30, 1)
        right = reference.responsibilities(logits, log_density)
        compare(student.responsibilities(logits, log_density), right, "responsibilities")


@question("2c", points=5, names=["m_step"], title="The M-step")
def check_m_step(student: Any, reference: Any, draw: Any) -> None:
    x, r = draw.normal(30, 3) + draw.normal(3, scale=2.0), draw.simplex(30, 4)
    line = "m_step returns three tensors: weights, means and covariances"
    right = reference.m_step(x, r, ridge=0.0)
    answer = several(student.m_step(x, r, ridge=0.0), 3, line)
    with part("weights", 1):
        compare(answer[0], right[0], "weights")
    with part("means", 1):
        compare(answer[1], right[1], "means")
    with part("covariances", 2):
        compare(answer[2], right[2], "covariances")
    with part("ridge", 1):
        ridge = float(draw.uniform(0.1, 0.5))
        right = reference.m_step(x, r, ridge=ridge)[2]
        answer = several(student.m_step(x, r, ridge=ridge), 3, line)
        compare(answer[2], right, "covariances with a ridge")


PARAMETERS = ("weights", "means", "covariances")


@question("2d", points=5, names=["em"], title="EM")
def check_em(student: Any, reference: Any, draw: Any) -> None:
    centres = np.array([[0.0, 0.0], [3.0, 0.5], [1.0, 3.0]]) + 0.3 * draw.normal(3, 2)
    x = centres[draw.integers(0, 3, 60)] + draw.normal(60, 2) * draw.uniform(0.5, 1.0, 2)
    weights = draw.uniform(0.5, 1.5, 3)
    init = (weights / weights.sum(), centres + 0.7 * draw.normal(3, 2), draw.spd(2, 3))
    line = "em returns two values: the tuple (weights, means, covs) and the history"
    inner = "em's first value is a tuple of three: weights, means, covs"
    with part("one iteration", 2):
        right, _ = reference.em(x, init, 1, ridge=0.01)
        params, _ = several(student.em(x, init, 1, ridge=0.01), 2, line)
        for value, best, name in zip(several(params, 3, inner), right, PARAMETERS, strict=True):
            compare(value, best, f"{name} after one iteration")
    right, right_history = reference.em(x, init, 7, ridge=0.0)
    answer = several(student.em(x, init, 7, ridge=0.0), 2, line)
    with part("seven iterations", 1):
        for value, best, name in zip(several(answer[0], 3, inner), right, PARAMETERS, strict=True):
            compare(value, best, f"{name} after seven iterations")
    with part("history", 2):
        compare(answer[1], np.asarray(right_history), "history")
        monotone(answer[1], "increasing", slack=1e-9, what="history")


@question("2e", points=4, names=["sample_mixture"], title="Sampling from a mixture")
def check_sample_mixture(student: Any, reference: Any, draw: Any) -> None:
    with part("from the noise that is given", 2):
        mixture = random_mixture(draw, 4, 3)
        u, eps = draw.uniform(0, 0.999, 25), draw.normal(25, 3)
        u[:4] = np.cumsum(mixture[0]) - mixture[0] / 2  # each component at least once
        right = reference.sample_mixture(u, eps, *mixture)
        compare(student.sample_mixture(u, eps, *mixture), right, "samples")
    with part("distribution", 2):
        weights = draw.permutation(3) * 0.3 + 0.2
        weights = weights / weights.sum()
        means = np.array([[-4.0, 0.0], [0.0, 3.0], [4.0, -2.0]])
        covs = np.array([[[1.0, 1.5], [1.5, 4.0]], [[2.0, -1.0], [-1.0, 1.0]], [[0.3, 0.4], [0.4, 1.0]]])
        samples = student.sample_mixture(draw.uniform(0, 1, 3000), draw.normal(3000, 2), weights, means, covs)
        same_distribution(samples, numpy_samples(draw, 5000, weights, means, covs), what="samples")


def numpy_samples(draw: Any, n: int, weights: Array, means: Array, covs: Array) -> Array:
    """Draws (n, D) from a mixture, made here, without the reference."""
    k = np.minimum(np.searchsorted(np.cumsum(weights), draw.uniform(0, 1, n), "right"), len(weights) - 1)
    x = draw.normal(n, means.shape[1])
    for i, factor in enumerate(np.linalg.cholesky(covs)):
        x[k == i] = means[i] + x[k == i] @ factor.T
    return x


# A family whose parameter k is a number of bins: a histogram on [0, 1) per coordinate, each bin with half a point more.
FIT_HISTOGRAM = """
def fit(points, k):
    one_hot = torch.nn.functional.one_hot((points * k).long().clamp(0, k - 1), k).double()
    density = k * (one_hot.sum(0) + 0.5) / (len(points) + 0.5 * k)
    return lambda p: torch.gather(density.log(), 1, (p * k).long().clamp(0, k - 1).T).sum(0)
best, scores = choose_k(fit, train, held_out, candidates)
return best, [float(s) for s in scores]
"""


@question("2f", points=4, names=["choose_k"], title="How many components?")
def check_choose_k(student: Any, reference: Any, draw: Any) -> None:
    sharp = draw.uniform(2.5, 4.0)
    train, held_out = (draw.uniform(0, 1, n, 2) ** sharp for n in (50, 35))
    candidates = [int(2 ** (i + 3)) for i in draw.permutation(6)]  # 8 to 256 bins, shuffled: a place is no number
    inputs = {"train": train, "held_out": held_out, "candidates": candidates}
    right, right_scores = reference.script(FIT_HISTOGRAM, **inputs)
    best, scores = student.script(FIT_HISTOGRAM, **inputs)
    with part("scores", 2):
        compare(scores, right_scores, "scores")
    with part("choice", 2):
        compare(best, right, "the chosen number")


# 2g. A figure that is measured


def digits() -> Array:
    """All images (1797, 64) as whole numbers from 0 to 16, those to train on first."""
    here = Path(__file__).resolve().parent
    found = [f for f in (here / "data" / "digits.npz", here.parent / "data" / "digits.npz") if f.is_file()]
    expect(bool(found), "data/digits.npz is missing: take the folder data from the zip and put it beside the notebook")
    with np.load(found[0], allow_pickle=False) as stored:
        images = np.concatenate([stored["train"], stored["test"]])
    return images.reshape(len(images), -1).astype(np.float64)


def mixture_log_density(x: Array, weights: Array, means: Array, covs: Array) -> Array:
    """log p(x) (N,) in float64, with numpy alone."""
    joint = []
    for weight, mean, cov in zip(weights, means, covs, strict=True):
        if weight > 0:
            factor = np.linalg.cholesky(cov)
            z = np.linalg.solve(factor, (x - mean).T)  # (D, N)
            joint.append(np.log(weight) - 0.5 * (z**2).sum(0) - np.log(np.diagonal(factor)).sum())
    a = np.stack(joint)
    m = a.max(0)
    return m + np.log(np.exp(a - m).sum(0)) - 0.5 * x.shape[1] * np.log(2 * np.pi)


# Gain over one Gaussian in nats per image, and points. Measured at 16 splits and starts, mean ± spread (lowest): ten
# components with a ridge of 1e-3 (the solution) 11.4 ± 1.1 (9.9), eight 10.9 ± 0.8 (9.4), the best of three starts at
# 1.5e-3 10.2 ± 0.8 (9.1), twelve with shrunk covariances 14.3 ± 0.6 (13.0). At 6: diagonal covariances -0.6 ± 0.4, a
# ridge of 1e-6 -4 ± 4, one of 0.02 -16.0 ± 0.5.
BANDS = [(-2.0, 1), (2.0, 3), (5.0, 5), (7.0, 7)]


@question(
    "2g",
    points=8,
    names=["fit_digits", "sample_digits"],
    title="Handwritten digits",
    seconds=120,
    seeds=1,
    quality=True,
)
def check_digits(student: Any, reference: Any, draw: Any) -> None:
    images = digits()
    x = (images + draw.uniform(0, 1, *images.shape)) / 17
    x = x[draw.permutation(len(x))]
    train, held_out = x[:1348], x[1348:]
    with part("held-out likelihood", 7):
        answer = several(student.fit_digits(train), 3, "fit_digits returns three tensors: weights, means, covs")
        weights, means, covs = as_mixture(answer, 64)
        mean, cov = train.mean(0), np.cov(train.T, bias=True)
        baseline = mixture_log_density(held_out, np.ones(1), mean[None], cov[None]).mean()
        gain = mixture_log_density(held_out, weights, means, covs).mean() - baseline
        bands(gain, BANDS, what="gain over one Gaussian", unit="nats per image")
    with part("samples", 1):
        means = x[draw.permutation(len(x))[:3]]
        covs = np.stack([0.004 * draw.spd(64) for _ in range(3)])
        weights = np.array([0.5, 0.3, 0.2])
        samples = student.sample_digits(600, weights, means, covs)
        shape = samples.shape if isinstance(samples, np.ndarray) else None
        expect(shape == (600, 8, 8), f"600 images are expected, of shape (600, 8, 8), and the shape is {shape}")
        expected = np.clip(numpy_samples(draw, 2000, weights, means, covs), 0, 1)
        pixels = samples.reshape(600, 64)
        same_distribution(pixels, expected, what="images")
        same_distribution(pixels.min(1), expected.min(1), what="the darkest pixel of each image")
        same_distribution(pixels.max(1), expected.max(1), what="the brightest pixel of each image")


def as_mixture(answer: Any, d: int) -> tuple[Array, Array, Array]:
    """Weights, means and covariances that are a density; a line for the student where they are not."""
    arrays = [np.asarray(a, dtype=np.float64) if isinstance(a, np.ndarray) else np.zeros(()) for a in answer]
    weights, means, covs = arrays
    k = weights.shape[0] if weights.ndim == 1 else 0
    fits = k > 0 and means.shape == (k, d) and covs.shape == (k, d, d)
    line = f"weights (K,), means (K, {d}) and covs (K, {d}, {d}) are expected"
    expect(fits, f"{line}; the shapes are {', '.join(str(a.shape) for a in arrays)}")
    expect(all(np.isfinite(a).all() for a in arrays), "some of the parameters are not finite (NaN or infinite)")
    sums_to_one(weights, what="weights", rtol=1e-4)
    gap = np.abs(covs - covs.transpose(0, 2, 1)).max()
    expect(gap <= 1e-4 * np.abs(covs).max(), "the covariances are not symmetric")
    covs = (covs + covs.transpose(0, 2, 1)) / 2
    lowest = float(np.linalg.eigvalsh(covs).min())
    expect(lowest > 0, f"the covariances are not positive definite: an eigenvalue is {lowest:.3g}")
    return weights / weights.sum(), means, covs


# 3 and 4. Variational inference; a backpropagation engine. The noise is given, and expectations are exact.

# Three-point Gauss-Hermite with its weights 1/6, 2/3, 1/6 as repetitions: the plain mean of a polynomial of degree 5 or
# less over these six nodes is its expectation under N(0, 1).
NODES = np.array([-math.sqrt(3.0), math.sqrt(3.0), 0.0, 0.0, 0.0, 0.0])
GRID = np.array(list(itertools.product(NODES, NODES)))  # (36, 2), the same for two coordinates


@question("3a", points=5, names=["gaussian_kl", "elbo"], title="The ELBO where everything is known", seconds=10)
def exact_elbo(student: Any, reference: Any, draw: Any) -> None:
    q_and_p = [draw.normal(6, 3), draw.normal(6, 3, scale=0.5), draw.normal(6, 3), draw.normal(6, 3, scale=0.5)]
    with part("KL of Gaussians", 2):
        want = reference.gaussian_kl(*q_and_p)
        compare(student.gaussian_kl(*q_and_p), want, "the KL")
    n, d = 7, 3
    prior_std, noise_std = float(draw.uniform(1.5, 3.0)), float(draw.uniform(0.5, 0.8))
    x, mean, log_std = draw.normal(n, d) + draw.normal(d), draw.normal(d), draw.normal(d, scale=0.5)
    given = (x, mean, log_std, prior_std, noise_std)
    with part("the bound at any q", 2):
        want = reference.elbo(*given)
        compare(student.elbo(*given), want, "the ELBO")
    variance = 1 / (1 / prior_std**2 + n / noise_std**2)
    posterior_mean = variance / noise_std**2 * x.sum(0)
    covariance = noise_std**2 * np.eye(n) + prior_std**2  # of a coordinate of x_1, ..., x_n, with z integrated out
    quadratic = float((x * np.linalg.solve(covariance, x)).sum())
    evidence = -0.5 * (quadratic + d * np.linalg.slogdet(covariance)[1] + n * d * math.log(2 * math.pi))
    with part("tight at the posterior", 1):
        bound = student.elbo(x, posterior_mean, np.full(d, 0.5 * math.log(variance)), prior_std, noise_std)
        compare(bound, evidence, "the ELBO at the exact posterior, against the evidence")


SWEEPS = """
trace = []
for _ in range(6):
    phi, m, s2 = cavi_sweep(x, m, s2, prior_std)
    trace.append((phi, m, s2))
return tuple(torch.stack(each) for each in zip(*trace))
"""


def bound_of(x: Array, phi: Array, m: Array, s2: Array, prior_std: float) -> float:
    """The ELBO of the Bayesian mixture, as in the notebook."""
    d, k = x.shape[1], len(m)
    squared = ((x[:, None] - m) ** 2).sum(-1) + d * s2
    fit = -0.5 * squared - 0.5 * d * math.log(2 * math.pi) - math.log(k) - np.log(np.maximum(phi, 1e-300))
    price = 0.5 * ((m**2).sum(1) / prior_std**2 + d * (s2 / prior_std**2 - 1 - np.log(s2 / prior_std**2)))
    return float((phi * fit).sum() - price.sum())


@question("3b", points=5, names=["cavi_sweep"], title="Coordinate ascent for a Bayesian mixture", seconds=10)
def cavi(student: Any, reference: Any, draw: Any) -> None:
    x, m, s2 = draw.normal(40, 3, scale=1.5), draw.normal(4, 3), draw.uniform(0.2, 1.5, 4)
    prior_std = float(draw.uniform(0.6, 0.9))
    want_phi, want_m, want_s2 = reference.cavi_sweep(x, m, s2, prior_std)
    answer = student.cavi_sweep(x, m, s2, prior_std)
    phi, new_m, new_s2 = several(answer, 3, "cavi_sweep returns three tensors: phi, m, s2")
    with part("phi", 1):
        compare(phi, want_phi, "phi")
    with part("the variances of the means", 1):
        compare(new_s2, want_s2, "s2")
    with part("the means", 1):
        compare(new_m, want_m, "m")
    with part("points far away", 1):
        far = (1000 * x, 20 * m, s2, prior_std)
        want = reference.cavi_sweep(*far)
        compare(student.cavi_sweep(*far), want, "a sweep over points far away")
    with part("the bound never falls", 1):
        want = reference.script(SWEEPS, x=x, m=m, s2=s2, prior_std=prior_std)
        traces = student.script(SWEEPS, x=x, m=m, s2=s2, prior_std=prior_std)
        compare(traces, want, "six sweeps in a row")
        bounds = [bound_of(x, *one, prior_std) for one in zip(*traces, strict=True)]
        monotone(bounds, "increasing", slack=1e-9 * abs(bounds[-1]), what="the ELBO after each sweep")


LOGISTIC = """
def log_joint(z):  # a normal prior, and a logistic regression with the weights z on labels of -1 and 1
    fit = torch.nn.functional.logsigmoid((z @ features.T) * labels).sum(-1)
    return fit - 0.5 * (z**2).sum(-1)
"""
QUADRATIC = """
def log_joint(z):  # a correlated normal posterior, up to a constant
    gap = z - centre
    return -0.5 * ((gap @ precision) * gap).sum(-1) + 3.0
"""
REPARAM = "return reparam_gradient(log_joint, mean, log_std, eps)"
SCORE = "return score_gradient(log_joint, mean, log_std, mean + log_std.exp() * eps, baseline)"


def logistic_case(draw: Any, samples: int) -> dict[str, Any]:
    """A posterior that is not normal, q and its noise."""
    labels = 2 * draw.bernoulli(0.5, 12) - 1
    case = {"features": draw.normal(12, 3), "labels": labels, "mean": draw.normal(3), "eps": draw.normal(samples, 3)}
    return {**case, "log_std": draw.normal(3, scale=0.4)}


def quadratic_case(draw: Any) -> tuple[dict[str, Any], tuple[Array, Array]]:
    """A normal posterior, q, and the exact gradient of the ELBO in mean and log_std."""
    case = {"precision": draw.spd(2), "centre": draw.normal(2), "mean": draw.normal(2), "log_std": draw.normal(2)}
    case["log_std"] = 0.4 * case["log_std"]
    gradient_mean = -case["precision"] @ (case["mean"] - case["centre"])
    return case, (gradient_mean, 1 - np.diag(case["precision"]) * np.exp(2 * case["log_std"]))


@question("3c", points=4, names=["reparam_gradient"], title="The reparameterised gradient", seconds=10)
def reparameterised(student: Any, reference: Any, draw: Any) -> None:
    case = logistic_case(draw, 5)
    want = reference.script(LOGISTIC + REPARAM, **case)
    answer = student.script(LOGISTIC + REPARAM, **case)
    gradients = several(answer, 2, "reparam_gradient returns two tensors: the gradients in mean and in log_std")
    with part("the gradient in the mean", 1):
        compare(gradients[0], want[0], "the gradient in mean")
    with part("the gradient in log_std", 2):
        compare(gradients[1], want[1], "the gradient in log_std")
    with part("the exact gradient", 1):
        case, exact = quadratic_case(draw)
        gradients = student.script(QUADRATIC + REPARAM, eps=GRID, **case)
        compare(gradients, exact, "the estimate from noise whose moments are exact, against the exact gradient")


STEPS = """
def log_joint(z):  # steps: there is no derivative to be had
    return (z > centre).to(z.dtype) @ heights
"""


@question("3d", points=4, names=["score_gradient"], title="The score-function gradient", seconds=10)
def score_function(student: Any, reference: Any, draw: Any) -> None:
    with part("without a baseline", 1):
        case = {**logistic_case(draw, 6), "baseline": False}
        want = reference.script(LOGISTIC + SCORE, **case)
        compare(student.script(LOGISTIC + SCORE, **case), want, "the gradients")
    with part("the exact gradient", 1):
        case, exact = quadratic_case(draw)
        gradients = student.script(QUADRATIC + SCORE, eps=GRID, baseline=False, **case)
        compare(gradients, exact, "the estimate from noise whose moments are exact, against the exact gradient")
    with part("a model without derivatives", 1):
        case = {"centre": draw.normal(3), "heights": draw.normal(3), "mean": draw.normal(3), "eps": draw.normal(6, 3)}
        case |= {"log_std": draw.normal(3, scale=0.4), "baseline": False}
        want = reference.script(STEPS + SCORE, **case)
        compare(student.script(STEPS + SCORE, **case), want, "the gradients for a model made of steps")
    with part("with the baseline", 1):
        case = {**logistic_case(draw, 6), "baseline": True}
        want = reference.script(LOGISTIC + SCORE, **case)
        compare(student.script(LOGISTIC + SCORE, **case), want, "the gradients with the baseline")


NOISY = """
def log_joint(z):
    return -0.5 * (curvature * z**2).sum(-1)
def estimator(log_joint, mean, log_std, eps):
    z = mean + log_std.exp() * eps
    return (-curvature * z).mean(0), (eps * log_joint(z)[:, None]).mean(0)
return gradient_variance(estimator, log_joint, mean, log_std, eps)
"""


@question("3e", points=3, names=["gradient_variance"], title="The variance of a gradient estimate", seconds=10)
def variances(student: Any, reference: Any, draw: Any) -> None:
    case = {"mean": draw.normal(3), "log_std": draw.normal(3, scale=0.3), "curvature": draw.uniform(0.5, 2.0, 3)}
    with part("over repetitions", 2):
        eps = draw.normal(20, 4, 3)
        want = reference.script(NOISY, eps=eps, **case)
        compare(student.script(NOISY, eps=eps, **case), want, "the variances")
    with part("a variance that is known", 1):
        # every pair of nodes once: a mean of two independent samples has exactly half the variance of one
        eps = np.stack([GRID[draw.permutation(len(GRID))] for _ in range(3)], axis=2)  # (36, 2, 3)
        known = (case["curvature"] * np.exp(case["log_std"])) ** 2 / 2 * len(GRID) / (len(GRID) - 1)
        answer = student.script(NOISY, eps=eps, **case)
        variance, _ = several(answer, 2, "gradient_variance returns two tensors: the variances in mean and in log_std")
        compare(variance, known, "the variance of a slope that is known")


LOOK = """
def follow(node, outer, found):
    for parent, local in node.parents:
        found[id(parent)] = found.get(id(parent), 0.0) + outer * local
        follow(parent, outer * local, found)
def look(out, *inputs):
    found = {}
    follow(out, 1.0, found)
    return [float(out.data)] + [float(found.get(id(v), 0.0)) for v in inputs]
a, b = Value(x), Value(y)
"""
ARITHMETIC = [
    "return {'a + b': look(a + b, a, b), 'a * b': look(a * b, a, b), 'a - b': look(a - b, a, b), '-a': look(-a, a),",
    "        'a * a': look(a * a, a), '(a + b) * (a - b)': look((a + b) * (a - b), a, b)}",
]
DIVISION = [
    "return {'a / b': look(a / b, a, b), 'a ** 3': look(a**3, a), 'b ** 0.5': look(b**0.5, b),",
    "        'b ** -2': look(b**-2, b), 'a / (a * a + b)': look(a / (a * a + b), a, b)}",
]
FUNCTIONS = [
    "return {'exp': look(a.exp(), a), 'log': look(b.log(), b), 'tanh': look(a.tanh(), a),",
    "        'relu of a positive and of a negative number': look(b.relu(), b) + look((-b).relu(), b),",
    "        '(a * b).tanh().exp()': look((a * b).tanh().exp(), a, b)}",
]
NUMBERS = [
    "return {'a + 2': look(a + 2, a), 'a * 2.5': look(a * 2.5, a), 'a - 2': look(a - 2, a), 'a / 4': look(a / 4, a),",
    "        '2 + a': look(2 + a, a), '2.5 * a': look(2.5 * a, a), '2 - a': look(2 - a, a), '4 / a': look(4 / a, a)}",
]


@question("4a", points=4, names=["Value"], title="Values and their local derivatives", seconds=10)
def value(student: Any, reference: Any, draw: Any) -> None:
    point = {"x": -float(draw.uniform(0.4, 1.6)), "y": float(draw.uniform(1.7, 2.9))}
    parts = {"+, - and *": ARITHMETIC, "/ and **": DIVISION, "functions": FUNCTIONS, "plain numbers": NUMBERS}
    for label, lines in parts.items():
        source = LOOK + "\n".join(lines)
        with part(label, 1):
            want = reference.script(source, **point)
            found = student.script(source, **point)
            for expression, numbers in want.items():
                compare(found[expression], np.array(numbers), f"value and derivatives of {expression}")


NODE = """
class Node:
    def __init__(self, parents=(), grad=0.0):
        self.kept, self.grad, self.data, self.reads = tuple(parents), grad, 1.0, 0
    @property
    def parents(self):
        self.reads += 1
        if self.reads > 2000:
            raise OverflowError("the parents of one node were read 2,000 times: visit each node once")
        return self.kept
"""
LADDER = """
grads = []
for turn in (1, -1):  # near parents first, then far parents first: some wrong orders are right by luck in one of them
    nodes = []
    for i in range(8):
        edges = list(zip([i - 1, i - 2, i - 3], weights[i].tolist()))[::turn]
        nodes.append(Node((nodes[j], w) for j, w in edges if j >= 0 and (i - j != 2 or skip[i])))
    backward(nodes[-1])
    grads.append([float(node.grad) for node in nodes])
return torch.tensor(grads, dtype=torch.float64)
"""
TWICE = """
u, v, w, r = weights.tolist()
a, b = Node(), Node()
h = Node(((a, u), (b, v), (a, w)))
backward(Node(((h, r), (h, r))))
return [float(a.grad), float(b.grad), float(h.grad)]
"""
TWO_LOSSES = """
u, v, w, r = weights.tolist()
a = Node(grad=before)
h = Node(((a, u),))
first, second = Node(((h, v),)), Node(((h, w), (a, r)))
backward(first)
backward(second)
return [float(node.grad) for node in (a, h, first, second)]
"""
DEEP = """
leaf = node = Node()
for local in weights.tolist():
    node = Node(((node, local),))
try:
    backward(node)
except RecursionError:
    return "RecursionError: Python's call stack is full"
return float(leaf.grad)
"""
DOUBLING = """
leaf = node = Node()
for local in weights.tolist():
    node = Node(((node, local), (node, 1.0)))
try:
    backward(node)
except OverflowError:
    return "a node was visited more than 2,000 times"
return float(leaf.grad)
"""


@question("4b", points=5, names=["backward"], title="The backward pass", seconds=10)
def backward(student: Any, reference: Any, draw: Any) -> None:
    signs = 2 * draw.bernoulli(0.5, 8, 3) - 1
    weights, skip = signs * draw.uniform(0.5, 1.5, 8, 3), draw.bernoulli(0.5, 8)
    with part("shared nodes", 1.5):
        edge = np.zeros((8, 8))  # d node i / d node j
        for i, step in itertools.product(range(8), (1, 2, 3)):
            if i >= step and (step != 2 or skip[i]):
                edge[i, i - step] = weights[i, step - 1]
        want = np.stack([np.linalg.inv(np.eye(8) - edge)[-1]] * 2)  # the sum over all paths
        compare(student.script(NODE + LADDER, weights=weights, skip=skip), want, "the gradients of a graph of 8 nodes")
    u, v, w, r = four = draw.uniform(0.5, 1.5, 4)
    with part("a node that is used twice", 1):
        want = np.array([2 * r * (u + w), 2 * r * v, 2 * r])
        compare(student.script(NODE + TWICE, weights=four), want, "the gradients where a node is used twice")
    with part("gradients accumulate over two losses", 1):
        before = float(draw.uniform(0.5, 1.0))
        want = np.array([before + v * u + w * u + r, v + w, 1.0, 1.0])
        gradients = student.script(NODE + TWO_LOSSES, weights=four, before=before)
        compare(gradients, want, "the gradients after two losses that share a hidden node")
    with part("a chain of 6,000 nodes", 1):
        chain = 1 + draw.uniform(-0.01, 0.01, 6_000)
        compare(student.script(NODE + DEEP, weights=chain), np.prod(chain), "the gradient through 6,000 nodes")
    with part("forty doublings", 0.5):
        chain = draw.uniform(0.5, 1.5, 40)
        gradient = student.script(NODE + DOUBLING, weights=chain)
        compare(gradient, np.prod(chain + 1), "the gradient through forty doublings")


BUILD = """
params = {"W1": [[Value(w) for w in row] for row in W1.tolist()], "b1": [Value(b) for b in b1.tolist()],
          "w2": [Value(w) for w in w2.tolist()], "b2": Value(b2)}
"""
OUTPUTS = "return [float(network(params, point).data) for point in points.tolist()]"
TRAIN = """
losses = train_network(params, points.tolist(), labels.tolist(), lr, steps)
flat = [v for row in params["W1"] for v in row] + params["b1"] + params["w2"] + [params["b2"]]
return [float(loss) for loss in losses], [float(v.data) for v in flat]
"""
TORCH = """
params = [W1, b1, w2, torch.tensor(b2, dtype=W1.dtype, device=W1.device)]
curve = []
for _ in range(steps):
    params = [p.detach().requires_grad_() for p in params]
    output = (points @ params[0].T + params[1]).tanh() @ params[2] + params[3]
    loss = torch.nn.functional.softplus(-labels * output).mean()
    curve.append(loss.item())
    params = [p - lr * g for p, g in zip(params, torch.autograd.grad(loss, params))]
return curve, torch.cat([p.detach().flatten() for p in params])
"""


@question("4c", points=4, names=["network", "train_network"], title="A network trained by your engine", seconds=20)
def network(student: Any, reference: Any, draw: Any) -> None:
    upper = draw.bernoulli(0.5, 10)
    angle = draw.uniform(0.0, math.pi, 10)
    moons = np.stack([np.cos(angle), np.sin(angle)], 1) * (2 * upper - 1)[:, None]  # two half moons, one upside down
    points = np.round(moons + np.stack([1 - upper, 0.5 * (1 - upper)], 1) + draw.normal(10, 2, scale=0.1), 6)
    weights = {"W1": draw.normal(4, 2), "b1": draw.normal(4), "w2": draw.normal(4), "b2": float(draw.uniform(0.3, 1.0))}
    with part("the network's output", 1):
        hidden = np.tanh(points @ weights["W1"].T + weights["b1"])
        outputs = student.script(BUILD + OUTPUTS, points=points, **weights)
        compare(outputs, hidden @ weights["w2"] + weights["b2"], "f(x)")
    case = {**weights, "points": points, "labels": 2 * upper - 1, "lr": 0.5}
    with part("one step", 1):
        want = reference.script(TORCH, steps=1, **case)
        found = student.script(BUILD + TRAIN, steps=1, **case)
        compare(found, want, "loss and parameters after one step, against torch")
    with part("eight steps", 2):
        want_losses, want_final = reference.script(TORCH, steps=8, **case)
        losses, final = student.script(BUILD + TRAIN, steps=8, **case)
        compare(losses, want_losses, "the losses of eight steps, against torch")
        compare(final, want_final, "the parameters after eight steps, against torch")
