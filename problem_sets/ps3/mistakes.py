"""Typical wrong answers to problem set 3, each with the hint that a student who makes it reads.

Read by the grader and never imported; each runs on top of the solution, one at a time.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from autograder.authoring import mistake


def shaped_a(values, x):
    """values (B,) as (B, 1, ..., 1)."""
    return values.reshape(-1, *[1] * (x.ndim - 1))


def log_parts_a(x, logits, means, stds):
    """log of weight times density, (B, K)."""
    squared = (x[:, None] - means).square().sum(2)
    d = x.shape[1]
    return torch.log_softmax(logits, 0) - squared / (2 * stds**2) - d * (stds.log() + 0.5 * math.log(2 * math.pi))


def slope_a(energy, x):
    """Energies and their gradient."""
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        e = energy(x)
        return e.detach(), torch.autograd.grad(e.sum(), x)[0]


# 1a. The score of a mixture


@mistake(
    "1a", "Your densities round to 0 far away, and 0/0 is no responsibility: stay with logarithms (torch.softmax)."
)
def mixture_score(x, logits, means, stds):
    joint = torch.exp(log_parts_a(x, logits, means, stds))
    r = joint / joint.sum(1, keepdim=True)
    return (r[:, :, None] * (means - x[:, None]) / stds[:, None] ** 2).sum(1)


@mistake(
    "1a", "A small number added to the denominator makes the score fade to 0 far away, where it should be longest."
)
def mixture_score(x, logits, means, stds):
    joint = torch.exp(log_parts_a(x, logits, means, stds))
    r = joint / (joint.sum(1, keepdim=True) + 1e-12)
    return (r[:, :, None] * (means - x[:, None]) / stds[:, None] ** 2).sum(1)


@mistake(
    "1a", "Your energy takes the logarithm of a density that has rounded to 0: add up logarithms (torch.logsumexp)."
)
def mixture_energy(x, logits, means, stds):
    return -torch.log(torch.exp(log_parts_a(x, logits, means, stds)).sum(1))


@mistake("1a", "Your score has the sign of the energy's gradient: the score points uphill, to the components.")
def mixture_score(x, logits, means, stds):
    r = torch.softmax(log_parts_a(x, logits, means, stds), 1)
    return (r[:, :, None] * (x[:, None] - means) / stds[:, None] ** 2).sum(1)


@mistake("1a", "Your score divides by the standard deviation; a Gaussian's score divides by its variance.")
def mixture_score(x, logits, means, stds):
    r = torch.softmax(log_parts_a(x, logits, means, stds), 1)
    return (r[:, :, None] * (means - x[:, None]) / stds[:, None]).sum(1)


@mistake("1a", "Every component pulls everywhere in your score: weigh by responsibilities at x, not by the weights.")
def mixture_score(x, logits, means, stds):
    r = torch.softmax(logits, 0)[None]
    return (r[:, :, None] * (means - x[:, None]) / stds[:, None] ** 2).sum(1)


@mistake("1a", "Your score knows the nearest component only: right far away, wrong wherever several components matter.")
def mixture_score(x, logits, means, stds):
    k = log_parts_a(x, logits, means, stds).argmax(1)
    return (means[k] - x) / stds[k][:, None] ** 2


@mistake("1a", "Your responsibilities leave out the components' widths: in D dimensions log N holds -D log sigma.")
def mixture_score(x, logits, means, stds):
    squared = (x[:, None] - means).square().sum(2)
    r = torch.softmax(torch.log_softmax(logits, 0) - squared / (2 * stds**2), 1)
    return (r[:, :, None] * (means - x[:, None]) / stds[:, None] ** 2).sum(1)


@mistake("1a", "Your energy counts log sigma once: a round Gaussian in D dimensions has it D times.")
def mixture_energy(x, logits, means, stds):
    joint = log_parts_a(x, logits, means, stds) + (x.shape[1] - 1) * stds.log()
    return -torch.logsumexp(joint, 1)


@mistake("1a", "Your energy is off by a constant: the logits are not yet logarithms of weights that sum to 1.")
def mixture_energy(x, logits, means, stds):
    joint = log_parts_a(x, logits, means, stds) - torch.log_softmax(logits, 0) + logits
    return -torch.logsumexp(joint, 1)


@mistake("1a", "You return log p: the energy is -log p, low where x is likely.")
def mixture_energy(x, logits, means, stds):
    return torch.logsumexp(log_parts_a(x, logits, means, stds), 1)


# 1b. Langevin dynamics


@mistake("1b", "Your noise has the variance step_size; with half of what is needed, samples come out too sharp.")
def langevin(energy, x, step_size, noise, temperature=1.0):
    way = [x.detach()]
    for xi in noise:
        _, gradient = slope_a(energy, way[-1])
        way.append(way[-1] - step_size * gradient + math.sqrt(step_size * temperature) * xi)
    return torch.stack(way)


@mistake("1b", "You multiply the noise by its variance: the factor is the root, sqrt(2 step_size T).")
def langevin(energy, x, step_size, noise, temperature=1.0):
    way = [x.detach()]
    for xi in noise:
        _, gradient = slope_a(energy, way[-1])
        way.append(way[-1] - step_size * gradient + 2 * step_size * temperature * xi)
    return torch.stack(way)


@mistake("1b", "Your chains go uphill on the energy: the drift is minus its gradient.")
def langevin(energy, x, step_size, noise, temperature=1.0):
    way = [x.detach()]
    for xi in noise:
        _, gradient = slope_a(energy, way[-1])
        way.append(way[-1] + step_size * gradient + math.sqrt(2 * step_size * temperature) * xi)
    return torch.stack(way)


@mistake("1b", "Your drift shrinks with the number of chains: differentiate the sum of the energies, not their mean.")
def langevin(energy, x, step_size, noise, temperature=1.0):
    way = [x.detach()]
    for xi in noise:
        _, gradient = slope_a(energy, way[-1])
        way.append(way[-1] - step_size * gradient / len(x) + math.sqrt(2 * step_size * temperature) * xi)
    return torch.stack(way)


@mistake("1b", "Your chains ignore the temperature.")
def langevin(energy, x, step_size, noise, temperature=1.0):
    way = [x.detach()]
    for xi in noise:
        _, gradient = slope_a(energy, way[-1])
        way.append(way[-1] - step_size * gradient + math.sqrt(2 * step_size) * xi)
    return torch.stack(way)


@mistake("1b", "Your noise is multiplied by T in place of its root: its variance is 2 step_size T.")
def langevin(energy, x, step_size, noise, temperature=1.0):
    way = [x.detach()]
    for xi in noise:
        _, gradient = slope_a(energy, way[-1])
        way.append(way[-1] - step_size * gradient + math.sqrt(2 * step_size) * temperature * xi)
    return torch.stack(way)


@mistake("1b", "Your gradient is taken at the start once and for all: each step needs the gradient where the chain is.")
def langevin(energy, x, step_size, noise, temperature=1.0):
    way = [x.detach()]
    _, gradient = slope_a(energy, x)
    for xi in noise:
        way.append(way[-1] - step_size * gradient + math.sqrt(2 * step_size * temperature) * xi)
    return torch.stack(way)


@mistake("1b", "You add the same noise in each step: step k has noise[k].")
def langevin(energy, x, step_size, noise, temperature=1.0):
    way = [x.detach()]
    for _ in noise:
        _, gradient = slope_a(energy, way[-1])
        way.append(way[-1] - step_size * gradient + math.sqrt(2 * step_size * temperature) * noise[0])
    return torch.stack(way)


@mistake("1b", "The start is missing from what you return: steps + 1 points are asked for.")
def langevin(energy, x, step_size, noise, temperature=1.0):
    way = [x.detach()]
    for xi in noise:
        _, gradient = slope_a(energy, way[-1])
        way.append(way[-1] - step_size * gradient + math.sqrt(2 * step_size * temperature) * xi)
    return torch.stack(way[1:])


@mistake("1b", "You return where the chains end: all points on the way are asked for, the start first.")
def langevin(energy, x, step_size, noise, temperature=1.0):
    for xi in noise:
        _, gradient = slope_a(energy, x)
        x = x - step_size * gradient + math.sqrt(2 * step_size * temperature) * xi
    return x.detach()


@mistake("1b", "backward() leaves gradients in every parameter of the energy: ask for the gradient in x alone.")
def langevin(energy, x, step_size, noise, temperature=1.0):
    way = [x.detach()]
    for xi in noise:
        with torch.enable_grad():
            here = way[-1].clone().requires_grad_()
            energy(here).sum().backward()
        way.append(way[-1] - step_size * here.grad + math.sqrt(2 * step_size * temperature) * xi)
    return torch.stack(way)


@mistake(
    "1b", "Each of your steps keeps the graph of all steps before it: detach x, or memory grows until it runs out."
)
def langevin(energy, x, step_size, noise, temperature=1.0):
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        way = [x]
        for xi in noise:
            (gradient,) = torch.autograd.grad(energy(x).sum(), x, create_graph=True)
            x = x - step_size * gradient + math.sqrt(2 * step_size * temperature) * xi
            way.append(x)
        return torch.stack(way)


# 1c. The error of a step, and its repair


@mistake("1c", "That is the target's covariance: the chain's own differs, since its drift is frozen during a step.")
def ula_covariance(precision, step_size, temperature=1.0):
    return temperature * torch.linalg.inv(precision)


@mistake("1c", "Your covariance is wrong by one factor: in (1 - eps a)^2 the mixed term is 2 eps a. Solve once more.")
def ula_covariance(precision, step_size, temperature=1.0):
    one = torch.eye(len(precision), dtype=precision.dtype)
    return temperature * torch.linalg.inv(precision @ (one - step_size * precision / 4))


@mistake("1c", "Your covariance shrinks with the step size: too long a step makes the chain swing wider, not less.")
def ula_covariance(precision, step_size, temperature=1.0):
    one = torch.eye(len(precision), dtype=precision.dtype)
    return temperature * torch.linalg.inv(precision @ (one + step_size * precision / 2))


@mistake("1c", "Your covariance does not depend on the temperature.")
def ula_covariance(precision, step_size, temperature=1.0):
    one = torch.eye(len(precision), dtype=precision.dtype)
    return torch.linalg.inv(precision @ (one - step_size * precision / 2))


@mistake(
    "1c", "Your covariance uses each coordinate's own precision only: A has entries off its diagonal, and they count."
)
def ula_covariance(precision, step_size, temperature=1.0):
    a = precision.diagonal()
    return torch.diag(temperature / (a * (1 - step_size * a / 2)))


@mistake(
    "1c", "At the step 1/a the chain jumps to the centre and is still stable: it explodes where |1 - eps a| reaches 1."
)
def largest_step(precision):
    return 1 / torch.linalg.eigvalsh(precision)[-1].item()


@mistake("1c", "Your largest step is that of the flattest direction: the steepest one explodes first.")
def largest_step(precision):
    return 2 / torch.linalg.eigvalsh(precision)[0].item()


@mistake("1c", "Your largest step looks at the diagonal of A: the steepest direction need not be along an axis.")
def largest_step(precision):
    return 2 / precision.diagonal().max().item()


@mistake("1c", "Your log-ratio is that of a symmetric walk: the two proposal densities q do not cancel here.")
def mala_log_ratio(energy, x, proposal, step_size, temperature=1.0):
    return (slope_a(energy, x)[0] - slope_a(energy, proposal)[0]) / temperature


@mistake("1c", "Your two proposal densities are the wrong way round: q(x | x') stands above the line.")
def mala_log_ratio(energy, x, proposal, step_size, temperature=1.0):
    (e, g), (e_new, g_new) = slope_a(energy, x), slope_a(energy, proposal)
    back = (x - proposal + step_size * g_new).flatten(1).square().sum(1)
    forth = (proposal - x + step_size * g).flatten(1).square().sum(1)
    return (e - e_new) / temperature + (back - forth) / (4 * step_size * temperature)


@mistake("1c", "A Gaussian's exponent divides by twice its variance, and the proposal's variance is 2 step_size T.")
def mala_log_ratio(energy, x, proposal, step_size, temperature=1.0):
    (e, g), (e_new, g_new) = slope_a(energy, x), slope_a(energy, proposal)
    back = (x - proposal + step_size * g_new).flatten(1).square().sum(1)
    forth = (proposal - x + step_size * g).flatten(1).square().sum(1)
    return (e - e_new) / temperature - (back - forth) / (2 * step_size * temperature)


@mistake("1c", "The way back starts at x', so q(x | x') needs the gradient there, not the one at x.")
def mala_log_ratio(energy, x, proposal, step_size, temperature=1.0):
    (e, g), (e_new, _) = slope_a(energy, x), slope_a(energy, proposal)
    back = (x - proposal + step_size * g).flatten(1).square().sum(1)
    forth = (proposal - x + step_size * g).flatten(1).square().sum(1)
    return (e - e_new) / temperature - (back - forth) / (4 * step_size * temperature)


@mistake("1c", "Your log-ratio forgets the temperature in the target: p is proportional to exp(-E/T).")
def mala_log_ratio(energy, x, proposal, step_size, temperature=1.0):
    (e, g), (e_new, g_new) = slope_a(energy, x), slope_a(energy, proposal)
    back = (x - proposal + step_size * g_new).flatten(1).square().sum(1)
    forth = (proposal - x + step_size * g).flatten(1).square().sum(1)
    return e - e_new - (back - forth) / (4 * step_size * temperature)


@mistake("1c", "Your log-ratio has the opposite sign: a move to a much more likely point must be accepted.")
def mala_log_ratio(energy, x, proposal, step_size, temperature=1.0):
    (e, g), (e_new, g_new) = slope_a(energy, x), slope_a(energy, proposal)
    back = (x - proposal + step_size * g_new).flatten(1).square().sum(1)
    forth = (proposal - x + step_size * g).flatten(1).square().sum(1)
    return (e_new - e) / temperature + (back - forth) / (4 * step_size * temperature)


@mistake("1c", "Your acceptance is cut off at 0 in the log-ratio itself: mala_log_ratio returns the ratio as it is.")
def mala_log_ratio(energy, x, proposal, step_size, temperature=1.0):
    (e, g), (e_new, g_new) = slope_a(energy, x), slope_a(energy, proposal)
    back = (x - proposal + step_size * g_new).flatten(1).square().sum(1)
    forth = (proposal - x + step_size * g).flatten(1).square().sum(1)
    return ((e - e_new) / temperature - (back - forth) / (4 * step_size * temperature)).clamp(max=0)


@mistake("1c", "You compare u itself with the log-ratio: it is log u that is compared, or u with the ratio.")
def mala(energy, x, step_size, noise, uniform, temperature=1.0):
    count = 0.0
    for xi, u in zip(noise, uniform, strict=True):
        proposal = langevin(energy, x, step_size, xi[None], temperature)[1]
        accept = u < mala_log_ratio(energy, x, proposal, step_size, temperature)
        x, count = torch.where(shaped_a(accept, x), proposal, x), count + accept.double().mean()
    return x, count / len(noise)


@mistake("1c", "All your chains move or stay together: each chain accepts or rejects on its own.")
def mala(energy, x, step_size, noise, uniform, temperature=1.0):
    count = torch.zeros((), dtype=x.dtype)
    for xi, u in zip(noise, uniform, strict=True):
        proposal = langevin(energy, x, step_size, xi[None], temperature)[1]
        accept = (u.log() < mala_log_ratio(energy, x, proposal, step_size, temperature)).all()
        x, count = torch.where(accept, proposal, x), count + accept.double()
    return x, count / len(noise)


@mistake("1c", "Every proposal is accepted: that is the unadjusted chain, with its bias.")
def mala(energy, x, step_size, noise, uniform, temperature=1.0):
    return langevin(energy, x, step_size, noise, temperature)[-1], torch.ones((), dtype=x.dtype)


@mistake("1c", "You return the number of accepted proposals: their fraction of all proposals is asked for.")
def mala(energy, x, step_size, noise, uniform, temperature=1.0):
    count = torch.zeros((), dtype=x.dtype)
    for xi, u in zip(noise, uniform, strict=True):
        proposal = langevin(energy, x, step_size, xi[None], temperature)[1]
        accept = u.log() < mala_log_ratio(energy, x, proposal, step_size, temperature)
        x, count = torch.where(shaped_a(accept, x), proposal, x), count + accept.double().sum()
    return x, count


@mistake("1c", "You return the acceptance of the last step alone: the fraction is over all steps and chains.")
def mala(energy, x, step_size, noise, uniform, temperature=1.0):
    for xi, u in zip(noise, uniform, strict=True):
        proposal = langevin(energy, x, step_size, xi[None], temperature)[1]
        accept = u.log() < mala_log_ratio(energy, x, proposal, step_size, temperature)
        x = torch.where(shaped_a(accept, x), proposal, x)
    return x, accept.double().mean()


# 1d. Denoising score matching


def dsm_a(score, x, sigma, noise, weighted, sign=1.0, target=1.0, half=0.5, power=2.0, spread=1.0):
    """The loss with its pieces open to mistakes."""
    level = shaped_a(sigma, x)
    gap = score(x + level**spread * noise, sigma) + sign * noise / level**target
    squared = half * gap.square().flatten(1).sum(1)
    return (squared * sigma**power if weighted else squared).mean()


@mistake("1d", "Your target has the wrong sign: the score points back to the clean point, against the noise.")
def dsm_loss(score, x, sigma, noise, weighted=True):
    return dsm_a(score, x, sigma, noise, weighted, sign=-1.0)


@mistake("1d", "Your target divides the standard noise by sigma squared: (noisy - clean) / sigma^2 is noise / sigma.")
def dsm_loss(score, x, sigma, noise, weighted=True):
    return dsm_a(score, x, sigma, noise, weighted, target=2.0)


@mistake("1d", "Your target is the standard noise itself: the score of the noised point is larger by 1 / sigma.")
def dsm_loss(score, x, sigma, noise, weighted=True):
    return dsm_a(score, x, sigma, noise, weighted, target=0.0)


@mistake("1d", "The factor 1/2 is missing from your loss.")
def dsm_loss(score, x, sigma, noise, weighted=True):
    return dsm_a(score, x, sigma, noise, weighted, half=1.0)


@mistake("1d", "You average over coordinates: the squared norm of an example is a sum, only examples are averaged.")
def dsm_loss(score, x, sigma, noise, weighted=True):
    return dsm_a(score, x, sigma, noise, weighted) / (x.numel() / len(x))


@mistake("1d", "You add up the examples: the loss is their mean, or it grows with the batch.")
def dsm_loss(score, x, sigma, noise, weighted=True):
    return dsm_a(score, x, sigma, noise, weighted) * len(x)


@mistake("1d", "Your weight is sigma: the targets' squares grow like 1 / sigma^2, and sigma^2 balances them.")
def dsm_loss(score, x, sigma, noise, weighted=True):
    return dsm_a(score, x, sigma, noise, weighted, power=1.0)


@mistake("1d", "Your loss ignores `weighted`: it has no weights in either case.")
def dsm_loss(score, x, sigma, noise, weighted=True):
    return dsm_a(score, x, sigma, noise, False)


@mistake("1d", "Your loss ignores `weighted`: it has weights in either case.")
def dsm_loss(score, x, sigma, noise, weighted=True):
    return dsm_a(score, x, sigma, noise, True)


@mistake("1d", "Your points are blurred with the variance sigma^2 as a factor: noise is multiplied by sigma.")
def dsm_loss(score, x, sigma, noise, weighted=True):
    return dsm_a(score, x, sigma, noise, weighted, spread=2.0)


@mistake("1d", "Your network sees the clean points: it is the noisy ones whose score it is to learn.")
def dsm_loss(score, x, sigma, noise, weighted=True):
    return dsm_a(lambda _, level: score(x, level), x, sigma, noise, weighted)


@mistake("1d", "All examples get the noise level of the first one: each has its own.")
def dsm_loss(score, x, sigma, noise, weighted=True):
    return dsm_a(score, x, sigma[:1].expand(len(x)), noise, weighted)


@mistake("1d", "Your sigma (B,) meets the last axis of x, the coordinates: give it the shape (B, 1, ..., 1).")
def dsm_loss(score, x, sigma, noise, weighted=True):
    gap = score(x + sigma * noise, sigma) + noise / sigma
    squared = 0.5 * gap.square().flatten(1).sum(1)
    return (squared * sigma**2 if weighted else squared).mean()


@mistake("1d", "Your loss is cut off from the network: nothing can be learnt from a loss without a gradient.")
def dsm_loss(score, x, sigma, noise, weighted=True):
    return dsm_a(score, x, sigma, noise, weighted).detach()


@mistake("1d", "Your loss is 0 with any network, and so is its gradient: there is nothing in it to learn from.")
def dsm_loss(score, x, sigma, noise, weighted=True):
    return 0.0 * dsm_a(score, x, sigma, noise, weighted)


@mistake("1d", "Your loss holds the square of the target alone: right only for a network that still puts out zeros.")
def dsm_loss(score, x, sigma, noise, weighted=True):
    return dsm_a(lambda z, level: 0.0 * score(z, level), x, sigma, noise, weighted)


@mistake("1d", "That is the score of the clean data: blurring adds sigma^2 to the variance in every direction.")
def blurred_score(x, sigma, mean, cov):
    return torch.linalg.solve(cov, (mean - x).T).T


@mistake("1d", "Your blurred covariance adds sigma: it is variances that add, so sigma^2.")
def blurred_score(x, sigma, mean, cov):
    blurred = cov + shaped_a(sigma, cov[None]) * torch.eye(len(cov), dtype=cov.dtype)
    return torch.linalg.solve(blurred, mean - x)


@mistake("1d", "Your sigma^2 is added to all entries of the covariance: independent noise adds to the diagonal only.")
def blurred_score(x, sigma, mean, cov):
    return torch.linalg.solve(cov + shaped_a(sigma, cov[None]) ** 2, mean - x)


@mistake("1d", "Your blurred score points away from the mean: its sign is wrong.")
def blurred_score(x, sigma, mean, cov):
    blurred = cov + shaped_a(sigma, cov[None]) ** 2 * torch.eye(len(cov), dtype=cov.dtype)
    return torch.linalg.solve(blurred, x - mean)


@mistake("1d", "Your denoiser multiplies the score by sigma: Tweedie's formula has sigma^2.")
def tweedie(score, x, sigma):
    return x + shaped_a(sigma, x) * score(x, sigma)


@mistake("1d", "Your denoiser walks away from the data: the score is added, it points to where points are likely.")
def tweedie(score, x, sigma):
    return x - shaped_a(sigma, x) ** 2 * score(x, sigma)


# 2a. Noise schedules


@mistake("2a", "Your linear betas are those of 1000 steps at any number of steps: stretch them, or noise is missing.")
def linear_betas(num_steps):
    return torch.linspace(1e-4, 0.02, num_steps, dtype=torch.float64)


@mistake("2a", "With few steps the stretched betas exceed 1: cut them off at 0.999, and do that after stretching.")
def linear_betas(num_steps):
    return torch.linspace(1e-4, 0.02, num_steps, dtype=torch.float64) * 1000 / num_steps


@mistake("2a", "Your betas stop short of the upper end: both ends are included.")
def linear_betas(num_steps):
    return ((1e-4 + (0.02 - 1e-4) * torch.arange(num_steps).double() / num_steps) * 1000 / num_steps).clamp(max=0.999)


@mistake(
    "2a", "Your square roots of the betas are evenly spaced: that is another schedule, here the betas themselves are."
)
def linear_betas(num_steps):
    roots = torch.linspace(1e-4**0.5, 0.02**0.5, num_steps, dtype=torch.float64)
    return (roots**2 * 1000 / num_steps).clamp(max=0.999)


@mistake("2a", "Your betas are float32: ask for dtype=torch.float64.")
def linear_betas(num_steps):
    return (torch.linspace(1e-4, 0.02, num_steps) * 1000 / num_steps).clamp(max=0.999)


@mistake("2a", "Your cosine is not squared.")
def cosine_betas(num_steps):
    f = torch.cos((torch.arange(num_steps + 1).double() / num_steps + 0.008) / 1.008 * math.pi / 2)
    return (1 - f[1:] / f[:-1]).clamp(max=0.999)


@mistake("2a", "The last cosine beta is 1, which forgets everything: cut off at 0.999.")
def cosine_betas(num_steps):
    f = torch.cos((torch.arange(num_steps + 1).double() / num_steps + 0.008) / 1.008 * math.pi / 2) ** 2
    return 1 - f[1:] / f[:-1]


@mistake("2a", "Your cosine schedule has no s: without it the first betas are almost 0.")
def cosine_betas(num_steps):
    f = torch.cos(torch.arange(num_steps + 1).double() / num_steps * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=0.999)


@mistake("2a", "Your cosine argument has no pi/2: at t = T the cosine must come to 0.")
def cosine_betas(num_steps):
    f = torch.cos((torch.arange(num_steps + 1).double() / num_steps + 0.008) / 1.008) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=0.999)


@mistake("2a", "You return alpha_bar: a beta is one minus the ratio of two neighbours.")
def cosine_betas(num_steps):
    f = torch.cos((torch.arange(num_steps + 1).double() / num_steps + 0.008) / 1.008 * math.pi / 2) ** 2
    return f[1:] / f[0]


@mistake("2a", "Your cosine's first time is 1: f(0) is missing, so each beta belongs to the step after its own.")
def cosine_betas(num_steps):
    t = torch.arange(1, num_steps + 2).double()
    f = torch.cos((t / num_steps + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=0.999)


@mistake("2a", "Your tables have T entries: entry 0 belongs to the data, with beta 0 and alpha_bar 1.")
def noise_tables(betas):
    return betas.clone(), torch.cumprod(1 - betas, 0)


@mistake("2a", "Your alpha_bar adds where it should multiply: it is a running product of 1 - beta.")
def noise_tables(betas):
    betas = torch.nn.functional.pad(betas, (1, 0))
    return betas, 1 - torch.cumsum(betas, 0)


@mistake("2a", "Your alpha_bar is the running product of the betas: it is 1 - beta that is multiplied.")
def noise_tables(betas):
    betas = torch.nn.functional.pad(betas, (1, 0))
    return betas, torch.cat([torch.ones_like(betas[:1]), torch.cumprod(betas[1:], 0)])


@mistake("2a", "You return alpha, not alpha_bar: all steps up to t are multiplied.")
def noise_tables(betas):
    betas = torch.nn.functional.pad(betas, (1, 0))
    return betas, 1 - betas


@mistake("2a", "You return the root of alpha_bar.")
def noise_tables(betas):
    betas = torch.nn.functional.pad(betas, (1, 0))
    return betas, torch.cumprod(1 - betas, 0).sqrt()


@mistake("2a", "Your product runs in float32, and its last digits are lost.")
def noise_tables(betas):
    betas = torch.nn.functional.pad(betas, (1, 0))
    return betas, torch.cumprod((1 - betas).float(), 0).double()


@mistake("2a", "Your tables end with the extra entry: what belongs to t = 0 stands first.")
def noise_tables(betas):
    bar = torch.cumprod(1 - betas, 0)
    return torch.nn.functional.pad(betas, (0, 1)), torch.cat([bar, torch.ones_like(bar[:1])])


# 2b. Noise in one jump


@mistake("2b", "Your factors lack their roots: the signal has sqrt(alpha_bar), the noise sqrt(1 - alpha_bar).")
def q_sample(x_0, t, noise, alpha_bar):
    bar = shaped_a(alpha_bar[t], x_0)
    return bar * x_0 + (1 - bar) * noise


@mistake("2b", "Your signal lacks its root: x_0 is multiplied by sqrt(alpha_bar).")
def q_sample(x_0, t, noise, alpha_bar):
    bar = shaped_a(alpha_bar[t], x_0)
    return bar * x_0 + (1 - bar).sqrt() * noise


@mistake("2b", "Your noise lacks its root: 1 - alpha_bar is its variance.")
def q_sample(x_0, t, noise, alpha_bar):
    bar = shaped_a(alpha_bar[t], x_0)
    return bar.sqrt() * x_0 + (1 - bar) * noise


@mistake("2b", "Your noise is multiplied by 1 - sqrt(alpha_bar): the root is taken last.")
def q_sample(x_0, t, noise, alpha_bar):
    bar = shaped_a(alpha_bar[t], x_0)
    return bar.sqrt() * x_0 + (1 - bar.sqrt()) * noise


@mistake("2b", "Signal and noise are exchanged: at t = 0 all must be signal.")
def q_sample(x_0, t, noise, alpha_bar):
    bar = shaped_a(alpha_bar[t], x_0)
    return (1 - bar).sqrt() * x_0 + bar.sqrt() * noise


@mistake("2b", "Your table is read at t - 1: entry t belongs to time t, and -1 is the table's end.")
def q_sample(x_0, t, noise, alpha_bar):
    bar = shaped_a(alpha_bar[t - 1], x_0)
    return bar.sqrt() * x_0 + (1 - bar).sqrt() * noise


@mistake("2b", "All examples get the time of the first one.")
def q_sample(x_0, t, noise, alpha_bar):
    bar = alpha_bar[t[0]]
    return bar.sqrt() * x_0 + (1 - bar).sqrt() * noise


@mistake("2b", "Your factors (B,) meet the last axis, the coordinates: give them the shape (B, 1, ..., 1).")
def q_sample(x_0, t, noise, alpha_bar):
    bar = alpha_bar[t]
    return bar.sqrt() * x_0 + (1 - bar).sqrt() * noise


@mistake("2b", "Your factors are shaped for points only: images have more axes.")
def q_sample(x_0, t, noise, alpha_bar):
    bar = alpha_bar[t][:, None]
    return bar.sqrt() * x_0 + (1 - bar).sqrt() * noise


@mistake("2b", "The noise that is handed in must be used: you draw your own.")
def q_sample(x_0, t, noise, alpha_bar):
    bar = shaped_a(alpha_bar[t], x_0)
    return bar.sqrt() * x_0 + (1 - bar).sqrt() * torch.randn_like(x_0)


# 2c. The step back, if we knew the data


def posterior_a(x_0, x_t, t, betas, alpha_bar, now=0, before=-1):
    """Weights of x_0 and x_t, and the variance; the tables' places are open to mistakes."""
    beta, bar, last = (
        shaped_a(table[i], x_t) for table, i in ((betas, t + now), (alpha_bar, t), (alpha_bar, t + before))
    )
    return last.sqrt() * beta / (1 - bar), (1 - beta).sqrt() * (1 - last) / (1 - bar), beta * (1 - last) / (1 - bar)


@mistake("2c", "Your variance is beta: knowing x_0 makes the step back more certain than the step forward.")
def q_posterior(x_0, x_t, t, betas, alpha_bar):
    a, b, _ = posterior_a(x_0, x_t, t, betas, alpha_bar)
    return a * x_0 + b * x_t, shaped_a(betas[t], x_t)


@mistake("2c", "You return a standard deviation: the variance is asked for.")
def q_posterior(x_0, x_t, t, betas, alpha_bar):
    a, b, variance = posterior_a(x_0, x_t, t, betas, alpha_bar)
    return a * x_0 + b * x_t, variance.sqrt()


@mistake("2c", "Your beta is that of t - 1: the step from t - 1 to t has beta_t.")
def q_posterior(x_0, x_t, t, betas, alpha_bar):
    a, b, variance = posterior_a(x_0, x_t, t, betas, alpha_bar, now=-1)
    return a * x_0 + b * x_t, variance


@mistake("2c", "Where alpha_bar at t - 1 belongs you have the one at t.")
def q_posterior(x_0, x_t, t, betas, alpha_bar):
    a, b, variance = posterior_a(x_0, x_t, t, betas, alpha_bar, before=0)
    return a * x_0 + b * x_t, variance


@mistake("2c", "The weight of x_0 lacks a root: it has sqrt(alpha_bar) at t - 1.")
def q_posterior(x_0, x_t, t, betas, alpha_bar):
    a, b, variance = posterior_a(x_0, x_t, t, betas, alpha_bar)
    return shaped_a(alpha_bar[t - 1], x_t).sqrt() * a * x_0 + b * x_t, variance


@mistake("2c", "The weight of x_0 has the root of alpha_bar at t: it is the one at t - 1.")
def q_posterior(x_0, x_t, t, betas, alpha_bar):
    a, b, variance = posterior_a(x_0, x_t, t, betas, alpha_bar)
    return shaped_a((alpha_bar[t] / alpha_bar[t - 1]).sqrt(), x_t) * a * x_0 + b * x_t, variance


@mistake("2c", "The weight of x_t has alpha_bar where alpha belongs: sqrt(1 - beta_t), of one step only.")
def q_posterior(x_0, x_t, t, betas, alpha_bar):
    a, b, variance = posterior_a(x_0, x_t, t, betas, alpha_bar)
    return a * x_0 + shaped_a((alpha_bar[t] / (1 - betas[t])).sqrt(), x_t) * b * x_t, variance


@mistake("2c", "The weight of x_t lacks a root: it has sqrt(1 - beta_t).")
def q_posterior(x_0, x_t, t, betas, alpha_bar):
    a, b, variance = posterior_a(x_0, x_t, t, betas, alpha_bar)
    return a * x_0 + shaped_a((1 - betas[t]).sqrt(), x_t) * b * x_t, variance


@mistake("2c", "The weights of x_0 and x_t are exchanged: at t = 1 all weight is on x_0.")
def q_posterior(x_0, x_t, t, betas, alpha_bar):
    a, b, variance = posterior_a(x_0, x_t, t, betas, alpha_bar)
    return b * x_0 + a * x_t, variance


@mistake("2c", "Your variance is upside down: its fraction has 1 - alpha_bar at t - 1 above the line.")
def q_posterior(x_0, x_t, t, betas, alpha_bar):
    a, b, _ = posterior_a(x_0, x_t, t, betas, alpha_bar)
    ratio = (1 - alpha_bar[t]) / (1 - alpha_bar[t - 1])
    return a * x_0 + b * x_t, shaped_a(betas[t] * ratio, x_t)


@mistake("2c", "Your variance is kept above a small number: at t = 1 it is exactly 0.")
def q_posterior(x_0, x_t, t, betas, alpha_bar):
    a, b, variance = posterior_a(x_0, x_t, t, betas, alpha_bar)
    return a * x_0 + b * x_t, variance.clamp(min=1e-3)


@mistake("2c", "Your variance has the shape (B,): to be used with x_t it needs as many axes, (B, 1, ..., 1).")
def q_posterior(x_0, x_t, t, betas, alpha_bar):
    a, b, variance = posterior_a(x_0, x_t, t, betas, alpha_bar)
    return a * x_0 + b * x_t, variance.flatten()


# 2d. Three things to predict


def angle_a(alpha_bar, t, x):
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar), shaped."""
    bar = shaped_a(alpha_bar[t], x)
    return bar.sqrt(), (1 - bar).sqrt()


def split_a(out, x_t, t, alpha_bar, prediction):
    """The right pair, not clipped."""
    a, s = angle_a(alpha_bar, t, x_t)
    if prediction == "eps":
        return (x_t - s * out) / a, out
    if prediction == "x0":
        return out, (x_t - a * out) / s
    return a * x_t - s * out, s * x_t + a * out


@mistake("2d", "Your velocity has the opposite sign.")
def velocity(x_0, eps, t, alpha_bar):
    a, s = angle_a(alpha_bar, t, x_0)
    return s * x_0 - a * eps


@mistake("2d", "Your velocity has its factors exchanged: sqrt(alpha_bar) goes with the noise here.")
def velocity(x_0, eps, t, alpha_bar):
    a, s = angle_a(alpha_bar, t, x_0)
    return s * eps - a * x_0


@mistake("2d", "Your velocity adds the two: that is x_t, and says nothing new.")
def velocity(x_0, eps, t, alpha_bar):
    a, s = angle_a(alpha_bar, t, x_0)
    return a * x_0 + s * eps


@mistake("2d", "Your velocity lacks its roots.")
def velocity(x_0, eps, t, alpha_bar):
    a, s = angle_a(alpha_bar, t, x_0)
    return a**2 * eps - s**2 * x_0


@mistake("2d", "Your table is read at t - 1: entry t belongs to time t.")
def velocity(x_0, eps, t, alpha_bar):
    a, s = angle_a(alpha_bar, t - 1, x_0)
    return a * eps - s * x_0


@mistake("2d", "From eps: x_0 is to be divided by sqrt(alpha_bar) after the noise has been taken away.")
def split(out, x_t, t, alpha_bar, prediction="eps", clip=False):
    _, s = angle_a(alpha_bar, t, x_t)
    x_0, eps = split_a(out, x_t, t, alpha_bar, prediction)
    x_0 = x_t - s * out if prediction == "eps" else x_0
    return (x_0.clamp(-1, 1) if clip else x_0), eps


@mistake("2d", "From eps: you divide before you subtract. Both terms are over sqrt(alpha_bar).")
def split(out, x_t, t, alpha_bar, prediction="eps", clip=False):
    a, s = angle_a(alpha_bar, t, x_t)
    x_0, eps = split_a(out, x_t, t, alpha_bar, prediction)
    x_0 = x_t / a - s * out if prediction == "eps" else x_0
    return (x_0.clamp(-1, 1) if clip else x_0), eps


@mistake("2d", "From eps: a small number in the denominator changes x_0 at late times, where alpha_bar is as small.")
def split(out, x_t, t, alpha_bar, prediction="eps", clip=False):
    a, s = angle_a(alpha_bar, t, x_t)
    x_0, eps = split_a(out, x_t, t, alpha_bar, prediction)
    x_0 = (x_t - s * out) / (a + 1e-5) if prediction == "eps" else x_0
    return (x_0.clamp(-1, 1) if clip else x_0), eps


@mistake("2d", "From x0: the second value is the noise, not what the network has put out.")
def split(out, x_t, t, alpha_bar, prediction="eps", clip=False):
    x_0, eps = split_a(out, x_t, t, alpha_bar, prediction)
    eps = out if prediction == "x0" else eps
    return (x_0.clamp(-1, 1) if clip else x_0), eps


@mistake("2d", "From x0: what is left when the signal has been taken away is the noise times sqrt(1 - alpha_bar).")
def split(out, x_t, t, alpha_bar, prediction="eps", clip=False):
    a, _ = angle_a(alpha_bar, t, x_t)
    x_0, eps = split_a(out, x_t, t, alpha_bar, prediction)
    eps = x_t - a * out if prediction == "x0" else eps
    return (x_0.clamp(-1, 1) if clip else x_0), eps


@mistake("2d", "From v: you turn on instead of back, so both signs are wrong.")
def split(out, x_t, t, alpha_bar, prediction="eps", clip=False):
    a, s = angle_a(alpha_bar, t, x_t)
    x_0, eps = split_a(out, x_t, t, alpha_bar, prediction)
    if prediction == "v":
        x_0, eps = a * x_t + s * out, a * out - s * x_t
    return (x_0.clamp(-1, 1) if clip else x_0), eps


@mistake("2d", "From v: x_0 and the noise are exchanged.")
def split(out, x_t, t, alpha_bar, prediction="eps", clip=False):
    pair = split_a(out, x_t, t, alpha_bar, prediction)
    x_0, eps = pair[::-1] if prediction == "v" else pair
    return (x_0.clamp(-1, 1) if clip else x_0), eps


@mistake("2d", "Your answer ignores `clip`.")
def split(out, x_t, t, alpha_bar, prediction="eps", clip=False):
    return split_a(out, x_t, t, alpha_bar, prediction)


@mistake("2d", "You clip the noise too: only the guess of x_0 lies in [-1, 1].")
def split(out, x_t, t, alpha_bar, prediction="eps", clip=False):
    pair = split_a(out, x_t, t, alpha_bar, prediction)
    return tuple(v.clamp(-1, 1) for v in pair) if clip else pair


@mistake("2d", "You clip what the network has put out, before it is read: it is x_0 that is clipped, at the end.")
def split(out, x_t, t, alpha_bar, prediction="eps", clip=False):
    return split_a(out.clamp(-1, 1) if clip else out, x_t, t, alpha_bar, prediction)


@mistake("2d", "Your guess of x_0 is clipped to [0, 1]: the model's range is [-1, 1].")
def split(out, x_t, t, alpha_bar, prediction="eps", clip=False):
    x_0, eps = split_a(out, x_t, t, alpha_bar, prediction)
    return (x_0.clamp(0, 1) if clip else x_0), eps


@mistake("2d", "The noise is computed from a clipped x_0: it is that of the output as it came.")
def split(out, x_t, t, alpha_bar, prediction="eps", clip=False):
    x_0, eps = split_a(out, x_t, t, alpha_bar, prediction)
    if not clip:
        return x_0, eps
    a, s = angle_a(alpha_bar, t, x_t)
    return x_0.clamp(-1, 1), (x_t - a * x_0.clamp(-1, 1)) / s


# 2e. The loss


def target_a(x_0, noise, t, alpha_bar, prediction):
    """The right target."""
    a, s = angle_a(alpha_bar, t, x_0)
    return {"eps": noise, "x0": x_0, "v": a * noise - s * x_0}[prediction]


def noised_a(x_0, noise, t, alpha_bar):
    """x_t."""
    a, s = angle_a(alpha_bar, t, x_0)
    return a * x_0 + s * noise


@mistake("2e", "You add up the coordinates: the loss is a mean over the batch and over all coordinates.")
def ddpm_loss(net, x_0, t, noise, alpha_bar, prediction="eps"):
    gap = net(noised_a(x_0, noise, t, alpha_bar), t) - target_a(x_0, noise, t, alpha_bar, prediction)
    return gap.square().flatten(1).sum(1).mean()


@mistake("2e", "There is no factor 1/2 in this loss.")
def ddpm_loss(net, x_0, t, noise, alpha_bar, prediction="eps"):
    gap = net(noised_a(x_0, noise, t, alpha_bar), t) - target_a(x_0, noise, t, alpha_bar, prediction)
    return 0.5 * gap.square().mean()


@mistake("2e", "Your loss is a mean of absolute values: squares are asked for.")
def ddpm_loss(net, x_0, t, noise, alpha_bar, prediction="eps"):
    gap = net(noised_a(x_0, noise, t, alpha_bar), t) - target_a(x_0, noise, t, alpha_bar, prediction)
    return gap.abs().mean()


@mistake("2e", "Your target is the noise, whatever `prediction` says.")
def ddpm_loss(net, x_0, t, noise, alpha_bar, prediction="eps"):
    return (net(noised_a(x_0, noise, t, alpha_bar), t) - noise).square().mean()


@mistake("2e", "Your network is shown the clean data: it must see x_t.")
def ddpm_loss(net, x_0, t, noise, alpha_bar, prediction="eps"):
    return (net(x_0, t) - target_a(x_0, noise, t, alpha_bar, prediction)).square().mean()


@mistake("2e", "Your network is asked at t - 1: it sees x_t, so tell it t.")
def ddpm_loss(net, x_0, t, noise, alpha_bar, prediction="eps"):
    gap = net(noised_a(x_0, noise, t, alpha_bar), t - 1) - target_a(x_0, noise, t, alpha_bar, prediction)
    return gap.square().mean()


@mistake("2e", "Your x_t is that of t - 1: entry t of the table belongs to time t.")
def ddpm_loss(net, x_0, t, noise, alpha_bar, prediction="eps"):
    gap = net(noised_a(x_0, noise, t - 1, alpha_bar), t) - target_a(x_0, noise, t, alpha_bar, prediction)
    return gap.square().mean()


@mistake("2e", "All examples are noised at the time of the first one.")
def ddpm_loss(net, x_0, t, noise, alpha_bar, prediction="eps"):
    t = t[:1].expand(len(t))
    gap = net(noised_a(x_0, noise, t, alpha_bar), t) - target_a(x_0, noise, t, alpha_bar, prediction)
    return gap.square().mean()


@mistake("2e", "The noise in x_t is not the noise of the target: use the one that is handed in for both.")
def ddpm_loss(net, x_0, t, noise, alpha_bar, prediction="eps"):
    gap = net(noised_a(x_0, noise.flip(0), t, alpha_bar), t) - target_a(x_0, noise, t, alpha_bar, prediction)
    return gap.square().mean()


@mistake("2e", "Your velocity target has the wrong sign.")
def ddpm_loss(net, x_0, t, noise, alpha_bar, prediction="eps"):
    target = target_a(x_0, noise, t, alpha_bar, prediction) * (-1 if prediction == "v" else 1)
    return (net(noised_a(x_0, noise, t, alpha_bar), t) - target).square().mean()


@mistake("2e", "Your loss is weighted by time: L_simple has no weights.")
def ddpm_loss(net, x_0, t, noise, alpha_bar, prediction="eps"):
    gap = net(noised_a(x_0, noise, t, alpha_bar), t) - target_a(x_0, noise, t, alpha_bar, prediction)
    bar = shaped_a(alpha_bar[t], x_0)
    return (gap.square() * bar / (1 - bar)).mean()


@mistake("2e", "Your loss has no gradient: it was cut off from the network.")
def ddpm_loss(net, x_0, t, noise, alpha_bar, prediction="eps"):
    with torch.no_grad():
        gap = net(noised_a(x_0, noise, t, alpha_bar), t) - target_a(x_0, noise, t, alpha_bar, prediction)
    return gap.square().mean()


@mistake("2e", "Your loss is 0 with any network, and so is its gradient: there is nothing in it to learn from.")
def ddpm_loss(net, x_0, t, noise, alpha_bar, prediction="eps"):
    return 0.0 * net(noised_a(x_0, noise, t, alpha_bar), t).square().mean()


@mistake("2e", "Your loss holds the square of the target alone: right only for a network that still puts out zeros.")
def ddpm_loss(net, x_0, t, noise, alpha_bar, prediction="eps"):
    out = 0.0 * net(noised_a(x_0, noise, t, alpha_bar), t)
    return (out - target_a(x_0, noise, t, alpha_bar, prediction)).square().mean()


@mistake("2e", "Your loss returns one value an example: a scalar is asked for.")
def ddpm_loss(net, x_0, t, noise, alpha_bar, prediction="eps"):
    gap = net(noised_a(x_0, noise, t, alpha_bar), t) - target_a(x_0, noise, t, alpha_bar, prediction)
    return gap.square().flatten(1).mean(1)


# 2f. The sampler


def step_a(net, x_t, t, noise, betas, alpha_bar, prediction, variance, clip, ask=0, quiet=True, scale=None):
    """The right step, with some of its pieces open to mistakes."""
    ts = torch.full((len(x_t),), t)
    with torch.no_grad():
        guess, _ = split_a(net(x_t, ts + ask), x_t, ts, alpha_bar, prediction)
    guess = guess.clamp(-1, 1) if clip else guess
    a, b, posterior = posterior_a(guess, x_t, ts, betas, alpha_bar)
    sigma = (betas[t] if variance == "beta" else posterior).sqrt()
    if scale is not None:
        sigma = scale(sigma)
    return a * guess + b * x_t + (0 if quiet and t == 1 else sigma * noise)


@mistake("2f", 'With variance "beta" your last step adds noise: from t = 1 to the data there is none in either case.')
def p_sample(net, x_t, t, noise, betas, alpha_bar, prediction="eps", variance="posterior", clip=False):
    return step_a(net, x_t, t, noise, betas, alpha_bar, prediction, variance, clip, quiet=False)


@mistake("2f", "Your step leaves out the noise at t = 2 as well: only the step from t = 1 has none.")
def p_sample(net, x_t, t, noise, betas, alpha_bar, prediction="eps", variance="posterior", clip=False):
    return step_a(net, x_t, t, noise * (t > 2), betas, alpha_bar, prediction, variance, clip)


@mistake(
    "2f", "Your step adds no noise at all: that is another sampler, and with these means its samples are too narrow."
)
def p_sample(net, x_t, t, noise, betas, alpha_bar, prediction="eps", variance="posterior", clip=False):
    return step_a(net, x_t, t, 0 * noise, betas, alpha_bar, prediction, variance, clip)


@mistake("2f", "You multiply the noise by its variance: sigma is the root.")
def p_sample(net, x_t, t, noise, betas, alpha_bar, prediction="eps", variance="posterior", clip=False):
    return step_a(net, x_t, t, noise, betas, alpha_bar, prediction, variance, clip, scale=torch.square)


@mistake("2f", "Your network is asked at t - 1: x_t is at time t.")
def p_sample(net, x_t, t, noise, betas, alpha_bar, prediction="eps", variance="posterior", clip=False):
    return step_a(net, x_t, t, noise, betas, alpha_bar, prediction, variance, clip, ask=-1)


@mistake("2f", "Your step ignores `variance`: it is the posterior's in either case.")
def p_sample(net, x_t, t, noise, betas, alpha_bar, prediction="eps", variance="posterior", clip=False):
    return step_a(net, x_t, t, noise, betas, alpha_bar, prediction, "posterior", clip)


@mistake("2f", "Your step has the variance beta in either case.")
def p_sample(net, x_t, t, noise, betas, alpha_bar, prediction="eps", variance="posterior", clip=False):
    return step_a(net, x_t, t, noise, betas, alpha_bar, prediction, "beta", clip)


@mistake("2f", "Your step ignores `clip`.")
def p_sample(net, x_t, t, noise, betas, alpha_bar, prediction="eps", variance="posterior", clip=False):
    return step_a(net, x_t, t, noise, betas, alpha_bar, prediction, variance, False)


@mistake("2f", "You clip x_{t-1}: it holds noise and may lie anywhere. Clip the guess of x_0.")
def p_sample(net, x_t, t, noise, betas, alpha_bar, prediction="eps", variance="posterior", clip=False):
    x = step_a(net, x_t, t, noise, betas, alpha_bar, prediction, variance, False)
    return x.clamp(-1, 1) if clip else x


@mistake("2f", "Your step ignores `prediction`: the output is read as noise in each case.")
def p_sample(net, x_t, t, noise, betas, alpha_bar, prediction="eps", variance="posterior", clip=False):
    return step_a(net, x_t, t, noise, betas, alpha_bar, "eps", variance, clip)


@mistake("2f", "You jump to the guess of x_0: the step goes to x_{t-1}, by the posterior's mean.")
def p_sample(net, x_t, t, noise, betas, alpha_bar, prediction="eps", variance="posterior", clip=False):
    ts = torch.full((len(x_t),), t)
    with torch.no_grad():
        return split(net(x_t, ts), x_t, ts, alpha_bar, prediction, clip)[0]


@mistake("2f", "Your network is asked once, at the start: each step needs a new guess, from where the samples are now.")
def ddpm_sample(net, x_T, noise, betas, alpha_bar, prediction="eps", variance="posterior", clip=False):
    top = len(betas) - 1
    ts = torch.full((len(x_T),), top)
    with torch.no_grad():
        guess, _ = split(net(x_T, ts), x_T, ts, alpha_bar, prediction, clip)
    x = x_T
    for t in range(top, 0, -1):
        x = p_sample(lambda z, _: guess, x, t, noise[t], betas, alpha_bar, "x0", variance, clip)
    return x


@mistake("2f", "Your samples stop at t = 1: the step from t = 1 to the data is missing.")
def ddpm_sample(net, x_T, noise, betas, alpha_bar, prediction="eps", variance="posterior", clip=False):
    x = x_T
    for t in range(len(betas) - 1, 1, -1):
        x = p_sample(net, x, t, noise[t], betas, alpha_bar, prediction, variance, clip)
    return x


@mistake("2f", "Your sampler begins at t = T - 1: x_T is at time T, the last entry of the tables.")
def ddpm_sample(net, x_T, noise, betas, alpha_bar, prediction="eps", variance="posterior", clip=False):
    x = x_T
    for t in range(len(betas) - 2, 0, -1):
        x = p_sample(net, x, t, noise[t], betas, alpha_bar, prediction, variance, clip)
    return x


@mistake("2f", "Your sampler runs from 1 to T: the way back goes from T to 1.")
def ddpm_sample(net, x_T, noise, betas, alpha_bar, prediction="eps", variance="posterior", clip=False):
    x = x_T
    for t in range(1, len(betas)):
        x = p_sample(net, x, t, noise[t], betas, alpha_bar, prediction, variance, clip)
    return x


@mistake("2f", "Your noise is that of t - 1: the step from t to t - 1 uses noise[t].")
def ddpm_sample(net, x_T, noise, betas, alpha_bar, prediction="eps", variance="posterior", clip=False):
    x = x_T
    for t in range(len(betas) - 1, 0, -1):
        x = p_sample(net, x, t, noise[t - 1], betas, alpha_bar, prediction, variance, clip)
    return x


@mistake("2f", "Your sampler passes no options on to its steps.")
def ddpm_sample(net, x_T, noise, betas, alpha_bar, prediction="eps", variance="posterior", clip=False):
    x = x_T
    for t in range(len(betas) - 1, 0, -1):
        x = p_sample(net, x, t, noise[t], betas, alpha_bar)
    return x


@mistake("2f", "Your samples keep the graph of all steps: sample without gradients.")
def p_sample(net, x_t, t, noise, betas, alpha_bar, prediction="eps", variance="posterior", clip=False):
    ts = torch.full((len(x_t),), t)
    guess, _ = split_a(net(x_t, ts), x_t, ts, alpha_bar, prediction)
    guess = guess.clamp(-1, 1) if clip else guess
    a, b, posterior = posterior_a(guess, x_t, ts, betas, alpha_bar)
    sigma = (betas[t] if variance == "beta" else posterior).sqrt()
    return a * guess + b * x_t + (0 if t == 1 else sigma * noise)


# 2g. A diffusion model of your own


def cloud_a(data):
    """Mean and factor of one Gaussian."""
    return data.mean(0), torch.linalg.cholesky(torch.cov(data.T))


@mistake("2g", "Your samples are one Gaussian: train a network and go all the way back from noise.")
def train_points(data):
    mean, factor = cloud_a(data)
    return lambda n: mean + torch.randn(n, 2, dtype=data.dtype) @ factor.T


@mistake("2g", "Your samples are the points that you were given: new ones are asked for.")
def train_points(data):
    return lambda n: data[torch.randint(len(data), (n,))]


@mistake("2g", "train_points returns samples: a function that draws n of them is asked for.")
def train_points(data):
    mean, factor = cloud_a(data)
    return mean + torch.randn(1500, 2, dtype=data.dtype) @ factor.T


@mistake("2g", "Your samples are in the model's units: undo the standardisation.")
def train_points(data):
    return lambda n: (data[:n] - data.mean(0)) / data.std(0)


@mistake("2g", "Your network is as it was at the start: without training, samples are noise.")
def train_points(data):
    net, (betas, alpha_bar) = PointNet(20), noise_tables(cosine_betas(20))
    tables = betas.float(), alpha_bar.float()
    return lambda n: ddpm_sample(net, torch.randn(n, 2), torch.randn(21, n, 2), *tables) * data.std(0) + data.mean(0)


def ddim_mix_b(denoise, alpha_bar, x_t, t, s, eta, noise, sigma=None, old=None):
    """A DDIM step with its parts to be replaced."""
    x_0, eps = denoise(x_t, t)
    bar_t, bar_s = alpha_bar[t], alpha_bar[s]
    if sigma is None:
        sigma = eta * torch.sqrt((1 - bar_s) / (1 - bar_t)) * torch.sqrt(1 - bar_t / bar_s)
    if old is None:
        old = torch.sqrt((1 - bar_s - sigma**2).clamp(min=0))
    mixed = torch.sqrt(bar_s) * x_0 + old * eps
    return mixed if noise is None or eta == 0 else mixed + sigma * noise


def ddim_walk_b(denoise, alpha_bar, x, taus, eta, noise):
    for i in range(len(taus) - 1):
        z = noise[i] if noise is not None else None
        x = ddim_step(denoise, alpha_bar, x, int(taus[i]), int(taus[i + 1]), eta=eta, noise=z)
    return x


# 3a. DDIM: fewer steps


@mistake("3a", "Your times start below num_steps: sampling starts from pure noise, and the grid must hold its time.")
def ddim_timesteps(num_steps, steps):
    return torch.arange(steps, -1, -1) * (num_steps // steps)


@mistake("3a", "Your times are rounded down: round each to the nearest whole number.")
def ddim_timesteps(num_steps, steps):
    return torch.tensor([num_steps * i // steps for i in range(steps, -1, -1)])


@mistake("3a", "Your times rise: sampling goes from num_steps down to 0.")
def ddim_timesteps(num_steps, steps):
    return torch.linspace(0, num_steps, steps + 1, dtype=torch.float64).round().long()


@mistake("3a", "Your times end at 1: the last step goes to time 0, where no noise is left.")
def ddim_timesteps(num_steps, steps):
    return torch.linspace(num_steps, 1, steps + 1, dtype=torch.float64).round().long()


@mistake("3a", "Your grid has one time too few: `steps` steps lie between `steps` + 1 times.")
def ddim_timesteps(num_steps, steps):
    return (torch.arange(steps, 0, -1, dtype=torch.float64) * num_steps / steps).round().long()


@mistake("3a", "The guess of x_0 is multiplied by alpha_bar itself: its square root belongs there.")
def ddim_step(denoise, alpha_bar, x_t, t, s, *, eta=0.0, noise=None):
    x_0, _ = denoise(x_t, t)
    full = ddim_mix_b(denoise, alpha_bar, x_t, t, s, eta, noise)
    return full + (alpha_bar[s] - torch.sqrt(alpha_bar[s])) * x_0


@mistake("3a", "The weight of the old noise is missing its square root: variances add, weights are deviations.")
def ddim_step(denoise, alpha_bar, x_t, t, s, *, eta=0.0, noise=None):
    bar_t, bar_s = alpha_bar[t], alpha_bar[s]
    variance = eta**2 * (1 - bar_s) / (1 - bar_t) * (1 - bar_t / bar_s)
    return ddim_mix_b(denoise, alpha_bar, x_t, t, s, eta, noise, old=1 - bar_s - variance)


@mistake("3a", "Your step makes no room for the new noise: what it brings must be taken from the old noise's variance.")
def ddim_step(denoise, alpha_bar, x_t, t, s, *, eta=0.0, noise=None):
    return ddim_mix_b(denoise, alpha_bar, x_t, t, s, eta, noise, old=torch.sqrt(1 - alpha_bar[s]))


@mistake("3a", "Your step never adds noise: eta above 0 asks for sigma times the noise that is handed in.")
def ddim_step(denoise, alpha_bar, x_t, t, s, *, eta=0.0, noise=None):
    return ddim_mix_b(denoise, alpha_bar, x_t, t, s, 0.0, None)


@mistake("3a", "Your step makes room for new noise (the weight of the old one is smaller), but never adds it.")
def ddim_step(denoise, alpha_bar, x_t, t, s, *, eta=0.0, noise=None):
    return ddim_mix_b(denoise, alpha_bar, x_t, t, s, eta, None)


@mistake("3a", "Your new noise is multiplied by the variance: multiply by its square root, sigma.")
def ddim_step(denoise, alpha_bar, x_t, t, s, *, eta=0.0, noise=None):
    bar_t, bar_s = alpha_bar[t], alpha_bar[s]
    sigma = eta**2 * (1 - bar_s) / (1 - bar_t) * (1 - bar_t / bar_s)
    old = torch.sqrt(1 - bar_s - sigma)
    return ddim_mix_b(denoise, alpha_bar, x_t, t, s, eta, noise, sigma, old)


@mistake("3a", "Your step ignores how large eta is: between 0 and 1 it scales sigma.")
def ddim_step(denoise, alpha_bar, x_t, t, s, *, eta=0.0, noise=None):
    return ddim_mix_b(denoise, alpha_bar, x_t, t, s, float(eta > 0), noise)


@mistake("3a", "Your sigma has the root of beta alone: it lacks the factor that holds the two noise levels' ratio.")
def ddim_step(denoise, alpha_bar, x_t, t, s, *, eta=0.0, noise=None):
    sigma = eta * torch.sqrt(1 - alpha_bar[t] / alpha_bar[s])
    return ddim_mix_b(denoise, alpha_bar, x_t, t, s, eta, noise, sigma)


@mistake("3a", "You read alpha as 1 - beta, a single step's: the weights are those of the whole way from 0, alpha_bar.")
def ddim_step(denoise, alpha_bar, x_t, t, s, *, eta=0.0, noise=None):
    single = torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])
    return ddim_mix_b(denoise, single, x_t, t, s, eta, noise)


@mistake("3a", "The weights that you put the guesses together with are those of time t: you would stay where you are.")
def ddim_step(denoise, alpha_bar, x_t, t, s, *, eta=0.0, noise=None):
    return ddim_mix_b(denoise, alpha_bar, x_t, t, t, eta, noise)


@mistake("3a", "The network is asked at time s, but what it is shown has the noise of time t.")
def ddim_step(denoise, alpha_bar, x_t, t, s, *, eta=0.0, noise=None):
    return ddim_mix_b(lambda x, _: denoise(x, s), alpha_bar, x_t, t, s, eta, noise)


@mistake("3a", "The two guesses are exchanged: denoise returns x_0 first and eps second.")
def ddim_step(denoise, alpha_bar, x_t, t, s, *, eta=0.0, noise=None):
    return ddim_mix_b(lambda x, t: denoise(x, t)[::-1], alpha_bar, x_t, t, s, eta, noise)


@mistake("3a", "Your sampler uses the noise of the first step in all steps: each step has its own.")
def ddim_sample(denoise, alpha_bar, x_T, steps, *, eta=0.0, noise=None):
    taus = ddim_timesteps(len(alpha_bar) - 1, steps)
    return ddim_walk_b(denoise, alpha_bar, x_T, taus, eta, None if noise is None else [noise[0]] * steps)


@mistake("3a", "Your sampler does not hand eta on to its steps.")
def ddim_sample(denoise, alpha_bar, x_T, steps, *, eta=0.0, noise=None):
    return ddim_walk_b(denoise, alpha_bar, x_T, ddim_timesteps(len(alpha_bar) - 1, steps), 0.0, noise)


@mistake("3a", "Your sampler takes alpha_bar's length for T: the table has T + 1 entries, since it starts at time 0.")
def ddim_sample(denoise, alpha_bar, x_T, steps, *, eta=0.0, noise=None):
    taus = ddim_timesteps(len(alpha_bar), steps).clamp(max=len(alpha_bar) - 1)
    if int(taus[0]) == int(taus[1]):
        raise IndexError("the table ends before the time that is asked for")
    return ddim_walk_b(denoise, alpha_bar, x_T, taus, eta, noise)


@mistake("3a", "Your sampler stops one step early: the last step is the one to time 0.")
def ddim_sample(denoise, alpha_bar, x_T, steps, *, eta=0.0, noise=None):
    return ddim_walk_b(denoise, alpha_bar, x_T, ddim_timesteps(len(alpha_bar) - 1, steps)[:-1], eta, noise)


@mistake("3a", "Your sampler goes through all T times one by one: it has `steps` steps, of whatever length.")
def ddim_sample(denoise, alpha_bar, x_T, steps, *, eta=0.0, noise=None):
    every = torch.arange(len(alpha_bar) - 1, -1, -1)
    z = None if noise is None else noise[torch.arange(len(every)) % len(noise)]
    return ddim_walk_b(denoise, alpha_bar, x_T, every, eta, z)


# 3b. Classifier-free guidance


def two_b(predict, x_t, t, y, null):
    """The predictions with and without label."""
    nothing = torch.full_like(t, null)
    return predict(x_t, t, nothing if y is None else y), predict(x_t, t, nothing)


@mistake("3b", "Your mask means the opposite: a label is replaced where `dropped` is True.")
def drop_labels(y, dropped, null):
    return torch.where(dropped, y, null)


@mistake("3b", "Your dropped labels become 0, a class among the others: replace them by `null`.")
def drop_labels(y, dropped, null):
    return y * ~dropped


@mistake("3b", "You take the dropped examples out: all of them stay, some without their label.")
def drop_labels(y, dropped, null):
    return y[~dropped]


@mistake("3b", "drop_labels changes the caller's labels: the next epoch would find them gone. Work on a copy.")
def drop_labels(y, dropped, null):
    y[dropped] = null
    return y


@mistake("3b", "Your null class is -1, which indexes the last class's vector: use the index that is given.")
def drop_labels(y, dropped, null):
    return torch.where(dropped, -1, y)


@mistake("3b", "Your scale is the other convention's, where 1 is the plain conditional model: here that is w = 0.")
def guided_prediction(predict, x_t, t, y, null, guidance):
    conditional, unconditional = two_b(predict, x_t, t, y, null)
    return unconditional + guidance * (conditional - unconditional)


@mistake("3b", "The two predictions are exchanged: you go away from the class.")
def guided_prediction(predict, x_t, t, y, null, guidance):
    conditional, unconditional = two_b(predict, x_t, t, y, null)
    return (1 + guidance) * unconditional - guidance * conditional


@mistake("3b", "Your two weights do not sum to 1: the prediction without label is subtracted, not added.")
def guided_prediction(predict, x_t, t, y, null, guidance):
    conditional, unconditional = two_b(predict, x_t, t, y, null)
    return (1 + guidance) * conditional + guidance * unconditional


@mistake("3b", "You scale the prediction with label and leave out the one without: guidance needs both.")
def guided_prediction(predict, x_t, t, y, null, guidance):
    conditional, _ = two_b(predict, x_t, t, y, null)
    return (1 + guidance) * conditional


@mistake("3b", "Your answer is the plain prediction of the class, whatever the guidance.")
def guided_prediction(predict, x_t, t, y, null, guidance):
    return two_b(predict, x_t, t, y, null)[0]


@mistake("3b", "You mix the two predictions with weights w and 1 - w, between the two: guidance goes beyond them.")
def guided_prediction(predict, x_t, t, y, null, guidance):
    conditional, unconditional = two_b(predict, x_t, t, y, null)
    return (
        guidance * conditional + (1 - guidance) * unconditional
        if y is None
        else ((1 - guidance) * conditional + guidance * unconditional)
    )


@mistake("3b", "You take class 0 for the null class: use the index that is given as `null`.")
def guided_prediction(predict, x_t, t, y, null, guidance):
    conditional, unconditional = two_b(predict, x_t, t, y, 0)
    return (1 + guidance) * conditional - guidance * unconditional


@mistake("3b", "Where no labels are given (y is None), the prediction of the null class is asked for.")
def guided_prediction(predict, x_t, t, y, null, guidance):
    y = torch.zeros_like(t) if y is None else y
    conditional, unconditional = two_b(predict, x_t, t, y, null)
    return (1 + guidance) * conditional - guidance * unconditional


@mistake(
    "3b", "You assemble a batch of both, but cut it into every other row: the first half is one, the second the other."
)
def guided_prediction(predict, x_t, t, y, null, guidance):
    y = torch.full_like(t, null) if y is None else y
    both = predict(torch.cat([x_t] * 2), torch.cat([t] * 2), torch.cat([y, torch.full_like(t, null)]))
    return (1 + guidance) * both[::2] - guidance * both[1::2]


# 3c. Inpainting


def paint_b(
    p_sample, alpha_bar, x, mask, x_T, known, step, back, resample, level=-1, last=False, whole=False, own=None
):
    """Inpainting with its parts to be replaced."""
    x_t = x_T
    for t in range(len(alpha_bar) - 1, 0, -1):
        bar = alpha_bar[t + level]
        before = alpha_bar[t - 1]
        for u in range(resample):
            fresh = step[t, u] if own == "step" else known[t, u]
            given = x if own == "clean" else torch.sqrt(bar) * x + torch.sqrt(1 - bar) * fresh
            made = p_sample(x_t, t, step[t, u])
            joined = torch.where(mask, given, made)
            if own == "end":
                joined = made
            if (u < resample - 1 or last) and t > 1:
                keep = alpha_bar[t] if whole else alpha_bar[t] / before
                x_t = torch.sqrt(keep) * joined + torch.sqrt(1 - keep) * back[t, u]
        x_t = x_t if last and t > 1 else joined
    return torch.where(mask, x, x_t)


@mistake("3c", "Your mask means the opposite: True marks what is known.")
def inpaint(p_sample, alpha_bar, x, mask, x_T, noise_known, noise_step, noise_back, resample=1):
    return paint_b(p_sample, alpha_bar, x, ~mask, x_T, noise_known, noise_step, noise_back, resample)


@mistake("3c", "The known part has the noise of time t where the new one has that of t - 1.")
def inpaint(p_sample, alpha_bar, x, mask, x_T, noise_known, noise_step, noise_back, resample=1):
    return paint_b(p_sample, alpha_bar, x, mask, x_T, noise_known, noise_step, noise_back, resample, level=0)


@mistake("3c", "The known part is put in without noise: at time t - 1 it must be as noisy as the rest.")
def inpaint(p_sample, alpha_bar, x, mask, x_T, noise_known, noise_step, noise_back, resample=1):
    return paint_b(p_sample, alpha_bar, x, mask, x_T, noise_known, noise_step, noise_back, resample, own="clean")


@mistake("3c", "The known part is put in at the very end only: what is filled in has never seen it.")
def inpaint(p_sample, alpha_bar, x, mask, x_T, noise_known, noise_step, noise_back, resample=1):
    return paint_b(p_sample, alpha_bar, x, mask, x_T, noise_known, noise_step, noise_back, resample, own="end")


@mistake("3c", "The known part is noised with the noise of p_sample: it has its own, `noise_known`.")
def inpaint(p_sample, alpha_bar, x, mask, x_T, noise_known, noise_step, noise_back, resample=1):
    return paint_b(p_sample, alpha_bar, x, mask, x_T, noise_known, noise_step, noise_back, resample, own="step")


@mistake("3c", "You return what is filled in only, without the known part: the answer is x where the mask is True.")
def inpaint(p_sample, alpha_bar, x, mask, x_T, noise_known, noise_step, noise_back, resample=1):
    return torch.where(
        mask, 0.0, paint_b(p_sample, alpha_bar, x, mask, x_T, noise_known, noise_step, noise_back, resample)
    )


@mistake("3c", "`resample` is ignored: the step from t to t - 1 is done that many times, with a step back in between.")
def inpaint(p_sample, alpha_bar, x, mask, x_T, noise_known, noise_step, noise_back, resample=1):
    return paint_b(p_sample, alpha_bar, x, mask, x_T, noise_known, noise_step, noise_back, 1)


@mistake("3c", "You go back with alpha_bar_t, as if from time 0: from t - 1 to t it is one step, with beta_t.")
def inpaint(p_sample, alpha_bar, x, mask, x_T, noise_known, noise_step, noise_back, resample=1):
    return paint_b(p_sample, alpha_bar, x, mask, x_T, noise_known, noise_step, noise_back, resample, whole=True)


@mistake("3c", "Between two tries you do not go back to time t: the next try is shown x_{t-1} as if it were x_t.")
def inpaint(p_sample, alpha_bar, x, mask, x_T, noise_known, noise_step, noise_back, resample=1):
    x_t = x_T
    for t in range(len(alpha_bar) - 1, 0, -1):
        for u in range(resample):
            given = torch.sqrt(alpha_bar[t - 1]) * x + torch.sqrt(1 - alpha_bar[t - 1]) * noise_known[t, u]
            x_t = torch.where(mask, given, p_sample(x_t, t, noise_step[t, u]))
    return x_t


@mistake("3c", "You go back after the last try as well: the next step must be shown x_{t-1}.")
def inpaint(p_sample, alpha_bar, x, mask, x_T, noise_known, noise_step, noise_back, resample=1):
    return paint_b(p_sample, alpha_bar, x, mask, x_T, noise_known, noise_step, noise_back, resample, last=resample > 1)


@mistake("3c", "The whole sampling is repeated `resample` times: it is each single step that is repeated.")
def inpaint(p_sample, alpha_bar, x, mask, x_T, noise_known, noise_step, noise_back, resample=1):
    for u in range(resample):
        noises = [noise[:, u : u + 1] for noise in (noise_known, noise_step, noise_back)]
        x_T = paint_b(p_sample, alpha_bar, x, mask, x_T, *noises, 1)
    return x_T


@mistake("3c", "At t = 1 nothing is gone back: all of its tries start from the same x_1.")
def inpaint(p_sample, alpha_bar, x, mask, x_T, noise_known, noise_step, noise_back, resample=1):
    x_t = x_T
    for t in range(len(alpha_bar) - 1, 0, -1):
        bar = alpha_bar[t - 1]
        for u in range(resample):
            given = torch.sqrt(bar) * x + torch.sqrt(1 - bar) * noise_known[t, u]
            x_t = torch.where(mask, given, p_sample(x_t, t, noise_step[t, u]))
            if u < resample - 1:
                keep = alpha_bar[t] / bar
                x_t = torch.sqrt(keep) * x_t + torch.sqrt(1 - keep) * noise_back[t, u]
    return x_t


# 3d. SDEdit


def edit_b(p_sample, x_t, times, noise_step):
    for s in times:
        x_t = p_sample(x_t, s, noise_step[s])
    return x_t


@mistake("3d", "The guide is not scaled as it is noised: at time t it counts sqrt(alpha_bar_t), not 1.")
def sdedit(p_sample, alpha_bar, x, t, noise, noise_step):
    return edit_b(p_sample, x + torch.sqrt(1 - alpha_bar[t]) * noise, range(t, 0, -1), noise_step)


@mistake("3d", "The weights are the roots of alpha_bar and 1 - alpha_bar: without the roots the noise is too weak.")
def sdedit(p_sample, alpha_bar, x, t, noise, noise_step):
    return edit_b(p_sample, alpha_bar[t] * x + (1 - alpha_bar[t]) * noise, range(t, 0, -1), noise_step)


@mistake("3d", "You start from noise alone: nothing of the guide is in it.")
def sdedit(p_sample, alpha_bar, x, t, noise, noise_step):
    return edit_b(p_sample, noise, range(t, 0, -1), noise_step)


@mistake("3d", "You start from the guide without noise: the network has never seen anything so clean at time t.")
def sdedit(p_sample, alpha_bar, x, t, noise, noise_step):
    return edit_b(p_sample, x, range(t, 0, -1), noise_step)


@mistake("3d", "You take T steps whatever t is: the way back starts at t, where the guide was noised to.")
def sdedit(p_sample, alpha_bar, x, t, noise, noise_step):
    x_t = torch.sqrt(alpha_bar[t]) * x + torch.sqrt(1 - alpha_bar[t]) * noise
    return edit_b(p_sample, x_t, range(len(alpha_bar) - 1, 0, -1), noise_step)


@mistake("3d", "Your last step is missing: the step from 1 to 0 is taken as well.")
def sdedit(p_sample, alpha_bar, x, t, noise, noise_step):
    x_t = torch.sqrt(alpha_bar[t]) * x + torch.sqrt(1 - alpha_bar[t]) * noise
    return edit_b(p_sample, x_t, range(t, 1, -1), noise_step)


@mistake("3d", "Your first step is missing: what has the noise of time t is denoised at time t first.")
def sdedit(p_sample, alpha_bar, x, t, noise, noise_step):
    x_t = torch.sqrt(alpha_bar[t]) * x + torch.sqrt(1 - alpha_bar[t]) * noise
    return edit_b(p_sample, x_t, range(t - 1, 0, -1), noise_step)


@mistake("3d", "Your times rise: the way back goes from t down to 1.")
def sdedit(p_sample, alpha_bar, x, t, noise, noise_step):
    x_t = torch.sqrt(alpha_bar[t]) * x + torch.sqrt(1 - alpha_bar[t]) * noise
    return edit_b(p_sample, x_t, range(1, t + 1), noise_step)


@mistake("3d", "alpha_bar is read one entry too early: entry t belongs to time t, since entry 0 stands for the data.")
def sdedit(p_sample, alpha_bar, x, t, noise, noise_step):
    bar = alpha_bar[max(t - 1, 0)]
    return edit_b(p_sample, torch.sqrt(bar) * x + torch.sqrt(1 - bar) * noise, range(t, 0, -1), noise_step)


# 4a. The path, its velocity, and the loss


def wide_b(t, x):
    return t.reshape(-1, *[1] * (x.ndim - 1))


@mistake("4a", "Your time runs the other way: at t = 0 the walker is at the noise x_0, at t = 1 at the data.")
def straight_path(x_0, x_1, t):
    t = wide_b(t, x_1)
    return t * x_0 + (1 - t) * x_1, x_1 - x_0


@mistake("4a", "Your velocity leads from data to noise: turn its sign.")
def straight_path(x_0, x_1, t):
    return torch.lerp(x_0, x_1, wide_b(t, x_1)), x_0 - x_1


@mistake("4a", "Your velocity is the data point: the walker comes from x_0, and its speed is how far that is away.")
def straight_path(x_0, x_1, t):
    return torch.lerp(x_0, x_1, wide_b(t, x_1)), x_1


@mistake("4a", "Your velocity leads from where the walker is to the data, in the time 1: it has less time left.")
def straight_path(x_0, x_1, t):
    x_t = torch.lerp(x_0, x_1, wide_b(t, x_1))
    return x_t, x_1 - x_t


@mistake("4a", "Your weights are those of diffusion, whose squares sum to 1: here the path is a straight line.")
def straight_path(x_0, x_1, t):
    t = wide_b(t, x_1)
    return torch.sqrt(1 - t) * x_0 + torch.sqrt(t) * x_1, x_1 - x_0


@mistake("4a", "t multiplies along the last axis: each example has one time, so t must stand along the first.")
def straight_path(x_0, x_1, t):
    return (1 - t) * x_0 + t * x_1, x_1 - x_0


@mistake("4a", "You use the first example's time for all of them: each example has its own.")
def straight_path(x_0, x_1, t):
    return torch.lerp(x_0, x_1, t[0]), x_1 - x_0


@mistake("4a", "Your loss sums over the numbers of an example: it is a mean over them as well as over the batch.")
def flow_matching_loss(velocity, x_0, x_1, t):
    x_t, u = straight_path(x_0, x_1, t)
    return ((velocity(x_t, t) - u) ** 2).flatten(1).sum(1).mean()


@mistake("4a", "Your loss has the root of the mean square: leave it as a square.")
def flow_matching_loss(velocity, x_0, x_1, t):
    x_t, u = straight_path(x_0, x_1, t)
    return ((velocity(x_t, t) - u) ** 2).mean().sqrt()


@mistake("4a", "Your loss takes absolute values: their best fit is a median, and the field must be a mean.")
def flow_matching_loss(velocity, x_0, x_1, t):
    x_t, u = straight_path(x_0, x_1, t)
    return F.l1_loss(velocity(x_t, t), u)


@mistake("4a", "Your loss has a factor 1/2 that the question does not have.")
def flow_matching_loss(velocity, x_0, x_1, t):
    x_t, u = straight_path(x_0, x_1, t)
    return 0.5 * F.mse_loss(velocity(x_t, t), u)


@mistake("4a", "The field is asked at the data: it has to tell the velocity from the place on the way, x_t.")
def flow_matching_loss(velocity, x_0, x_1, t):
    return F.mse_loss(velocity(x_1, t), x_1 - x_0)


@mistake("4a", "The field is asked at the noise: it has to tell the velocity from the place on the way, x_t.")
def flow_matching_loss(velocity, x_0, x_1, t):
    return F.mse_loss(velocity(x_0, t), x_1 - x_0)


@mistake("4a", "The field is told the time 1 - t: give it the time at which the walker is at x_t.")
def flow_matching_loss(velocity, x_0, x_1, t):
    x_t, u = straight_path(x_0, x_1, t)
    return F.mse_loss(velocity(x_t, 1 - t), u)


@mistake("4a", "Your loss has no gradient: do not detach or rebuild what the field returns.")
def flow_matching_loss(velocity, x_0, x_1, t):
    x_t, u = straight_path(x_0, x_1, t)
    return F.mse_loss(velocity(x_t, t).detach(), u)


@mistake("4a", "Your loss is 0 whatever the field says.")
def flow_matching_loss(velocity, x_0, x_1, t):
    return 0 * velocity(x_0, t).sum()


# 4b. Two solvers


def march_b(step, x, t):
    path = [x]
    for i in range(len(t) - 1):
        path.append(step(path[-1], t[i], t[i + 1]))
    return torch.stack(path)


def at_b(velocity, x, s):
    return velocity(x, s.repeat(len(x)))


@mistake("4b", "Your Euler asks the field at the end of each step in time: it trusts the velocity at the beginning.")
def euler(velocity, x, t):
    return march_b(lambda x, a, b: x + (b - a) * at_b(velocity, x, b), x, t)


@mistake("4b", "Euler's steps are all as long as the first one: each has the length between its own two times.")
def euler(velocity, x, t):
    return march_b(lambda x, a, b: x + (t[1] - t[0]) * at_b(velocity, x, a), x, t)


@mistake("4b", "Euler's steps all have the length 1/n: take each from the times that are given.")
def euler(velocity, x, t):
    return march_b(lambda x, a, b: x + at_b(velocity, x, a) / (len(t) - 1), x, t)


@mistake("4b", "Euler's steps are never negative: where times fall, the step is negative and the way leads back.")
def euler(velocity, x, t):
    return march_b(lambda x, a, b: x + (b - a).abs() * at_b(velocity, x, a), x, t)


@mistake("4b", "Your Euler returns the end only: the whole path is asked for, the start first.")
def euler(velocity, x, t):
    return march_b(lambda x, a, b: x + (b - a) * at_b(velocity, x, a), x, t)[-1]


@mistake("4b", "Your Euler leaves out the start: n + 1 places belong to n + 1 times.")
def euler(velocity, x, t):
    return march_b(lambda x, a, b: x + (b - a) * at_b(velocity, x, a), x, t)[1:]


@mistake("4b", "All places of your Euler's path are the last one: x is changed in place and stored again and again.")
def euler(velocity, x, t):
    path = march_b(lambda x, a, b: x + (b - a) * at_b(velocity, x, a), x, t)
    return path[-1:].expand_as(path)


@mistake(
    "4b", "Your Heun adds the two velocities and takes the whole step along the sum: it takes it along their mean."
)
def heun(velocity, x, t):
    def step(x, a, b):
        one = at_b(velocity, x, a)
        return x + (b - a) * (one + at_b(velocity, x + (b - a) * one, b))

    return march_b(step, x, t)


@mistake("4b", "Your Heun asks for its second velocity where it stands: first take Euler's step on trial.")
def heun(velocity, x, t):
    return march_b(lambda x, a, b: x + (b - a) * (at_b(velocity, x, a) + at_b(velocity, x, b)) / 2, x, t)


@mistake("4b", "Your Heun asks for its second velocity at the time of the first: after the trial step it is later.")
def heun(velocity, x, t):
    def step(x, a, b):
        one = at_b(velocity, x, a)
        return x + (b - a) * (one + at_b(velocity, x + (b - a) * one, a)) / 2

    return march_b(step, x, t)


@mistake(
    "4b", "This is the midpoint method, of order 2 as well: Heun tries the whole step and averages two velocities."
)
def heun(velocity, x, t):
    def step(x, a, b):
        one = at_b(velocity, x, a)
        return x + (b - a) * at_b(velocity, x + (b - a) * one / 2, (a + b) / 2)

    return march_b(step, x, t)


@mistake("4b", "Your Heun goes along the second velocity alone: it goes along the mean of the two.")
def heun(velocity, x, t):
    def step(x, a, b):
        return x + (b - a) * at_b(velocity, x + (b - a) * at_b(velocity, x, a), b)

    return march_b(step, x, t)


@mistake("4b", "Your Heun adds its mean velocity to the place of the trial step: the step starts from x_i.")
def heun(velocity, x, t):
    def step(x, a, b):
        one = at_b(velocity, x, a)
        there = x + (b - a) * one
        return there + (b - a) * (one + at_b(velocity, there, b)) / 2

    return march_b(step, x, t)


@mistake("4b", "Your Heun is Euler: the second velocity is missing.")
def heun(velocity, x, t):
    return euler(velocity, x, t)


@mistake("4b", "Your Heun computes the first velocity twice: keep it, calls of the field are what sampling costs.")
def heun(velocity, x, t):
    def step(x, a, b):
        there = x + (b - a) * at_b(velocity, x, a)
        return x + (b - a) * (at_b(velocity, x, a) + at_b(velocity, there, b)) / 2

    return march_b(step, x, t)


# 4c. Pairs that do not cross


def gaps_b(x_0, x_1):
    return torch.cdist(x_0.flatten(1), x_1.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")


def best_b(cost):
    """The best permutation for any costs, by the subsets of what is taken, or by improving rounds of two and three."""
    n = len(cost)
    table = cost.tolist()
    j = list(range(n))
    if n <= 6:
        import itertools

        return torch.tensor(min(itertools.permutations(j), key=lambda p: sum(table[i][k] for i, k in enumerate(p))))
    improved = True
    while improved:
        improved = False
        for a in range(n):
            for b in range(a):
                if table[a][j[b]] + table[b][j[a]] < table[a][j[a]] + table[b][j[b]] - 1e-12:
                    j[a], j[b], improved = j[b], j[a], True
    return torch.tensor(j)


@mistake("4c", "Your costs are distances: squared distances are asked for, and their best pairing is another one.")
def pairing_cost(x_0, x_1):
    return gaps_b(x_0, x_1)


@mistake("4c", "Your costs stand the other way round: rows belong to the noises x_0, columns to the data x_1.")
def pairing_cost(x_0, x_1):
    return gaps_b(x_1, x_0) ** 2


@mistake("4c", "Your costs are means over the numbers of an example: a squared distance is their sum.")
def pairing_cost(x_0, x_1):
    return gaps_b(x_0, x_1) ** 2 / x_0[0].numel()


@mistake("4c", "Your costs sum over the last axis alone: all numbers of an image count.")
def pairing_cost(x_0, x_1):
    return (x_0[:, None] - x_1).square().sum(-1)


@mistake("4c", "Your costs compare x_0[i] with x_1[i] only: every noise is to be compared with every data point.")
def pairing_cost(x_0, x_1):
    return torch.diag((x_0 - x_1).flatten(1).square().sum(1))


@mistake("4c", "Your pairing takes each noise's nearest data point: some are taken twice, others never.")
def ot_pairing(x_0, x_1):
    return gaps_b(x_0, x_1).argmin(1)


@mistake("4c", "Your pairing is greedy, noise after noise: the last ones get what is left, however far away.")
def ot_pairing(x_0, x_1):
    cost, j = gaps_b(x_0, x_1), []
    for row in cost:
        j.append(int(row.index_fill(0, torch.tensor(j, dtype=torch.int64), math.inf).argmin()))
    return torch.tensor(j)


@mistake(
    "4c", "Your pairing takes the shortest of all lines first and goes on so: it is greedy, and not the best in sum."
)
def ot_pairing(x_0, x_1):
    cost, j = gaps_b(x_0, x_1), torch.zeros(len(x_0), dtype=torch.int64)
    for _ in range(len(cost)):
        i, k = divmod(int(cost.argmin()), len(cost))
        j[i] = k
        cost[i], cost[:, k] = math.inf, math.inf
    return j


@mistake("4c", "Your pairing is as it was drawn: x_0[i] with x_1[i].")
def ot_pairing(x_0, x_1):
    return torch.arange(len(x_0))


@mistake("4c", "Your pairing is the inverse one: j[i] is the data point of noise i, not the noise of data point i.")
def ot_pairing(x_0, x_1):
    j = best_b(gaps_b(x_0, x_1) ** 2)
    inverse = torch.empty_like(j)
    inverse[j] = torch.arange(len(j))
    return inverse


@mistake("4c", "Your pairing minimises the sum of the distances: the squares of them are asked for.")
def ot_pairing(x_0, x_1):
    return best_b(gaps_b(x_0, x_1))


@mistake("4c", "Your pairing has the greatest cost of all, not the least.")
def ot_pairing(x_0, x_1):
    return best_b(-(gaps_b(x_0, x_1) ** 2))


@mistake("4c", "Your pairing swaps two as long as it helps, and gets stuck where only a longer round would help.")
def ot_pairing(x_0, x_1):
    table, j = (gaps_b(x_0, x_1) ** 2).tolist(), list(range(len(x_0)))
    improved = True
    while improved:
        improved = False
        for a in range(len(j)):
            for b in range(a):
                if table[a][j[b]] + table[b][j[a]] < table[a][j[a]] + table[b][j[b]] - 1e-12:
                    j[a], j[b], improved = j[b], j[a], True
    return torch.tensor(j)


@mistake("4c", "Your pairing sorts both by their first number: that is optimal on a line, and only there.")
def ot_pairing(x_0, x_1):
    a, b = x_0.flatten(1)[:, 0].argsort(), x_1.flatten(1)[:, 0].argsort()
    return b[a.argsort()]


@mistake("4c", "Your pairing sorts both by their distance from the origin: points on opposite sides are paired.")
def ot_pairing(x_0, x_1):
    a, b = x_0.flatten(1).norm(dim=1).argsort(), x_1.flatten(1).norm(dim=1).argsort()
    return b[a.argsort()]


# 4d. Straightening a flow


@mistake("4d", "Your pairs hang on the first flow's network: its gradients would flow. Compute them without gradients.")
def reflow_pairs(solver, velocity, x_0, t):
    return x_0, solver(velocity, x_0, t)[-1]


@mistake("4d", "You return the whole path as the second of the pair: only its end is asked for.")
def reflow_pairs(solver, velocity, x_0, t):
    with torch.no_grad():
        return x_0, solver(velocity, x_0, t)


@mistake("4d", "The two of your pairs are exchanged: the noise comes first.")
def reflow_pairs(solver, velocity, x_0, t):
    with torch.no_grad():
        return solver(velocity, x_0, t)[-1], x_0


@mistake("4d", "The flow is followed in one step from the first time to the last: use all times of the grid.")
def reflow_pairs(solver, velocity, x_0, t):
    with torch.no_grad():
        return x_0, solver(velocity, x_0, t[[0, -1]])[-1]


@mistake("4d", "The flow is followed backwards: noise lies at the first time of the grid.")
def reflow_pairs(solver, velocity, x_0, t):
    with torch.no_grad():
        return x_0, solver(velocity, x_0, t.flip(0))[-1]


@mistake("4d", "Your second of the pair is the first place after the start: the end of the path is asked for.")
def reflow_pairs(solver, velocity, x_0, t):
    with torch.no_grad():
        return x_0, solver(velocity, x_0, t)[1]


@mistake(
    "4d", "Your straightness compares displacements with each other, not velocities: divide each by its step's length."
)
def straightness(path):
    return (path.diff(dim=0) - (path[-1] - path[0])).square().flatten(2).sum(-1).mean()


@mistake("4d", "Your straightness compares with the displacement of one step's share, in other units than velocities.")
def straightness(path):
    n = len(path) - 1
    return (path.diff(dim=0) - (path[-1] - path[0]) / n).square().flatten(2).sum(-1).mean()


@mistake("4d", "Your straightness averages over the numbers of an example: there it sums.")
def straightness(path):
    n = len(path) - 1
    return (n * path.diff(dim=0) - (path[-1] - path[0])).square().mean()


@mistake("4d", "Your straightness sums over the steps or the batch: there it averages.")
def straightness(path):
    n = len(path) - 1
    return (n * path.diff(dim=0) - (path[-1] - path[0])).square().sum() / path.shape[1]


@mistake("4d", "Your velocities are n + 1 times the displacements: a path of n + 1 places has n steps.")
def straightness(path):
    n = len(path)
    return (n * path.diff(dim=0) - (path[-1] - path[0])).square().flatten(2).sum(-1).mean()


@mistake("4d", "Your straightness has the length of the deviation, not its square.")
def straightness(path):
    n = len(path) - 1
    return (n * path.diff(dim=0) - (path[-1] - path[0])).flatten(2).norm(dim=-1).mean()


@mistake(
    "4d", "Your straightness is 0 for every path: deviations in opposite directions cancel unless they are squared."
)
def straightness(path):
    return 0.0 * path.sum()


@mistake("4d", "In your velocity for independent pairs the noise counts with the wrong sign: x_1 - x_0 falls with x_0.")
def gaussian_velocity(x, t, mean, std):
    t = t.unsqueeze(1)
    return mean + (t * std**2 + (1 - t)) / (t**2 * std**2 + (1 - t) ** 2) * (x - t * mean)


@mistake("4d", "Your velocity for independent pairs is not taken about the mean of x_t, which is t times mu.")
def gaussian_velocity(x, t, mean, std):
    t = t.unsqueeze(1)
    return mean + (t * std**2 - (1 - t)) / (t**2 * std**2 + (1 - t) ** 2) * (x - mean)


@mistake("4d", "Your velocity for independent pairs lacks the mean of x_1 - x_0.")
def gaussian_velocity(x, t, mean, std):
    t = t.unsqueeze(1)
    return (t * std**2 - (1 - t)) / (t**2 * std**2 + (1 - t) ** 2) * (x - t * mean)


@mistake("4d", "Your velocity for independent pairs has std where a variance belongs: covariances hold its square.")
def gaussian_velocity(x, t, mean, std):
    t = t.unsqueeze(1)
    return mean + (t * std - (1 - t)) / (t**2 * std + (1 - t) ** 2) * (x - t * mean)


@mistake("4d", "Your velocity for independent pairs has the deviation of x_t where its variance divides.")
def gaussian_velocity(x, t, mean, std):
    t = t.unsqueeze(1)
    return mean + (t * std**2 - (1 - t)) / torch.sqrt(t**2 * std**2 + (1 - t) ** 2) * (x - t * mean)


@mistake(
    "4d", "Your velocity for independent pairs is that of the flow's own pairs: independent ones add their variances."
)
def gaussian_velocity(x, t, mean, std):
    return rectified_velocity(x, t, mean, std)


@mistake("4d", "Your velocity for independent pairs is E[x_1 | x_t] without the noise's part.")
def gaussian_velocity(x, t, mean, std):
    t = t.unsqueeze(1)
    return mean + t * std**2 / (t**2 * std**2 + (1 - t) ** 2) * (x - t * mean)


@mistake("4d", "Your velocity for the flow's own pairs is that for independent ones: here x_0 determines x_1.")
def rectified_velocity(x, t, mean, std):
    return gaussian_velocity(x, t, mean, std)


@mistake("4d", "Your velocity for the flow's own pairs takes x for the noise: at time t it is further on its way.")
def rectified_velocity(x, t, mean, std):
    return mean + (std - 1) * x


@mistake("4d", "For the flow's own pairs you find x_0 without taking the mean off: x_t also moves by t times mu.")
def rectified_velocity(x, t, mean, std):
    return mean + (std - 1) * x / (1 + t * (std - 1))[:, None]


@mistake("4d", "Your velocity for the flow's own pairs leads to x_1 = mu + std x_0, but does not subtract x_0.")
def rectified_velocity(x, t, mean, std):
    t = t.unsqueeze(1)
    return mean + std * (x - t * mean) / (1 + t * (std - 1))


@mistake("4d", "For the flow's own pairs you add variances as if noise and data were independent.")
def rectified_velocity(x, t, mean, std):
    t = t.unsqueeze(1)
    return mean + (std - 1) * (x - t * mean) / torch.sqrt((1 - t) ** 2 + t**2 * std**2)


# 5a. Patches


@mistake(
    "5a", "One reshape cuts strips, not squares: rows and columns must be split apart and brought into order first."
)
def patchify(x, p):
    return x.reshape(len(x), -1, p * p * x.shape[1])


@mistake("5a", "Inside of your tokens the channel runs slowest: it runs fastest here.")
def patchify(x, p):
    return F.unfold(x, p, stride=p).transpose(1, 2)


@mistake("5a", "Your patches are numbered column by column: they are numbered as one reads.")
def patchify(x, p):
    B, C, H, W = x.shape
    cut = x.view(B, C, H // p, p, W // p, p)
    return cut.permute(0, 4, 2, 3, 5, 1).reshape(B, -1, p * p * C)


@mistake("5a", "Inside of your patches the pixels are ordered column by column: the row comes first.")
def patchify(x, p):
    B, C, H, W = x.shape
    cut = x.view(B, C, H // p, p, W // p, p)
    return cut.permute(0, 2, 4, 5, 3, 1).reshape(B, -1, p * p * C)


@mistake("5a", "Your tokens stand on the last axis: (B, tokens, numbers of a token) is asked for.")
def patchify(x, p):
    B, C, H, W = x.shape
    cut = x.view(B, C, H // p, p, W // p, p)
    return cut.permute(0, 3, 5, 1, 2, 4).reshape(B, p * p * C, -1)


@mistake("5a", "You split rows and columns the wrong way round: pixels of one patch are neighbours, not p apart.")
def patchify(x, p):
    B, C, H, W = x.shape
    cut = x.view(B, C, p, H // p, p, W // p)
    return cut.permute(0, 3, 5, 2, 4, 1).reshape(B, -1, p * p * C)


@mistake("5a", "unpatchify is one reshape: it must undo the reordering of patchify as well.")
def unpatchify(tokens, p, shape):
    return tokens.reshape(len(tokens), *shape)


@mistake("5a", "unpatchify takes the channel for the slowest number of a token: it runs fastest.")
def unpatchify(tokens, p, shape):
    return F.fold(tokens.transpose(1, 2), shape[1:], p, stride=p)


@mistake("5a", "unpatchify takes all images for squares: height and width are given in `shape`.")
def unpatchify(tokens, p, shape):
    side = int(math.sqrt(tokens.shape[1]))
    x = tokens.reshape(len(tokens), side, side, p, p, -1)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(len(tokens), -1, side * p, side * p)


@mistake("5a", "unpatchify exchanges rows and columns inside of each patch.")
def unpatchify(tokens, p, shape):
    C, H, W = shape
    grid = tokens.reshape(len(tokens), H // p, W // p, p, p, C)
    return grid.permute(0, 5, 1, 4, 2, 3).reshape(-1, C, H, W)


@mistake(
    "5a", "unpatchify keeps patch and pixel axes side by side: the row of the patch goes with the row of the pixel."
)
def unpatchify(tokens, p, shape):
    C, H, W = shape
    grid = tokens.reshape(len(tokens), H // p, W // p, p, p, C)
    return grid.permute(0, 5, 1, 2, 3, 4).reshape(-1, C, H, W)


@mistake("5a", "unpatchify leaves the channels last: images are (B, C, H, W).")
def unpatchify(tokens, p, shape):
    C, H, W = shape
    grid = tokens.reshape(len(tokens), H // p, W // p, p, p, C)
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(-1, H, W, C)


# 5b. A block that listens to the time


@mistake("5b", "Your scale multiplies as it is: it is added to 1, so that a scale of 0 changes nothing.")
def modulate(h, shift, scale):
    return h * scale.unsqueeze(1) + shift.unsqueeze(1)


@mistake("5b", "The roles of shift and scale are exchanged in modulate.")
def modulate(h, shift, scale):
    return h * (1 + shift).unsqueeze(1) + scale.unsqueeze(1)


@mistake("5b", "In modulate, vectors (B, d) as they are meet the wrong axis of (B, L, d): tokens get mixed up.")
def modulate(h, shift, scale):
    return h * (1 + scale) + shift


@mistake("5b", "modulate leaves out the shift.")
def modulate(h, shift, scale):
    return h * (1 + scale).unsqueeze(1)


@mistake("5b", "modulate shifts first and scales the shift too: it scales h alone.")
def modulate(h, shift, scale):
    return (h + shift.unsqueeze(1)) * (1 + scale).unsqueeze(1)


def dials_b(block, c):
    return [v.unsqueeze(1) for v in block.modulation(F.silu(c)).chunk(6, dim=-1)]


def think_b(block, h, how="tanh"):
    return block.down(F.gelu(block.up(h), approximate=how))


def turn_b(h, shift, scale):
    return h * (1 + scale) + shift


@mistake("5b", "Your new block is not the identity: start weights and biases of the modulation at zero.")
class DiTBlock(DiTBlock):
    def __init__(self, d, num_heads):
        super().__init__(d, num_heads)
        self.modulation.reset_parameters()


@mistake("5b", "Your modulation's biases do not start at zero: the gates of a new block are open.")
class DiTBlock(DiTBlock):
    def __init__(self, d, num_heads):
        super().__init__(d, num_heads)
        nn.init.uniform_(self.modulation.bias, 0.1, 0.5)


@mistake(
    "5b", "Everything in your block starts at zero: then no part of it ever gets a gradient. Only the modulation does."
)
class DiTBlock(DiTBlock):
    def __init__(self, d, num_heads):
        super().__init__(d, num_heads)
        for weight in self.parameters():
            nn.init.zeros_(weight)


@mistake("5b", "Your block returns its input whatever its weights are: that is right for a new block only.")
class DiTBlock(DiTBlock):
    def forward(self, x, c):
        return x + 0 * self.modulation(c).sum()


@mistake("5b", "Your block leaves out the gates: each addition to the stream is multiplied by one.")
class DiTBlock(DiTBlock):
    def forward(self, x, c):
        b1, s1, _, b2, s2, _ = dials_b(self, c)
        x = x + self.attention(turn_b(self.norm(x), b1, s1))
        return x + think_b(self, turn_b(self.norm(x), b2, s2))


@mistake("5b", "Your gates are used as 1 + gate, like a scale: a gate of 0 must close.")
class DiTBlock(DiTBlock):
    def forward(self, x, c):
        b1, s1, g1, b2, s2, g2 = dials_b(self, c)
        x = x + (1 + g1) * self.attention(turn_b(self.norm(x), b1, s1))
        return x + (1 + g2) * think_b(self, turn_b(self.norm(x), b2, s2))


@mistake(
    "5b", "Your six vectors are in another order: shift, scale, gate, first for attention, then for the perceptron."
)
class DiTBlock(DiTBlock):
    def forward(self, x, c):
        s1, b1, g1, s2, b2, g2 = dials_b(self, c)
        x = x + g1 * self.attention(turn_b(self.norm(x), b1, s1))
        return x + g2 * think_b(self, turn_b(self.norm(x), b2, s2))


@mistake("5b", "You read two shifts, two scales, two gates: the first three vectors belong to attention.")
class DiTBlock(DiTBlock):
    def forward(self, x, c):
        b1, b2, s1, s2, g1, g2 = dials_b(self, c)
        x = x + g1 * self.attention(turn_b(self.norm(x), b1, s1))
        return x + g2 * think_b(self, turn_b(self.norm(x), b2, s2))


@mistake("5b", "The conditioning goes into the linear layer without its SiLU.")
class DiTBlock(DiTBlock):
    def forward(self, x, c):
        b1, s1, g1, b2, s2, g2 = self.modulation(c).unsqueeze(1).chunk(6, dim=-1)
        x = x + g1 * self.attention(turn_b(self.norm(x), b1, s1))
        return x + g2 * think_b(self, turn_b(self.norm(x), b2, s2))


@mistake("5b", "Your block does not normalise the stream before it modulates it.")
class DiTBlock(DiTBlock):
    def forward(self, x, c):
        b1, s1, g1, b2, s2, g2 = dials_b(self, c)
        x = x + g1 * self.attention(turn_b(x, b1, s1))
        return x + g2 * think_b(self, turn_b(x, b2, s2))


@mistake("5b", "Your perceptron sees the stream from before the attention: it comes after it, on the new stream.")
class DiTBlock(DiTBlock):
    def forward(self, x, c):
        b1, s1, g1, b2, s2, g2 = dials_b(self, c)
        seen = self.norm(x)
        return x + g1 * self.attention(turn_b(seen, b1, s1)) + g2 * think_b(self, turn_b(seen, b2, s2))


@mistake("5b", "Your block loses the stream: gated attention and perceptron are added to x.")
class DiTBlock(DiTBlock):
    def forward(self, x, c):
        b1, s1, g1, b2, s2, g2 = dials_b(self, c)
        x = g1 * self.attention(turn_b(self.norm(x), b1, s1))
        return g2 * think_b(self, turn_b(self.norm(x), b2, s2))


@mistake("5b", "Both halves of your block use the vectors of the first: the perceptron has its own three.")
class DiTBlock(DiTBlock):
    def forward(self, x, c):
        b1, s1, g1, _, _, _ = dials_b(self, c)
        x = x + g1 * self.attention(turn_b(self.norm(x), b1, s1))
        return x + g1 * think_b(self, turn_b(self.norm(x), b1, s1))


@mistake("5b", "Your GELU is the exact one: the tanh approximation is asked for, as in the published weights.")
class DiTBlock(DiTBlock):
    def forward(self, x, c):
        b1, s1, g1, b2, s2, g2 = dials_b(self, c)
        x = x + g1 * self.attention(turn_b(self.norm(x), b1, s1))
        return x + g2 * think_b(self, turn_b(self.norm(x), b2, s2), "none")


@mistake("5b", "Your gates also multiply the stream itself: they gate what is added to it.")
class DiTBlock(DiTBlock):
    def forward(self, x, c):
        b1, s1, g1, b2, s2, g2 = dials_b(self, c)
        x = g1 * (x + self.attention(turn_b(self.norm(x), b1, s1)))
        return g2 * (x + think_b(self, turn_b(self.norm(x), b2, s2)))


# 5c. A number as a vector


def clocks_b(t, exponents, max_period, scale):
    return scale * t.unsqueeze(1) * max_period ** (-exponents)


@mistake("5c", "Your sines come first: the cosines do.")
def sinusoidal_embedding(t, d, *, max_period=10000.0, scale=1.0):
    a = clocks_b(t, torch.arange(d // 2) / (d // 2), max_period, scale)
    return torch.cat([a.sin(), a.cos()], 1)


@mistake("5c", "Your cosines and sines alternate: all cosines come first, then all sines.")
def sinusoidal_embedding(t, d, *, max_period=10000.0, scale=1.0):
    a = clocks_b(t, torch.arange(d // 2) / (d // 2), max_period, scale)
    return torch.stack([a.cos(), a.sin()], -1).flatten(1)


@mistake("5c", "Your slowest clock is 1/max_period itself: the exponent divides by d/2, not by d/2 - 1.")
def sinusoidal_embedding(t, d, *, max_period=10000.0, scale=1.0):
    a = clocks_b(t, torch.arange(d // 2) / max(d // 2 - 1, 1), max_period, scale)
    return torch.cat([a.cos(), a.sin()], 1)


@mistake("5c", "Your exponent divides by d: there are only d/2 clocks.")
def sinusoidal_embedding(t, d, *, max_period=10000.0, scale=1.0):
    a = clocks_b(t, torch.arange(d // 2) / d, max_period, scale)
    return torch.cat([a.cos(), a.sin()], 1)


@mistake("5c", "Your frequencies grow from 1: the first clock is the fastest, so the exponent is negative.")
def sinusoidal_embedding(t, d, *, max_period=10000.0, scale=1.0):
    a = clocks_b(t, -torch.arange(d // 2) / (d // 2), max_period, scale)
    return torch.cat([a.cos(), a.sin()], 1)


@mistake("5c", "`scale` is ignored: it stretches the time before the clocks read it.")
def sinusoidal_embedding(t, d, *, max_period=10000.0, scale=1.0):
    a = clocks_b(t, torch.arange(d // 2) / (d // 2), max_period, 1.0)
    return torch.cat([a.cos(), a.sin()], 1)


@mistake("5c", "`scale` multiplies the embedding: it stretches the time.")
def sinusoidal_embedding(t, d, *, max_period=10000.0, scale=1.0):
    a = clocks_b(t, torch.arange(d // 2) / (d // 2), max_period, 1.0)
    return scale * torch.cat([a.cos(), a.sin()], 1)


@mistake("5c", "`max_period` is ignored: it need not be 10,000.")
def sinusoidal_embedding(t, d, *, max_period=10000.0, scale=1.0):
    a = clocks_b(t, torch.arange(d // 2) / (d // 2), 10000.0, scale)
    return torch.cat([a.cos(), a.sin()], 1)


@mistake("5c", "Your clocks turn once in a unit of time: there is no factor of 2 pi in the angle.")
def sinusoidal_embedding(t, d, *, max_period=10000.0, scale=1.0):
    a = clocks_b(t, torch.arange(d // 2) / (d // 2), max_period, 2 * math.pi * scale)
    return torch.cat([a.cos(), a.sin()], 1)


@mistake("5c", "You start at i = 1: the first clock, i = 0, has the frequency 1.")
def sinusoidal_embedding(t, d, *, max_period=10000.0, scale=1.0):
    a = clocks_b(t, torch.arange(1, d // 2 + 1) / (d // 2), max_period, scale)
    return torch.cat([a.cos(), a.sin()], 1)
