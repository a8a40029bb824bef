"""Checks of problem set 3.

Each check asks for values that have one right answer: closed forms, given noise, one step of a sampler. Networks are
plain functions with random weights that are nowhere 0, at points of several sizes and shapes. The reference is always
asked before the student: what fails in one part does not shift the questions of the next.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from autograder.checks import bands, compare, expect, part, question

Array = np.ndarray[Any, Any]


def several_a(answer: Any, count: int, line: str) -> Any:
    """The answer, if it is a tuple or list of `count` values; otherwise the line that says what is expected."""
    expect(isinstance(answer, (tuple, list)) and len(answer) == count, line)
    return answer


# 1. Scores and Langevin dynamics


def clouds_a(draw: Any, k: int, d: int) -> dict[str, Array]:
    """A mixture of round Gaussians, whose standard deviations are well apart."""
    stds = (0.6 + 0.35 * draw.permutation(k)) * draw.uniform(0.95, 1.05, k)
    return {"logits": draw.normal(k) + 1.5, "means": draw.normal(k, d, scale=1.5), "stds": stds}


def log_density_a(x: Array, mixture: dict[str, Array]) -> Array:
    """log p (B,), component by component, with numpy alone."""
    weights = np.exp(mixture["logits"]) / np.exp(mixture["logits"]).sum()
    total = np.full(len(x), -np.inf)
    for weight, mean, std in zip(weights, mixture["means"], mixture["stds"], strict=True):
        z = (x - mean) / std
        one = np.log(weight) - 0.5 * (z**2 + np.log(2 * np.pi * std**2)).sum(1)
        total = np.logaddexp(total, one)
    return total


@question("1a", points=4, names=["mixture_energy", "mixture_score"], title="The score of a mixture")
def check_mixture_score(student: Any, reference: Any, draw: Any) -> None:
    mixture = clouds_a(draw, 4, 3)
    x, h = draw.normal(25, 3, scale=2.0), 1e-5
    with part("energy", 1):
        compare(student.mixture_energy(x, **mixture), -log_density_a(x, mixture), "E(x)")
    with part("score", 1):
        right = reference.mixture_score(x, **mixture)
        answer = student.mixture_score(x, **mixture)
        compare(answer, right, "score")
        steps = h * np.eye(3)
        slopes = [log_density_a(x + step, mixture) - log_density_a(x - step, mixture) for step in steps]
        compare(answer, np.stack(slopes, 1) / (2 * h), "score, against differences of log p", rtol=1e-5)
    with part("far from all components", 1):
        far = draw.normal(12, 3)
        far = far / np.linalg.norm(far, axis=1, keepdims=True) * 10 ** draw.uniform(2.0, 4.0, 12, 1)
        right = reference.mixture_energy(far, **mixture), reference.mixture_score(far, **mixture)
        compare(student.mixture_energy(far, **mixture), right[0], "E(x)")
        compare(student.mixture_score(far, **mixture), right[1], "score")
    with part("logits of 1e4 and -1e4, narrow components", 1):
        mixture = clouds_a(draw, 3, 2)
        mixture["logits"] = np.array([1e4, 1e4, -1e4]) + draw.normal(3)
        mixture["stds"] = mixture["stds"] * np.array([1.0, 0.02, 1.0])
        x = draw.normal(12, 2) + mixture["means"][draw.integers(0, 2, 12)]
        x[:4] = mixture["means"][1] + 0.03 * draw.normal(4, 2)
        right = reference.mixture_energy(x, **mixture), reference.mixture_score(x, **mixture)
        compare(student.mixture_energy(x, **mixture), right[0], "E(x)")
        compare(student.mixture_score(x, **mixture), right[1], "score")


# An energy of points of any shape, and one with a parameter, as a network has.
WELLS_A = """
def energy(x):
    z = x.flatten(1)
    return (0.25 * z**4 - tilt * z**2).sum(1) + 0.3 * (z[:, :-1] * z[:, 1:]).sum(1)
"""
CHAIN_A = "return langevin(energy, x, step_size, noise, temperature)"
TRACES_A = """
w = torch.nn.Parameter(tilt * torch.ones(1, dtype=x.dtype))
def energy(z):
    return (w * z**2 + torch.sin(z)).flatten(1).sum(1)
with torch.no_grad():
    way = langevin(energy, x, step_size, noise)
again = langevin(energy, x, step_size, noise)
return way, bool(way.requires_grad or again.requires_grad), w.grad is None
"""


@question("1b", points=3, names=["langevin"], title="Langevin dynamics", seconds=15)
def check_langevin(student: Any, reference: Any, draw: Any) -> None:
    tilt = float(draw.uniform(0.4, 0.9))
    with part("one step", 1):
        case = {"x": draw.normal(6, 3), "noise": draw.normal(1, 6, 3), "tilt": tilt}
        case |= {"step_size": float(draw.uniform(0.05, 0.1)), "temperature": 1.0}
        right = reference.script(WELLS_A + CHAIN_A, **case)
        compare(student.script(WELLS_A + CHAIN_A, **case), right, "start and end of a step")
    with part("a chain, at a temperature", 1):
        case = {"x": draw.normal(3, 2, 2), "noise": draw.normal(7, 3, 2, 2), "tilt": tilt}
        case |= {"step_size": float(draw.uniform(0.02, 0.06)), "temperature": float(draw.uniform(0.2, 0.5))}
        cold = {**case, "x": draw.normal(1, 3), "noise": draw.normal(4, 1, 3), "temperature": 0.0}
        right, right_cold = (reference.script(WELLS_A + CHAIN_A, **one) for one in (case, cold))
        compare(student.script(WELLS_A + CHAIN_A, **case), right, "the points of a chain of 7 steps")
        compare(student.script(WELLS_A + CHAIN_A, **cold), right_cold, "one chain at temperature 0")
    with part("without a trace", 1):
        case = {"x": draw.normal(4, 2), "noise": draw.normal(3, 4, 2), "tilt": tilt, "step_size": 0.1}
        right = reference.script(TRACES_A, **case)
        way, requires, clean = student.script(TRACES_A, **case)
        expect(not requires, "what langevin returns requires gradients: all steps' graphs stay in memory", "graph")
        expect(clean, "after langevin the energy's own parameters have gradients in .grad", "dirty")
        compare(way, right[0], "chains inside of torch.no_grad()")


RATIO_A = "return mala_log_ratio(energy, x, proposal, step_size, temperature)"
MALA_A = "return mala(energy, x, step_size, noise, uniform, temperature)"


@question(
    "1c",
    points=5,
    names=["ula_covariance", "largest_step", "mala_log_ratio", "mala"],
    title="The error of a step, and its repair",
    seconds=15,
)
def check_step_error(student: Any, reference: Any, draw: Any) -> None:
    rotation = np.linalg.qr(draw.normal(3, 3))[0]
    a = draw.uniform(0.6, 1.4, 3) * np.array([0.5, 1.0, 2.0])
    precision = np.round((rotation * a) @ rotation.T, 9)
    precision = (precision + precision.T) / 2
    limit = 2 / np.linalg.eigvalsh(precision)[-1]
    low = float(draw.uniform(0.3, 0.6))
    with part("stationary covariance", 1):
        for share, temperature in ((0.3, 1.0), (0.8, low)):
            step_size = float(share * limit)
            move, right = np.eye(3) - step_size * precision, np.zeros((3, 3))
            for _ in range(600):  # the chain itself, run until its covariance is at rest
                right = move @ right @ move.T + 2 * step_size * temperature * np.eye(3)
            answer = student.ula_covariance(precision, step_size, temperature)
            compare(answer, right, f"covariance at {share:g} of the largest step, T = {temperature:.2g}")
    with part("largest step", 1):
        compare(student.largest_step(precision), float(limit), "largest step")
    tilt = float(draw.uniform(0.4, 0.9))
    with part("log-ratio", 2):
        cases = []
        for shape, temperature in (((5, 3), 1.0), ((4, 2, 2), low)):
            case = {"x": draw.normal(*shape), "proposal": draw.normal(*shape), "tilt": tilt}
            case |= {"step_size": float(draw.uniform(0.1, 0.3)), "temperature": temperature}
            cases.append((case, reference.script(WELLS_A + RATIO_A, **case)))
        for case, right in cases:
            answer = student.script(WELLS_A + RATIO_A, **case)
            compare(answer, right, f"log-ratio of points {case['x'].shape}, T = {case['temperature']:.2g}")
            back = {**case, "x": case["proposal"], "proposal": case["x"]}
            compare(student.script(WELLS_A + RATIO_A, **back), -right, "log-ratio of the way back")
    with part("chains", 1):
        cases = []
        for shape, temperature in (((30, 2), 1.0), ((20, 2, 2), float(draw.uniform(0.5, 0.8)))):
            case = {"x": draw.normal(*shape), "noise": draw.normal(6, *shape), "tilt": tilt, "step_size": 0.25}
            case |= {"uniform": draw.uniform(0.001, 0.999, 6, shape[0]), "temperature": temperature}
            cases.append((case, reference.script(WELLS_A + MALA_A, **case)))
        for case, right in cases:
            answer = student.script(WELLS_A + MALA_A, **case)
            ends, rate = several_a(answer, 2, "mala returns two tensors: the ends and the acceptance rate")
            compare(ends, right[0], "where the chains end")
            compare(rate, right[1], "the fraction of accepted proposals")


# A score of any shape, not linear, with weights that are not 0 and that get gradients.
SCORE_A = """
w = w.clone().requires_grad_()
def score(z, level):
    s = level.reshape(-1, *[1] * (z.ndim - 1))
    return torch.tanh(z.flatten(1) @ w).view(z.shape) / s - 0.3 * z / (1 + s)
"""
DSM_A = """
loss = dsm_loss(score, x, sigma, noise, weighted=weighted)
if not (isinstance(loss, torch.Tensor) and loss.requires_grad):
    return loss, "the loss has no gradient"
return loss, torch.autograd.grad(loss, w)[0]
"""


@question("1d", points=4, names=["dsm_loss", "blurred_score", "tweedie"], title="Denoising score matching", seconds=15)
def check_dsm(student: Any, reference: Any, draw: Any) -> None:
    def levels(n: int, low: float, high: float) -> Array:
        return np.round(np.exp(draw.uniform(math.log(low), math.log(high), n)), 9)

    def losses(weighted: bool, low: float, high: float) -> None:
        cases = []
        for shape in ((4, 4), (1, 3), (3, 1, 2, 2)):
            d = math.prod(shape[1:])
            case = {"x": draw.normal(*shape), "noise": draw.normal(*shape), "sigma": levels(shape[0], low, high)}
            case |= {"w": draw.normal(d, d), "weighted": weighted}
            cases.append((case, reference.script(SCORE_A + DSM_A, **case)))
        for case, right in cases:
            shape = case["x"].shape
            answer = several_a(student.script(SCORE_A + DSM_A, **case), 2, "dsm_loss returns a scalar")
            compare(answer[0], right[0], f"loss of a batch {shape}")
            compare(answer[1], right[1], f"its gradient in the network's weights, batch {shape}")

    with part("loss without weights", 1):
        losses(False, 0.3, 3.0)
    with part("loss with weights, levels from 0.01 to 100", 1):
        losses(True, 0.01, 100.0)
    with part("score of blurred Gaussian data", 1):
        mean, cov, x, sigma = draw.normal(3, scale=2.0), draw.spd(3), draw.normal(3, 3, scale=3.0), levels(3, 0.05, 5)
        right = np.stack([np.linalg.inv(cov + s * s * np.eye(3)) @ (mean - p) for s, p in zip(sigma, x, strict=True)])
        compare(student.blurred_score(x, sigma, mean, cov), right, "score")
    with part("Tweedie's formula", 1):
        cases = []
        for shape in ((3, 3), (2, 1, 2, 2)):
            d = math.prod(shape[1:])
            case = {"x": draw.normal(*shape), "sigma": levels(shape[0], 0.3, 3), "w": draw.normal(d, d)}
            cases.append((case, reference.script(SCORE_A + "return tweedie(score, x, sigma)", **case)))
        for case, right in cases:
            answer = student.script(SCORE_A + "return tweedie(score, x, sigma)", **case)
            compare(answer, right, f"E[x | noisy x] of a batch {case['x'].shape}")


# 2. Denoising diffusion


def log_snr_a(alpha_bar: Any) -> Any:
    """log of signal over noise at t = 1..T: sees the ends of the table, which are tiny next to its middle."""
    bar = np.asarray(alpha_bar, dtype=np.float64)
    with np.errstate(all="ignore"):
        return np.log(bar[1:]) - np.log1p(-bar[1:])


def double_a(answer: Any, what: str) -> Any:
    """The answer, which must be an array of float64."""
    if isinstance(answer, np.ndarray):
        expect(answer.dtype == np.float64, f"{what}: float64 is expected, and there is {answer.dtype}")
    return answer


@question("2a", points=3, names=["linear_betas", "cosine_betas", "noise_tables"], title="Noise schedules")
def check_schedules(student: Any, reference: Any, draw: Any) -> None:
    counts = 1000, int(draw.integers(60, 400, 1)[0]), int(draw.integers(6, 14, 1)[0])
    for name in ("linear_betas", "cosine_betas"):
        with part(name.replace("_", " "), 1):
            every = [getattr(reference, name)(steps) for steps in counts]
            for steps, right in zip(counts, every, strict=True):
                answer = double_a(getattr(student, name)(steps), "betas")
                compare(answer, right, f"betas for {steps} steps")
    with part("tables", 1):
        cases = [np.sort(draw.uniform(0.001, 0.9, 5)), np.sort(draw.uniform(0.001, 0.1, 400))]
        for betas, right in [(betas, reference.noise_tables(betas)) for betas in cases]:
            answer = several_a(student.noise_tables(betas), 2, "noise_tables returns two tensors: betas and alpha_bar")
            compare(double_a(answer[0], "betas"), right[0], "betas, from t = 0 on")
            compare(double_a(answer[1], "alpha_bar"), right[1], "alpha_bar, from t = 0 on")
            compare(log_snr_a(answer[1]), log_snr_a(right[1]), "log of alpha_bar / (1 - alpha_bar), from t = 1 on")


def tables_a(draw: Any, steps: int) -> dict[str, Array]:
    """betas and alpha_bar (steps + 1,) of a schedule that is none of the famous ones."""
    betas = np.concatenate([[0.0], draw.uniform(0.02, 0.4, steps)])
    return {"betas": betas, "alpha_bar": np.round(np.cumprod(1 - betas), 14)}


def batches_a(draw: Any) -> list[tuple[int, ...]]:
    """Shapes at which a wrong axis shows: as many examples as coordinates, one example, images."""
    return [(4, 4), (1, int(draw.integers(2, 4, 1)[0])), (3, 2, 3, 3), (5, 2)]


@question("2b", points=2, names=["q_sample"], title="Noise in one jump")
def check_q_sample(student: Any, reference: Any, draw: Any) -> None:
    bar = tables_a(draw, 12)["alpha_bar"]
    with part("points", 1):
        x_0, noise, t = draw.normal(6, 2, scale=2.0), draw.normal(6, 2), draw.permutation(13)[:6]
        t[0] = 0  # the data itself
        right = reference.q_sample(x_0, t, noise, bar)
        compare(student.q_sample(x_0, t, noise, bar), right, "x_t")
    with part("batches of other shapes", 1):
        cases = []
        for shape in batches_a(draw):
            case = draw.normal(*shape), draw.permutation(12)[: shape[0]] + 1, draw.normal(*shape), bar
            cases.append((case, reference.q_sample(*case)))
        for case, right in cases:
            compare(student.q_sample(*case), right, f"x_t of a batch {case[0].shape}")


def step_back_a(x_0: Array, x_t: Array, t: int, betas: Array) -> tuple[Array, float]:
    """Mean and variance of q(x_{t-1} | x_t, x_0) from the joint covariance of (x_{t-1}, x_t) given x_0."""
    shrink = np.sqrt(1 - betas)
    centre, spread = 1.0, 0.0  # x_{t-1} = centre x_0 + noise of variance spread
    for s in range(1, t):
        centre, spread = centre * shrink[s], spread * shrink[s] ** 2 + betas[s]
    both, total = spread * shrink[t], spread * shrink[t] ** 2 + betas[t]  # covariance with x_t, variance of x_t
    return centre * x_0 + both / total * (x_t - shrink[t] * centre * x_0), spread - both**2 / total


@question("2c", points=4, names=["q_posterior"], title="The step back, if we knew the data")
def check_posterior(student: Any, reference: Any, draw: Any) -> None:
    tables = tables_a(draw, 12)
    line = "q_posterior returns two tensors: mean and variance"

    t = draw.permutation(11)[:6] + 2
    inputs = draw.normal(6, 2, scale=2.0), draw.normal(6, 2)
    early = draw.normal(3, 2), draw.normal(3, 2)
    others = [(draw.normal(*s, scale=2.0), draw.normal(*s), draw.permutation(12)[: s[0]] + 1) for s in batches_a(draw)]

    def truth(x_0: Array, x_t: Array, t: Array) -> list[tuple[Array, float]]:
        return [step_back_a(a, b, int(s), tables["betas"]) for a, b, s in zip(x_0, x_t, t, strict=True)]

    right = truth(*inputs, t)
    with part("mean", 1):
        answer = several_a(student.q_posterior(*inputs, t, **tables), 2, line)
        compare(answer[0], np.stack([mean for mean, _ in right]), "mean")
    with part("variance", 1):
        answer = several_a(student.q_posterior(*inputs, t, **tables), 2, line)
        compare(answer[1], np.array([[variance] for _, variance in right]), "variance")
    with part("t = 1", 1):
        answer = several_a(student.q_posterior(*early, np.array([1, 1, 1]), **tables), 2, line)
        compare(answer[0], early[0], "mean at t = 1")
        compare(answer[1], np.zeros((3, 1)), "variance at t = 1")
    with part("batches of other shapes", 1):
        for case in others:
            right, shape = truth(*case), case[0].shape
            answer = several_a(student.q_posterior(*case, **tables), 2, line)
            compare(answer[0], np.stack([mean for mean, _ in right]), f"mean of a batch {shape}")
            variances = np.array([v for _, v in right]).reshape(-1, *[1] * (len(shape) - 1))
            compare(answer[1], variances, f"variance of a batch {shape}")


@question("2d", points=3, names=["velocity", "split"], title="Three things to predict")
def check_split(student: Any, reference: Any, draw: Any) -> None:
    bar = np.concatenate([tables_a(draw, 9)["alpha_bar"], [1e-4, 1e-8]])  # to the end, where hardly a signal is left
    top = len(bar) - 1

    def truth(shape: tuple[int, ...]) -> tuple[Array, ...]:
        """x_0, eps, t, x_t and v."""
        x_0, eps, t = draw.normal(*shape, scale=1.5), draw.normal(*shape), draw.permutation(top)[: shape[0]] + 1
        t[0] = top if shape[0] > 1 else 4
        cosine = np.sqrt(bar[t]).reshape(-1, *[1] * (len(shape) - 1))
        sine = np.sqrt(1 - cosine**2)
        return x_0, eps, t, cosine * x_0 + sine * eps, cosine * eps - sine * x_0

    line = "split returns two tensors: x_0 and eps"
    cases, points = [truth(shape) for shape in batches_a(draw)], truth((6, 3))
    with part("velocity", 0.5):
        for x_0, eps, t, _, v in cases:
            compare(student.velocity(x_0, eps, t, bar), v, f"v of a batch {x_0.shape}")
    for prediction in ("eps", "x0", "v"):
        with part(f"from {prediction}", 0.5):
            for x_0, eps, t, x_t, v in cases:
                shape = x_0.shape
                out = {"eps": eps, "x0": x_0, "v": v}[prediction]
                answer = several_a(student.split(out, x_t, t, bar, prediction), 2, line)
                compare(answer[0], x_0, f"x_0 of a batch {shape}")
                compare(answer[1], eps, f"eps of a batch {shape}")
    with part("clipped", 1):
        for prediction in ("eps", "x0", "v"):
            x_0, eps, t, x_t, v = points
            out = {"eps": eps, "x0": x_0, "v": v}[prediction]
            answer = several_a(student.split(out, x_t, t, bar, prediction, True), 2, line)
            compare(answer[0], np.maximum(np.minimum(x_0, 1.0), -1.0), f"clipped x_0 from {prediction}")
            compare(answer[1], eps, f"eps beside a clipped x_0, from {prediction}")


# A network of any shape that depends on its time, with weights that are not 0 and that get gradients.
NET_A = """
w = w.clone().requires_grad_()
def net(z, time):
    if not (isinstance(time, torch.Tensor) and time.shape == z.shape[:1] and not time.is_floating_point()):
        raise TypeError("the network expects the times t as whole numbers, of shape (B,)")
    s = time.to(z.dtype).reshape(-1, *[1] * (z.ndim - 1))
    return torch.tanh(z.flatten(1) @ w).view(z.shape) * (1 + 0.1 * s) + 0.2 * torch.cos(s) * z
"""
LOSS_A = """
loss = ddpm_loss(net, x_0, t, noise, alpha_bar, prediction)
if not (isinstance(loss, torch.Tensor) and loss.requires_grad):
    return loss, "the loss has no gradient"
return loss, torch.autograd.grad(loss, w)[0]
"""


@question("2e", points=3, names=["ddpm_loss"], title="The loss", seconds=15)
def check_loss(student: Any, reference: Any, draw: Any) -> None:
    bar = tables_a(draw, 12)["alpha_bar"]
    for prediction in ("eps", "x0", "v"):
        with part(f"{prediction} as target", 1):
            cases = []
            for shape in batches_a(draw):
                d = math.prod(shape[1:])
                case = {"x_0": draw.normal(*shape, scale=1.5), "noise": draw.normal(*shape), "w": draw.normal(d, d)}
                case |= {"t": draw.permutation(12)[: shape[0]] + 1, "alpha_bar": bar, "prediction": prediction}
                cases.append((case, reference.script(NET_A + LOSS_A, **case)))
            for case, right in cases:
                shape = case["x_0"].shape
                answer = several_a(student.script(NET_A + LOSS_A, **case), 2, "ddpm_loss returns a scalar")
                compare(answer[0], right[0], f"loss of a batch {shape}")
                compare(answer[1], right[1], f"its gradient in the network's weights, batch {shape}")


STEP_A = """
out = p_sample(net, x_t, t, noise, betas, alpha_bar, prediction, variance, clip)
return out
"""
WAY_A = """
out = ddpm_sample(net, x_T, noise, betas, alpha_bar, prediction, variance, clip)
return out.detach(), bool(out.requires_grad)
"""
# The exact guess of the noise for data from N(mean, var), and the network that always guesses one point.
EXACT_A = """
def net(z, time):
    bar = alpha_bar[time][:, None]
    return (1 - bar).sqrt() * (z - bar.sqrt() * mean) / (bar * var + 1 - bar)
"""
POINT_A = """
def net(z, time):
    return point.expand(len(z), -1)
"""


def cosine_tables_a(steps: int) -> dict[str, Array]:
    """A fine schedule for the limit of many steps."""
    bar = np.cos(0.5 * np.pi * (np.arange(steps + 1) / steps) * 0.999) ** 2
    betas = np.concatenate([[0.0], 1 - bar[1:] / bar[:-1]])
    return {"betas": np.round(betas, 12), "alpha_bar": np.round(np.cumprod(1 - np.round(betas, 12)), 14)}


@question("2f", points=4, names=["p_sample", "ddpm_sample"], title="The sampler", seconds=30)
def check_sampler(student: Any, reference: Any, draw: Any) -> None:
    steps = 6
    tables = tables_a(draw, steps)

    def options(prediction: str, variance: str, clip: bool) -> dict[str, Any]:
        return {**tables, "prediction": prediction, "variance": variance, "clip": clip}

    plain = options("eps", "posterior", False)
    with part("one step", 1):
        cases = []
        for shape, t in (((4, 4), 4), ((2, 1, 2, 2), 6), ((1, 3), 2), ((3, 2), 1)):
            d = math.prod(shape[1:])
            case = {"x_t": draw.normal(*shape), "noise": draw.normal(*shape), "w": draw.normal(d, d), "t": t, **plain}
            cases.append((case, reference.script(NET_A + STEP_A, **case)))
        for case, right in cases:
            answer = student.script(NET_A + STEP_A, **case)
            compare(answer, right, f"x_{case['t'] - 1} of a batch {case['x_t'].shape}")
    with part("options", 1):
        every = [("x0", "posterior", False), ("v", "posterior", False), ("v", "beta", False), ("eps", "beta", True)]
        cases = []
        for prediction, variance, clip in [*every, ("x0", "posterior", True)]:
            for t in (5, 1):
                case = {"x_t": draw.normal(5, 3, scale=1.5), "noise": draw.normal(5, 3), "w": draw.normal(3, 3), "t": t}
                case |= options(prediction, variance, clip)
                cases.append((case, reference.script(NET_A + STEP_A, **case)))
        for case, right in cases:
            what = f"x_{case['t'] - 1} with {case['prediction']}, {case['variance']}{', clip' if case['clip'] else ''}"
            compare(student.script(NET_A + STEP_A, **case), right, what)
    with part("all the way", 1):
        cases = []
        for shape, chosen in (((4, 3), plain), ((2, 1, 2, 2), options("v", "beta", True))):
            d = math.prod(shape[1:])
            noise = draw.normal(steps + 1, *shape)
            noise[:2] *= 100.0  # these two must not matter
            case = {"x_T": draw.normal(*shape), "noise": noise, "w": draw.normal(d, d), **chosen}
            cases.append((case, reference.script(NET_A + WAY_A, **case)))
        for case, right in cases:
            shape = case["x_T"].shape
            answer = student.script(NET_A + WAY_A, **case)
            compare(answer[0], right[0], f"samples of a batch {shape}")
            expect(not answer[1], "what ddpm_sample returns requires gradients: all steps' graphs stay in memory")
    with part("data that are known", 1):
        point = draw.normal(2, scale=2.0)
        fine, mean, var = cosine_tables_a(120), float(draw.uniform(1, 2)), float(draw.uniform(0.3, 0.6))
        case = {"x_T": draw.normal(5, 2), "noise": draw.normal(steps + 1, 5, 2), "point": point}
        answer = student.script(POINT_A + WAY_A, **case, **options("x0", "posterior", False))
        compare(answer[0], np.tile(point, (5, 1)), "samples of a model that knows one point only")
        # The sampler is linear here. Row 0 has no noise at all; each other row has one source of noise switched on.
        x_T, noise = np.zeros((121, 1)), np.zeros((121, 121, 1))
        x_T[1] = 1.0
        for t in range(2, 121):
            noise[t, t] = 1.0
        case = {"x_T": x_T, "noise": noise, "mean": mean, "var": var, "prediction": "eps", "clip": False, **fine}
        for variance in ("posterior", "beta"):
            ends = student.script(EXACT_A + WAY_A, **case, variance=variance)[0]
            compare(ends[0], np.array([mean]), f"mean of the samples of Gaussian data, {variance}", rtol=0.02)
            spread = float(((ends[1:] - ends[:1]) ** 2).sum())
            compare(spread, var, f"variance of the samples of Gaussian data, {variance}", rtol=0.15)


# 2g. A figure that is measured


def moons_a(draw: Any, n: int) -> Array:
    """Points (n, 2) on two moons with unit arcs."""
    angle, lower = draw.uniform(0, math.pi, n), draw.bernoulli(0.5, n)[:, None]
    arc = np.stack([np.cos(angle), np.sin(angle)], 1)
    return (1 - lower) * arc + lower * (np.array([1.0, 0.5]) - arc) + draw.normal(n, 2, scale=0.1)


def nearest_kl_a(p: Array, q: Array, k: int = 5) -> float:
    """KL(P || Q) in nats from samples of each, by distances to k-th neighbours (Wang, Kulkarni, Verdu 2009)."""

    def kth(a: Array, b: Array, rank: int) -> Array:
        squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        return np.maximum(np.partition(squared, rank, axis=1)[:, rank], 1e-12)

    rho, nu = kth(p, p, k), kth(p, q, k - 1)  # a point is its own nearest neighbour
    return float(p.shape[1] * 0.5 * np.log(nu / rho).mean() + math.log(len(q) / (len(p) - 1)))


# Divergence in nats, and points.
BANDS_A = [(0.6, 1), (0.45, 3), (0.3, 5), (0.2, 7)]
TRAIN_A = """
samples = train_points(data)(n)
return samples.detach().to(torch.float64) if isinstance(samples, torch.Tensor) else samples
"""


@question(
    "2g", points=7, names=["train_points"], title="A diffusion model of your own", seconds=120, seeds=1, quality=True
)
def check_points(student: Any, reference: Any, draw: Any) -> None:
    angle, stretch, shift = draw.uniform(0, 2 * math.pi), draw.uniform(1.5, 3.0), draw.uniform(-6.0, 6.0, 2)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    x = moons_a(draw, 4500) @ turn.T * np.array([stretch, 1.0]) + shift
    data, fresh = x[:3000], x[3000:]
    with part("samples", 7):
        samples = student.script(TRAIN_A, data=data, n=1500)
        shape = samples.shape if isinstance(samples, np.ndarray) else None
        expect(shape == (1500, 2), f"1500 points are expected, of shape (1500, 2), and the shape is {shape}")
        expect(bool(np.isfinite(samples).all()), "samples are not finite (NaN or infinite)")
        expect(len(np.unique(samples, axis=0)) == 1500, "some samples are equal: each is to be a new point")
        unit = np.linalg.inv(np.linalg.cholesky(np.cov(data.T))).T  # in units in which the data is as wide as high
        ours, theirs = (fresh - shift) @ unit, (samples - shift) @ unit
        both = 0.5 * (nearest_kl_a(ours, theirs) + nearest_kl_a(theirs, ours))
        bands(both, BANDS_A, higher_is_better=False, what="divergence from fresh points", unit="nats")


def several_b(answer: Any, count: int, line: str) -> Any:
    """The answer, if it is a tuple or list of `count` values; otherwise the line that says what is expected."""
    expect(isinstance(answer, (tuple, list)) and len(answer) == count, line)
    return answer


def call_b(name: str, *arguments: Any, **keywords: Any) -> Callable[[Any], Any]:
    """A question that can be put to either side: a function's answer."""
    return lambda side: getattr(side, name)(*arguments, **keywords)


def script_b(source: str, **inputs: Any) -> Callable[[Any], Any]:
    """A question that can be put to either side: what a script returns."""
    return lambda side: side.script(source, **inputs)


def asked_b(reference: Any, questions: dict[str, Callable[[Any], Any]]) -> list[tuple[str, Any, Any]]:
    """Put all questions to the reference, before the student sees the first: (what, question, right answer) each."""
    return [(what, ask, ask(reference)) for what, ask in questions.items()]


def same_b(student: Any, asked: list[tuple[str, Any, Any]]) -> None:
    """The student's answers equal the right ones."""
    for what, ask, right in asked:
        compare(ask(student), right, what)


# 3. Faster and steered sampling


def schedule_b(draw: Any, num_steps: int) -> Array:
    """alpha_bar (num_steps + 1,) of a random schedule: falling, entry 0 is 1."""
    return np.concatenate([[1.0], np.cumprod(draw.uniform(0.6, 0.97, num_steps))])


def weights_b(draw: Any, d: int, hidden: int = 5) -> dict[str, Array]:
    """What the scripts' functions on vectors of d numbers are made of."""
    return {"a": draw.normal(d, hidden), "b": draw.normal(hidden, d, scale=0.6), "c": draw.normal(d, d, scale=0.6)}


DENOISE = """
def denoise(x, t):
    t = float(torch.as_tensor(t).flatten()[0])
    h = torch.tanh(x.flatten(1) @ a + 0.1 * t)
    return (h @ b).view_as(x), torch.sin(x.flatten(1) @ c + 0.3 * t).view_as(x)
"""
STEP = "return ddim_step(denoise, alpha_bar, x, t, s, eta=eta, noise=noise)"
SAMPLE = "return ddim_sample(denoise, alpha_bar, x, steps, eta=eta, noise=noise)"
KEPT = """
old = ddim_step(lambda x, t: (0 * x, 0 * x + 1), alpha_bar, x, t, s, eta=eta, noise=0 * x)
new = ddim_step(lambda x, t: (0 * x, 0 * x), alpha_bar, x, t, s, eta=eta, noise=0 * x + 1)
return old**2 + new**2
"""


@question("3a", points=6, names=["ddim_timesteps", "ddim_step", "ddim_sample"], title="DDIM: fewer steps", seconds=15)
def check_ddim(student: Any, reference: Any, draw: Any) -> None:
    grids = ((10, 10), (10, 3), (1000, 7), (40, 1), (int(draw.integers(20, 60, 1)[0]), 3))
    times = asked_b(reference, {f"{steps} steps of {of}": call_b("ddim_timesteps", of, steps) for of, steps in grids})
    bar, noise = schedule_b(draw, 10), draw.normal(4, 3)
    case = {"x": draw.normal(4, 3), "alpha_bar": bar, **weights_b(draw, 3)}
    quiet, noisy = (
        asked_b(
            reference,
            {
                f"the step from {t} to {s}, eta {eta:g}": script_b(
                    DENOISE + STEP, t=t, s=s, eta=eta, noise=noise if eta else None, **case
                )
                for t, s, eta in steps
            },
        )
        for steps in (((8, 3, 0.0), (5, 4, 0.0), (2, 0, 0.0)), ((8, 3, 1.0), (6, 5, 1.0), (9, 2, 0.4), (4, 0, 0.7)))
    )
    walks = {}
    for shape, num_steps, steps, eta in (((4, 3), 10, 10, 0.0), ((1, 3), 11, 3, 0.0), ((2, 1, 2, 3), 9, 5, 0.6)):
        walk = {"alpha_bar": schedule_b(draw, num_steps), "x": draw.normal(*shape), "steps": steps, "eta": eta}
        walk |= {**weights_b(draw, int(np.prod(shape[1:]))), "noise": draw.normal(steps, *shape) if eta else None}
        walks[f"the sample in {steps} of {num_steps} steps, eta {eta:g}"] = script_b(DENOISE + SAMPLE, **walk)
    samples = asked_b(reference, walks)
    with part("the times", 1):
        same_b(student, times)
    with part("a step without noise", 1):
        same_b(student, quiet)
    with part("a step with noise", 2):
        same_b(student, noisy)
        for eta in (0.3, 1.0):
            spread = student.script(KEPT, x=noise, alpha_bar=bar, t=7, s=4, eta=eta)
            line = f"the variance of old and new noise together, eta {eta}"
            compare(spread, np.full((4, 3), 1 - bar[4]), line)
    with part("the whole sampler", 2):
        same_b(student, samples)


PREDICT = """
def predict(x, t, y):
    h = torch.tanh(x.flatten(1) @ a + table[y] + 0.2 * t[:, None])
    return (h @ b).view_as(x)
return guided_prediction(predict, x, t, y, null, w)
"""


@question("3b", points=4, names=["drop_labels", "guided_prediction"], title="Classifier-free guidance")
def check_guidance(student: Any, reference: Any, draw: Any) -> None:
    y = np.concatenate([[0, 1, 0], draw.integers(0, 4, 7)])
    dropped = np.concatenate([[True, True, False, False], draw.uniform(0, 1, 6) < 0.5])
    cases = []
    for shape in ((5, 3), (2, 1, 2, 2), (1, 3)):
        n, w = shape[0], weights_b(draw, int(np.prod(shape[1:])))
        case = {"x": draw.normal(*shape), "t": draw.integers(1, 9, n), "table": draw.normal(5, 5, scale=1.5)}
        cases.append({**case, "y": draw.integers(1, 4, n), "a": w["a"], "b": w["b"], "null": 4})
    cases[0]["y"][0], cases[1]["null"] = 0, 0
    alone = cases[0] | {"y": None}

    def at(case: dict[str, Any], w: float) -> Callable[[Any], Any]:
        return script_b(PREDICT, w=w, **case)

    labels = {f"the labels, null = {null}": call_b("drop_labels", y, dropped, null) for null in (4, 9)}
    right = [
        asked_b(reference, labels),
        asked_b(reference, {f"the prediction at w = {w}": at(case, w) for case, w in zip(cases, (0.7, 4.0, 2.0))}),
        asked_b(reference, {f"the prediction at w = {w:g}": at(cases[0], w) for w in (0.0, -1.0)}),
        asked_b(reference, {f"the prediction without labels, w = {w:g}": at(alone, w) for w in (0.0, 1.5)}),
    ]
    parts = (("dropping labels", 1), ("the guided prediction", 2), ("w = 0 and w = -1", 0.5), ("no labels", 0.5))
    for (label, points), asked in zip(parts, right):
        with part(label, points):
            same_b(student, asked)


P_SAMPLE = """
def p_sample(x, t, z):
    t = float(torch.as_tensor(t).flatten()[0])
    h = torch.tanh(x.flatten(1) @ a + 0.4 * t)
    return 0.7 * x + (h @ b).view_as(x) + 0.5 * z
"""
INPAINT = """
return inpaint(p_sample, alpha_bar, x, mask, start, known, step, back, resample=resample)
"""


def inpainting_b(draw: Any, shape: tuple[int, ...], num_steps: int, resample: int) -> dict[str, Any]:
    w = weights_b(draw, int(np.prod(shape[1:])))
    names = ("known", "step", "back")
    noises = {name: draw.normal(num_steps + 1, resample, *shape) for name in names}
    case = {"alpha_bar": schedule_b(draw, num_steps), "x": draw.normal(*shape), "start": draw.normal(*shape)}
    return {**case, **noises, "a": w["a"], "b": w["b"], "resample": resample}


@question("3c", points=4, names=["inpaint"], title="Inpainting", seconds=15)
def check_inpainting(student: Any, reference: Any, draw: Any) -> None:
    half = np.array([True, False, True, False])
    plain, again = {}, {}
    for num_steps in (2, 4, 1):
        case = {**inpainting_b(draw, (3, 4), num_steps, 1), "mask": half}
        plain[f"what is filled in, {num_steps} steps"] = script_b(P_SAMPLE + INPAINT, **case)
    mask = draw.uniform(0, 1, 2, 1, 2, 3) < 0.5
    mask[:, 0, 0, 0], mask[:, 0, 1, 1] = True, False
    case = {**inpainting_b(draw, (2, 2, 2, 3), 3, 1), "mask": mask}
    plain["what is filled in, with a mask for each image"] = script_b(P_SAMPLE + INPAINT, **case)
    for num_steps, resample in ((2, 2), (3, 3), (1, 2)):
        case = {**inpainting_b(draw, (3, 4), num_steps, resample), "mask": half}
        again[f"what is filled in, {num_steps} steps, U = {resample}"] = script_b(P_SAMPLE + INPAINT, **case)
    overwriting, repaint = asked_b(reference, plain), asked_b(reference, again)
    with part("overwriting", 2):
        same_b(student, overwriting)
    with part("RePaint", 2):
        same_b(student, repaint)


SDEDIT = "return sdedit(p_sample, alpha_bar, x, t, noise, step)"


@question("3d", points=3, names=["sdedit"], title="SDEdit")
def check_sdedit(student: Any, reference: Any, draw: Any) -> None:
    def case(shape: tuple[int, ...], t: int) -> dict[str, Any]:
        w = weights_b(draw, int(np.prod(shape[1:])))
        inputs = {"alpha_bar": schedule_b(draw, 7), "x": draw.normal(*shape), "noise": draw.normal(*shape), "t": t}
        return {**inputs, "step": draw.normal(8, *shape), "a": w["a"], "b": w["b"]}

    cases = [case((4, 3), 3), case((2, 1, 2, 2), 5), case((1, 3), 1), case((4, 3), 0), case((4, 3), 7)]
    asked = asked_b(reference, {f"from t = {one['t']} of 7": script_b(P_SAMPLE + SDEDIT, **one) for one in cases})
    with part("from the middle", 2):
        same_b(student, asked[:3])
    with part("t = 0 and t = T", 1):
        same_b(student, asked[3:])
        compare(student.script(P_SAMPLE + SDEDIT, **cases[3]), cases[3]["x"], "the guide, at t = 0")


# 4. Flow matching

FIELD = """
def velocity(x, t):
    if tuple(t.shape) != (len(x),):
        raise ValueError(f"the velocity wants a time for each example, ({len(x)},), and gets {tuple(t.shape)}")
    h = torch.tanh(x.flatten(1) @ a + 2 * t[:, None])
    return (h @ b).view_as(x)
"""
LOSS = "return flow_matching_loss(velocity, x_0, x_1, t)"
LOSS_GRADIENT = """
b = b.clone().requires_grad_()
loss = flow_matching_loss(velocity, x_0, x_1, t)
return torch.autograd.grad(loss, b)[0]
"""


@question("4a", points=4, names=["straight_path", "flow_matching_loss"], title="Path and loss of flow matching")
def check_flow_matching(student: Any, reference: Any, draw: Any) -> None:
    cases = []
    for shape in ((4, 4), (2, 2, 3, 1), (1, 5), (6, 2)):
        w = weights_b(draw, int(np.prod(shape[1:])))
        ends = {"x_0": draw.normal(*shape), "x_1": draw.normal(*shape) * 2 + 1, "t": draw.uniform(0, 1, shape[0])}
        cases.append({**ends, "a": w["a"], "b": w["b"]})
    ends = [(case["x_0"], case["x_1"], case["t"]) for case in cases]
    shapes = [str(case["x_0"].shape) for case in cases]
    right = [reference.straight_path(*one) for one in ends]
    losses = {f"the loss of {name}": script_b(FIELD + LOSS, **case) for name, case in zip(shapes, cases)}
    slopes = {
        f"the gradient of {name}": script_b(FIELD + LOSS_GRADIENT, **case) for name, case in zip(shapes[:2], cases)
    }
    asked_losses, asked_slopes = asked_b(reference, losses), asked_b(reference, slopes)
    line = "straight_path returns two tensors: the place and the velocity"
    with part("the place", 1):
        for one, (place, _) in zip(ends, right):
            compare(several_b(student.straight_path(*one), 2, line)[0], place, "x_t")
    with part("the velocity of the path", 0.5):
        for one, (_, velocity) in zip(ends, right):
            compare(several_b(student.straight_path(*one), 2, line)[1], velocity, "the velocity")
    with part("the loss", 1.5):
        same_b(student, asked_losses)
        still = {**cases[3], "b": np.zeros((5, 2))}
        truth = np.mean((still["x_1"] - still["x_0"]) ** 2)
        compare(student.script(FIELD + LOSS, **still), truth, "the loss of a field that is 0 throughout")
    with part("the loss's gradient", 1):
        same_b(student, asked_slopes)


LINEAR = """
calls = []
def velocity(x, t):
    calls.append(t)
    return x @ matrix.T
path = solver_of[name](velocity, x, t)
return path, len(calls)
"""
LINEAR = "solver_of = {'euler': euler, 'heun': heun}" + LINEAR


@question("4b", points=4, names=["euler", "heun"], title="Euler and Heun")
def check_solvers(student: Any, reference: Any, draw: Any) -> None:
    rising = np.concatenate([[0.0], np.cumsum(draw.uniform(0.1, 0.3, 4))])
    kinds = {
        "even times": ((3, 2), np.linspace(0, 1, 6)),
        "uneven times": ((1, 2, 2), rising),
        "falling times": ((3, 2), rising[::-1].copy()),
        "one step": ((2, 3), rising[:2]),
    }
    cases = {}
    for kind, (shape, t) in kinds.items():
        w = weights_b(draw, int(np.prod(shape[1:])))
        cases[f"the path, {kind}"] = {"x": draw.normal(*shape), "t": t, "a": w["a"], "b": w["b"]}
    asked = {}
    for name in ("euler", "heun"):
        source = f"{FIELD}\nreturn {name}(velocity, x, t=t)"
        asked[name] = asked_b(reference, {what: script_b(source, **case) for what, case in cases.items()})
    matrix, x, h, n = draw.normal(2, 2), draw.normal(3, 2), 0.1, 8
    for name, points in (("euler", 1.0), ("heun", 2.0)):
        with part(f"the path of {name.capitalize()}", points):
            same_b(student, asked[name])
    with part("a linear field, and how often it is asked", 1):
        for name, calls in (("euler", n), ("heun", 2 * n)):
            grow = np.eye(2) + h * matrix + (h**2 / 2 * matrix @ matrix if name == "heun" else 0.0)
            exact = [x]
            for _ in range(n):
                exact.append(exact[-1] @ grow.T)
            found = student.script(LINEAR, name=name, matrix=matrix, x=x, t=h * np.arange(n + 1.0))
            compare(found[0], np.stack(exact), f"{name} on a linear field")
            line = f"{name}: {n} steps ask the field {calls} times, and you ask {found[1]} times"
            expect(found[1] == calls, line, found[1])


def total_b(cost: Array, pairing: Any) -> float:
    """The sum over the pairs; fails where the answer is no permutation."""
    j = np.asarray(pairing)
    ok = j.shape == (len(cost),) and j.dtype.kind in "iu" and sorted(j.tolist()) == list(range(len(cost)))
    expect(ok, f"a permutation of 0 to {len(cost) - 1} is expected: each data point exactly once", j)
    return float(cost[np.arange(len(cost)), j].sum())


def squares_b(x_0: Array, x_1: Array) -> Array:
    gap = x_0.reshape(len(x_0), 1, -1) - x_1.reshape(1, len(x_1), -1)
    return np.einsum("ijd,ijd->ij", gap, gap)


@question("4c", points=4, names=["pairing_cost", "ot_pairing"], title="Optimal pairs of a batch", seconds=30)
def check_pairing(student: Any, reference: Any, draw: Any) -> None:
    def both(*shape: int) -> tuple[Array, Array]:
        return draw.normal(*shape), 1.5 * draw.normal(*shape) + 0.5

    pairs = [both(*shape) for shape in ((5, 2), (3, 2, 2, 2), (1, 4))]
    small = [both(*shape) for shape in ((1, 2), (3, 1), (5, 2), (6, 2), (6, 1, 2, 2), (6, 3), (6, 2))]
    large = [both(*shape) for shape in ((40, 2), (30, 1, 3, 3), (25, 3))]
    a, b = draw.normal(40), 2 * draw.normal(40) + 1
    asked = asked_b(reference, {f"the costs {one[0].shape}": call_b("pairing_cost", *one) for one in pairs})
    best = [squares_b(*one)[np.arange(len(one[0])), reference.ot_pairing(*one)].sum() for one in large]
    with part("the costs", 1):
        same_b(student, asked)
    with part("small batches", 1.5):
        for one in small:
            cost = squares_b(*one)
            least = min(sum(cost[i, j] for i, j in enumerate(p)) for p in itertools.permutations(range(len(cost))))
            compare(total_b(cost, student.ot_pairing(*one)), float(least), f"the cost of {len(cost)} pairs")
    with part("larger batches", 1.5):
        for one, least in zip(large, best):
            cost = squares_b(*one)
            compare(total_b(cost, student.ot_pairing(*one)), float(least), f"the cost of {len(cost)} pairs")
        least = float(np.square(np.sort(a) - np.sort(b)).sum())  # on a line, order is optimal
        along = np.array([[0.6, -0.8]])
        one = (a[:, None] * along, b[:, None] * along)
        compare(total_b(squares_b(*one), student.ot_pairing(*one)), least, "the cost of 40 pairs on a line")


PAIRS = """
a = a.clone().requires_grad_()
def solver(velocity, x, t):
    places = [x]
    for i in range(t.numel() - 1):
        h = t[i + 1] - t[i]
        middle = x + h / 2 * velocity(x, t[i].expand(len(x)))
        x = x + h * velocity(middle, (t[i] + h / 2).expand(len(x)))
        places.append(x)
    return torch.stack(places)
answer = reflow_pairs(solver, velocity, x, t)
return list(answer), any(part.requires_grad for part in answer)
"""
FLOW_END = """
grid = torch.linspace(0, 1, 31, dtype=x.dtype, device=x.device)
def v(x, s):
    return gaussian_velocity(x, s.expand(len(x)), mean, std)
for s, e in zip(grid[:-1], grid[1:]):
    h = e - s
    k1 = v(x, s)
    k2 = v(x + h / 2 * k1, s + h / 2)
    k3 = v(x + h / 2 * k2, s + h / 2)
    x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + v(x + h * k3, e))
return x
"""


@question(
    "4d",
    points=5,
    names=["reflow_pairs", "straightness", "gaussian_velocity", "rectified_velocity"],
    title="Straightening a flow",
    seconds=20,
)
def check_rectification(student: Any, reference: Any, draw: Any) -> None:
    flows, paths = [], [draw.normal(*shape) for shape in ((6, 4, 2), (5, 2, 1, 2, 2), (2, 1, 3))]
    for shape in ((4, 3), (2, 1, 2, 2)):
        w = weights_b(draw, int(np.prod(shape[1:])))
        flows.append({"x": draw.normal(*shape), "t": np.linspace(0, 1, 5), "a": w["a"], "b": w["b"]})
    n, (start, speed, bend) = 10, draw.normal(3, 4, 3)
    cases = []
    for size, d in ((4, 2), (3, 3), (1, 1)):
        std = float(draw.uniform(0.3, 0.8, 1)[0]) * (4 if d == 2 else 1)
        cases.append((draw.normal(size, d), draw.uniform(0.1, 0.9, size), draw.normal(d) + 1, std))
    right = [reference.script(FIELD + PAIRS, **flow)[0] for flow in flows]
    bent = asked_b(reference, {f"S of a path {path.shape}": call_b("straightness", path) for path in paths})
    names = {f"v of {len(case[0])} points": case for case in cases}
    apart, together = (
        asked_b(reference, {what: call_b(f"{name}_velocity", *case) for what, case in names.items()})
        for name in ("gaussian", "rectified")
    )
    with part("the pairs", 1):
        for flow, pairs in zip(flows, right):
            found, hangs = student.script(FIELD + PAIRS, **flow)
            line = "reflow_pairs returns two tensors: the noise and where it is carried"
            compare(several_b(found, 2, line), pairs, "the pairs")
            line = "the pairs still hang on the first flow's network: gradients would flow into it"
            expect(hangs is False, line, hangs)
    with part("straightness", 1):
        same_b(student, bent)
        t = np.linspace(0, 1, n + 1)[:, None, None]
        found = student.straightness(start + speed * t + bend * t**2)
        compare(found, np.square(bend).sum(1).mean() * (1 - 1 / n**2) / 3, "S of parabolas")
    with part("the velocity for independent pairs", 1.5):
        same_b(student, apart)
        x, _, mean, std = cases[0]
        end = student.script(FLOW_END, x=x, mean=mean, std=std)
        compare(end, mean + std * x, "where the flow ends, against mu + lambda x_0")
    with part("the velocity for the flow's own pairs", 1.5):
        same_b(student, together)
        x_0, t, mean, std = cases[0]
        x_1 = mean + std * x_0
        on_the_way = (1 - t[:, None]) * x_0 + t[:, None] * x_1
        compare(student.rectified_velocity(on_the_way, t, mean, std), x_1 - x_0, "v along each line")
        one_step = x_0 + np.asarray(student.rectified_velocity(x_0, np.zeros(len(x_0)), mean, std))
        compare(one_step, x_1, "where one step of Euler leads")


# 5. A diffusion transformer


@question("5a", points=3, names=["patchify", "unpatchify"], title="Patches")
def check_patches(student: Any, reference: Any, draw: Any) -> None:
    cases = [((2, 3, 4, 6), 2), ((1, 2, 6, 3), 3), ((2, 1, 6, 6), 3), ((3, 3, 2, 4), 1), ((1, 4, 6, 4), 2)]
    images = [(draw.normal(*shape), p) for shape, p in cases]
    cut = {f"the tokens of {x.shape[1:]} at p = {p}": call_b("patchify", x, p) for x, p in images}
    asked = asked_b(reference, cut)
    with part("into tokens", 1.5):
        same_b(student, asked)
    with part("and back", 1.5):
        for (x, p), (_, _, tokens) in zip(images, asked):
            compare(student.unpatchify(tokens, p, x.shape[1:]), x, f"the image {x.shape[1:]} at p = {p}")


BLOCK = """
block = DiTBlock(x.shape[-1], heads).to(x)
for name, weight in block.named_parameters():
    weight.data.copy_(weights[name])
return block(x, c)
"""
FRESH = """
block = DiTBlock(x.shape[-1], heads).to(x)
out = block(x, c)
(out * probe).sum().backward()
moved = block.modulation.weight.grad
others = [p for name, p in block.named_parameters() if name.endswith("weight") and "modulation" not in name]
return out, float(0 if moved is None else moved.abs().sum()), min(float(p.detach().abs().sum()) for p in others)
"""


def block_b(draw: Any, n: int, tokens: int, d: int, heads: int, scale: float = 1.0) -> dict[str, Any]:
    weights = {}
    for name, rows, columns in (("qkv", 3, 1), ("out", 1, 1), ("up", 4, 1), ("down", 1, 4), ("modulation", 6, 1)):
        weights[f"{name}.weight"] = scale * draw.normal(rows * d, columns * d) / np.sqrt(columns * d)
        weights[f"{name}.bias"] = 0.5 * draw.normal(rows * d)
    return {"x": draw.normal(n, tokens, d) + 1, "c": draw.normal(n, d), "heads": heads, "weights": weights}


@question("5b", points=4, names=["modulate", "DiTBlock"], title="A block that listens to the time", seconds=15)
def check_block(student: Any, reference: Any, draw: Any) -> None:
    shapes = ((2, 3, 4), (4, 4, 4), (1, 5, 2))
    dials = {}
    for n, tokens, d in shapes:
        inputs = draw.normal(n, tokens, d), draw.normal(n, d), draw.normal(n, d)
        dials[f"the modulated tokens {(n, tokens, d)}"] = call_b("modulate", *inputs)
    cases = [
        block_b(draw, 2, 3, 4, 2),
        block_b(draw, 3, 3, 6, 1, 2.0),
        block_b(draw, 1, 5, 4, 4),
        block_b(draw, 4, 1, 4, 2),
    ]
    probes = [draw.normal(*case["x"].shape) for case in cases]
    streams = {f"the stream {case['x'].shape} after the block": script_b(BLOCK, **case) for case in cases}
    modulated, passed = asked_b(reference, dials), asked_b(reference, streams)
    with part("modulate", 1):
        same_b(student, modulated)
    with part("a block with weights of all kinds", 2):
        same_b(student, passed)
    with part("a new block", 1):
        for case, probe in zip(cases[:2], probes):
            inputs = {name: case[name] for name in ("x", "c", "heads")}
            out, moved, others = student.script(FRESH, probe=probe, **inputs)
            compare(out, case["x"], "the stream after a new block, against the stream before it")
            line = "the modulation of a new block gets no gradient: nothing would ever open its gates"
            expect(moved > 1e-9, line)
            expect(others > 1e-9, "a layer other than the modulation starts at zero: only the modulation must")


@question("5c", points=2, names=["sinusoidal_embedding"], title="A number as a vector")
def check_embedding(student: Any, reference: Any, draw: Any) -> None:
    whole = {}
    for n, d in ((5, 8), (3, 2), (1, 6)):
        t = draw.integers(1, 1000, n).astype(np.float64)
        whole[f"the embedding {(n, d)}"] = call_b("sinusoidal_embedding", t, d)
    t, other = draw.uniform(0, 1, 5), {}
    for settings in ({"max_period": 50.0, "scale": 1.0}, {"scale": 1000.0}, {"max_period": 300.0, "scale": 100.0}):
        other[f"the embedding with {settings}"] = call_b("sinusoidal_embedding", t, 6, **settings)
    asked, asked_other = asked_b(reference, whole), asked_b(reference, other)
    with part("whole times", 1):
        same_b(student, asked)
    with part("another period, another scale", 1):
        same_b(student, asked_other)
