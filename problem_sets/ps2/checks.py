"""Checks of problem set 2.

Networks are small functions with random weights, far from zero: nothing here is right at initialisation only. All noise
is handed in, gradients come from autograd and densities are held against Jacobians, so each answer is a set of
numbers. Only the figure of 1g is statistical: a bound that the check computes by itself, on images that it drew. The
reference is always asked before the student.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from autograder.checks import bands, compare, expect, gradient_of, part, question, same_distribution, zero

Array = np.ndarray[Any, Any]


def pair_a(answer: Any, line: str) -> Any:
    """The answer, if it is a tuple or list of two values; otherwise the line that says what is expected."""
    expect(isinstance(answer, (tuple, list)) and len(answer) == 2, line)
    return answer


# 1a and 1b. Divergences, samples and densities


def gaussian_a(draw: Any, *shape: int, spread: float = 1.0) -> tuple[Array, Array]:
    """Means and log-variances of the shape."""
    return draw.normal(*shape, scale=1.5), draw.normal(*shape, scale=spread) + 0.3


@question(
    "1a", points=5, names=["kl_to_standard_normal", "kl_diagonal_normals"], title="KL divergences between Gaussians"
)
def check_kl(student: Any, reference: Any, draw: Any) -> None:
    mu, logvar = gaussian_a(draw, 7, 3)
    far_mu, far_logvar = draw.normal(5, 2, scale=30.0), draw.uniform(-9, 9, 5, 2)
    q, p = gaussian_a(draw, 6, 4), gaussian_a(draw, 6, 4, spread=0.7)
    with part("KL to N(0, I)", 2):
        right = reference.kl_to_standard_normal(mu, logvar)
        right_far = reference.kl_to_standard_normal(far_mu, far_logvar)
        compare(student.kl_to_standard_normal(mu, logvar), right, "KL")
        compare(student.kl_to_standard_normal(far_mu, far_logvar), right_far, "KL of means and widths far away")
    with part("KL between two", 2):
        right = reference.kl_diagonal_normals(*q, *p)
        answer = student.kl_diagonal_normals(*q, *p)
        compare(answer, right, "KL")
        zero(student.kl_diagonal_normals(*q, *q), 1.0, "KL of a Gaussian to itself")
    with part("any number of leading axes", 1):
        mu, logvar = gaussian_a(draw, 2, 1, 5)
        other = gaussian_a(draw, 5)
        right_many = reference.kl_to_standard_normal(mu, logvar)
        right_none = reference.kl_diagonal_normals(mu[1, 0], logvar[1, 0], *other)
        compare(student.kl_to_standard_normal(mu, logvar), right_many, "KL for mu of shape (2, 1, 5)")
        answer = student.kl_diagonal_normals(mu[1, 0], logvar[1, 0], *other)
        compare(answer, right_none, "KL for vectors without leading axes")


SAMPLE_GRADIENT = """
mu, logvar = mu.clone().requires_grad_(), logvar.clone().requires_grad_()
z = reparameterize(mu, logvar, noise)
if not z.requires_grad:
    return torch.zeros_like(mu), torch.zeros_like(mu)
total = (c * z + z ** 3 / 3).sum()
grads = torch.autograd.grad(total, (mu, logvar), allow_unused=True)
return tuple(torch.zeros_like(mu) if g is None else g for g in grads)
"""


@question(
    "1b",
    points=6,
    names=["reparameterize", "log_normal", "log_bernoulli"],
    title="A sample that lets gradients through, and its densities",
)
def check_densities(student: Any, reference: Any, draw: Any) -> None:
    mu, logvar = gaussian_a(draw, 5, 3)
    noise, c = draw.normal(4, 5, 3), draw.normal(3)
    many_mu, many_logvar, expected_noise = draw.normal(1500, 2), draw.normal(1500, 2), draw.normal(4000, 2)
    z, zs, wide = draw.normal(5, 3, scale=2.0), draw.normal(2, 6, 4), draw.uniform(-6, 6, 6, 4)
    x, logits = draw.bernoulli(0.5, 3, 1, 6), draw.normal(3, 4, 6, scale=2.0)
    extreme_x, extreme = draw.bernoulli(0.5, 5, 6), np.array([1e4, -1e4, 50.0, -800.0, 0.5, 0.0]) + draw.normal(5, 6)
    extreme_x[:2] = [[1, 0, 1, 0, 1, 1], [0, 1, 0, 1, 0, 0]]  # the most and the least likely images
    with part("the sample", 1):
        right = reference.reparameterize(mu, logvar, noise[0])
        right_many = reference.reparameterize(mu, logvar, noise)
        compare(student.reparameterize(mu, logvar, noise[0]), right, "z")
        compare(student.reparameterize(mu, logvar, noise), right_many, "z for four codes an example")
        drawn = student.reparameterize(many_mu, many_logvar)
        expect(
            np.shape(drawn) == (1500, 2), f"without noise z is shaped like mu, (1500, 2), and it is {np.shape(drawn)}"
        )
        drawn = (drawn - many_mu) * np.exp(many_logvar / -2)
        same_distribution(drawn, expected_noise, what="the noise that is drawn where none is given")
    with part("its gradient", 1):
        inputs = {"mu": mu, "logvar": logvar, "noise": noise[1], "c": c}
        right_mu, right_logvar = reference.script(SAMPLE_GRADIENT, **inputs)
        grad_mu, grad_logvar = student.script(SAMPLE_GRADIENT, **inputs)
        compare(grad_mu, right_mu, "the gradient that reaches mu")
        compare(grad_logvar, right_logvar, "the gradient that reaches logvar")
    with part("density of a code", 2):
        right = reference.log_normal(z, mu, logvar)
        right_wide = reference.log_normal(zs, zs[0] * 0.5, wide)
        compare(student.log_normal(z, mu, logvar), right, "log-density")
        compare(student.log_normal(zs, zs[0] * 0.5, wide), right_wide, "log-density for z (2, 6, 4) and mu (6, 4)")
    with part("density of an image", 1):
        right = reference.log_bernoulli(x, logits)
        compare(student.log_bernoulli(x, logits), right, "log-probability for x (3, 1, 6) and logits (3, 4, 6)")
    with part("density of an image at logits of 1e4 and -1e4", 1):
        right = reference.log_bernoulli(extreme_x, extreme)
        slopes = reference.log_bernoulli.gradient(extreme_x, extreme, wrt=1)
        compare(student.log_bernoulli(extreme_x, extreme), right, "log-probabilities")
        # by itself, for next to the least likely image's -1e4 any small number would do
        compare(student.log_bernoulli(extreme_x, extreme)[0], right[0], "the log-probability of the most likely image")
        compare(gradient_of(student.log_bernoulli, extreme_x, extreme, wrt=1), slopes, "their gradient in the logits")


# 1c and 1d. Bounds. The networks are the check's own: two small perceptrons of random weights.

NETWORKS = """
def encode(x):
    h = (x.flatten(1) @ a).tanh()
    return h @ m, h @ s - 0.6
def decode(z):
    return ((z @ c).tanh() @ d + o).unflatten(-1, shape)
"""


def networks_a(draw: Any, shape: list[int], latent: int, hidden: int = 5) -> dict[str, Any]:
    """Weights for NETWORKS, none of them small."""
    d = math.prod(shape)
    return {
        "a": draw.normal(d, hidden, scale=0.6),
        "m": draw.normal(hidden, latent, scale=0.9),
        "s": draw.normal(hidden, latent, scale=0.7),
        "c": draw.normal(latent, hidden, scale=0.9),
        "d": draw.normal(hidden, d, scale=1.2),
        "o": draw.normal(d),
        "shape": shape,
    }


ELBO = NETWORKS + "return elbo(x, encode, decode, noise)\n"
LOSS = NETWORKS + "return vae_loss(x, encode, decode, noise)\n"
LOSS_GRADIENT = (
    "weights = [v.clone().requires_grad_() for v in (a, m, s, c, d)]\na, m, s, c, d = weights\n"
    + NETWORKS
    + """
loss = vae_loss(x, encode, decode, noise)
if not loss.requires_grad:
    return [torch.zeros_like(v) for v in weights]
grads = torch.autograd.grad(loss, weights, allow_unused=True)
return [torch.zeros_like(v) if g is None else g for v, g in zip(weights, grads)]
"""
)


@question("1c", points=5, names=["elbo", "vae_loss"], title="The evidence lower bound")
def check_elbo(student: Any, reference: Any, draw: Any) -> None:
    with part("the bound", 2):
        inputs = {**networks_a(draw, [9], 4), "x": draw.bernoulli(0.5, 6, 9), "noise": draw.normal(6, 4)}
        right = reference.script(ELBO, **inputs)
        compare(student.script(ELBO, **inputs), right, "the bound for x (6, 9)")
    with part("images with rows, columns and colours", 1):
        inputs = {**networks_a(draw, [2, 3, 4], 3), "x": draw.bernoulli(0.4, 5, 2, 3, 4), "noise": draw.normal(5, 3)}
        right = reference.script(ELBO, **inputs)
        one = {**inputs, "x": inputs["x"][:1], "noise": inputs["noise"][:1]}
        compare(student.script(ELBO, **inputs), right, "the bound for x (5, 2, 3, 4)")
        compare(student.script(ELBO, **one), right[:1], "the bound for a batch of one image")
    inputs = {**networks_a(draw, [8], 2), "x": draw.bernoulli(0.5, 7, 8), "noise": draw.normal(7, 2)}
    with part("the loss", 1):
        right = reference.script(LOSS, **inputs)
        compare(student.script(LOSS, **inputs), right, "the loss")
    with part("its gradients", 1):
        right = reference.script(LOSS_GRADIENT, **inputs)
        answer = student.script(LOSS_GRADIENT, **inputs)
        for i in (1, 2):
            compare(answer[i], right[i], f"gradient that reaches the encoder's {('mean', 'log-variance')[i - 1]}")
        compare(answer[3:], right[3:], "gradients of the decoder's weights")
        compare(answer[0], right[0], "gradient of the encoder's first layer")


LOG_WEIGHTS = NETWORKS + "return log_weights(x, encode, decode, noise)\n"


@question(
    "1d",
    points=6,
    names=["log_weights", "iwae_bound", "importance_weights", "effective_sample_size"],
    title="Many codes: the importance weighted bound",
)
def check_iwae(student: Any, reference: Any, draw: Any) -> None:
    with part("log-weights", 2):
        inputs = {**networks_a(draw, [9], 3), "x": draw.bernoulli(0.5, 4, 9), "noise": draw.normal(4, 6, 3)}
        right = reference.script(LOG_WEIGHTS, **inputs)
        square = {**inputs, "noise": draw.normal(4, 4, 3)}
        right_square = reference.script(LOG_WEIGHTS, **square)
        compare(student.script(LOG_WEIGHTS, **inputs), right, "log-weights of 6 codes for 4 images")
        compare(student.script(LOG_WEIGHTS, **square), right_square, "log-weights of 4 codes for 4 images")
    log_w = draw.normal(5, 7, scale=1.5) - draw.uniform(1, 4, 5, 1)
    far = draw.normal(4, 6, scale=2.0) + np.array([[-2000.0], [-90.0], [800.0], [-1e4]])
    with part("the bound", 1):
        right = reference.iwae_bound(log_w)
        compare(student.iwae_bound(log_w), right, "the bound of 7 codes")
        compare(student.iwae_bound(log_w[:, :1]), log_w[:, 0], "the bound of one code, which is its log-weight")
    with part("the bound far from 0", 1):
        right = reference.iwae_bound(far)
        compare(student.iwae_bound(far), right, "the bound", rtol=1e-9)
    with part("normalised weights", 1):
        right, right_far = reference.importance_weights(log_w), reference.importance_weights(far)
        compare(student.importance_weights(log_w), right, "normalised weights")
        compare(student.importance_weights(far), right_far, "normalised weights far from 0")
        compare(gradient_of(student.iwae_bound, log_w), right, "gradient of the bound in the log-weights")
    with part("effective sample size", 1):
        right, right_far = reference.effective_sample_size(log_w), reference.effective_sample_size(far)
        compare(student.effective_sample_size(log_w), right, "effective sample size")
        compare(student.effective_sample_size(far), right_far, "effective sample size far from 0")
        compare(student.effective_sample_size(np.full((2, 5), -3.0)), np.full(2, 5.0), "that of five equal weights")


# 1e. Collapse

WEIGHTED = "return weighted_loss(log_likelihood, mu, logvar, weight=weight, free_bits=free_bits)\n"
WEIGHTED_GRADIENT = """
mu, logvar = mu.clone().requires_grad_(), logvar.clone().requires_grad_()
loss = weighted_loss(log_likelihood, mu, logvar, weight=weight, free_bits=free_bits)
if not loss.requires_grad:
    return torch.zeros_like(mu), torch.zeros_like(mu)
grads = torch.autograd.grad(loss, (mu, logvar), allow_unused=True)
return tuple(torch.zeros_like(mu) if g is None else g for g in grads)
"""


@question(
    "1e",
    points=6,
    names=["kl_per_unit", "active_units", "kl_weight", "weighted_loss"],
    title="Posterior collapse",
)
def check_collapse(student: Any, reference: Any, draw: Any) -> None:
    # units of all kinds: collapsed, some information, much information; in random order
    scale = np.array([0.0, 0.02, 0.5, 0.9, 1.6, 2.5])[draw.permutation(6)]
    base = draw.normal(8, 6)
    base = (base - base.mean(0)) / base.std(0)
    mu, logvar = scale * base, -0.8 * scale + scale * draw.normal(8, 6, scale=0.3)
    with part("KL of each unit", 1):
        right, right_one = reference.kl_per_unit(mu, logvar), reference.kl_per_unit(mu[:1], logvar[:1])
        compare(student.kl_per_unit(mu, logvar), right, "KL of each unit")
        compare(student.kl_per_unit(mu[:1], logvar[:1]), right_one, "KL for a batch of one image")
    with part("active units", 1):
        shifted = mu + draw.normal(6, scale=2.0)  # a constant mean says nothing about the image
        right = [reference.active_units(shifted), reference.active_units(shifted, threshold=0.5)]
        compare(student.active_units(shifted), right[0], "active units at the default threshold")
        compare(student.active_units(shifted, threshold=0.5), right[1], "active units at the threshold 0.5")
    with part("weight of the KL", 1):
        steps = [(0, 10), (3, 10), (10, 10), (25, 10), (7, 200), (0, 0), (4, 0), (1, 1)]
        right = [reference.kl_weight(*s) for s in steps]
        for s, value in zip(steps, right, strict=True):
            compare(student.kl_weight(*s), value, f"weight at step {s[0]} with a warm-up of {s[1]} steps")
    log_likelihood = -draw.uniform(5, 30, 8)
    given = {"log_likelihood": log_likelihood, "mu": mu, "logvar": logvar}
    with part("weighted loss", 1):
        inputs = {**given, "weight": float(draw.uniform(0.2, 0.7)), "free_bits": 0.0}
        right = reference.script(WEIGHTED, **inputs)
        compare(student.script(WEIGHTED, **inputs), right, "loss with a weight, without free bits")
    with part("free bits", 2):
        inputs = {**given, "weight": float(draw.uniform(0.2, 0.7)), "free_bits": 0.35}
        right, slopes = reference.script(WEIGHTED, **inputs), reference.script(WEIGHTED_GRADIENT, **inputs)
        quiet = {**inputs, "mu": 0.1 * mu, "logvar": 0.1 * logvar}
        right = {"a code that says much": right, "a code that says little": reference.script(WEIGHTED, **quiet)}
        both = [student.script(WEIGHTED, **given) for given in (inputs, quiet)]
        compare(dict(zip(right, both, strict=True)), right, "loss with free bits")
        answer = student.script(WEIGHTED_GRADIENT, **inputs)
        compare(answer[0], slopes[0], "gradient of the loss in mu")
        compare(answer[1], slopes[1], "gradient of the loss in logvar")


# 1f. Discrete codes

SLOPE = """
def slope(y, v):
    if not (isinstance(y, torch.Tensor) and y.requires_grad):
        return torch.zeros_like(v)
    (g,) = torch.autograd.grad(y, v, retain_graph=True, allow_unused=True)
    return torch.zeros_like(v) if g is None else g
"""
STRAIGHT = (
    SLOPE
    + """
z_e, z_q = z_e.clone().requires_grad_(), z_q.clone().requires_grad_()
out = straight_through(z_e, z_q)
y = (c * out.sin() + out ** 2).sum()
return out, slope(y, z_e), slope(y, z_q)
"""
)
LOSSES = (
    SLOPE
    + """
z_e, codebook = z_e.clone().requires_grad_(), codebook.clone().requires_grad_()
losses = vq_losses(z_e, codebook[codes])
losses = losses if isinstance(losses, (tuple, list)) and len(losses) == 2 else (losses, losses)
return [*losses, *[slope(v, at) for v in losses for at in (codebook, z_e)]]
"""
)
STRAIGHT_SEEN = ["value", "gradient that reaches z_e", "gradient that reaches z_q"]
LOSSES_SEEN = ["codebook loss", "commitment loss"]
LOSSES_SEEN += [f"gradient of the {loss} in {place}" for loss in LOSSES_SEEN for place in ("the codebook", "z_e")]


@question(
    "1f",
    points=6,
    names=["nearest_codes", "straight_through", "vq_losses", "perplexity"],
    title="Discrete codes: the VQ-VAE",
)
def check_vq(student: Any, reference: Any, draw: Any) -> None:
    with part("nearest codes", 1):
        z_e, codebook = draw.normal(9, 3), draw.normal(6, 3) * draw.uniform(0.2, 2.0, 6, 1)
        grid = draw.normal(2, 3, 4, 3)
        right, right_grid = reference.nearest_codes(z_e, codebook), reference.nearest_codes(grid, codebook)
        compare(student.nearest_codes(z_e, codebook), right, "codes for z_e (9, 3)")
        compare(student.nearest_codes(grid, codebook), right_grid, "codes for z_e (2, 3, 4, 3)")
    with part("straight through", 2):
        inputs = {"z_e": draw.normal(5, 3), "z_q": draw.normal(5, 3), "c": draw.normal(3)}
        right = dict(zip(STRAIGHT_SEEN, reference.script(STRAIGHT, **inputs), strict=True))
        answer = student.script(STRAIGHT, **inputs)
        compare(dict(zip(STRAIGHT_SEEN, answer, strict=True)), right, "straight_through")
    with part("codebook and commitment losses", 2):
        z_e, codebook = draw.normal(2, 5, 3), draw.normal(4, 3)
        inputs = {"z_e": z_e, "codebook": codebook, "codes": draw.integers(0, 3, 2, 5)}  # the last is never chosen
        right = dict(zip(LOSSES_SEEN, reference.script(LOSSES, **inputs), strict=True))
        answer = student.script(LOSSES, **inputs)
        compare(dict(zip(LOSSES_SEEN, answer, strict=True)), right, "vq_losses")
    with part("perplexity", 1):
        codes = draw.integers(0, 5, 4, 7)  # of 8: some are never chosen
        right = reference.perplexity(codes, 8)
        compare(student.perplexity(codes, 8), right, "perplexity", rtol=1e-5)
        compare(student.perplexity(np.full(6, 2), 4), 1.0, "perplexity where all choose the same", rtol=1e-5)
        compare(
            student.perplexity(np.arange(12) % 6, 6), 6.0, "perplexity where all are chosen equally often", rtol=1e-5
        )


# 1g. A figure that is measured


def digits_a() -> Array:
    """All images (1797, 64), black and white."""
    here = Path(__file__).resolve().parent
    found = [f for f in (here / "data" / "digits.npz", here.parent / "data" / "digits.npz") if f.is_file()]
    expect(bool(found), "data/digits.npz is missing: take the folder data from the zip and put it beside the notebook")
    with np.load(found[0], allow_pickle=False) as stored:
        images = np.concatenate([stored["train"], stored["test"]])
    return (images.reshape(len(images), -1) > 7).astype(np.float64)


def layers_a(answer: Any, what: str, first: int, last: int | None) -> list[tuple[Array, Array]]:
    """The layers of a perceptron, checked, in float64; a line for the student where they are none."""
    line = f"{what}: a list of pairs is expected, weight (out, in) and bias (out,)"
    expect(isinstance(answer, (tuple, list)) and len(answer) > 0, line)
    layers = []
    width = first
    for i, layer in enumerate(answer, 1):
        whole = isinstance(layer, (tuple, list)) and len(layer) == 2 and all(isinstance(v, np.ndarray) for v in layer)
        expect(whole, f"{line}; layer {i} is none")
        weight, bias = (np.asarray(v, dtype=np.float64) for v in layer)
        fits = weight.ndim == 2 and weight.shape[1] == width and bias.shape == weight.shape[:1]
        shapes = f"weight {weight.shape} and bias {bias.shape}"
        turned = weight.ndim == 2 and weight.shape[0] == width  # what a mistake is recognised by
        expect(fits, f"{what}: layer {i} gets {width} numbers, and it has {shapes}", value=float(turned))
        finite = np.isfinite(weight).all() and np.isfinite(bias).all()
        expect(bool(finite), f"{what}: layer {i} holds numbers that are not finite (NaN or infinite)")
        layers.append((weight, bias))
        width = len(bias)
    expect(last is None or width == last, f"{what}: its last layer gives {width} numbers, and {last} are expected")
    return layers


def evaluate_a(layers: list[tuple[Array, Array]], x: Array) -> Array:
    """The perceptron of the notebook, with numpy alone."""
    for i, (weight, bias) in enumerate(layers):
        if i:
            x = x / (1 + np.exp(np.minimum(-x, 700)))
        x = x @ weight.T + bias
    return x


def measured_bound_a(encoder: Any, decoder: Any, x: Array, draw: Any, k: int) -> float:
    """The mean over images x (N, 64) of the k-code bound on log p(x), in nats."""
    bounds = []
    half = evaluate_a(encoder, x).shape[1] // 2
    for block in np.array_split(x, 9):
        out = evaluate_a(encoder, block)
        mean, logs = out[:, None, :half], out[:, None, half:]
        noise = draw.normal(len(block), k, half)
        codes = mean + np.exp(logs / 2) * noise
        a = evaluate_a(decoder, codes)
        pixels = (block[:, None] * a - np.logaddexp(0, a)).sum(-1)
        ratio = ((noise**2 + logs - codes**2) / 2).sum(-1)  # of prior to q, at the codes
        joint = pixels + ratio
        top = joint.max(1)
        bounds.append(top + np.log(np.exp(joint - top[:, None]).mean(1)))
    return float(np.concatenate(bounds).mean())


BANDS_A = [(2.0, 2), (4.0, 4), (6.0, 6), (7.0, 8)]


@question(
    "1g",
    points=8,
    names=["fit_vae"],
    title="A VAE on handwritten digits",
    seconds=120,
    seeds=1,
    quality=True,
)
def check_vae(student: Any, reference: Any, draw: Any) -> None:
    x = digits_a()
    x = x[draw.permutation(len(x))]
    train, held_out = x[:1348], x[1348:]
    with part("bound on held-out images", 8):
        line = "fit_vae returns two lists of layers: those of the encoder and those of the decoder"
        answer = pair_a(student.fit_vae(train), line)
        encoder = layers_a(answer[0], "encoder", 64, None)
        units = len(encoder[-1][1])
        expect(units % 2 == 0, f"encoder: its last layer gives {units} numbers, and 2 Z are expected")
        decoder = layers_a(answer[1], "decoder", units // 2, 64)
        size = sum(w.size for w, _ in encoder + decoder)
        expect(size <= 500_000, f"there are {size:,} weights, and at most half a million are allowed")
        ones = (train.sum(0) + 0.5) / (len(train) + 1)
        independent = (held_out * np.log(ones) + (1 - held_out) * np.log(1 - ones)).sum(1).mean()
        with np.errstate(all="ignore"):  # what overflows is no bound: it earns nothing
            bound = measured_bound_a(encoder, decoder, held_out, draw, k=50)
        bands(bound - independent, BANDS_A, what="gain over independent pixels", unit="nats per image")


def several_b(answer: Any, count: int, line: str) -> Any:
    """The answer, if it is a tuple or list of `count` values; otherwise the line that says what is expected."""
    expect(isinstance(answer, (tuple, list)) and len(answer) == count, line)
    return answer


def gaussian_b(x: Array, mean: Array, factor: Array) -> Array:
    """log N(x | mean, factor factor^T) of the rows of x."""
    white = np.linalg.solve(factor, (x - mean).T)  # (D, B)
    return -0.5 * (white**2).sum(0) - np.linalg.slogdet(factor)[1] - 0.5 * x.shape[1] * math.log(2 * math.pi)


def log_volume(jacobians: Array) -> Array:
    """log |det| of each matrix."""
    return np.linalg.slogdet(jacobians)[1]


# 2. Normalising flows


def mirrored(draw: Any, d: int) -> Array:
    """A well-conditioned matrix (d, d) whose determinant is negative and not near 1."""
    weight = 0.4 * draw.normal(d, d) + 2 * np.eye(d)
    return weight * np.where(np.arange(d) == 0, -np.sign(np.linalg.det(weight)), 1.0)[:, None]


LOGIT_SLOPES = """
rows = [torch.autograd.functional.jacobian(lambda v: logit_forward(v[None], alpha)[0][0], row) for row in x]
return torch.stack(rows)
"""
TWO_MAPS = """
def forward(points):
    y, first = logit_forward(points, alpha)
    z, second = linear_forward(y, weight, bias)
    return z, first + second
return flow_log_prob(x, forward)
"""
BENT = """
def forward(points):  # z = x + x^3 / 3, whose slope is 1 + x^2
    return points + points**3 / 3, torch.log1p(points**2).sum(1)
return flow_log_prob(x, forward)
"""


@question(
    "2a",
    points=3,
    names=["standard_normal_log_prob", "linear_forward", "logit_forward", "flow_log_prob"],
    title="Change of variables",
)
def check_change_of_variables(student: Any, reference: Any, draw: Any) -> None:
    x, weight, bias = draw.normal(6, 3, scale=1.5), mirrored(draw, 3), draw.normal(3)
    tiny, huge = 1e-6 * mirrored(draw, 60), 1e6 * mirrored(draw, 60)  # 1e-6^60 is 0 in floating point
    with part("standard normal and linear map", 1):
        want = gaussian_b(x, np.zeros(3), np.eye(3))
        compare(student.standard_normal_log_prob(x), want, "standard_normal_log_prob")
        z, log_det = several_b(student.linear_forward(x, weight, bias), 2, "linear_forward returns z and log_det")
        compare(z, x @ weight.T + bias, "z of the linear map")
        compare(log_det, np.full(6, np.linalg.slogdet(weight)[1]), "log_det of the linear map")
        for large in (tiny, huge):
            _, log_det = student.linear_forward(np.ones((1, 60)), large, np.zeros(60))
            compare(log_det, np.linalg.slogdet(large)[1][None], "log_det of a map in 60 dimensions")
    x, alpha = draw.uniform(0.02, 0.98, 5, 4), float(draw.uniform(0.1, 0.2))
    opened = reference.logit_forward(x, alpha)[0]
    slopes = reference.script(LOGIT_SLOPES, x=x, alpha=alpha)
    with part("logit", 1):
        z, log_det = several_b(student.logit_forward(x, alpha), 2, "logit_forward returns z and log_det")
        compare(z, opened, "z of the logit")
        compare(log_det, log_volume(slopes), "log_det of the logit, against the determinant of its Jacobian")
    x = draw.normal(5, 2)
    row = {"x": draw.uniform(0.02, 0.98, 5, 3), "alpha": 0.05, "weight": mirrored(draw, 3), "bias": draw.normal(3)}
    want_row = reference.script(TWO_MAPS, **row)
    with part("densities", 1):
        want = gaussian_b(x + x**3 / 3, np.zeros(2), np.eye(2)) + np.log1p(x**2).sum(1)
        compare(student.script(BENT, x=x), want, "log-densities of a flow that the check brings")
        compare(student.script(TWO_MAPS, **row), want_row, "log-densities of a logit and a linear map in a row")


def coupling_weights(draw: Any, d_in: int, d_out: int, width: int = 6) -> list[Array]:
    """Weights of a small network, random and far from zero: two matrices, two biases."""
    return [draw.normal(d_in, width), draw.normal(width), draw.normal(width, d_out, scale=0.7), draw.normal(d_out)]


NET = """
w1, b1, w2, b2 = weights
def net(h):
    return torch.tanh(h @ w1 + b1) @ w2 + b2
"""
FORWARD = NET + "return coupling_forward(x, net, swap=swap)"
INVERSE = NET + "return coupling_inverse(x, net, swap=swap)"
COUPLING_JACOBIANS = NET + (
    "rows = [torch.autograd.functional.jacobian(lambda v: coupling_forward(v[None], net, swap)[0][0], r) for r in x]\n"
    "return torch.stack(rows)"
)
PAIR = "it returns two tensors: the points it arrives at, and log_det"


@question("2b", points=4, names=["coupling_forward", "coupling_inverse"], title="An affine coupling")
def check_coupling(student: Any, reference: Any, draw: Any) -> None:
    even = {"x": draw.normal(6, 4, scale=1.5), "weights": coupling_weights(draw, 2, 4), "swap": False}
    swapped = {"x": draw.normal(3, 4), "weights": coupling_weights(draw, 2, 4), "swap": True}
    odd = {"x": draw.normal(4, 5), "weights": coupling_weights(draw, 3, 4), "swap": True}
    single = {"x": draw.normal(1, 7), "weights": coupling_weights(draw, 3, 8), "swap": False}
    far = {"x": draw.normal(3, 4), "weights": [w * 8 for w in coupling_weights(draw, 2, 4)], "swap": False}
    cases = (even, far, swapped, odd, single)
    to_noise, to_data = ([reference.script(source, **case) for case in cases] for source in (FORWARD, INVERSE))
    volumes = [log_volume(reference.script(COUPLING_JACOBIANS, **case)) for case in (even, single)]
    with part("data to noise", 1):
        for case, want, name in zip((even, far), to_noise, ("z", "z where the network puts out large numbers")):
            compare(several_b(student.script(FORWARD, **case), 2, PAIR)[0], want[0], name)
    with part("its log-determinant", 1):
        for case, want in zip((even, single), volumes):
            answer = several_b(student.script(FORWARD, **case), 2, PAIR)
            compare(answer[1], want, "log_det, against the determinant of the Jacobian")
    with part("noise to data", 1):
        x, log_det = several_b(student.script(INVERSE, **even), 2, PAIR)
        compare(x, to_data[0][0], "x")
        compare(log_det, to_data[0][1], "log_det of the map from noise to data")
        compare(student.script(INVERSE, **far), to_data[1], "the way back where the network puts out large numbers")
    with part("with swap, in an odd number of dimensions", 1):
        for source, wants, way in ((FORWARD, to_noise, "data to noise"), (INVERSE, to_data, "noise to data")):
            for case, want in zip(cases[2:], wants[2:]):
                compare(student.script(source, **case), want, f"{way}, D = {case['x'].shape[1]}, swap={case['swap']}")


NETS = """
def make(w1, b1, w2, b2):
    return lambda h: torch.tanh(h @ w1 + b1) @ w2 + b2
nets = [make(*four) for four in weights]
"""
STACK_FORWARD = NETS + "return realnvp_forward(x, nets)"
STACK_LOG_PROB = NETS + "return realnvp_log_prob(x, nets)"
STACK_SAMPLE = NETS + "return realnvp_sample(x, nets)"
STACK_JACOBIANS = NETS + (
    "rows = [torch.autograd.functional.jacobian(lambda v: realnvp_sample(v[None], nets)[0], r) for r in x]\n"
    "return torch.stack(rows)"
)


def stack_case(draw: Any, batch: int, d: int, layers: int) -> dict[str, Any]:
    """Points, or noise, and the weights of networks that take turns."""
    kept = [d // 2 if k % 2 == 0 else d - d // 2 for k in range(layers)]
    weights = [coupling_weights(draw, d_a, 2 * (d - d_a)) for d_a in kept]
    return {"x": draw.normal(batch, d), "weights": weights}


@question("2c", points=4, names=["realnvp_forward", "realnvp_log_prob", "realnvp_sample"], title="RealNVP")
def check_realnvp(student: Any, reference: Any, draw: Any) -> None:
    three, four = stack_case(draw, 5, 4, 3), stack_case(draw, 5, 4, 4)
    odd, single = stack_case(draw, 4, 5, 3), stack_case(draw, 1, 3, 1)
    want_forward = reference.script(STACK_FORWARD, **three)
    samples = [reference.script(STACK_SAMPLE, **case) for case in (four, three, odd, single)]
    densities = [reference.script(STACK_LOG_PROB, **case) for case in (odd, single)]
    volume = log_volume(reference.script(STACK_JACOBIANS, **four))
    with part("through three layers", 1):
        z, log_det = several_b(student.script(STACK_FORWARD, **three), 2, "realnvp_forward returns z and log_det")
        compare(z, want_forward[0], "z")
        compare(log_det, want_forward[1], "log_det")
    with part("log-density", 1):
        want = gaussian_b(four["x"], np.zeros(4), np.eye(4)) - volume
        answer = student.script(STACK_LOG_PROB, x=samples[0], weights=four["weights"])
        compare(answer, want, "log-densities, against the Jacobian of the way from noise to data")
    with part("samples", 1):
        for case, want in zip((four, three), samples):
            compare(student.script(STACK_SAMPLE, **case), want, f"samples through {len(case['weights'])} layers")
    with part("in an odd number of dimensions", 1):
        for case, density, sample in zip((odd, single), densities, samples[2:]):
            d = case["x"].shape[1]
            compare(student.script(STACK_LOG_PROB, **case), density, f"log-densities, D = {d}")
            compare(student.script(STACK_SAMPLE, **case), sample, f"samples, D = {d}")


def reach_of(masks: Any, degrees: Array, hidden: list[int], k: int) -> Array:
    """Which output can see which input, (k, D, D), after a look at the masks' shapes and entries."""
    d = len(degrees)
    sizes = [d, *hidden, k * d]
    several_b(masks, len(hidden) + 1, "made_masks returns a list: one mask for each hidden layer, one for the output")
    reach = np.eye(d)
    for n, mask in enumerate(masks):
        shape = (sizes[n + 1], sizes[n])
        expect(
            isinstance(mask, np.ndarray) and mask.shape == shape, f"mask {n + 1} of {len(masks)} has the shape {shape}"
        )
        expect(bool(np.isin(mask, (0, 1)).all()), "masks hold zeros and ones", mask)
        reach = (mask.astype(float) @ reach > 0).astype(float)
    return reach.reshape(k, d, d)


def keeps_order(reach: Array, degrees: Array, case: str) -> None:
    """Nothing that comes later, nor the coordinate itself, is seen; everything that comes before is."""
    before = degrees[:, None] > degrees[None, :]  # (D, D): input j comes before output i
    itself = np.eye(len(degrees), dtype=bool)
    seen = reach != 0
    expect(not (seen & itself).any(), f"{case}: an output sees its own coordinate", reach)
    expect(not (seen & ~before).any(), f"{case}: an output sees a coordinate that comes later in the order", reach)
    missing = int((~seen & before).sum())
    expect(
        missing == 0, f"{case}: {missing} of {len(reach) * before.sum()} allowed paths from inputs are missing", reach
    )


MADE_JACOBIAN = """
masks = made_masks(degrees, hidden, k=2)
return torch.autograd.functional.jacobian(lambda v: made(v[None], weights, biases, masks)[0], x)
"""


@question("2d", points=4, names=["made_masks", "made"], title="Masks that keep the order")
def check_made(student: Any, reference: Any, draw: Any) -> None:
    orders = [draw.permutation(d) + 1 for d in (6, 5, 7, 5)]
    orders = [degrees[::-1].copy() if (np.diff(degrees) > 0).all() else degrees for degrees in orders]
    networks = []
    for batch, sizes in ((5, [3, 6, 4, 6]), (1, [4, 5, 4])):
        shapes = [(above, below) for below, above in itertools.pairwise(sizes)]
        layers = {
            "weights": [draw.normal(*shape) for shape in shapes],
            "biases": [draw.normal(shape[0]) for shape in shapes],
            "masks": [draw.bernoulli(0.6, *shape) for shape in shapes],
        }
        networks.append((draw.normal(batch, sizes[0]), layers))
    outputs = [reference.made(x, **layers) for x, layers in networks]
    shapes = [(8, 5), (6, 8), (10, 6)]
    inputs = {  # everything positive: no ReLU is ever off, so each path shows in the Jacobian
        "weights": [draw.uniform(0.5, 1.0, *shape) for shape in shapes],
        "biases": [draw.uniform(0.1, 1.0, shape[0]) for shape in shapes],
        "x": draw.uniform(0.1, 1.0, 5),
        "degrees": orders[3],
        "hidden": [8, 6],
    }
    with part("masks for one hidden layer", 1):
        for d, hidden, k in ((5, [4], 2), (4, [9], 1), (2, [3], 2)):
            masks = student.made_masks(np.arange(1, d + 1), hidden, k=k)
            keeps_order(reach_of(masks, np.arange(1, d + 1), hidden, k), np.arange(1, d + 1), f"D = {d}")
    with part("masks for several hidden layers and any order", 1):
        for degrees, hidden, k in zip(orders, ([7, 9], [4, 11, 6], [6, 6]), (2, 3, 1)):
            masks = student.made_masks(degrees, hidden, k=k)
            keeps_order(reach_of(masks, degrees, hidden, k), degrees, f"D = {len(degrees)} in a shuffled order")
    with part("the masked network", 1):
        for (x, layers), want in zip(networks, outputs):
            compare(student.made(x, **layers), want, "the output of made")
    with part("both together", 1):
        jacobian = student.script(MADE_JACOBIAN, **inputs)
        expect(jacobian.shape == (2, 5, 5), "made returns (B, k, D)")
        keeps_order(jacobian, orders[3], "the Jacobian of the network")


ORDERED = """
calls = []
def make(a, b, c, e):
    def net(x):  # what it says about coordinate i depends on the coordinates before i
        calls.append(len(x))
        seen = torch.tanh(x[:, None, None, :] * a + b) * c  # (B, 2, D, D)
        return torch.tril(seen, -1).sum(-1) + e
    return net
nets = [make(*four) for four in weights]
"""
STRAIGHT_NET = """
calls = []
def net(x):
    calls.append(len(x))
    return torch.stack([x @ lower.mT + shift, (0 * x + 1) * raw], 1)
nets = [net]
"""
MAF_LOG_PROB = "return maf_log_prob(x, nets[0]), len(calls)"
MAF_SAMPLE = "return maf_sample(x, nets[0]), len(calls)"
IAF_LOG_PROB = "return iaf_log_prob(x, nets), len(calls)"
IAF_SAMPLE = "return iaf_sample(x, nets), len(calls)"
IAF_JACOBIANS = (
    "rows = [torch.autograd.functional.jacobian(lambda v: iaf_sample(v[None], nets)[0][0], r) for r in x]\n"
    "return torch.stack(rows)"
)


def ordered_case(draw: Any, batch: int, d: int, layers: int = 1) -> dict[str, Any]:
    """Points, or noise, and the weights of networks that keep the order."""
    weights = [[draw.normal(2, d, d), draw.normal(2, d, d), draw.normal(2, d, d, scale=0.8)] for _ in range(layers)]
    for one in weights:
        one.append(draw.normal(2, d) + np.array([[0.0], [0.5]]))
    return {"x": draw.normal(batch, d), "weights": weights}


def straight_case(draw: Any, batch: int, d: int) -> tuple[dict[str, Any], Array]:
    """A network whose shift is linear and whose log-scales are constant, with the scales that they stand for."""
    raw = draw.uniform(0.6, 2.5, d) * (2 * draw.bernoulli(0.5, d) - 1)
    case = {"x": draw.normal(batch, d), "lower": np.tril(draw.normal(d, d), -1), "shift": draw.normal(d), "raw": raw}
    return case, np.exp(2 * np.tanh(raw / 2))


@question("2e", points=4, names=["maf_log_prob", "maf_sample"], title="A masked autoregressive flow")
def check_maf(student: Any, reference: Any, draw: Any) -> None:
    case, longer = ordered_case(draw, 6, 4), ordered_case(draw, 3, 7)
    straight, scales = straight_case(draw, 1, 4)
    spread = np.linalg.inv(np.eye(4) - straight["lower"])  # x = spread (shift + scales z)
    (density, _), (long_density, _) = (reference.script(ORDERED + MAF_LOG_PROB, **one) for one in (case, longer))
    (samples, _), (long_sample, _) = (reference.script(ORDERED + MAF_SAMPLE, **one) for one in (case, longer))
    with part("log-density, in one call", 1):
        for one, want in ((case, density), (longer, long_density)):
            answer, calls = student.script(ORDERED + MAF_LOG_PROB, **one)
            compare(answer, want, "log-densities")
            expect(calls <= 1, f"the log-density takes one call of net, and there were {calls}", calls)
    with part("a Gaussian in disguise", 1):
        want = gaussian_b(straight["x"], spread @ straight["shift"], spread * scales)
        answer, _ = student.script(STRAIGHT_NET + MAF_LOG_PROB, **straight)
        compare(answer, want, "log-densities where the network is linear, against a Gaussian in closed form")
    with part("samples", 1):
        compare(student.script(ORDERED + MAF_SAMPLE, **case)[0], samples, "samples")
        want = (straight["shift"] + scales * straight["x"]) @ spread.T
        compare(student.script(STRAIGHT_NET + MAF_SAMPLE, **straight)[0], want, "samples where the network is linear")
    with part("samples, in D calls", 1):
        answer, calls = student.script(ORDERED + MAF_SAMPLE, **longer)
        compare(answer, long_sample, "samples in 7 dimensions")
        expect(calls <= 7, f"a batch of samples in 7 dimensions takes 7 calls of net, and there were {calls}", calls)


@question("2f", points=4, names=["iaf_sample", "iaf_log_prob"], title="An inverse autoregressive flow")
def check_iaf(student: Any, reference: Any, draw: Any) -> None:
    case, longer = ordered_case(draw, 5, 4, layers=3), ordered_case(draw, 1, 5, layers=2)
    straight, scales = straight_case(draw, 5, 4)
    factor = straight["lower"] + np.diag(scales)  # x = factor z + shift
    line = "iaf_sample returns two tensors: x and log_prob"
    (data, _), _ = reference.script(ORDERED + IAF_SAMPLE, **case)
    log_prob = gaussian_b(case["x"], np.zeros(4), np.eye(4))
    log_prob = log_prob - log_volume(reference.script(ORDERED + IAF_JACOBIANS, **case))
    long_sample, _ = reference.script(ORDERED + IAF_SAMPLE, **longer)
    long_density, _ = reference.script(ORDERED + IAF_LOG_PROB, **longer)
    with part("samples", 1):
        answer, _ = student.script(ORDERED + IAF_SAMPLE, **case)
        compare(several_b(answer, 2, line)[0], data, "samples through three layers")
    with part("the density of one's own samples", 1):
        answer, _ = student.script(STRAIGHT_NET + IAF_SAMPLE, **straight)
        want = gaussian_b(straight["x"] @ factor.T + straight["shift"], straight["shift"], factor)
        compare(several_b(answer, 2, line)[1], want, "log_prob of samples of a linear layer, against a Gaussian")
        answer, _ = student.script(ORDERED + IAF_SAMPLE, **case)
        compare(several_b(answer, 2, line)[1], log_prob, "log_prob of samples through three layers")
    with part("the density of any points", 1):
        answer, _ = student.script(STRAIGHT_NET + IAF_LOG_PROB, **straight)
        want = gaussian_b(straight["x"], straight["shift"], factor)
        compare(answer, want, "log-densities of a linear layer, against a Gaussian")
        answer, _ = student.script(ORDERED + IAF_LOG_PROB, x=data, weights=case["weights"])
        compare(answer, log_prob, "log-densities through three layers")
    with part("the number of calls", 1):
        answer, calls = student.script(ORDERED + IAF_SAMPLE, **longer)
        compare(answer, long_sample, "a sample in 5 dimensions and its log_prob")
        expect(calls <= 2, f"a sample through 2 layers takes 2 calls, and there were {calls}", calls)
        answer, calls = student.script(ORDERED + IAF_LOG_PROB, **longer)
        compare(answer, long_density, "the log-density of a point in 5 dimensions")
        expect(calls <= 10, f"2 layers in 5 dimensions take 10 calls, and there were {calls}", calls)


# 3. Generative adversarial networks


OBJECTIVES = ("minimax", "non_saturating")


@question("3a", points=4, names=["discriminator_loss", "generator_loss"], title="The losses of the two players")
def check_losses(student: Any, reference: Any, draw: Any) -> None:
    real, fake = draw.normal(7, scale=2.0) + 1, draw.normal(5, scale=2.0)
    extreme = np.array([1e3, -1e3, 900.0, -40.0, 0.5, -1e3]) + draw.normal(6)
    sure = -draw.uniform(17, 20, 4)  # D is about 1e-8 at these samples
    pairs = ((real, fake), (real[:1], fake), (extreme, extreme[1:]))
    losses = [reference.discriminator_loss(*pair) for pair in pairs]
    usual = reference.generator_loss(real)
    values = {o: [reference.generator_loss(a, objective=o) for a in (fake, extreme)] for o in OBJECTIVES}
    steps = [  # where the exact slope is not 1e-430, which is no number
        ("minimax", sure, "where D sees through all samples"),
        ("minimax", -50 * sure, "where D is sure and wrong"),
        ("non_saturating", sure, "where D sees through all samples"),
        ("non_saturating", 50 * sure, "where D sees through all samples, at logits near -1e3"),
    ]
    slopes = [gradient_of(reference.generator_loss, a, objective=o) for o, a, _ in steps]
    with part("the discriminator's loss", 1):
        compare(student.discriminator_loss(*pairs[0]), losses[0], "discriminator_loss")
        compare(student.discriminator_loss(*pairs[1]), losses[1], "discriminator_loss at a single real example")
    with part("the generator's losses", 1):
        for o in OBJECTIVES:
            compare(student.generator_loss(fake, objective=o), values[o][0], f"generator_loss, {o}")
        compare(student.generator_loss(real), usual, "generator_loss, no objective named")
    with part("at logits of 1e3 and -1e3", 1):
        compare(student.discriminator_loss(*pairs[2]), losses[2], "discriminator_loss")
        for o in OBJECTIVES:
            compare(student.generator_loss(extreme, objective=o), values[o][1], f"generator_loss, {o}")
    with part("gradients where the discriminator is sure", 1):
        for (o, logits, where), want in zip(steps, slopes):
            answer = gradient_of(student.generator_loss, logits, objective=o)
            compare(answer, want, f"the gradient of generator_loss, {o}, {where}")


def with_zeros(draw: Any) -> tuple[Array, Array]:
    """Two distributions on 7 values: one value that only q has, one that only p has, one that neither has."""
    p, q = draw.uniform(0.2, 1.0, 7), draw.uniform(0.2, 1.0, 7)
    p[0] = q[1] = p[2] = q[2] = 0.0
    order = draw.permutation(7)
    return (p / p.sum())[order], (q / q.sum())[order]


@question(
    "3b", points=3, names=["optimal_discriminator", "gan_value", "js_divergence"], title="The optimal discriminator"
)
def check_optimal_discriminator(student: Any, reference: Any, draw: Any) -> None:
    p, q, d = draw.simplex(6), draw.simplex(6), draw.uniform(0.1, 0.9, 6)
    p, q = 0.9 * p + 0.1 / 6, 0.9 * q + 0.1 / 6
    p0, q0 = with_zeros(draw)
    apart, other = np.array([0.25, 0.75, 0.0, 0.0]), np.array([0.0, 0.0, 0.5, 0.5])
    best, best0 = reference.optimal_discriminator(p, q), reference.optimal_discriminator(p0, q0)
    value, top = reference.gan_value(d, p, q), reference.gan_value(best, p, q)
    js, js0 = reference.js_divergence(p, q), reference.js_divergence(p0, q0)
    with part("the optimal discriminator", 1):
        compare(student.optimal_discriminator(p, q), 1 / (1 + q / p), "optimal_discriminator")
        compare(student.optimal_discriminator(p0, q0), best0, "optimal_discriminator where there are zeros")
    with part("value and divergence", 1):
        compare(student.gan_value(d, p, q), value, "gan_value of some discriminator")
        compare(student.js_divergence(p, q), (top + math.log(4)) / 2, "js_divergence, against the value of the game")
        compare(student.js_divergence(q, p), js, "js_divergence with its arguments exchanged")
    with part("zeros", 1):
        compare(student.js_divergence(p0, q0), js0, "js_divergence where there are zeros")
        compare(student.gan_value(best0, p0, q0), 2 * js0 - math.log(4), "gan_value where there are zeros")
        compare(student.js_divergence(apart, other), math.log(2), "js_divergence of disjoint distributions")


CRITIC = """
parameters = [w.clone().requires_grad_() for w in weights]
w1, b1, w2 = parameters
def critic(points):
    return torch.tanh(points.flatten(1) @ w1 + b1) @ w2
"""
PENALTY = CRITIC + "return gradient_penalty(critic, x, fake, u)"
CRITIC_LOSS = CRITIC + "return critic_loss(critic, x, fake, u, penalty=penalty)"
SLOPES = """
if not loss.requires_grad:
    return [torch.zeros_like(w) for w in parameters]
slopes = torch.autograd.grad(loss, parameters, allow_unused=True)
return [torch.zeros_like(w) if slope is None else slope for w, slope in zip(parameters, slopes)]
"""
PENALTY_SLOPES = CRITIC + "loss = gradient_penalty(critic, x, fake, u)" + SLOPES
CRITIC_LOSS_SLOPES = CRITIC + "loss = critic_loss(critic, x, fake, u, penalty=penalty)" + SLOPES
PLANE = """
def critic(points):
    return points @ direction
return gradient_penalty(critic, x, fake, u)
"""


def critic_case(draw: Any, *shape: int) -> dict[str, Any]:
    """Data and samples (B, ...), u, and the weights of a critic."""
    size = int(np.prod(shape[1:]))
    weights = [draw.normal(size, 6), draw.normal(6), draw.normal(6, scale=1.5)]
    return {
        "x": draw.normal(*shape),
        "fake": draw.normal(*shape) + 1,
        "u": draw.uniform(0.05, 0.95, shape[0]),
        "weights": weights,
    }


@question("3c", points=4, names=["gradient_penalty", "critic_loss"], title="The gradient penalty")
def check_gradient_penalty(student: Any, reference: Any, draw: Any) -> None:
    square, points = critic_case(draw, 4, 4), critic_case(draw, 5, 3)
    images, single = critic_case(draw, 3, 2, 3, 4), critic_case(draw, 1, 3)
    penalty = float(draw.uniform(2.0, 8.0))
    square["weights"][2] *= 0.1  # a critic that is too flat; the others are too steep in most places
    direction = draw.normal(3) + 1
    wants = [reference.script(PENALTY, **case) for case in (square, points, single, images)]
    slopes = [reference.script(PENALTY_SLOPES, **case) for case in (points, images)]
    loss, loss_slopes = (
        reference.script(source, penalty=penalty, **points) for source in (CRITIC_LOSS, CRITIC_LOSS_SLOPES)
    )
    with part("the penalty at points", 1):
        for case, want in zip((square, points, single), wants):
            compare(student.script(PENALTY, **case), want, "gradient_penalty")
        want = (math.sqrt(float((direction**2).sum())) - 1) ** 2
        inputs = {name: points[name] for name in ("x", "fake", "u")}
        compare(student.script(PLANE, direction=direction, **inputs), want, "gradient_penalty of a linear critic")
    with part("the penalty at images", 1):
        compare(student.script(PENALTY, **images), wants[3], "gradient_penalty of images")
    with part("what the penalty teaches the critic", 1):
        for case, want in zip((points, images), slopes):
            answer = student.script(PENALTY_SLOPES, **case)
            compare(answer, want, "the gradient of gradient_penalty in the critic's parameters")
    with part("the critic's loss", 1):
        compare(student.script(CRITIC_LOSS, penalty=penalty, **points), loss, "critic_loss")
        answer = student.script(CRITIC_LOSS_SLOPES, penalty=penalty, **points)
        compare(answer, loss_slopes, "the gradient of critic_loss in the critic's parameters")


GAME = """
g1, g2, d1, b1, d2 = (w.clone().requires_grad_() for w in weights)
arrived = []  # gradients that reach the generator
g2.register_hook(lambda slope: arrived.append(1))
def G(z):
    return torch.tanh(z @ g1) @ g2
def D(points):
    return torch.tanh(points @ d1 + b1) @ d2
optimizer_G = torch.optim.SGD([g1, g2], lr=0.2, momentum=0.9)
optimizer_D = torch.optim.SGD([d1, b1, d2], lr=0.1, momentum=0.9)
def d_loss(on_data, on_samples):
    return ((on_data - 1) ** 2).mean() + (on_samples**2).mean()
def g_loss(on_samples):
    return ((on_samples - 1) ** 2).mean()
losses = []
for batch, pair in zip(x, noise):
    losses.append([float(loss) for loss in gan_step(batch, pair, G, D, optimizer_G, optimizer_D, d_loss, g_loss)])
return [d1, b1, d2], [g1, g2], losses, len(arrived)
"""


@question("3d", points=4, names=["gan_step"], title="One round of the game")
def check_gan_step(student: Any, reference: Any, draw: Any) -> None:
    sizes = ((2, 5), (5, 3), (3, 6), (6,), (6,))
    case = {"weights": [draw.normal(*size, scale=0.8) for size in sizes], "x": draw.normal(3, 7, 3) + 1}
    case["noise"] = draw.normal(3, 2, 7, 2)
    one = {**case, "x": case["x"][:1], "noise": case["noise"][:1]}
    moved_d, moved_g, ((loss_d, loss_g),), _ = reference.script(GAME, **one)
    later = reference.script(GAME, **case)
    with part("the discriminator moves", 1):
        discriminator, _, losses, _ = student.script(GAME, **one)
        compare(losses[0][0], loss_d, "the discriminator's loss")
        compare(discriminator, moved_d, "the discriminator after one round")
    with part("the generator moves", 1):
        _, generator, losses, _ = student.script(GAME, **one)
        compare(losses[0][1], loss_g, "the generator's loss")
        compare(generator, moved_g, "the generator after one round")
    with part("three rounds", 1):
        discriminator, generator, losses, _ = student.script(GAME, **case)
        compare(losses, later[2], "the losses of three rounds")
        compare(discriminator, later[0], "the discriminator after three rounds")
        compare(generator, later[1], "the generator after three rounds")
    with part("the discriminator's step keeps out of the generator", 1):
        discriminator, generator, _, arrived = student.script(GAME, **one)
        compare(discriminator, moved_d, "the discriminator after one round")
        compare(generator, moved_g, "the generator after one round")
        line = f"gradients reach the generator once in a round, in its own step, and they did {arrived} times"
        expect(arrived <= 1, line, arrived)


def around(draw: Any, centres: Array, counts: Array, sigma: float, low: float, high: float) -> Array:
    """Points near centres, `counts[k]` of them near centre k, at a distance of `low` to `high` standard deviations."""
    k = np.repeat(np.arange(len(centres)), counts)
    direction = draw.normal(len(k), centres.shape[1]) + 1e-3
    direction /= np.sqrt((direction**2).sum(1, keepdims=True))
    return centres[k] + sigma * draw.uniform(low, high, len(k), 1) * direction


@question("3e", points=4, names=["mode_counts", "mode_coverage", "pack"], title="Which modes are there?")
def check_modes(student: Any, reference: Any, draw: Any) -> None:
    sigma = float(draw.uniform(0.1, 0.2))
    grid = np.stack(np.meshgrid([-2.0, 0.0, 2.0], [-2.0, 0.0, 2.0]), -1).reshape(9, 2)[draw.permutation(9)]
    good, bad = draw.integers(1, 6, 9), draw.integers(2, 5, 9)
    good[[0, 8]] = 0  # the last mode and another are missed
    near = around(draw, grid, good, sigma, 0.1, 2.8)
    x = np.concatenate([near, around(draw, grid, bad, sigma, 3.2, 4.0)])
    x = x[draw.permutation(len(x))]
    solid, counts = 2.0 * np.eye(5), np.array([3, 0, 6, 1, 0])
    inner, outer = around(draw, solid, counts, 0.2, 0.1, 2.8), around(draw, solid, counts[::-1] + 2, 0.2, 3.2, 3.6)
    five = np.concatenate([inner, outer])
    points = draw.uniform(-3, 3, 80, 2)
    overlapping = [reference.mode_counts(points, grid, 0.6, radius=r) for r in (3.0, 1.2)]
    wide = reference.mode_coverage(points, grid, 0.6, radius=0.8)
    packs = [(draw.normal(size, 2), m) for size, m in ((12, 3), (11, 4), (5, 1))]
    packed = [reference.pack(rows, m) for rows, m in packs]
    with part("counts", 1):
        compare(student.mode_counts(x, grid, sigma), good, "mode_counts")
        compare(student.mode_counts(five, solid, 0.2), counts, "mode_counts in five dimensions")
    with part("overlapping modes, and another radius", 1):
        compare(student.mode_counts(points, grid, 0.6), overlapping[0], "mode_counts where discs overlap")
        compare(student.mode_counts(points, grid, 0.6, radius=1.2), overlapping[1], "mode_counts with another radius")
    with part("coverage", 1):
        answer = several_b(student.mode_coverage(x, grid, sigma), 2, "mode_coverage returns two numbers")
        compare(answer[0], int((good > 0).sum()), "the number of modes covered")
        compare(answer[1], float(good.sum() / len(x)), "the share of good samples")
        answer = student.mode_coverage(points, grid, 0.6, radius=0.8)
        compare(answer, wide, "mode_coverage with another radius")
    with part("packing", 1):
        for (rows, m), want in zip(packs, packed):
            compare(student.pack(rows, m), want, f"pack of {len(rows)} rows by {m}")
