"""Checks of problem set 1, sections 1 and 2: maximum likelihood; mixtures and EM.

Each check asks for values that have one right answer: closed forms, one step of an algorithm, noise that is handed in.
Only the figure of 2g is statistical, with bands that leave room for any reasonable choice. The reference is always
asked before the student: what fails in one part does not shift the questions of the next.
"""

from __future__ import annotations

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
        batches = np.stack([draw.permutation(16) for _ in range(80)])  # all points in each batch: no noise is left
        parameters, _ = student.script(FIT_GAUSSIAN, **start, x=x, batches=batches, rate=0.3)
        compare(parameters, [x.mean(0), np.log(x.std(0))], "parameters after 80 steps on all points", rtol=1e-3)


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
        samples = student.sample_mixture(draw.uniform(0, 1, 4000), draw.normal(4000, 2), weights, means, covs)
        same_distribution(samples, numpy_samples(draw, 12000, weights, means, covs), what="samples")


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
# components with a ridge of 1e-3 (the solution) 11.0 ± 0.8 (9.3), eight 10.9 ± 0.8 (9.4), the best of three starts at
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
        expected = np.clip(numpy_samples(draw, 5000, weights, means, covs), 0, 1)
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
