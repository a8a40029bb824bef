"""Other right answers to problem set 3: each must earn full marks at every seed.

Read by the grader and never imported; each runs on top of the solution, one at a time.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from autograder.authoring import alternative

# 1a. The score of a mixture


@alternative("1a", "autograd of the energy")
def mixture_score(x, logits, means, stds):
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        return -torch.autograd.grad(mixture_energy(x, logits, means, stds).sum(), x)[0]


@alternative("1a", "torch.distributions")
def mixture_energy(x, logits, means, stds):
    parts = Independent(Normal(means, stds[:, None].expand_as(means)), 1)
    return -MixtureSameFamily(Categorical(logits=logits), parts).log_prob(x)


@alternative("1a", "a loop over the components, the largest term taken out by hand")
def mixture_score(x, logits, means, stds):
    logs = []
    for k in range(len(logits)):
        z = (x - means[k]) / stds[k]
        logs.append(logits[k] - (0.5 * z**2 + stds[k].log()).sum(1))
    top = torch.stack(logs).max(0).values
    total, score = torch.zeros_like(top), torch.zeros_like(x)
    for k, log in enumerate(logs):
        r = (log - top).exp()
        total += r
        score += r[:, None] * (means[k] - x) / stds[k].square()
    return score / total[:, None]


@alternative("1a", "einsum: a weighted mean less the point")
def mixture_score(x, logits, means, stds):
    log = logits - 0.5 * torch.cdist(x, means).square() / stds**2 - x.shape[1] * stds.log()
    r = torch.softmax(log, 1) / stds**2
    return torch.einsum("bk,kd->bd", r, means) - r.sum(1, keepdim=True) * x


# 1b. Langevin dynamics


@alternative("1b", "the whole way written into one tensor; gradients by autograd's functional")
def langevin(energy, x, step_size, noise, temperature=1.0):
    way = torch.empty(len(noise) + 1, *x.shape, dtype=x.dtype, device=x.device)
    way[0] = x
    for k in range(len(noise)):
        with torch.enable_grad():
            _, gradient = torch.autograd.functional.vjp(lambda z: energy(z).sum(), way[k])
        way[k + 1] = way[k] - step_size * gradient + (2 * step_size * temperature) ** 0.5 * noise[k]
    return way.detach()


@alternative("1b", "backward, with the parameters' gradients put back")
def langevin(energy, x, step_size, noise, temperature=1.0):
    points = [x.detach().clone()]
    for k in range(noise.shape[0]):
        with torch.enable_grad():
            z = points[k].detach().requires_grad_(True)
            energy(z).sum().backward(inputs=[z])
        drift = -z.grad
        points.append((z + step_size * drift + np.sqrt(2 * step_size * temperature) * noise[k]).detach())
    return torch.stack(points, dim=0)


@alternative("1b", "chain by chain")
def langevin(energy, x, step_size, noise, temperature=1.0):
    columns = []
    for b in range(len(x)):
        here = x[b : b + 1].detach()
        column = [here]
        for xi in noise[:, b : b + 1]:
            with torch.enable_grad():
                z = here.clone().requires_grad_()
                g = torch.autograd.grad(energy(z).squeeze(), z)[0]
            here = here - step_size * g + xi * math.sqrt(2 * step_size * temperature)
            column.append(here)
        columns.append(torch.stack(column))
    return torch.cat(columns, 1)


# 1c. The error of a step, and its repair


@alternative("1c", "a matrix inverse")
def ula_covariance(precision, step_size, temperature=1.0):
    return temperature * torch.linalg.inv(precision - 0.5 * step_size * precision @ precision)


@alternative("1c", "the linear system for all entries of S at once")
def ula_covariance(precision, step_size, temperature=1.0):
    d = len(precision)
    one = torch.eye(d, dtype=precision.dtype)
    move = one - step_size * precision
    system = torch.eye(d * d, dtype=precision.dtype) - torch.kron(move, move)
    return torch.linalg.solve(system, 2 * step_size * temperature * one.flatten()).view(d, d)


@alternative("1c", "the spectral norm")
def largest_step(precision):
    return 2 / torch.linalg.matrix_norm(precision, 2)


@alternative("1c", "torch.distributions for both proposal densities")
def mala_log_ratio(energy, x, proposal, step_size, temperature=1.0):
    def target_and_move(a, b):
        with torch.enable_grad():
            a = a.detach().clone().requires_grad_()
            e = energy(a)
            g = torch.autograd.grad(e.sum(), a)[0]
        q = Normal(a.detach() - step_size * g, math.sqrt(2 * step_size * temperature))
        return -e.detach() / temperature + q.log_prob(b).flatten(1).sum(1)

    return target_and_move(proposal, x) - target_and_move(x, proposal)


@alternative("1c", "multiplied out: only the drifts remain")
def mala_log_ratio(energy, x, proposal, step_size, temperature=1.0):
    e, g = energy_and_gradient(energy, x)
    e_new, g_new = energy_and_gradient(energy, proposal)
    cross = ((proposal - x) * (g + g_new)).flatten(1).sum(1) / 2
    length = step_size * (g**2 - g_new**2).flatten(1).sum(1) / 4
    return (e - e_new + cross + length) / temperature


@alternative("1c", "ratios in place of logarithms, by index on an own copy")
def mala(energy, x, step_size, noise, uniform, temperature=1.0):
    x, moves = x.clone(), []
    for k in range(len(noise)):
        proposal = langevin(energy, x, step_size, noise[k : k + 1], temperature)[-1]
        ok = uniform[k] < mala_log_ratio(energy, x, proposal, step_size, temperature).exp().clamp(max=1)
        x[ok] = proposal[ok]
        moves.append(ok)
    return x, torch.stack(moves).to(x.dtype).mean().item()


# 1d. Denoising score matching


@alternative("1d", "the weight inside of the square")
def dsm_loss(score, x, sigma, noise, weighted=True):
    s = sigma[(...,) + (None,) * (x.ndim - 1)]
    out = score(x + s * noise, sigma)
    gap = s * out + noise if weighted else out + noise / s
    return 0.5 * (gap**2).sum() / len(x)


@alternative("1d", "a loop over the examples' terms, from the noisy points")
def dsm_loss(score, x, sigma, noise, weighted=True):
    noisy = torch.stack([x[b] + sigma[b] * noise[b] for b in range(len(x))])
    out = score(noisy, sigma)
    total = 0.0
    for b in range(len(x)):
        target = -(noisy[b] - x[b]) / sigma[b] ** 2
        term = 0.5 * (out[b] - target).pow(2).sum()
        total = total + (sigma[b] ** 2 * term if weighted else term)
    return total / len(x)


@alternative("1d", "autograd of the Gaussian's log-density")
def blurred_score(x, sigma, mean, cov):
    z = x.detach().clone().requires_grad_()
    covs = cov + torch.diag_embed((sigma**2)[:, None].expand_as(x))
    return torch.autograd.grad(MultivariateNormal(mean, covs).log_prob(z).sum(), z)[0]


@alternative("1d", "in the eigenvectors of the covariance")
def blurred_score(x, sigma, mean, cov):
    values, vectors = torch.linalg.eigh(cov)
    return -((x - mean) @ vectors / (values + sigma[:, None] ** 2)) @ vectors.T


@alternative("1d", "einsum")
def tweedie(score, x, sigma):
    return x + torch.einsum("b,b...->b...", sigma.square(), score(x, sigma))


# 2a. Noise schedules


@alternative("2a", "numpy's linspace")
def linear_betas(num_steps):
    ends = np.array([1e-4, 0.02]) * 1000 / num_steps
    return torch.from_numpy(np.minimum(np.linspace(*ends, num_steps), 0.999))


@alternative("2a", "a loop, with Python's own numbers")
def cosine_betas(num_steps):
    def bar(t):
        return math.cos((t / num_steps + 0.008) / 1.008 * math.pi / 2) ** 2

    return torch.tensor([min(1 - bar(t) / bar(t - 1), 0.999) for t in range(1, num_steps + 1)], dtype=torch.float64)


@alternative("2a", "alpha_bar normalised first")
def cosine_betas(num_steps):
    u = torch.linspace(0, 1, num_steps + 1, dtype=torch.float64)
    f = torch.cos((u + 0.008) / 1.008 * math.pi / 2).square()
    bar = f / f[0]
    return torch.minimum(1 - bar[1:] / bar[:-1], torch.tensor(0.999))


@alternative("2a", "a loop over the steps")
def noise_tables(betas):
    bars = [torch.ones((), dtype=betas.dtype)]
    for beta in betas:
        bars.append(bars[-1] * (1 - beta))
    return torch.nn.functional.pad(betas, (1, 0)), torch.stack(bars)


@alternative("2a", "a sum of logarithms")
def noise_tables(betas):
    full = torch.zeros(len(betas) + 1, dtype=betas.dtype)
    full[1:] = betas
    return full, torch.log1p(-full).cumsum(0).exp()


# 2b. Noise in one jump


@alternative("2b", "einsum")
def q_sample(x_0, t, noise, alpha_bar):
    a, s = alpha_bar.sqrt()[t], (1 - alpha_bar).sqrt()[t]
    return torch.einsum("b,b...->b...", a, x_0) + torch.einsum("b,b...->b...", s, noise)


@alternative("2b", "a loop over the examples")
def q_sample(x_0, t, noise, alpha_bar):
    return torch.stack(
        [math.sqrt(alpha_bar[i]) * x + math.sqrt(1 - alpha_bar[i]) * n for x, n, i in zip(x_0, noise, t, strict=True)]
    )


@alternative("2b", "axes reversed, so that the last axis is the batch")
def q_sample(x_0, t, noise, alpha_bar):
    last = tuple(range(x_0.ndim))[::-1]
    bar = torch.gather(alpha_bar, 0, t)
    return (bar.sqrt() * x_0.permute(last) + (1 - bar).sqrt() * noise.permute(last)).permute(last)


# 2c. The step back, if we knew the data


@alternative("2c", "precisions added, as in the proof")
def q_posterior(x_0, x_t, t, betas, alpha_bar):
    shape = (-1, *[1] * (x_t.ndim - 1))
    beta, last = betas[t].view(shape), alpha_bar[t - 1].view(shape)
    variance = (1 - last) * beta / ((1 - beta) * (1 - last) + beta)
    mean = ((1 - beta).sqrt() * (1 - last) * x_t + last.sqrt() * beta * x_0) / ((1 - beta) * (1 - last) + beta)
    return mean, variance


@alternative("2c", "tables for all times, then looked up")
def q_posterior(x_0, x_t, t, betas, alpha_bar):
    beta, bar, last = betas[1:], alpha_bar[1:], alpha_bar[:-1]
    tables = last.sqrt() * beta / (1 - bar), (1 - beta).sqrt() * (1 - last) / (1 - bar), (1 - last) / (1 - bar) * beta
    a, b, v = (table[t - 1].reshape(-1, *[1] * (x_t.ndim - 1)) for table in tables)
    return a * x_0 + b * x_t, v


@alternative("2c", "conditioning of a joint Gaussian")
def q_posterior(x_0, x_t, t, betas, alpha_bar):
    shape = (-1, *[1] * (x_t.ndim - 1))
    alpha, last, bar = (v.view(shape) for v in (1 - betas[t], alpha_bar[t - 1], alpha_bar[t]))
    gain = alpha.sqrt() * (1 - last) / (1 - bar)
    mean = last.sqrt() * x_0 + gain * (x_t - bar.sqrt() * x_0)
    return mean, (1 - last) - gain * alpha.sqrt() * (1 - last)


@alternative("2c", "example by example")
def q_posterior(x_0, x_t, t, betas, alpha_bar):
    means, variances = [], []
    for x, z, i in zip(x_0, x_t, t.tolist(), strict=True):
        beta, bar, last = betas[i].item(), alpha_bar[i].item(), alpha_bar[i - 1].item()
        means.append((math.sqrt(last) * beta * x + math.sqrt(1 - beta) * (1 - last) * z) / (1 - bar))
        variances.append(beta * (1 - last) / (1 - bar))
    return torch.stack(means), torch.tensor(variances, dtype=x_t.dtype).view(-1, *[1] * (x_t.ndim - 1))


# 2d. Three things to predict


@alternative("2d", "by way of an angle")
def velocity(x_0, eps, t, alpha_bar):
    phi = torch.arccos(alpha_bar[t].sqrt()).view(-1, *[1] * (x_0.ndim - 1))
    return phi.cos() * eps - phi.sin() * x_0


@alternative("2d", "x_0 first, the noise from it; v by its own rotation")
def split(out, x_t, t, alpha_bar, prediction="eps", clip=False):
    bar = alpha_bar[t].reshape(-1, *[1] * (x_t.ndim - 1))
    a, s = bar**0.5, (1 - bar) ** 0.5
    if prediction == "v":
        x_0 = a * x_t - s * out
        eps = (out + s * x_0) / a if bar.min() > 0.01 else a * out + s * x_t
    elif prediction == "x0":
        x_0, eps = out.clone(), x_t / s - a / s * out
    else:
        x_0, eps = x_t / a - (s / a) * out, out.clone()
    if clip:
        x_0 = torch.clip(x_0, min=-1.0, max=1.0)
    return x_0, eps


@alternative("2d", "a system of two equations for each example")
def split(out, x_t, t, alpha_bar, prediction="eps", clip=False):
    a, s = alpha_bar[t].sqrt(), (1 - alpha_bar[t]).sqrt()  # (B,)
    rows = {
        "eps": (torch.zeros_like(a), torch.ones_like(a)),
        "x0": (torch.ones_like(a), torch.zeros_like(a)),
        "v": (-s, a),
    }[prediction]
    system = torch.stack([torch.stack([a, s], 1), torch.stack(rows, 1)], 1)  # (B, 2, 2)
    known = torch.stack([x_t.flatten(1), out.flatten(1)], 1)  # (B, 2, D)
    x_0, eps = torch.linalg.solve(system, known).unbind(1)
    x_0 = torch.minimum(torch.maximum(x_0, -torch.ones_like(x_0)), torch.ones_like(x_0)) if clip else x_0
    return x_0.view_as(x_t), eps.view_as(x_t)


# 2e. The loss


@alternative("2e", "torch's mse_loss")
def ddpm_loss(net, x_0, t, noise, alpha_bar, prediction="eps"):
    if prediction == "eps":
        target = noise
    elif prediction == "x0":
        target = x_0
    else:
        target = velocity(x_0, noise, t, alpha_bar)
    return torch.nn.functional.mse_loss(net(q_sample(x_0, t, noise, alpha_bar), t), target)


@alternative("2e", "a sum, divided at the end")
def ddpm_loss(net, x_0, t, noise, alpha_bar, prediction="eps"):
    bar = alpha_bar[t].view(-1, *[1] * (x_0.ndim - 1))
    x_t = bar.sqrt() * x_0 + (1 - bar).sqrt() * noise
    target = {"eps": noise, "x0": x_0, "v": bar.sqrt() * noise - (1 - bar).sqrt() * x_0}[prediction]
    return torch.linalg.vector_norm(net(x_t, t) - target).square() / x_0.numel()


@alternative("2e", "each example's mean, then the mean of those")
def ddpm_loss(net, x_0, t, noise, alpha_bar, prediction="eps"):
    x_t = q_sample(x_0, t, noise, alpha_bar)
    out = net(x_t, t.clone())
    choices = {"x0": x_0, "eps": noise, "v": velocity(x_0, noise, t, alpha_bar)}
    per_example = (choices[prediction] - out).flatten(1).pow(2).mean(1)
    return per_example.sum() / len(per_example)


# 2f. The sampler


@alternative("2f", "Ho's form of the mean, from the noise")
def p_sample(net, x_t, t, noise, betas, alpha_bar, prediction="eps", variance="posterior", clip=False):
    ts = torch.full((len(x_t),), t, dtype=torch.int64)
    beta, bar, last = betas[t], alpha_bar[t], alpha_bar[t - 1]
    with torch.no_grad():
        x_0, _ = split(net(x_t, ts), x_t, ts, alpha_bar, prediction, clip)
    eps = (x_t - bar.sqrt() * x_0) / (1 - bar).sqrt()
    mean = (x_t - beta / (1 - bar).sqrt() * eps) / (1 - beta).sqrt()
    sigma = (beta if variance == "beta" else beta * (1 - last) / (1 - bar)).sqrt()
    return mean + (sigma * noise if t > 1 else 0)


@alternative("2f", "recursion")
def ddpm_sample(net, x_T, noise, betas, alpha_bar, prediction="eps", variance="posterior", clip=False):
    def down(x, t):
        if t == 0:
            return x
        return down(p_sample(net, x, t, noise[t], betas, alpha_bar, prediction, variance, clip), t - 1)

    return down(x_T, len(betas) - 1)


@alternative("2f", "all in one loop, the decorated way")
@torch.no_grad()
def ddpm_sample(net, x_T, noise, betas, alpha_bar, prediction="eps", variance="posterior", clip=False):
    x = x_T.clone()
    for t in reversed(range(1, len(betas))):
        times = torch.tensor([t] * len(x))
        x_0 = split(net(x, times), x, times, alpha_bar, prediction=prediction, clip=clip)[0]
        mean, posterior = q_posterior(x_0, x, times, betas, alpha_bar)
        sigma = betas[t].sqrt() if variance == "beta" else posterior.sqrt()
        x = mean if t == 1 else mean + sigma * noise[t]
    return x


# 2g. A diffusion model of your own


@alternative("2g", "v as target, weights averaged, a fixed learning rate, a linear schedule")
def train_points(data):
    shift, scale = data.mean(0), data.std(0)
    x, steps = ((data - shift) / scale).float(), 1500
    betas, bar = (v.float() for v in noise_tables(linear_betas(100)))
    net, mean_net = PointNet(100), PointNet(100)
    mean_net.load_state_dict(net.state_dict())
    optimizer = torch.optim.Adam(net.parameters(), lr=4e-3)
    for k in range(steps):
        batch = x[torch.randint(len(x), (400,))]
        loss = ddpm_loss(net, batch, torch.randint(1, 101, (400,)), torch.randn_like(batch), bar, "v")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for p, q in zip(mean_net.parameters(), net.parameters(), strict=True):
                p.lerp_(q, 0.005 if k > 800 else 0.1)

    def sampler(n):
        out = ddpm_sample(mean_net, torch.randn(n, 2), torch.randn(101, n, 2), betas, bar, "v")
        return out * scale + shift

    return sampler


@alternative("2g", "fifty steps, larger batches")
def train_points(data):
    shift, scale = data.mean(0), data.std(0)
    x = ((data - shift) / scale).float()
    betas, bar = (v.float() for v in noise_tables(cosine_betas(50)))
    net = PointNet(50, width=96)
    optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=0.0)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 1 - k / 1200)
    for _ in range(1200):
        batch = x[torch.randint(len(x), (512,))]
        loss = ddpm_loss(net, batch, torch.randint(1, 51, (512,)), torch.randn_like(batch), bar)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        decay.step()
    return lambda n: ddpm_sample(net, torch.randn(n, 2), torch.randn(51, n, 2), betas, bar) * scale + shift


# 3a. DDIM: fewer steps


@alternative("3a", "rounded Python numbers, one by one")
def ddim_timesteps(num_steps, steps):
    return torch.tensor([round(num_steps * (steps - i) / steps) for i in range(steps + 1)])


@alternative("3a", "linspace in double precision")
def ddim_timesteps(num_steps, steps):
    return torch.linspace(num_steps, 0, steps + 1, dtype=torch.float64).round().to(torch.int64)


@alternative("3a", "numpy, rounding by adding a half")
def ddim_timesteps(num_steps, steps):
    return torch.from_numpy(np.floor(np.linspace(num_steps, 0, steps + 1) + 0.5 + 1e-9).astype(np.int64))


@alternative("3a", "the variance as that of one DDPM step of this length, and always noise")
def ddim_step(denoise, alpha_bar, x_t, t, s, *, eta=0.0, noise=None):
    clean, dirt = denoise(x_t, t)
    beta = 1 - alpha_bar[t] / alpha_bar[s]
    variance = eta**2 * beta * (1 - alpha_bar[s]) / (1 - alpha_bar[t])
    noise = torch.zeros_like(x_t) if noise is None else noise
    kept = ((1 - alpha_bar[s]) - variance).clamp(min=0)
    return alpha_bar[s] ** 0.5 * clean + kept**0.5 * dirt + variance**0.5 * noise


@alternative("3a", "plain Python numbers")
def ddim_step(denoise, alpha_bar, x_t, t, s, *, eta=0.0, noise=None):
    clean, dirt = denoise(x_t, t)
    a, b = float(alpha_bar[t]), float(alpha_bar[s])
    sigma = eta * math.sqrt((1 - b) / (1 - a)) * math.sqrt(1 - a / b)
    out = math.sqrt(b) * clean
    out = out + math.sqrt(max(1 - b - sigma * sigma, 0.0)) * dirt
    if sigma > 0:
        out = out + sigma * noise
    return out


@alternative("3a", "a walk over pairs of neighbouring times, without gradients")
@torch.no_grad()
def ddim_sample(denoise, alpha_bar, x_T, steps, *, eta=0.0, noise=None):
    taus = ddim_timesteps(alpha_bar.numel() - 1, steps)
    x = x_T.clone()
    for i, (t, s) in enumerate(itertools.pairwise(taus)):
        x = ddim_step(denoise, alpha_bar, x, t, s, eta=eta, noise=noise[i] if eta > 0 else None)
    return x


# 3b. Classifier-free guidance


@alternative("3b", "torch.where")
def drop_labels(y, dropped, null):
    return torch.where(dropped, torch.full_like(y, null), y)


@alternative("3b", "written into a copy")
def drop_labels(y, dropped, null):
    kept = y.clone()
    kept[dropped] = null
    return kept


@alternative("3b", "two calls, and the other convention's scale")
def guided_prediction(predict, x_t, t, y, null, guidance):
    without = predict(x_t, t, torch.full((len(x_t),), null, dtype=torch.int64))
    return without if y is None else without + (1 + guidance) * (predict(x_t, t, y) - without)


@alternative("3b", "away from the answer with label, along the difference")
def guided_prediction(predict, x_t, t, y, null, guidance):
    nothing = torch.empty_like(t).fill_(null)
    with_label = predict(x_t, t, nothing if y is None else y)
    return with_label + guidance * (with_label - predict(x_t, t, nothing))


# 3c. Inpainting


@alternative("3c", "products with a mask of zeros and ones")
def inpaint(p_sample, alpha_bar, x, mask, x_T, noise_known, noise_step, noise_back, resample=1):
    m, now = mask.to(x.dtype), x_T
    for t in reversed(range(1, len(alpha_bar))):
        for u in range(resample):
            fixed = alpha_bar[t - 1] ** 0.5 * x + (1 - alpha_bar[t - 1]) ** 0.5 * noise_known[t, u]
            joined = m * fixed + (1 - m) * p_sample(now, t, noise_step[t, u])
            if t > 1 and u + 1 < resample:
                ratio = alpha_bar[t] / alpha_bar[t - 1]
                now = ratio**0.5 * joined + (1 - ratio) ** 0.5 * noise_back[t, u]
        now = joined
    return now


@alternative("3c", "all known parts at once, the mask spread out, going back before each later try")
def inpaint(p_sample, alpha_bar, x, mask, x_T, noise_known, noise_step, noise_back, resample=1):
    wide = mask.expand_as(x)
    bar = alpha_bar[:-1].view(-1, *[1] * (x.ndim + 1))
    fixed = bar.sqrt() * x + (1 - bar).sqrt() * noise_known[1:]  # entry t - 1: of the step from t
    now = x_T
    for t in range(len(alpha_bar) - 1, 0, -1):
        betas = 1 - alpha_bar[t] / alpha_bar[t - 1]
        start, after = now, None
        for u in range(resample):
            if u > 0 and t > 1:
                start = (1 - betas).sqrt() * after + betas.sqrt() * noise_back[t, u - 1]
            after = p_sample(start, t, noise_step[t, u]).clone()
            after[wide] = fixed[t - 1, u][wide]
        now = after
    return torch.where(wide, x, now)


@alternative("3c", "in logarithms, the last step apart")
def inpaint(p_sample, alpha_bar, x, mask, x_T, noise_known, noise_step, noise_back, resample=1):
    logs, now = alpha_bar.log(), x_T
    for t in range(len(alpha_bar) - 1, 1, -1):
        for u in range(resample):
            fixed = (logs[t - 1] / 2).exp() * x + (-torch.expm1(logs[t - 1])).sqrt() * noise_known[t, u]
            now = torch.where(mask, fixed, p_sample(now, t, noise_step[t, u]))
            if u != resample - 1:
                gap = logs[t] - logs[t - 1]
                now = (gap / 2).exp() * now + (-torch.expm1(gap)).sqrt() * noise_back[t, u]
    return torch.where(mask, x, p_sample(now, 1, noise_step[1, resample - 1]))


# 3d. SDEdit


@alternative("3d", "the guide itself where nothing is to be done")
def sdedit(p_sample, alpha_bar, x, t, noise, noise_step):
    if t == 0:
        return x.clone()
    level = float(alpha_bar[t])
    now = math.sqrt(level) * x + math.sqrt(1 - level) * noise
    while t > 0:
        now = p_sample(now, t, noise_step[t])
        t -= 1
    return now


@alternative("3d", "by recursion")
def sdedit(p_sample, alpha_bar, x, t, noise, noise_step):
    def down(now, s):
        return now if s == 0 else down(p_sample(now, s, noise_step[s]), s - 1)

    return down(alpha_bar[t] ** 0.5 * x + (1 - alpha_bar[t]) ** 0.5 * noise, t)


@alternative("3d", "as inpainting with nothing known")
def sdedit(p_sample, alpha_bar, x, t, noise, noise_step):
    weights = torch.stack([alpha_bar[t], 1 - alpha_bar[t]]).sqrt()
    now = torch.einsum("k,k...->...", weights, torch.stack([x, noise]))
    nothing, steps = torch.zeros_like(x, dtype=torch.bool), noise_step[: t + 1, None]
    return inpaint(p_sample, alpha_bar[: t + 1], x, nothing, now, steps, steps, steps)


# 4a. The path, its velocity, and the loss


@alternative("4a", "torch.lerp")
def straight_path(x_0, x_1, t):
    return torch.lerp(x_0, x_1, t.reshape(len(t), *(1,) * (x_0.ndim - 1))), x_1 - x_0


@alternative("4a", "one example after the other")
def straight_path(x_0, x_1, t):
    u = x_1 - x_0
    return torch.stack([a + s * b for a, s, b in zip(x_0, t, u)]), u


@alternative("4a", "einsum")
def straight_path(x_0, x_1, t):
    return torch.einsum("b,b...->b...", 1 - t, x_0) + torch.einsum("b,b...->b...", t, x_1), x_1.sub(x_0)


@alternative("4a", "the library's mean square")
def flow_matching_loss(velocity, x_0, x_1, t):
    x_t, u = straight_path(x_0, x_1, t)
    return F.mse_loss(velocity(x_t, t), u)


@alternative("4a", "without straight_path: a mean for each example, then over the batch")
def flow_matching_loss(velocity, x_0, x_1, t):
    s = t[(...,) + (None,) * (x_0.ndim - 1)]
    error = x_1 - x_0 - velocity(x_1 - (1 - s) * (x_1 - x_0), t)
    return (error**2).flatten(1).mean(1).sum() / len(t)


# 4b. Two solvers


@alternative("4b", "a loop over indices, into an array made beforehand")
def euler(velocity, x, t):
    path = x.new_empty(len(t), *x.shape)
    path[0] = x
    for i in range(len(t) - 1):
        time = torch.full((len(x),), float(t[i]), dtype=t.dtype)
        path[i + 1] = path[i] + (t[i + 1] - t[i]) * velocity(path[i].clone(), time)
    return path


@alternative("4b", "steps first")
def euler(velocity, x, t):
    path = [x.clone()]
    for h, s in zip(t.diff().tolist(), t.tolist()):
        path.append(path[-1] + h * velocity(path[-1], torch.ones(len(x), dtype=x.dtype) * s))
    return torch.stack(path, dim=0)


@alternative("4b", "Euler's step, corrected by half of the difference")
def heun(velocity, x, t):
    path, h = [x], t.diff()
    for i in range(len(h)):
        here = path[-1]
        first = velocity(here, t[i].repeat(len(x)))
        trial = here + h[i] * first
        second = velocity(trial, t[i + 1].repeat(len(x)))
        path.append(trial + 0.5 * h[i] * (second - first))
    return torch.stack(path)


@alternative("4b", "the trial step by euler")
def heun(velocity, x, t):
    path = x[None]
    for i in range(1, len(t)):
        slopes = []

        def listen(x, s, slopes=slopes):
            slopes.append(velocity(x, s))
            return slopes[0]

        trial = euler(listen, path[-1], t[i - 1 : i + 1])[-1]
        slopes.append(velocity(trial, t[i].expand(len(x))))
        mean = torch.stack(slopes).mean(0)
        path = torch.cat([path, (path[-1] + (t[i] - t[i - 1]) * mean)[None]])
    return path


# 4c. Pairs that do not cross


@alternative("4c", "torch.cdist without its fast, less exact way")
def pairing_cost(x_0, x_1):
    return torch.cdist(x_0.flatten(1), x_1.flatten(1), compute_mode="donot_use_mm_for_euclid_dist") ** 2


@alternative("4c", "the square multiplied out")
def pairing_cost(x_0, x_1):
    a, b = x_0.flatten(1), x_1.flatten(1)
    return (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)


@alternative("4c", "a double loop")
def pairing_cost(x_0, x_1):
    return torch.stack([torch.stack([((a - b) ** 2).sum() for b in x_1]) for a in x_0])


@alternative("4c", "the Hungarian method with prices, in plain Python")
def ot_pairing(x_0, x_1):
    cost = pairing_cost(x_0, x_1).tolist()
    n = len(cost)
    u, v, owner, way = [0.0] * (n + 1), [0.0] * (n + 1), [0] * (n + 1), [0] * (n + 1)
    for i in range(1, n + 1):
        owner[0], j = i, 0
        least, used = [math.inf] * (n + 1), [False] * (n + 1)
        while True:
            used[j] = True
            row, delta, following = owner[j], math.inf, 0
            for k in range(1, n + 1):
                if not used[k]:
                    reduced = cost[row - 1][k - 1] - u[row] - v[k]
                    if reduced < least[k]:
                        least[k], way[k] = reduced, j
                    if least[k] < delta:
                        delta, following = least[k], k
            for k in range(n + 1):
                if used[k]:
                    u[owner[k]] += delta
                    v[k] -= delta
                else:
                    least[k] -= delta
            j = following
            if owner[j] == 0:
                break
        while j:
            owner[j] = owner[way[j]]
            j = way[j]
    pairing = [0] * n
    for k in range(1, n + 1):
        pairing[owner[k] - 1] = k - 1
    return torch.tensor(pairing)


@alternative("4c", "rounds of exchanges of any length, found by shortest paths between all")
def ot_pairing(x_0, x_1):
    cost = pairing_cost(x_0, x_1)
    n = len(cost)
    j = torch.arange(n)
    while True:
        # moving a to the partner of b costs this much more; a round whose sum is negative improves the pairing
        gain = cost[:, j] - cost[torch.arange(n), j][:, None]
        via = torch.arange(n).repeat(n, 1)  # the first stop on the way from a to b
        found = -1
        for k in range(n):
            through = gain[:, k : k + 1] + gain[k]
            better = through < gain - 1e-10
            via = torch.where(better, via[:, k : k + 1].expand(n, n), via)
            gain = torch.where(better, through, gain)
            if float(gain.diagonal().min()) < -1e-10:
                found = int(gain.diagonal().argmin())
                break
        if found < 0:
            return j
        round_, a = [found], int(via[found, found])
        while a not in round_:
            round_.append(a)
            a = int(via[a, found])
        round_ = round_[round_.index(a) :]
        old = j.clone()
        for a, b in zip(round_, [*round_[1:], round_[0]]):
            j[a] = old[b]


@alternative("4c", "all permutations of a small batch; of a larger one, the auction with shrinking bids")
def ot_pairing(x_0, x_1):
    table = pairing_cost(x_0, x_1)
    n = len(table)
    if n <= 6:
        rows, every = torch.arange(n), torch.tensor(list(itertools.permutations(range(n))))
        return every[table[rows, every].sum(1).argmin()]
    value = -table.numpy()
    price = np.zeros(n)
    eps = float(np.ptp(value)) / 4
    while True:
        owner, j = np.full(n, -1), np.full(n, -1)
        while (j < 0).any():
            i = int(np.argmin(j))
            net = value[i] - price
            k = int(net.argmax())
            second = np.partition(net, -2)[-2]
            price[k] += net[k] - second + eps
            if owner[k] >= 0:
                j[owner[k]] = -1
            owner[k], j[i] = i, k
        if eps < 1e-8:
            return torch.from_numpy(j)
        eps /= 5


# 4d. Straightening a flow


@alternative("4d", "detached afterwards")
def reflow_pairs(solver, velocity, x_0, t):
    path = solver(velocity, x_0, t).detach()
    return path[0], path[-1]


@alternative("4d", "as a decorator")
@torch.no_grad()
def reflow_pairs(solver, velocity, x_0, t):
    return x_0.clone(), solver(velocity, x_0, t)[len(t) - 1].clone()


@alternative("4d", "a loop over the steps")
def straightness(path):
    n, total = len(path) - 1, 0.0
    for i in range(n):
        deviation = n * (path[i + 1] - path[i]) - (path[-1] - path[0])
        total = total + (deviation**2).sum()
    return total / (n * path.shape[1])


@alternative("4d", "as the mean square of the velocity less the square of its mean")
def straightness(path):
    u = (path[1:] - path[:-1]).flatten(2) * (len(path) - 1)
    return u.var(0, correction=0).sum(-1).mean()


@alternative("4d", "by what is expected of noise and of data")
def gaussian_velocity(x, t, mean, std):
    s = t.unsqueeze(-1)
    surprise = (x - s * mean) / (s**2 * std**2 + (1 - s) ** 2)
    return (mean + s * std**2 * surprise) - (1 - s) * surprise


@alternative("4d", "as the derivative of the flow's own paths")
def gaussian_velocity(x, t, mean, std):
    s = t[:, None].clone().requires_grad_()
    width = torch.sqrt((1 - s) ** 2 + (s * std) ** 2)
    (growth,) = torch.autograd.grad(width.sum(), s)
    return mean + (growth / width * (x - s * mean)).detach()


@alternative("4d", "one coordinate after the other")
def gaussian_velocity(x, t, mean, std):
    out = torch.empty_like(x)
    for i in range(x.shape[0]):
        for d in range(x.shape[1]):
            s = float(t[i])
            out[i, d] = mean[d] + (s * std * std - 1 + s) / (s * s * std * std + (1 - s) ** 2) * (x[i, d] - s * mean[d])
    return out


@alternative("4d", "as a Gaussian whose pairs are fully correlated")
def rectified_velocity(x, t, mean, std):
    s = t.unsqueeze(-1)
    width = 1 + s * (std - 1)
    covariance = (std - 1) * width
    return mean + covariance / width**2 * (x - s * mean)


@alternative("4d", "data less noise")
def rectified_velocity(x, t, mean, std):
    s = t.view(-1, 1)
    noise = (x - s * mean) / ((1 - s) + s * std)
    return (std * noise + mean) - noise


# 5a. Patches


@alternative("5a", "two loops over the patches")
def patchify(x, p):
    tokens = []
    for r in range(0, x.shape[2], p):
        for c in range(0, x.shape[3], p):
            tokens.append(x[:, :, r : r + p, c : c + p].permute(0, 2, 3, 1).flatten(1))
    return torch.stack(tokens, 1)


@alternative("5a", "Tensor.unfold")
def patchify(x, p):
    cut = x.unfold(2, p, p).unfold(3, p, p)  # (B, C, rows, columns, p, p)
    return cut.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


@alternative("5a", "F.unfold, and the channel brought to the end")
def patchify(x, p):
    cut = F.unfold(x, p, stride=p).transpose(1, 2)  # (B, L, C p p)
    return cut.unflatten(2, (x.shape[1], p * p)).transpose(2, 3).flatten(2)


@alternative("5a", "two loops over the patches, back")
def unpatchify(tokens, p, shape):
    C, H, W = shape
    x = tokens.new_zeros(len(tokens), C, H, W)
    for n in range(tokens.shape[1]):
        r, c = divmod(n, W // p)
        x[:, :, r * p : (r + 1) * p, c * p : (c + 1) * p] = tokens[:, n].view(-1, p, p, C).permute(0, 3, 1, 2)
    return x


@alternative("5a", "einsum, as published")
def unpatchify(tokens, p, shape):
    C, H, W = shape
    x = tokens.reshape(-1, H // p, W // p, p, p, C)
    return torch.einsum("nhwpqc->nchpwq", x).reshape(-1, C, H, W)


@alternative("5a", "F.fold, with the channel brought to the front")
def unpatchify(tokens, p, shape):
    slow = tokens.unflatten(2, (p * p, shape[0])).transpose(2, 3).flatten(2)
    return F.fold(slow.transpose(1, 2), tuple(shape[1:]), p, stride=p)


# 5b. A block that listens to the time


@alternative("5b", "one example after the other")
def modulate(h, shift, scale):
    return torch.stack([one + one * b + a for one, a, b in zip(h, shift, scale)])


@alternative("5b", "torch.addcmul")
def modulate(h, shift, scale):
    return torch.addcmul(shift.unsqueeze(1).expand_as(h), h, 1 + scale.unsqueeze(1))


@alternative("5b", "written out: token by token, head by head, the norm and the GELU by hand")
class DiTBlock(nn.Module):
    def __init__(self, d, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.modulation = nn.Linear(d, 6 * d)
        self.modulation.weight.data.fill_(0)
        self.modulation.bias.data.fill_(0)

    def standard(self, v):
        mean = v.mean()
        return (v - mean) / torch.sqrt(((v - mean) ** 2).mean() + 1e-5)

    def forward(self, x, c):
        B, L, d = x.shape
        size = d // self.num_heads
        result = []
        for b in range(B):
            dials = self.modulation(c[b] * torch.sigmoid(c[b])).view(6, d)
            tokens = [self.standard(x[b, n]) * (1 + dials[1]) + dials[0] for n in range(L)]
            three = [self.qkv(token).view(3, d) for token in tokens]
            row = []
            for n in range(L):
                seen = []
                for h in range(self.num_heads):
                    cut = slice(h * size, (h + 1) * size)
                    scores = torch.stack([three[n][0, cut] @ three[m][1, cut] for m in range(L)]) / math.sqrt(size)
                    weights = scores.softmax(0)
                    seen.append(sum(weights[m] * three[m][2, cut] for m in range(L)))
                new = x[b, n] + dials[2] * self.out(torch.cat(seen))
                hidden = self.up(self.standard(new) * (1 + dials[4]) + dials[3])
                bent = 0.5 * hidden * (1 + torch.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
                row.append(new + dials[5] * self.down(bent))
            result.append(torch.stack(row))
        return torch.stack(result)


@alternative("5b", "the vectors as a view, the two halves in one loop")
class DiTBlock(DiTBlock):
    def forward(self, x, c):
        dials = self.modulation(F.silu(c)).view(len(x), 2, 3, 1, -1)
        perceptron = nn.Sequential(self.up, nn.GELU(approximate="tanh"), self.down)
        for half, part in enumerate((self.attention, perceptron)):
            shift, scale, gate = dials[:, half].unbind(1)
            h = F.layer_norm(x, x.shape[-1:])
            x = torch.addcmul(x, gate, part(h + h * scale + shift))
        return x


# 5c. A number as a vector


@alternative("5c", "powers of the period")
def sinusoidal_embedding(t, d, *, max_period=10_000.0, scale=1.0):
    omega = max_period ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    angle = torch.outer(t * scale, omega)
    return torch.cat([torch.cos(angle), torch.sin(angle)], 1)


@alternative("5c", "a double loop")
def sinusoidal_embedding(t, d, *, max_period=10_000.0, scale=1.0):
    rows = []
    for s in t.tolist():
        angles = [scale * s / max_period ** (2 * i / d) for i in range(d // 2)]
        rows.append([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
    return torch.tensor(rows, dtype=torch.float64)


@alternative("5c", "complex numbers")
def sinusoidal_embedding(t, d, *, max_period=10_000.0, scale=1.0):
    omega = torch.logspace(0, -1, d // 2 + 1, base=max_period, dtype=torch.float64)[:-1]
    turn = torch.polar(torch.ones(len(t), d // 2, dtype=torch.float64), scale * t[:, None] * omega)
    return torch.cat([turn.real, turn.imag], dim=1)
