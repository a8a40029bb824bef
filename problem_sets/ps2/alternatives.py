"""Other right answers to problem set 2: each must earn full marks at every seed.

Read by the grader and never imported; each runs on top of the solution, one at a time.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch.distributions import Bernoulli, Independent, MultivariateNormal, Normal, kl_divergence

from autograder.authoring import alternative

# 1a. KL divergences between Gaussians


@alternative("1a", "torch.distributions")
def kl_to_standard_normal(mu, logvar):
    std = torch.exp(logvar / 2)
    return kl_divergence(Normal(mu, std), Normal(torch.zeros_like(mu), torch.ones_like(std))).sum(-1)


@alternative("1a", "the general one at mean 0 and log-variance 0")
def kl_to_standard_normal(mu, logvar):
    return kl_diagonal_normals(mu, logvar, torch.zeros_like(mu), torch.zeros_like(logvar))


@alternative("1a", "a loop over the coordinates, with expm1")
def kl_to_standard_normal(mu, logvar):
    total = 0.0
    for j in range(mu.shape[-1]):
        total = total + (mu[..., j] ** 2 + torch.expm1(logvar[..., j]) - logvar[..., j]) / 2
    return total


@alternative("1a", "torch.distributions for two")
def kl_diagonal_normals(mu_q, logvar_q, mu_p, logvar_p):
    q, p = (Independent(Normal(m, torch.exp(v / 2)), 1) for m, v in ((mu_q, logvar_q), (mu_p, logvar_p)))
    return kl_divergence(q, p)


@alternative("1a", "entropies: cross-entropy less entropy, with traces")
def kl_diagonal_normals(mu_q, logvar_q, mu_p, logvar_p):
    precision = 1 / torch.exp(logvar_p)
    trace = torch.einsum("...j,...j->...", logvar_q.exp(), precision)
    quadratic = torch.einsum("...j,...j,...j->...", mu_q - mu_p, precision, mu_q - mu_p)
    return 0.5 * (trace + quadratic - mu_q.shape[-1] + (logvar_p.sum(-1) - logvar_q.sum(-1)))


# 1b. Samples and densities


@alternative("1b", "a square root, and einsum; noise in any number of leading axes")
def reparameterize(mu, logvar, noise=None):
    if noise is None:
        noise = torch.normal(0.0, 1.0, mu.shape, dtype=mu.dtype, device=mu.device)
    return torch.addcmul(mu.expand_as(noise), torch.sqrt(torch.exp(logvar)).expand_as(noise), noise)


@alternative("1b", "in place, on an own copy")
def reparameterize(mu, logvar, noise=None):
    z = (torch.randn(mu.shape).to(mu) if noise is None else noise).clone()
    z *= torch.exp(0.5 * logvar)
    z += mu
    return z


@alternative("1b", "torch.distributions for codes")
def log_normal(z, mu, logvar):
    return Normal(mu, torch.exp(logvar / 2)).log_prob(z).sum(-1)


@alternative("1b", "each term summed by itself")
def log_normal(z, mu, logvar):
    z, mu, logvar = torch.broadcast_tensors(z, mu, logvar)
    distance = (((z - mu) / torch.exp(0.5 * logvar)) ** 2).sum(-1)
    return -0.5 * distance - 0.5 * logvar.sum(-1) - z.shape[-1] * 0.5 * math.log(2 * math.pi)


@alternative("1b", "torch.distributions for pixels")
def log_bernoulli(x, logits):
    x, logits = torch.broadcast_tensors(x, logits)
    return Bernoulli(logits=logits, validate_args=False).log_prob(x).sum(-1)


@alternative("1b", "two log-sigmoids")
def log_bernoulli(x, logits):
    log_sigmoid = torch.nn.functional.logsigmoid
    return (x * log_sigmoid(logits) + (1 - x) * log_sigmoid(-logits)).sum(-1)


@alternative("1b", "the library's softplus of the logit with the sign of the pixel")
def log_bernoulli(x, logits):
    return -torch.nn.functional.softplus((1 - 2 * x) * logits).sum(-1)


# 1c. The evidence lower bound


@alternative("1c", "one image at a time, with the library's cross-entropy")
def elbo(x, encode, decode, noise):
    bounds = []
    for b in range(len(x)):
        mu, logvar = encode(x[b : b + 1])
        logits = decode(mu + (logvar / 2).exp() * noise[b : b + 1])
        fit = torch.nn.functional.binary_cross_entropy_with_logits(logits, x[b : b + 1], reduction="sum")
        bounds.append(-fit - 0.5 * (mu**2 + logvar.exp() - logvar - 1).sum())
    return torch.stack(bounds)


@alternative("1c", "torch.distributions throughout")
def elbo(x, encode, decode, noise):
    mu, logvar = encode(x)
    q = Independent(Normal(mu, (logvar / 2).exp()), 1)
    prior = Independent(Normal(torch.zeros_like(mu), torch.ones_like(mu)), 1)
    logits = decode(q.base_dist.loc + q.base_dist.scale * noise)
    pixels = Independent(Bernoulli(logits=logits, validate_args=False), x.ndim - 1)
    return pixels.log_prob(x) - kl_divergence(q, prior)


@alternative("1c", "sums over all axes but the first by their numbers")
def elbo(x, encode, decode, noise):
    mu, logvar = encode(x)
    logits = decode(reparameterize(mu, logvar, noise))
    terms = x * logits - torch.nn.functional.softplus(logits)
    return terms.sum(tuple(range(1, x.ndim))) - kl_to_standard_normal(mu, logvar)


@alternative("1c", "the sum over everything, divided by the batch")
def vae_loss(x, encode, decode, noise):
    return torch.neg(elbo(x, encode, decode, noise).sum() / x.shape[0])


# 1d. Many codes


@alternative("1d", "the constants cancel, and (z - mu) / sigma is the noise")
def log_weights(x, encode, decode, noise):
    mu, logvar = (v.unsqueeze(1) for v in encode(x))
    z = mu + (0.5 * logvar).exp() * noise
    ratio = 0.5 * (noise**2 + logvar - z**2).sum(-1)
    return log_bernoulli(x.unsqueeze(1), decode(z)) + ratio


@alternative("1d", "a loop over the codes")
def log_weights(x, encode, decode, noise):
    mu, logvar = encode(x)
    columns = []
    for i in range(noise.shape[1]):
        z = reparameterize(mu, logvar, noise[:, i])
        log_prior = log_normal(z, torch.zeros_like(z), torch.zeros_like(z))
        columns.append(log_bernoulli(x, decode(z)) + log_prior - log_normal(z, mu, logvar))
    return torch.stack(columns, 1)


@alternative("1d", "images repeated k times, one long batch")
def log_weights(x, encode, decode, noise):
    B, k, Z = noise.shape
    many = x.repeat_interleave(k, 0)
    mu, logvar = encode(many)
    q = Normal(mu, torch.exp(0.5 * logvar))
    z = mu + q.scale * noise.reshape(B * k, Z)
    log_prior = Normal(torch.zeros_like(z), torch.ones_like(z)).log_prob(z).sum(1)
    return (log_bernoulli(many, decode(z)) + log_prior - q.log_prob(z).sum(1)).view(B, k)


@alternative("1d", "the largest log-weight taken out by hand")
def iwae_bound(log_w):
    top = log_w.max(dim=1, keepdim=True).values.detach()
    return torch.log(torch.mean(torch.exp(log_w - top), dim=1)) + top[:, 0]


@alternative("1d", "logaddexp, one code after another")
def iwae_bound(log_w):
    total = log_w[:, 0]
    for i in range(1, log_w.shape[1]):
        total = torch.logaddexp(total, log_w[:, i])
    return total - math.log(log_w.shape[1])


@alternative("1d", "weights as exponentials of what is left after log-sum-exp")
def importance_weights(log_w):
    return torch.exp(log_w - torch.logsumexp(log_w, dim=1, keepdim=True))


@alternative("1d", "the squared sum over the sum of squares, in logarithms")
def effective_sample_size(log_w):
    return torch.exp(2 * log_w.logsumexp(1) - (2 * log_w).logsumexp(1))


# 1e. Posterior collapse


@alternative("1e", "the formula, unit by unit")
def kl_per_unit(mu, logvar):
    return torch.stack(
        [kl_to_standard_normal(mu[:, j : j + 1], logvar[:, j : j + 1]).mean() for j in range(mu.shape[1])]
    )


@alternative("1e", "torch.distributions")
def kl_per_unit(mu, logvar):
    prior = Normal(torch.zeros_like(mu), torch.ones_like(mu))
    return kl_divergence(Normal(mu, torch.exp(logvar / 2)), prior).mean(dim=0)


@alternative("1e", "the variance with the divisor B, by hand")
def active_units(mu, threshold=0.01):
    variance = ((mu - mu.mean(0)) ** 2).mean(0)
    return sum(1 for v in variance.tolist() if v > threshold)


@alternative("1e", "a tensor that holds the number")
def active_units(mu, threshold=0.01):
    return torch.count_nonzero(torch.var(mu, dim=0) > threshold)


@alternative("1e", "cases")
def kl_weight(step, warmup):
    if step >= warmup:
        return 1.0
    return step / float(warmup)


@alternative("1e", "numpy's clip")
def kl_weight(step, warmup):
    return float(np.clip(step / warmup, 0, 1)) if warmup else 1.0


@alternative("1e", "the maximum by a built-in of two tensors, the mean by hand")
def weighted_loss(log_likelihood, mu, logvar, weight=1.0, free_bits=0.0):
    units = 0.5 * (mu**2 + logvar.exp() - logvar - 1).sum(0) / len(mu)
    price = torch.maximum(units, torch.full_like(units, free_bits)).sum()
    return -log_likelihood.sum() / len(mu) + weight * price


@alternative("1e", "relu of what is above the free bits")
def weighted_loss(log_likelihood, mu, logvar, weight=1.0, free_bits=0.0):
    units = kl_per_unit(mu, logvar)
    price = (free_bits + torch.relu(units - free_bits)).sum()
    return weight * price - log_likelihood.mean()


# 1f. The VQ-VAE


@alternative("1f", "cdist")
def nearest_codes(z_e, codebook):
    flat = z_e.reshape(-1, z_e.shape[-1])
    return torch.cdist(flat, codebook).argmin(1).view(z_e.shape[:-1])


@alternative("1f", "the square multiplied out, without the term that is the same for all")
def nearest_codes(z_e, codebook):
    return ((codebook**2).sum(1) - 2 * z_e @ codebook.T).argmin(-1)


@alternative("1f", "a loop over the codebook")
def nearest_codes(z_e, codebook):
    best = torch.full(z_e.shape[:-1], float("inf"), dtype=z_e.dtype)
    codes = torch.zeros(z_e.shape[:-1], dtype=torch.int64)
    for i, e in enumerate(codebook):
        squared = ((z_e - e) ** 2).sum(-1)
        codes = torch.where(squared < best, torch.full_like(codes, i), codes)
        best = torch.minimum(best, squared)
    return codes


@alternative("1f", "a function with a gradient of its own")
def straight_through(z_e, z_q):
    class Through(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a, b):
            return b.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad, None

    return Through.apply(z_e, z_q)


@alternative("1f", "the value of z_q with a zero that has the gradient of z_e")
def straight_through(z_e, z_q):
    return z_q.detach() + (z_e - z_e.detach())


@alternative("1f", "mse_loss, times the number of coordinates")
def vq_losses(z_e, z_q):
    mse, size = torch.nn.functional.mse_loss, z_e.shape[-1]
    return size * mse(z_q, z_e.detach()), size * mse(z_e, z_q.detach())


@alternative("1f", "one vector at a time, copies cut off beforehand, as a list")
def vq_losses(z_e, z_q):
    a, b = z_e.reshape(-1, z_e.shape[-1]), z_q.reshape(-1, z_q.shape[-1])
    fixed_a, fixed_b = a.clone().detach(), b.clone().detach()
    first = sum(((fixed_a[i] - b[i]) ** 2).sum() for i in range(len(a))) / len(a)
    second = sum(((a[i] - fixed_b[i]) ** 2).sum() for i in range(len(a))) / len(a)
    return [first, second]


@alternative("1f", "one-hot, and only what occurs")
def perplexity(codes, K):
    usage = torch.nn.functional.one_hot(codes.reshape(-1), K).double().mean(0)
    usage = usage[usage > 0]
    return torch.exp(-(usage * usage.log()).sum())


@alternative("1f", "a loop, in single precision, 0 log 0 = 0 by xlogy")
def perplexity(codes, K):
    usage = torch.stack([(codes == i).float().mean() for i in range(K)])
    return torch.exp(-torch.xlogy(usage, usage).sum())


# 1g. A VAE on handwritten digits


@alternative("1g", "the bound of several codes as the objective")
def fit_vae(train, latent=10, weight=1.0, steps=1200):
    x_all, k = train.float(), 5
    layers = [torch.nn.Linear(a, b) for a, b in ((64, 128), (128, 2 * latent), (latent, 128), (128, 64))]
    pairs = [(f.weight, f.bias) for f in layers]
    descent = torch.optim.Adam([p for pair in pairs for p in pair], lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(descent, steps)
    for _ in range(steps):
        x = x_all[torch.randint(len(x_all), (96,))]
        log_w = log_weights(
            x,
            lambda v: perceptron(pairs[:2], v).chunk(2, -1),
            lambda z: perceptron(pairs[2:], z),
            torch.randn(len(x), k, latent),
        )
        descent.zero_grad()
        (-iwae_bound(log_w).mean()).backward()
        descent.step()
        schedule.step()
    return pairs[:2], pairs[2:]


@alternative("1g", "two hidden layers, KL annealing, epochs in random order")
def fit_vae(train, latent=16, weight=1.0, steps=1400):
    x_all = train.float()
    widths = [64, 128, 128, 2 * latent], [latent, 128, 128, 64]
    nets = [[torch.nn.Linear(a, b) for a, b in itertools.pairwise(w)] for w in widths]
    encoder, decoder = ([(f.weight, f.bias) for f in net] for net in nets)
    descent = torch.optim.AdamW([p for pair in encoder + decoder for p in pair], lr=3e-3, weight_decay=1e-2)
    order = torch.empty(0, dtype=torch.int64)
    for step in range(steps):
        if len(order) < 128:
            order = torch.randperm(len(x_all))
        x, order = x_all[order[:128]], order[128:]
        mu, logvar = perceptron(encoder, x).chunk(2, -1)
        fit = log_bernoulli(x, perceptron(decoder, reparameterize(mu, logvar)))
        loss = weighted_loss(fit, mu, logvar, weight * kl_weight(step, 400))
        for group in descent.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
        descent.zero_grad()
        loss.backward()
        descent.step()
    return [[(w.detach(), b.detach()) for w, b in net] for net in (encoder, decoder)]


@alternative("1g", "double precision, no schedule, plain tensors as arrays")
def fit_vae(train, latent=8, weight=1.0, steps=1800):
    d, hidden = train.shape[1], 128
    shapes = [(hidden, d), (2 * latent, hidden), (hidden, latent), (d, hidden)]
    pairs = [
        (torch.randn(s, dtype=train.dtype) / math.sqrt(s[1]), torch.zeros(s[0], dtype=train.dtype)) for s in shapes
    ]
    flat = [p.requires_grad_() for pair in pairs for p in pair]
    descent = torch.optim.Adam(flat, lr=3e-3)
    for _ in range(steps):
        x = train[torch.randint(len(train), (128,))]
        noise = torch.randn(len(x), latent, dtype=x.dtype)
        loss = vae_loss(x, lambda v: perceptron(pairs[:2], v).chunk(2, -1), lambda z: perceptron(pairs[2:], z), noise)
        descent.zero_grad()
        loss.backward()
        descent.step()
    arrays = [tuple(p.detach().numpy() for p in pair) for pair in pairs]
    return arrays[:2], arrays[2:]


# 2a. Change of variables


@alternative("2a", "torch.distributions")
def standard_normal_log_prob(z):
    return Normal(0.0, 1.0).log_prob(z).sum(-1)


@alternative("2a", "einsum, and the determinant from singular values")
def linear_forward(x, weight, bias):
    log_det = torch.linalg.svdvals(weight).log().sum()
    return torch.einsum("ij,bj->bi", weight, x) + bias, log_det.repeat(len(x))


@alternative("2a", "F.linear, and the determinant from an LU factorisation")
def linear_forward(x, weight, bias):
    upper = torch.linalg.lu(weight).U
    return F.linear(x, weight, bias), upper.diagonal().abs().log().sum() * torch.ones(len(x), dtype=x.dtype)


@alternative("2a", "the slope from log-sigmoids of z")
def logit_forward(x, alpha=0.05):
    z = torch.logit(alpha + (1 - 2 * alpha) * x)
    return z, (math.log1p(-2 * alpha) - F.logsigmoid(z) - F.logsigmoid(-z)).sum(1)


@alternative("2a", "the slope by autograd")
def logit_forward(x, alpha=0.05):
    own = x.detach().clone().requires_grad_()
    p = alpha + (1 - 2 * alpha) * own
    z = torch.log(p / (1 - p))
    (slope,) = torch.autograd.grad(z.sum(), own, create_graph=True)
    if not x.requires_grad:
        return z.detach(), slope.detach().log().sum(1)
    p = alpha + (1 - 2 * alpha) * x
    return torch.log(p / (1 - p)), slope.log().sum(1)


@alternative("2a", "a product of a density and a volume, in logarithms at the end")
def flow_log_prob(x, forward):
    z, log_det = forward(x)
    return (standard_normal_log_prob(z).exp() * log_det.exp()).log()


# 2b. An affine coupling


@alternative("2b", "a mask in place of a cut, and places to put things back")
def coupling_forward(x, net, swap=False):
    moves = (torch.arange(x.shape[1]) >= x.shape[1] // 2) != swap
    raw, t = net(x[:, ~moves]).tensor_split(2, dim=1)
    z = x.clone()
    z[:, moves] = bounded(raw).exp() * x[:, moves] + t
    return z, bounded(raw).sum(dim=-1)


@alternative("2b", "one point at a time")
def coupling_forward(x, net, swap=False):
    half, zs, dets = x.shape[1] // 2, [], []
    for point in x:
        keep, move = (point[half:], point[:half]) if swap else (point[:half], point[half:])
        out = net(keep[None])[0]
        s = bounded(out[: len(move)])
        new = torch.addcmul(out[len(move) :], move, s.exp())
        zs.append(torch.cat((new, keep) if swap else (keep, new)))
        dets.append(s.sum())
    return torch.stack(zs), torch.stack(dets)


@alternative("2b", "divide, and the log-determinant from the factors")
def coupling_inverse(z, net, swap=False):
    half = z.shape[1] // 2
    fixed, moved = (z[:, half:], z[:, :half]) if swap else (z[:, :half], z[:, half:])
    out = net(fixed)
    factor = torch.exp(bounded(out[:, : moved.shape[1]]))
    back = (moved - out[:, moved.shape[1] :]) / factor
    parts = [back, fixed] if swap else [fixed, back]
    return torch.hstack(parts), torch.log(1 / factor).sum(1)


# 2c. RealNVP


@alternative("2c", "recursion")
def realnvp_forward(x, nets):
    if len(nets) == 0:
        return x, torch.zeros(len(x), dtype=x.dtype)
    y, before = realnvp_forward(x, nets[:-1])
    z, last = coupling_forward(y, nets[-1], (len(nets) - 1) % 2 == 1)
    return z, before + last


@alternative("2c", "a flag that turns over, in both directions")
def realnvp_sample(noise, nets):
    swap = len(nets) % 2 == 0
    for net in list(nets)[::-1]:
        noise = coupling_inverse(noise, net, swap)[0]
        swap = not swap
    return noise


@alternative("2c", "torch.distributions at the end")
def realnvp_log_prob(x, nets):
    dets = []
    for k in range(len(nets)):
        x, log_det = coupling_forward(x, nets[k], swap=bool(k % 2))
        dets.append(log_det)
    d = x.shape[1]
    base = MultivariateNormal(torch.zeros(d, dtype=x.dtype), torch.eye(d, dtype=x.dtype))
    return base.log_prob(x) + torch.stack(dets).sum(0)


# 2d. Masks that keep the order


@alternative("2d", "loops over units, degrees dealt out in turns")
def made_masks(degrees, hidden, k=2):
    d, below, masks = len(degrees), degrees.tolist(), []
    for width in hidden:
        above = [1 + j % (d - 1) for j in range(width)]
        masks.append(torch.tensor([[float(a >= b) for b in below] for a in above], dtype=torch.float64))
        below = above
    rows = [[float(a > b) for b in below] for _ in range(k) for a in degrees.tolist()]
    return [*masks, torch.tensor(rows, dtype=torch.float64)]


@alternative("2d", "some units of degree D, which know everything and feed nothing, and whole numbers in the masks")
def made_masks(degrees, hidden, k=2):
    layers = [degrees] + [1 + torch.arange(width) * len(degrees) // width for width in hidden]
    masks = [torch.ge(*torch.meshgrid(b, a, indexing="ij")) for b, a in zip(layers[1:], layers)]
    return [mask.long() for mask in masks] + [torch.cat([(layers[0][:, None] - 1 >= layers[-1]).long()] * k)]


@alternative("2d", "weights that are masked on a copy, einsum, and a reshape")
def made(x, weights, biases, masks):
    a = x
    for n in range(len(weights)):
        own = weights[n].clone()
        own[masks[n] == 0] = 0
        a = torch.einsum("oi,bi->bo", own, a) + biases[n]
        if n + 1 < len(weights):
            a = torch.clamp(a, min=0)
    return a.reshape(len(x), -1, x.shape[1])


# 2e. A masked autoregressive flow


@alternative("2e", "a product of Gaussian conditionals")
def maf_log_prob(x, net):
    out = net(x)
    return Normal(out[:, 0], bounded(out[:, 1]).exp()).log_prob(x).sum(1)


@alternative("2e", "divide, and take the logarithm of the scales")
def maf_log_prob(x, net):
    mu, raw = net(x).unbind(dim=1)
    scale = torch.exp(bounded(raw))
    z = (x - mu) / scale
    return -0.5 * z.pow(2).sum(-1) - torch.log(scale).sum(-1) - x.shape[-1] / 2 * math.log(2 * math.pi)


@alternative("2e", "all coordinates anew in each pass: after pass i the first i are right")
def maf_sample(noise, net):
    x = torch.randn_like(noise)
    for _ in range(noise.shape[1]):
        mu, raw = net(x).unbind(1)
        x = noise * bounded(raw).exp() + mu
    return x


@alternative("2e", "a list of columns")
def maf_sample(noise, net):
    columns = []
    for i in range(noise.shape[1]):
        known = torch.stack(columns, 1) if columns else noise[:, :0]
        out = net(F.pad(known, (0, noise.shape[1] - i)))
        columns.append(torch.addcmul(out[:, 0, i], noise[:, i], bounded(out[:, 1, i]).exp()))
    return torch.stack(columns, 1)


# 2f. An inverse autoregressive flow


@alternative("2f", "the layers turned around first, the reversal at the beginning of each but the first")
def iaf_sample(noise, nets):
    x, dets = noise, 0.0
    for n, net in enumerate(list(nets)[::-1]):
        if n:
            x = x[:, torch.arange(x.shape[1] - 1, -1, -1)]
        out = net(x)
        x, dets = torch.addcmul(out[:, 0], x, bounded(out[:, 1]).exp()), dets + bounded(out[:, 1]).sum(-1)
    return x, Normal(0.0, 1.0).log_prob(noise).sum(-1) - dets


@alternative("2f", "all coordinates anew in each pass, and the scales of the last")
def iaf_log_prob(x, nets):
    total = 0.0
    for k, net in enumerate(nets):
        x = x.flip(-1) if k else x
        z = torch.zeros_like(x)
        for _ in range(x.shape[1]):
            out = net(z)
            z = (x - out[:, 0]) / bounded(out[:, 1]).exp()
        x, total = z, total + bounded(out[:, 1]).sum(-1)
    return standard_normal_log_prob(x) - total


@alternative("2f", "recursion over the layers, columns in a list")
def iaf_log_prob(x, nets):
    columns, log_det, d = [], 0.0, x.shape[1]
    for i in range(d):
        z = torch.stack(columns + [torch.zeros_like(x[:, 0])] * (d - i), 1)
        m, raw = nets[0](z)[:, :, i].T
        columns.append((x[:, i] - m) * torch.exp(-bounded(raw)))
        log_det = log_det - bounded(raw)
    z = torch.stack(columns, 1)
    rest = nets[1:]
    return log_det + (iaf_log_prob(z.flip(1), rest) if len(rest) else standard_normal_log_prob(z))


# 3a. The losses of the two players


@alternative("3a", "softplus")
def discriminator_loss(real_logits, fake_logits):
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


@alternative("3a", "the binary cross-entropy with logits")
def discriminator_loss(real_logits, fake_logits):
    loss = F.binary_cross_entropy_with_logits
    return loss(real_logits, torch.ones_like(real_logits)) + loss(fake_logits, torch.zeros_like(fake_logits))


@alternative("3a", "logaddexp, for both objectives")
def generator_loss(fake_logits, objective="non_saturating"):
    zero = torch.zeros_like(fake_logits)
    if objective == "minimax":
        return -torch.logaddexp(zero, fake_logits).mean()
    return torch.logaddexp(zero, -fake_logits).mean()


@alternative("3a", "the binary cross-entropy, its labels by objective")
def generator_loss(fake_logits, objective="non_saturating"):
    label = torch.full_like(fake_logits, 0.0 if objective == "minimax" else 1.0)
    loss = F.binary_cross_entropy_with_logits(fake_logits, label)
    return -loss if objective == "minimax" else loss


@alternative("3a", "torch.distributions")
def discriminator_loss(real_logits, fake_logits):
    real, fake = Bernoulli(logits=real_logits), Bernoulli(logits=fake_logits)
    return -real.log_prob(torch.ones_like(real_logits)).mean() - fake.log_prob(torch.zeros_like(fake_logits)).mean()


# 3b. The optimal discriminator


@alternative("3b", "a half first, then the places that are seen")
def optimal_discriminator(p, q):
    d = torch.full_like(p, 0.5)
    seen = (p > 0) | (q > 0)
    d[seen] = p[seen] / (p[seen] + q[seen])
    return d


@alternative("3b", "a loop over the values, as plain numbers")
def gan_value(d, p, q):
    total = 0.0
    for d_i, p_i, q_i in zip(d.tolist(), p.tolist(), q.tolist()):
        total += (p_i * math.log(d_i) if p_i > 0 else 0.0) + (q_i * math.log(1 - d_i) if q_i > 0 else 0.0)
    return total


@alternative("3b", "from the value of the game")
def js_divergence(p, q):
    return 0.5 * (gan_value(optimal_discriminator(p, q), p, q) + math.log(4))


@alternative("3b", "entropies: that of the mixture less the mean of the two")
def js_divergence(p, q):
    def entropy(r):
        return torch.special.entr(r).sum()

    return entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2


@alternative("3b", "torch's kl_div, whose arguments stand the other way round")
def js_divergence(p, q):
    log_m = torch.log((p + q).clamp_min(1e-300) / 2)
    return 0.5 * (F.kl_div(log_m, p, reduction="sum") + F.kl_div(log_m, q, reduction="sum"))


# 3c. The gradient penalty


@alternative("3c", "one example at a time")
def gradient_penalty(critic, x, fake, u):
    total = 0.0
    for b in range(len(x)):
        point = (u[b] * x[b] + (1 - u[b]) * fake[b]).clone().requires_grad_()
        slope = torch.autograd.grad(critic(point[None])[0], point, create_graph=True)[0]
        total = total + (torch.sqrt((slope**2).sum()) - 1) ** 2
    return total / len(x)


@alternative("3c", "lerp, grad_outputs, and a root of a sum of squares")
def gradient_penalty(critic, x, fake, u):
    weight = u.reshape([-1] + [1] * (x.dim() - 1))
    points = torch.lerp(fake, x, weight).requires_grad_(True)
    values = critic(points)
    slope = torch.autograd.grad(
        values, points, grad_outputs=torch.ones_like(values), create_graph=True, retain_graph=True
    )
    norm = slope[0].pow(2).sum(dim=tuple(range(1, x.dim()))).sqrt()
    return ((norm - 1.0) ** 2).mean()


@alternative("3c", "three terms, stacked")
def critic_loss(critic, x, fake, u, penalty=10.0):
    return torch.stack([critic(fake).mean(), -critic(x).mean(), penalty * gradient_penalty(critic, x, fake, u)]).sum()


@alternative("3c", "data and samples in one call")
def critic_loss(critic, x, fake, u, penalty=10.0):
    on_data, on_samples = critic(torch.cat([x, fake])).split([len(x), len(fake)])
    return (on_samples - on_data).mean() + gradient_penalty(critic, x, fake, u) * penalty


# 3d. One round of the game


@alternative("3d", "detach, and gradients cleared at both ends")
def gan_step(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss):
    optimizer_D.zero_grad()
    optimizer_G.zero_grad()
    first = d_loss(D(x), D(G(noise[0]).detach()))
    first.backward()
    optimizer_D.step()
    second = g_loss(D(G(noise[1])))
    second.backward()
    optimizer_G.step()
    optimizer_D.zero_grad(set_to_none=True)
    optimizer_G.zero_grad()
    return float(first.detach()), float(second.detach())


@alternative("3d", "torch.autograd.grad for the generator's own parameters, so that nothing is left in D")
def gan_step(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss):
    with torch.no_grad():
        fake = G(noise[0])
    first = d_loss(D(x), D(fake))
    second = None
    for optimizer in (optimizer_D, optimizer_G):
        if optimizer is optimizer_G:
            second = g_loss(D(G(noise[1])))
        loss = first if second is None else second
        parameters = optimizer.param_groups[0]["params"]
        for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters)):
            p.grad = gradient
        optimizer.step()
    return first.detach().item(), second.detach().item()


@alternative("3d", "the discriminator frozen during the generator's step")
def gan_step(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss):
    samples = G(noise[0]).detach()
    both = D(torch.cat([x, samples]))
    first = d_loss(both[: len(x)], both[len(x) :])
    optimizer_D.zero_grad()
    first.backward()
    optimizer_D.step()
    frozen = [p for group in optimizer_D.param_groups for p in group["params"]]
    for p in frozen:
        p.requires_grad_(False)
    second = g_loss(D(G(noise[1])))
    optimizer_G.zero_grad()
    second.backward()
    optimizer_G.step()
    for p in frozen:
        p.requires_grad_(True)
    return first.item(), second.item()


# 3e. Which modes are there?


@alternative("3e", "cdist and one-hot rows")
def mode_counts(x, centres, sigma, radius=3.0):
    distance = torch.cdist(x, centres)
    own = F.one_hot(distance.argmin(1), len(centres))
    return (own * (distance < radius * sigma)).sum(0)


@alternative("3e", "a loop over the samples")
def mode_counts(x, centres, sigma, radius=3.0):
    counts = torch.zeros(len(centres), dtype=torch.int64)
    for point in x:
        squared = ((centres - point) ** 2).sum(1)
        k = int(squared.argmin())
        counts[k] += bool(squared[k] < (radius * sigma) ** 2)
    return counts


@alternative("3e", "numpy, without the counts")
def mode_coverage(x, centres, sigma, radius=3.0):
    gap = np.linalg.norm(x.numpy()[:, None] - centres.numpy(), axis=2)
    good = gap.min(1) < radius * sigma
    return len(np.unique(gap.argmin(1)[good])), good.mean()


@alternative("3e", "unfold, and rows in a list")
def pack(x, m):
    return torch.stack([x[j : j + m].flatten() for j in range(0, len(x) - m + 1, m)])


@alternative("3e", "columns side by side")
def pack(x, m):
    whole = x[: len(x) - len(x) % m]
    return torch.cat([whole[i::m] for i in range(m)], dim=1)
