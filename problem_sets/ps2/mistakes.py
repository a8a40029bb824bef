"""Typical wrong answers to problem set 2, each with the hint that a student who makes it reads.

Read by the grader and never imported; each runs on top of the solution, one at a time.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from autograder.authoring import mistake

LOG_TWO_PI_A = math.log(2 * math.pi)


def right_units_a(mu, logvar):
    return 0.5 * (mu**2 + torch.exp(logvar) - logvar - 1)


def right_pixels_a(x, logits):
    return -torch.nn.functional.binary_cross_entropy_with_logits(
        logits, x.expand_as(logits) if x.ndim <= logits.ndim else x, reduction="none"
    )


def right_codes_a(mu, logvar, noise):
    return mu + torch.exp(logvar / 2) * noise


# 1a. KL divergences between Gaussians


@mistake("1a", "The factor 1/2 is missing in your KL to N(0, I).")
def kl_to_standard_normal(mu, logvar):
    return 2 * right_units_a(mu, logvar).sum(-1)


@mistake("1a", "Your KL to N(0, I) is averaged over the units: those of independent coordinates add up.")
def kl_to_standard_normal(mu, logvar):
    return right_units_a(mu, logvar).mean(-1)


@mistake("1a", "Your KL to N(0, I) is the sum over the whole batch: each example has one of its own.")
def kl_to_standard_normal(mu, logvar):
    return right_units_a(mu, logvar).sum()


@mistake("1a", "Your KL to N(0, I) keeps the units apart: they are summed over the last axis.")
def kl_to_standard_normal(mu, logvar):
    return right_units_a(mu, logvar)


@mistake("1a", "You take logvar for the logarithm of the standard deviation: it is that of the variance.")
def kl_to_standard_normal(mu, logvar):
    return right_units_a(mu, 2 * logvar).sum(-1)


@mistake("1a", "You take logvar for the variance itself: exponentiate it first.")
def kl_to_standard_normal(mu, logvar):
    return 0.5 * (mu**2 + logvar - 1 - torch.log(logvar.abs())).sum(-1)


@mistake("1a", "The sign of your KL to N(0, I) is wrong: a KL divergence is never negative.")
def kl_to_standard_normal(mu, logvar):
    return -right_units_a(mu, logvar).sum(-1)


@mistake("1a", "Your KL to N(0, I) is right for a variance of 1 only: the width has a price, too.")
def kl_to_standard_normal(mu, logvar):
    return 0.5 * (mu**2).sum(-1)


@mistake("1a", "Your KL to N(0, I) is 0 whatever q is: it must grow as q leaves the prior.")
def kl_to_standard_normal(mu, logvar):
    return torch.zeros_like(mu.sum(-1))


@mistake("1a", "You sum over axis 1: with more or fewer leading axes, the units are still the last axis.")
def kl_to_standard_normal(mu, logvar):
    return right_units_a(mu, logvar).sum(1)


@mistake("1a", "You have computed KL(p || q): the other order was asked for.")
def kl_diagonal_normals(mu_q, logvar_q, mu_p, logvar_p):
    ratio = (logvar_p - logvar_q).exp()
    return 0.5 * (ratio + (mu_q - mu_p) ** 2 / logvar_q.exp() - 1 - logvar_p + logvar_q).sum(-1)


@mistake("1a", "Your squared distance of the means is not divided by the variance of p.")
def kl_diagonal_normals(mu_q, logvar_q, mu_p, logvar_p):
    return right_units_a(mu_q - mu_p, logvar_q - logvar_p).sum(-1)


@mistake(
    "1a", "Your squared distance of the means is divided by a standard deviation: the square has the variance below."
)
def kl_diagonal_normals(mu_q, logvar_q, mu_p, logvar_p):
    scaled = (mu_q - mu_p) / (logvar_p / 4).exp()
    return right_units_a(scaled, logvar_q - logvar_p).sum(-1)


@mistake("1a", "Your KL of two Gaussians has the logarithm of the ratio of variances upside down.")
def kl_diagonal_normals(mu_q, logvar_q, mu_p, logvar_p):
    scaled = (mu_q - mu_p) / (logvar_p / 2).exp()
    return (right_units_a(scaled, logvar_q - logvar_p) + (logvar_q - logvar_p)).sum(-1)


@mistake("1a", "Your -1 is subtracted once: there is one for each coordinate, or a Gaussian differs from itself.")
def kl_diagonal_normals(mu_q, logvar_q, mu_p, logvar_p):
    scaled = (mu_q - mu_p) / (logvar_p / 2).exp()
    units = right_units_a(scaled, logvar_q - logvar_p) + 0.5
    return units.sum(-1) - 0.5


# 1b. Samples and densities


@mistake("1b", "Your noise is multiplied by the variance: it belongs to the standard deviation.")
def reparameterize(mu, logvar, noise=None):
    return mu + logvar.exp() * (torch.randn_like(mu) if noise is None else noise)


@mistake("1b", "Your noise is multiplied by logvar itself, which may be negative: the standard deviation is wanted.")
def reparameterize(mu, logvar, noise=None):
    return mu + logvar * (torch.randn_like(mu) if noise is None else noise)


@mistake("1b", "You draw noise although it is given: use `noise` where there is one.")
def reparameterize(mu, logvar, noise=None):
    shape = mu if noise is None else noise
    return right_codes_a(mu, logvar, torch.randn_like(shape))


@mistake("1b", "Where no noise is given you draw it uniformly: it is standard normal.")
def reparameterize(mu, logvar, noise=None):
    return right_codes_a(mu, logvar, torch.rand_like(mu) if noise is None else noise)


@mistake("1b", "Where no noise is given you draw one vector for the whole batch: every example has its own.")
def reparameterize(mu, logvar, noise=None):
    return right_codes_a(mu, logvar, torch.randn_like(mu[0]) if noise is None else noise)


@mistake("1b", "Where no noise is given you return the mean: draw the noise.")
def reparameterize(mu, logvar, noise=None):
    return mu if noise is None else right_codes_a(mu, logvar, noise)


@mistake("1b", "Your sample ignores the width: noise of standard deviation 1 is right for logvar = 0 only.")
def reparameterize(mu, logvar, noise=None):
    return mu + (torch.randn_like(mu) if noise is None else noise)


@mistake("1b", "Your sample is cut off from both networks: no gradient reaches mu or logvar.")
def reparameterize(mu, logvar, noise=None):
    with torch.no_grad():
        return right_codes_a(mu, logvar, torch.randn_like(mu) if noise is None else noise)


@mistake("1b", "The width of your sample is detached: logvar gets no gradient through z.")
def reparameterize(mu, logvar, noise=None):
    return right_codes_a(mu, logvar.detach(), torch.randn_like(mu) if noise is None else noise)


@mistake("1b", "You return the mean, and the noise does not enter.")
def reparameterize(mu, logvar, noise=None):
    return mu + 0 * right_codes_a(mu, logvar, torch.randn_like(mu) if noise is None else noise)


@mistake("1b", "The log-density of your code lacks the constant log 2 pi, once for each coordinate.")
def log_normal(z, mu, logvar):
    return -0.5 * ((z - mu) ** 2 / logvar.exp() + logvar).sum(-1)


@mistake("1b", "The log-density of your code has log 2 pi once: it is there for each coordinate.")
def log_normal(z, mu, logvar):
    return -0.5 * ((z - mu) ** 2 / logvar.exp() + logvar).sum(-1) - 0.5 * LOG_TWO_PI_A


@mistake("1b", "Your code's log-density lacks the logarithm of the width: a wide density would be too high.")
def log_normal(z, mu, logvar):
    return -0.5 * ((z - mu) ** 2 / logvar.exp() + LOG_TWO_PI_A).sum(-1)


@mistake(
    "1b", "Your code's log-density is right for logvar = 0 only: the distance is to be measured in standard deviations."
)
def log_normal(z, mu, logvar):
    return -0.5 * ((z - mu) ** 2 + LOG_TWO_PI_A).sum(-1)


@mistake("1b", "In the log-density of your code logvar stands without its factor 1/2.")
def log_normal(z, mu, logvar):
    return -(0.5 * (z - mu) ** 2 / logvar.exp() + logvar + 0.5 * LOG_TWO_PI_A).sum(-1)


@mistake("1b", "You divide by a standard deviation where the square has the variance below it.")
def log_normal(z, mu, logvar):
    return -0.5 * ((z - mu) ** 2 / (0.5 * logvar).exp() + logvar + LOG_TWO_PI_A).sum(-1)


@mistake("1b", "The log-density of your code is a mean over its coordinates: independent ones add up.")
def log_normal(z, mu, logvar):
    return -0.5 * ((z - mu) ** 2 / logvar.exp() + logvar + LOG_TWO_PI_A).mean(-1)


@mistake("1b", "You average over the pixels: independent pixels multiply, so their logarithms add.")
def log_bernoulli(x, logits):
    return right_pixels_a(x, logits).mean(-1)


@mistake("1b", "Your pixels that are 0 count for nothing: they have a probability as well.")
def log_bernoulli(x, logits):
    return (x * torch.nn.functional.logsigmoid(logits)).sum(-1)


@mistake("1b", "Your sign is that of a loss: the log-probability of an image is at most 0.")
def log_bernoulli(x, logits):
    return -right_pixels_a(x, logits).sum(-1)


@mistake("1b", "Your logarithm meets a sigmoid that was rounded to 0 or 1: go from logits to logarithms directly.")
def log_bernoulli(x, logits):
    p = torch.sigmoid(logits)
    return (x * p.log() + (1 - x) * (1 - p).log()).sum(-1)


@mistake(
    "1b", "Keeping the probabilities away from 0 and 1 hides the infinity and gives another number, without a gradient."
)
def log_bernoulli(x, logits):
    p = torch.sigmoid(logits).clamp(1e-10, 1 - 1e-10)
    return (x * p.log() + (1 - x) * (1 - p).log()).sum(-1)


@mistake(
    "1b", "exp of a large logit overflows: write log(1 + e^l) so that only exponentials of negative numbers occur."
)
def log_bernoulli(x, logits):
    return (x * logits - torch.log(1 + logits.exp())).sum(-1)


@mistake("1b", "Your image's density treats ones as zeros: a large logit makes a 1 probable.")
def log_bernoulli(x, logits):
    return right_pixels_a(1 - x, logits).sum(-1)


# 1c. The evidence lower bound


def parts_a(x, encode, decode, noise):
    """The terms of each image: (B, *shape) and (B, Z)."""
    mu, logvar = encode(x)
    return right_pixels_a(x, decode(right_codes_a(mu, logvar, noise))), right_units_a(mu, logvar)


@mistake("1c", "Your pixels are averaged, and your units are summed: the KL weighs far too much.")
def elbo(x, encode, decode, noise):
    pixels, units = parts_a(x, encode, decode, noise)
    return pixels.flatten(1).mean(1) - units.sum(1)


@mistake("1c", "Your KL is averaged over the units, and the pixels are summed: a bound needs both sums.")
def elbo(x, encode, decode, noise):
    pixels, units = parts_a(x, encode, decode, noise)
    return pixels.flatten(1).sum(1) - units.mean(1)


@mistake("1c", "Your KL is added: what a code costs is subtracted from what it explains.")
def elbo(x, encode, decode, noise):
    pixels, units = parts_a(x, encode, decode, noise)
    return pixels.flatten(1).sum(1) + units.sum(1)


@mistake("1c", "There is no KL in your bound: that is an autoencoder, and no bound on log p(x).")
def elbo(x, encode, decode, noise):
    return parts_a(x, encode, decode, noise)[0].flatten(1).sum(1)


@mistake("1c", "There is only the KL in your bound: the log-likelihood of the image is missing.")
def elbo(x, encode, decode, noise):
    return -parts_a(x, encode, decode, noise)[1].sum(1)


@mistake("1c", "You decode the mean of q: the expectation is over codes drawn from q, with the noise given.")
def elbo(x, encode, decode, noise):
    mu, logvar = encode(x)
    return right_pixels_a(x, decode(mu)).flatten(1).sum(1) - right_units_a(mu, logvar).sum(1)


@mistake(
    "1c", "You decode the noise: it must be shifted and stretched to a code of q first, or x is not encoded at all."
)
def elbo(x, encode, decode, noise):
    return right_pixels_a(x, decode(noise)).flatten(1).sum(1) - parts_a(x, encode, decode, noise)[1].sum(1)


@mistake("1c", "You put a sigmoid on what decode returns and take that for logits: they are logits as they are.")
def elbo(x, encode, decode, noise):
    mu, logvar = encode(x)
    logits = decode(right_codes_a(mu, logvar, noise)).sigmoid()
    return right_pixels_a(x, logits).flatten(1).sum(1) - right_units_a(mu, logvar).sum(1)


@mistake(
    "1c", "You sum over the last axis only: an image may have rows, columns and colours, and all its pixels count."
)
def elbo(x, encode, decode, noise):
    pixels, units = parts_a(x, encode, decode, noise)
    return pixels.sum(-1) - units.sum(-1)


@mistake("1c", "You sum over the batch: each image has a bound of its own, (B,).")
def elbo(x, encode, decode, noise):
    pixels, units = parts_a(x, encode, decode, noise)
    return pixels.sum() - units.sum()


@mistake("1c", "Your code is detached: the encoder gets no gradient from the log-likelihood, only from the KL.")
def elbo(x, encode, decode, noise):
    mu, logvar = encode(x)
    z = right_codes_a(mu, logvar, noise).detach()
    return right_pixels_a(x, decode(z)).flatten(1).sum(1) - right_units_a(mu, logvar).sum(1)


@mistake("1c", "Your KL is detached: its value is right, and no network hears of it.")
def elbo(x, encode, decode, noise):
    pixels, units = parts_a(x, encode, decode, noise)
    return pixels.flatten(1).sum(1) - units.detach().sum(1)


@mistake("1c", "Your loss is the bound itself: minimising it makes the model worse.")
def vae_loss(x, encode, decode, noise):
    return elbo(x, encode, decode, noise).mean()


@mistake("1c", "Your loss is a sum over the batch: with another batch size, the step would be another.")
def vae_loss(x, encode, decode, noise):
    return -elbo(x, encode, decode, noise).sum()


@mistake("1c", "Your loss is divided by the number of pixels as well: the only mean is the one over the batch.")
def vae_loss(x, encode, decode, noise):
    return -elbo(x, encode, decode, noise).mean() / x[0].numel()


@mistake("1c", "Your loss is turned into a plain number: no gradient can leave it.")
def vae_loss(x, encode, decode, noise):
    return -elbo(x, encode, decode, noise).mean().item()


@mistake("1c", "Your loss is 0 whatever the model does.")
def vae_loss(x, encode, decode, noise):
    return 0 * elbo(x, encode, decode, noise).mean()


# 1d. Many codes


def pieces_a(x, encode, decode, noise):
    """log p(x | z), (B, k), and z, mu, logvar for the codes."""
    mu, logvar = (v[:, None] for v in encode(x))
    z = right_codes_a(mu, logvar, noise)
    a = decode(z)
    return right_pixels_a(x[:, None], a).sum(-1), z, mu, logvar


def log_prior_a(z):
    return -0.5 * (z**2 + LOG_TWO_PI_A).sum(-1)


def log_q_a(noise, logvar):
    return -0.5 * (noise**2 + logvar + LOG_TWO_PI_A).sum(-1)


@mistake(
    "1d", "You subtract the KL's closed form, a mean over all codes: each code needs its own log p(z) - log q(z | x)."
)
def log_weights(x, encode, decode, noise):
    likelihood, _, mu, logvar = pieces_a(x, encode, decode, noise)
    return likelihood - right_units_a(mu, logvar).sum(-1)


@mistake("1d", "Your weights lack q: a code that the encoder proposes often must count for less each time.")
def log_weights(x, encode, decode, noise):
    likelihood, z, _, _ = pieces_a(x, encode, decode, noise)
    return likelihood + log_prior_a(z)


@mistake("1d", "Your weights lack the prior of the codes.")
def log_weights(x, encode, decode, noise):
    likelihood, _, _, logvar = pieces_a(x, encode, decode, noise)
    return likelihood - log_q_a(noise, logvar)


@mistake("1d", "Prior and q have changed places in your weights: log p(z) is added, log q(z | x) subtracted.")
def log_weights(x, encode, decode, noise):
    likelihood, z, _, logvar = pieces_a(x, encode, decode, noise)
    return likelihood - log_prior_a(z) + log_q_a(noise, logvar)


@mistake("1d", "Your weights hold the likelihood alone: prior and q of each code are missing.")
def log_weights(x, encode, decode, noise):
    return pieces_a(x, encode, decode, noise)[0]


@mistake("1d", "Your log q is that of the noise: z is stretched by sigma, so log q lacks the logarithm of sigma.")
def log_weights(x, encode, decode, noise):
    likelihood, z, _, logvar = pieces_a(x, encode, decode, noise)
    return likelihood + log_prior_a(z) - log_q_a(noise, 0 * logvar)


@mistake("1d", "All codes of an image are the same in your weights: each has its own noise.")
def log_weights(x, encode, decode, noise):
    noise = noise[:, :1].expand_as(noise)
    likelihood, z, _, logvar = pieces_a(x, encode, decode, noise)
    return likelihood + log_prior_a(z) - log_q_a(noise, logvar)


@mistake(
    "1d", "Your means and widths are matched to the codes, not to the images: they need an axis of length 1 for k."
)
def log_weights(x, encode, decode, noise):
    mu, logvar = encode(x)
    if noise.shape[1] != len(x):
        mu, logvar = mu[:, None], logvar[:, None]
    z = right_codes_a(mu, logvar, noise)
    log_q = log_q_a(noise, logvar.expand_as(noise))
    return right_pixels_a(x[:, None], decode(z)).sum(-1) + log_prior_a(z) - log_q


@mistake("1d", "The pixels are averaged in your log-weights: they add up.")
def log_weights(x, encode, decode, noise):
    likelihood, z, _, logvar = pieces_a(x, encode, decode, noise)
    return likelihood / x.shape[1] + log_prior_a(z) - log_q_a(noise, logvar)


@mistake("1d", "A mean of logarithms is the ELBO again, with less noise: the logarithm stands outside of the mean.")
def iwae_bound(log_w):
    return log_w.mean(1)


@mistake("1d", "Your bound is the logarithm of a sum: for the mean over the codes, log k is missing.")
def iwae_bound(log_w):
    return torch.logsumexp(log_w, 1)


@mistake("1d", "You divide by k outside of the logarithm: the mean is inside.")
def iwae_bound(log_w):
    return torch.logsumexp(log_w, 1) / log_w.shape[1]


@mistake("1d", "Your average is over the images: it is over the codes of one image, the second axis.")
def iwae_bound(log_w):
    return torch.logsumexp(log_w, 0) - math.log(len(log_w))


@mistake("1d", "Your bound leaves the logarithms: exp of a log-weight of -2000 is 0, and that of 800 is infinite.")
def iwae_bound(log_w):
    return log_w.exp().mean(1).log()


@mistake("1d", "You take the best code alone: the bound is the logarithm of the mean of all weights.")
def iwae_bound(log_w):
    return log_w.max(1).values


@mistake("1d", "You subtract the largest log-weight and forget to add it again.")
def iwae_bound(log_w):
    return (log_w - log_w.max(1, keepdim=True).values).exp().mean(1).log()


@mistake(
    "1d", "Your bound's value is right, its gradient is not: the largest log-weight was detached on one side only."
)
def iwae_bound(log_w):
    top = log_w.max(1, keepdim=True).values
    return (log_w - top).exp().mean(1).log() + top.detach()[:, 0]


@mistake("1d", "Your weights are normalised over the whole batch: those of each image sum to 1.")
def importance_weights(log_w):
    return log_w.flatten().softmax(0).view_as(log_w)


@mistake("1d", "Your weights are normalised over the images: those of the k codes of one image sum to 1.")
def importance_weights(log_w):
    return log_w.softmax(0)


@mistake("1d", "Your normalised weights leave the logarithms too early: exp gives 0 or infinity, and their ratio NaN.")
def importance_weights(log_w):
    return log_w.exp() / log_w.exp().sum(1, keepdim=True)


@mistake("1d", "You return logarithms of normalised weights: the weights themselves are asked for.")
def importance_weights(log_w):
    return log_w.log_softmax(1)


@mistake("1d", "Your effective sample size is the sum of squares itself: it is one over that.")
def effective_sample_size(log_w):
    return (log_w.softmax(1) ** 2).sum(1)


@mistake("1d", "Your effective sample size is a share of k: a number of codes between 1 and k is asked for.")
def effective_sample_size(log_w):
    return 1 / (log_w.softmax(1) ** 2).mean(1) / log_w.shape[1] ** 2


@mistake(
    "1d", "Your effective sample size takes the weights as they are: their size is that of p(x), so normalise them."
)
def effective_sample_size(log_w):
    return 1 / (log_w.exp() ** 2).sum(1)


# 1e. Posterior collapse


@mistake("1e", "Your KL of the units is summed over the batch: the mean over the images is asked for.")
def kl_per_unit(mu, logvar):
    return right_units_a(mu, logvar).sum(0)


@mistake("1e", "You add up the units and keep the images: here it is the other way round.")
def kl_per_unit(mu, logvar):
    return right_units_a(mu, logvar).sum(1)


@mistake("1e", "Your KL of the units is that of the average mean and log-variance: average the KLs of the images.")
def kl_per_unit(mu, logvar):
    return right_units_a(mu.mean(0), logvar.mean(0))


@mistake("1e", "You keep a KL for each image and unit: average over the images.")
def kl_per_unit(mu, logvar):
    return right_units_a(mu, logvar)


@mistake("1e", "The KL of your units is 0: collapse is what you are to measure, not to assume.")
def kl_per_unit(mu, logvar):
    return torch.zeros_like(mu[0])


@mistake(
    "1e", "A unit is active if its mean varies from image to image: a mean that is large and constant says nothing."
)
def active_units(mu, threshold=0.01):
    return int(((mu**2).mean(0) > threshold).sum())


@mistake("1e", "You count images whose code varies from unit to unit: count units that vary from image to image.")
def active_units(mu, threshold=0.01):
    return int((mu.var(1) > threshold).sum())


@mistake("1e", "Your threshold is compared to a standard deviation: it is meant for the variance.")
def active_units(mu, threshold=0.01):
    return int((mu.std(0) > threshold).sum())


@mistake("1e", "You count the units that are not active.")
def active_units(mu, threshold=0.01):
    return int((mu.var(0) <= threshold).sum())


@mistake("1e", "active_units ignores the threshold that it is given.")
def active_units(mu, threshold=0.01):
    return int((mu.var(0) > 0.01).sum())


@mistake("1e", "You return which units are active: their number is asked for.")
def active_units(mu, threshold=0.01):
    return mu.var(0) > threshold


@mistake("1e", "Your KL weight grows beyond 1 after the warm-up.")
def kl_weight(step, warmup):
    return step / warmup if warmup else 1.0


@mistake("1e", "Your KL weight is a step ahead: it is 0 at step 0 and 1 at step `warmup`.")
def kl_weight(step, warmup):
    return min(1.0, (step + 1) / (warmup + 1))


@mistake("1e", "Your KL weight falls from 1 to 0: the price comes in slowly, and stays.")
def kl_weight(step, warmup):
    return max(0.0, 1 - step / warmup) if warmup else 1.0


@mistake("1e", "Your KL weight divides by 0 where there is no warm-up: then it is 1 from the beginning.")
def kl_weight(step, warmup):
    return min(1.0, step / warmup)


@mistake("1e", "Your KL weight jumps from 0 to 1: it grows linearly in between.")
def kl_weight(step, warmup):
    return float(step >= warmup)


@mistake("1e", "Your KL weight stays 0 where there is no warm-up: then it is 1 from the beginning.")
def kl_weight(step, warmup):
    return min(1.0, step / max(warmup, 1))


@mistake("1e", "Your weight is on the likelihood: it belongs to the KL.")
def weighted_loss(log_likelihood, mu, logvar, weight=1.0, free_bits=0.0):
    return right_units_a(mu, logvar).mean(0).clamp(min=free_bits).sum() - weight * log_likelihood.mean()


@mistake("1e", "Your weight is on the whole loss: that is another learning rate, and no annealing.")
def weighted_loss(log_likelihood, mu, logvar, weight=1.0, free_bits=0.0):
    return weight * (right_units_a(mu, logvar).mean(0).clamp(min=free_bits).sum() - log_likelihood.mean())


@mistake("1e", "Your loss ignores its weight.")
def weighted_loss(log_likelihood, mu, logvar, weight=1.0, free_bits=0.0):
    return right_units_a(mu, logvar).mean(0).clamp(min=free_bits).sum() - log_likelihood.mean()


@mistake("1e", "The sign of the log-likelihood is wrong in your loss: what is likely must make the loss small.")
def weighted_loss(log_likelihood, mu, logvar, weight=1.0, free_bits=0.0):
    return log_likelihood.mean() + weight * right_units_a(mu, logvar).mean(0).clamp(min=free_bits).sum()


@mistake("1e", "Your loss ignores the free bits.")
def weighted_loss(log_likelihood, mu, logvar, weight=1.0, free_bits=0.0):
    return weight * right_units_a(mu, logvar).mean(0).sum() - log_likelihood.mean()


@mistake("1e", "Your maximum is taken for each image: take the mean over the batch first.")
def weighted_loss(log_likelihood, mu, logvar, weight=1.0, free_bits=0.0):
    return weight * right_units_a(mu, logvar).clamp(min=free_bits).mean(0).sum() - log_likelihood.mean()


@mistake("1e", "Your maximum is taken after the sum over the units: one unit can use up what is free for all.")
def weighted_loss(log_likelihood, mu, logvar, weight=1.0, free_bits=0.0):
    return weight * right_units_a(mu, logvar).sum(1).mean().clamp(min=free_bits) - log_likelihood.mean()


@mistake("1e", "Your units are cut off above the free bits: it is below them that nothing is gained.")
def weighted_loss(log_likelihood, mu, logvar, weight=1.0, free_bits=0.0):
    kl = right_units_a(mu, logvar).mean(0)
    return weight * (kl.clamp(max=free_bits) if free_bits else kl).sum() - log_likelihood.mean()


@mistake("1e", "You subtract the free bits from each unit: a unit that uses more pays for all of it.")
def weighted_loss(log_likelihood, mu, logvar, weight=1.0, free_bits=0.0):
    return weight * (right_units_a(mu, logvar).mean(0) - free_bits).clamp(min=0).sum() - log_likelihood.mean()


@mistake("1e", "Your free bits are converted with log 2: in spite of the name they are given in nats.")
def weighted_loss(log_likelihood, mu, logvar, weight=1.0, free_bits=0.0):
    kl = right_units_a(mu, logvar).mean(0).clamp(min=free_bits * math.log(2))
    return weight * kl.sum() - log_likelihood.mean()


@mistake(
    "1e", "The gradient of your units below the free bits is not 0: the value was replaced, not the maximum taken."
)
def weighted_loss(log_likelihood, mu, logvar, weight=1.0, free_bits=0.0):
    kl = right_units_a(mu, logvar).mean(0)
    return weight * (kl + (kl.clamp(min=free_bits) - kl).detach()).sum() - log_likelihood.mean()


@mistake("1e", "Your loss is the mean over the units of the KL: they add up.")
def weighted_loss(log_likelihood, mu, logvar, weight=1.0, free_bits=0.0):
    return weight * right_units_a(mu, logvar).mean(0).clamp(min=free_bits).mean() - log_likelihood.mean()


# 1f. The VQ-VAE


def distances_a(z_e, codebook):
    return ((z_e.unsqueeze(-2) - codebook) ** 2).sum(-1)


@mistake("1f", "You have chosen the codebook vector that is farthest away.")
def nearest_codes(z_e, codebook):
    return distances_a(z_e, codebook).argmax(-1)


@mistake("1f", "You compare inner products without the norms of the codebook: long vectors win, near or not.")
def nearest_codes(z_e, codebook):
    return (z_e @ codebook.T).argmax(-1)


@mistake("1f", "You return the vectors themselves: nearest_codes gives their numbers.")
def nearest_codes(z_e, codebook):
    return codebook[distances_a(z_e, codebook).argmin(-1)]


@mistake("1f", "You return distances: the number of the nearest vector is asked for.")
def nearest_codes(z_e, codebook):
    return distances_a(z_e, codebook).min(-1).values


@mistake("1f", "For each codebook vector you choose an example: each example chooses a codebook vector.")
def nearest_codes(z_e, codebook):
    return distances_a(z_e, codebook).reshape(-1, len(codebook)).argmin(0)


@mistake("1f", "You lose the leading axes: a grid of vectors has a grid of codes.")
def nearest_codes(z_e, codebook):
    return distances_a(z_e, codebook).reshape(-1, len(codebook)).argmin(-1)


@mistake(
    "1f", "All gradient goes to z_q, and none to z_e: it would move the codebook, and the encoder would never learn."
)
def straight_through(z_e, z_q):
    return z_q + 0 * z_e


@mistake("1f", "Your straight-through tensor has the value of z_e: the decoder must see the quantised vector.")
def straight_through(z_e, z_q):
    return z_q + (z_e - z_q).detach()


@mistake("1f", "Your straight-through tensor is detached altogether: the encoder gets no gradient.")
def straight_through(z_e, z_q):
    return z_q.detach()


@mistake("1f", "Value and gradient to z_e are right, but the codebook gets the decoder's gradient as well: detach z_q.")
def straight_through(z_e, z_q):
    return z_q + (z_e - z_e.detach())


@mistake("1f", "Your gradient is halved between z_e and z_q: it goes to z_e alone, unchanged.")
def straight_through(z_e, z_q):
    middle = 0.5 * (z_e + z_q)
    return middle + (z_q - middle).detach()


@mistake("1f", "Your straight-through tensor is the encoder's output: nothing is quantised.")
def straight_through(z_e, z_q):
    return z_e + 0 * z_q.detach()


@mistake("1f", "Your two losses have changed places: the first one moves the codebook, the second one the encoder.")
def vq_losses(z_e, z_q):
    return ((z_e - z_q.detach()) ** 2).sum(-1).mean(), ((z_e.detach() - z_q) ** 2).sum(-1).mean()


@mistake("1f", "Nothing is detached in your losses: each moves both sides.")
def vq_losses(z_e, z_q):
    both = ((z_e - z_q) ** 2).sum(-1).mean()
    return both, both


@mistake("1f", "Everything is detached in your losses: they move nothing.")
def vq_losses(z_e, z_q):
    both = ((z_e - z_q) ** 2).sum(-1).mean().detach()
    return both, both


@mistake("1f", "Both of your losses move the encoder, and the codebook stands still.")
def vq_losses(z_e, z_q):
    both = ((z_e - z_q.detach()) ** 2).sum(-1).mean()
    return both, both


@mistake("1f", "Both of your losses move the codebook, and the encoder is not held to it.")
def vq_losses(z_e, z_q):
    both = ((z_e.detach() - z_q) ** 2).sum(-1).mean()
    return both, both


@mistake("1f", "Your losses average over the coordinates: the squared norm sums over them.")
def vq_losses(z_e, z_q):
    return ((z_e.detach() - z_q) ** 2).mean(), ((z_e - z_q.detach()) ** 2).mean()


@mistake("1f", "Your losses sum over all vectors: take the mean.")
def vq_losses(z_e, z_q):
    return ((z_e.detach() - z_q) ** 2).sum(), ((z_e - z_q.detach()) ** 2).sum()


@mistake("1f", "Your losses are norms: their squares are asked for.")
def vq_losses(z_e, z_q):
    return (z_e.detach() - z_q).norm(dim=-1).mean(), (z_e - z_q.detach()).norm(dim=-1).mean()


@mistake("1f", "Your losses are added up: return both, since each gets a weight of its own.")
def vq_losses(z_e, z_q):
    return ((z_e.detach() - z_q) ** 2).sum(-1).mean() + ((z_e - z_q.detach()) ** 2).sum(-1).mean()


@mistake("1f", "Your perplexity is an entropy: exponentiate it.")
def perplexity(codes, K):
    usage = torch.bincount(codes.flatten(), minlength=K).double() / codes.numel()
    return torch.special.entr(usage).sum()


@mistake("1f", "0 log 0 is NaN in your perplexity: a vector that is never chosen contributes 0.")
def perplexity(codes, K):
    usage = torch.bincount(codes.flatten(), minlength=K).double() / codes.numel()
    return (-(usage * usage.log()).sum()).exp()


@mistake("1f", "You count the codebook vectors that were chosen at all: rare ones count for less in a perplexity.")
def perplexity(codes, K):
    return (torch.bincount(codes.flatten(), minlength=K) > 0).double().sum()


@mistake("1f", "Your perplexity takes the entropy in bits for one in nats.")
def perplexity(codes, K):
    usage = torch.bincount(codes.flatten(), minlength=K).double() / codes.numel()
    return (torch.special.entr(usage).sum() / math.log(2)).exp()


@mistake("1f", "Your perplexity is a share of K: a number between 1 and K is asked for.")
def perplexity(codes, K):
    usage = torch.bincount(codes.flatten(), minlength=K).double() / codes.numel()
    return torch.special.entr(usage).sum().exp() / K


@mistake("1f", "Your usage is counted along the first axis alone: all vectors of the batch count alike.")
def perplexity(codes, K):
    usage = torch.nn.functional.one_hot(codes, K).double().mean(0)
    return torch.special.entr(usage).sum(-1).exp()


# 1g. A VAE on handwritten digits


def networks_a(latent=12, hidden=128):
    linear, silu = torch.nn.Linear, torch.nn.SiLU
    encoder = torch.nn.Sequential(linear(64, hidden), silu(), linear(hidden, 2 * latent))
    return encoder, torch.nn.Sequential(linear(latent, hidden), silu(), linear(hidden, 64))


def layers_of_a(net):
    return [(f.weight.detach(), f.bias.detach()) for f in net if isinstance(f, torch.nn.Linear)]


def train_a(train, loss_of, steps=250, latent=12, rate=4e-3):
    """Networks that are trained on loss_of(x, mu, the encoder's second half, decoder)."""
    encoder, decoder = networks_a(latent)
    descent = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=rate)
    for _ in range(steps):
        x = train[torch.randint(len(train), (128,))].float()
        mu, half = encoder(x).chunk(2, -1)
        loss = loss_of(x, mu, half, decoder)
        descent.zero_grad()
        loss.backward()
        descent.step()
    return encoder, decoder


def draw_a(mu, logvar):
    return right_codes_a(mu, logvar, torch.randn_like(mu))


def right_loss_a(x, mu, logvar, decoder):
    return right_units_a(mu, logvar).sum(1).mean() - right_pixels_a(x, decoder(draw_a(mu, logvar))).sum(1).mean()


@mistake("1g", "Your model averages over the pixels: the KL outweighs them, the code collapses, and nothing is gained.")
def fit_vae(train, latent=12, weight=1.0, steps=2500):
    def loss(x, mu, logvar, decoder):
        return right_units_a(mu, logvar).sum(1).mean() - right_pixels_a(x, decoder(draw_a(mu, logvar))).mean()

    return tuple(map(layers_of_a, train_a(train, loss)))


@mistake("1g", "Your encoder's second half was trained as log sigma, and it is used as log sigma^2.")
def fit_vae(train, latent=12, weight=1.0, steps=2500):
    def loss(x, mu, log_std, decoder):
        return right_loss_a(x, mu, 2 * log_std, decoder)

    return tuple(map(layers_of_a, train_a(train, loss)))


@mistake("1g", "Your model is trained without the KL: its codes lie where the prior never draws one.")
def fit_vae(train, latent=12, weight=1.0, steps=2500):
    def loss(x, mu, logvar, decoder):
        return -right_pixels_a(x, decoder(draw_a(mu, logvar))).sum(1).mean()

    return tuple(map(layers_of_a, train_a(train, loss)))


@mistake("1g", "Your networks were never trained: they are returned as they were made.")
def fit_vae(train, latent=12, weight=1.0, steps=2500):
    return tuple(map(layers_of_a, networks_a()))


@mistake("1g", "Your model has hardly moved: the learning rate is tiny for so few steps.")
def fit_vae(train, latent=12, weight=1.0, steps=2500):
    return tuple(map(layers_of_a, train_a(train, right_loss_a, rate=3e-5)))


@mistake("1g", "Your model was right on its way and stopped too early: give it some thousand steps.")
def fit_vae(train, latent=12, weight=1.0, steps=2500):
    return tuple(map(layers_of_a, train_a(train, right_loss_a, steps=150)))


@mistake("1g", "Your encoder learns from the KL alone, since the codes are cut off from it: they say nothing.")
def fit_vae(train, latent=12, weight=1.0, steps=2500):
    def loss(x, mu, logvar, decoder):
        z = draw_a(mu, logvar).detach()
        return right_units_a(mu, logvar).sum(1).mean() - right_pixels_a(x, decoder(z)).sum(1).mean()

    return tuple(map(layers_of_a, train_a(train, loss)))


@mistake("1g", "You decode the mean while training: the width is then chosen by the KL alone, and the codes blur.")
def fit_vae(train, latent=12, weight=1.0, steps=2500):
    def loss(x, mu, logvar, decoder):
        return right_units_a(mu, logvar).sum(1).mean() - right_pixels_a(x, decoder(mu)).sum(1).mean()

    return tuple(map(layers_of_a, train_a(train, loss)))


@mistake("1g", "Your decoder was trained with a sigmoid between it and what takes logits: its output is too large.")
def fit_vae(train, latent=12, weight=1.0, steps=2500):
    def loss(x, mu, logvar, decoder):
        return right_loss_a(x, mu, logvar, lambda z: decoder(z).sigmoid())

    return tuple(map(layers_of_a, train_a(train, loss)))


@mistake("1g", "One unit is a thin code: digits differ in more than one way.")
def fit_vae(train, latent=12, weight=1.0, steps=2500):
    return tuple(map(layers_of_a, train_a(train, right_loss_a, steps=300, latent=1)))


@mistake("1g", "Your weights are the transposes of what is asked for: (out, in), as torch.nn.Linear keeps them.")
def fit_vae(train, latent=12, weight=1.0, steps=2500):
    encoder, decoder = map(layers_of_a, networks_a())
    return [(w.T, b) for w, b in encoder], [(w.T, b) for w, b in decoder]


@mistake("1g", "Encoder and decoder have changed places: the encoder comes first.")
def fit_vae(train, latent=12, weight=1.0, steps=2500):
    encoder, decoder = map(layers_of_a, networks_a())
    return decoder, encoder


@mistake("1g", "Your encoder gives one number for each unit of the code: two are needed, a mean and a log-variance.")
def fit_vae(train, latent=12, weight=1.0, steps=2500):
    encoder, decoder = map(layers_of_a, networks_a())
    return [*encoder[:-1], tuple(v[:12] for v in encoder[-1])], decoder


# 2a. Change of variables


@mistake("2a", "standard_normal_log_prob counts log 2 pi once: each of the D coordinates brings half of it.")
def standard_normal_log_prob(z):
    return -0.5 * (z.square().sum(-1) + math.log(2 * math.pi))


@mistake("2a", "standard_normal_log_prob lacks its constant: without it, no density of yours integrates to 1.")
def standard_normal_log_prob(z):
    return -0.5 * z.square().sum(-1)


@mistake(
    "2a", "linear_forward multiplies by the transposed matrix: each row of x is a vector that W acts on from the left."
)
def linear_forward(x, weight, bias):
    return x @ weight + bias, torch.linalg.slogdet(weight).logabsdet.expand(len(x))


@mistake("2a", "linear_forward takes the logarithm of the determinant itself: where that is negative, there is none.")
def linear_forward(x, weight, bias):
    return x @ weight.T + bias, torch.logdet(weight).expand(len(x))


@mistake(
    "2a",
    "linear_forward computes a determinant, then its logarithm: in many dimensions it is 0 or infinite in between.",
)
def linear_forward(x, weight, bias):
    return x @ weight.T + bias, torch.linalg.det(weight).abs().log().expand(len(x))


@mistake("2a", "linear_forward gives the log-determinant of the way back: the map that was applied goes from x to z.")
def linear_forward(x, weight, bias):
    return x @ weight.T + bias, -torch.linalg.slogdet(weight).logabsdet.expand(len(x))


@mistake("2a", "linear_forward's log_det is one number: each of the B points has its own entry, here all alike.")
def linear_forward(x, weight, bias):
    return x @ weight.T + bias, torch.linalg.slogdet(weight).logabsdet


@mistake("2a", "linear_forward's log_det is 0: a map that stretches space dilutes the density.")
def linear_forward(x, weight, bias):
    return x @ weight.T + bias, x.new_zeros(len(x))


def logit_b(x, alpha, slack=1.0, sign=1.0, mean=False, per_point=True):
    """The logit with places to go wrong in."""
    p = alpha + (1 - 2 * alpha) * x
    slopes = slack * math.log(1 - 2 * alpha) - p.log() - (-p).log1p()
    total = slopes.mean(-1) if mean else slopes.sum(-1)
    return torch.logit(p), sign * total if per_point else slopes


@mistake("2a", "logit_forward's derivative forgets the inner one: p itself moves by 1 - 2 alpha where x moves by 1.")
def logit_forward(x, alpha=0.05):
    return logit_b(x, alpha, slack=0.0)


@mistake("2a", "logit_forward's log_det has the sign of the way back: near the edges the logit stretches space.")
def logit_forward(x, alpha=0.05):
    return logit_b(x, alpha, sign=-1.0)


@mistake(
    "2a", "logit_forward's log_det is a mean over the coordinates: the determinant is a product, its logarithm a sum."
)
def logit_forward(x, alpha=0.05):
    return logit_b(x, alpha, mean=True)


@mistake("2a", "logit_forward returns the logarithm of each coordinate's slope: log_det is one number for each point.")
def logit_forward(x, alpha=0.05):
    return logit_b(x, alpha, per_point=False)


@mistake("2a", "logit_forward ignores alpha: at black and white the logit is infinite.")
def logit_forward(x, alpha=0.05):
    return logit_b(x, 0.0)


@mistake("2a", "logit_forward's log_det is 0: each coordinate is stretched by its own slope.")
def logit_forward(x, alpha=0.05):
    return logit_b(x, alpha, sign=0.0)


@mistake("2a", "flow_log_prob leaves log_det out: that is the density of the noise, at the noise.")
def flow_log_prob(x, forward):
    return standard_normal_log_prob(forward(x)[0])


@mistake(
    "2a", "flow_log_prob subtracts log_det, which belongs to the map from x to z: where it stretches, p(x) is larger."
)
def flow_log_prob(x, forward):
    z, log_det = forward(x)
    return standard_normal_log_prob(z) - log_det


@mistake("2a", "flow_log_prob asks the normal density at x: it belongs to the noise that x is sent to.")
def flow_log_prob(x, forward):
    return standard_normal_log_prob(x) + forward(x)[1]


@mistake("2a", "flow_log_prob averages over the batch: each point has its own log-density, (B,).")
def flow_log_prob(x, forward):
    z, log_det = forward(x)
    return (standard_normal_log_prob(z) + log_det).mean()


# 2b. An affine coupling


def coupling_b(
    v, net, swap, back, bound=True, flip_ts=False, log_det=None, place=None, ceil=False, scale=None, affine=None
):
    """A coupling, either way, with places to go wrong in."""
    n = v.shape[1] - v.shape[1] // 2 if ceil else v.shape[1] // 2
    first, second = v[:, :n], v[:, n:]
    a, b = (second, first) if swap else (first, second)
    raw, t = net(a).chunk(2, dim=1)
    if flip_ts:
        raw, t = t, raw
    s = 2 * torch.tanh(raw / 2) if bound else raw
    factor = s.exp() if scale is None else scale(s)
    moved = affine(b, s, t) if affine else (b - t) / factor if back else b * factor + t
    total = log_det(s) if log_det else (-s if back else s).sum(1)
    order = swap if place is None else place
    return torch.cat([moved, a] if order else [a, moved], 1), total


@mistake("2b", "The raw log-scale goes into your exponential as it is: it is to be passed through bounded first.")
def coupling_forward(x, net, swap=False):
    return coupling_b(x, net, swap, False, bound=False)


@mistake("2b", "You multiply by s where e^s belongs: a factor of 0 could not be undone.")
def coupling_forward(x, net, swap=False):
    return coupling_b(x, net, swap, False, scale=lambda s: s)


@mistake(
    "2b", "You multiply by 1 + s: this is e^s near s = 0 only, and it is right where a flow starts and nowhere else."
)
def coupling_forward(x, net, swap=False):
    return coupling_b(x, net, swap, False, scale=lambda s: 1 + s)


@mistake("2b", "Your log_det is 0: true for a flow that has not been trained yet, wrong ever after.")
def coupling_forward(x, net, swap=False):
    return coupling_b(x, net, swap, False, log_det=lambda s: torch.zeros(len(s), dtype=s.dtype))


@mistake("2b", "Your coupling leaves x as it is: that is how a flow starts, before its networks say anything.")
def coupling_forward(x, net, swap=False):
    return x.clone(), torch.zeros(len(x), dtype=x.dtype)


@mistake("2b", "Your log_det runs over the whole batch: each point has a determinant of its own.")
def coupling_forward(x, net, swap=False):
    return coupling_b(x, net, swap, False, log_det=lambda s: s.sum().expand(len(s)))


@mistake("2b", "Your forward map's log_det has the wrong sign: stretching, e^s > 1, counts as positive.")
def coupling_forward(x, net, swap=False):
    return coupling_b(x, net, swap, False, log_det=lambda s: -s.sum(1))


@mistake("2b", "You take the shift for the log-scale: what the network puts out begins with r, and t follows.")
def coupling_forward(x, net, swap=False):
    return coupling_b(x, net, swap, False, flip_ts=True)


@mistake("2b", "You shift before you stretch: going forward, x_b is multiplied first.")
def coupling_forward(x, net, swap=False):
    return coupling_b(x, net, swap, False, affine=lambda b, s, t: (b + t) * s.exp())


@mistake("2b", "coupling_forward ignores swap.")
def coupling_forward(x, net, swap=False):
    return coupling_b(x, net, False, False)


@mistake("2b", "With swap, your forward map joins the parts in the wrong order: each coordinate keeps its place.")
def coupling_forward(x, net, swap=False):
    return coupling_b(x, net, swap, False, place=False)


@mistake("2b", "In an odd number of dimensions your first part is the larger one: it has D // 2 coordinates.")
def coupling_forward(x, net, swap=False):
    return coupling_b(x, net, swap, False, ceil=True)


@mistake("2b", "coupling_forward changes x itself, in place: the caller still needs it.")
def coupling_forward(x, net, swap=False):
    z, log_det = coupling_b(x, net, swap, False)
    x.copy_(z)
    return x, log_det


@mistake("2b", "The inverse divides before it subtracts: undo the last step first.")
def coupling_inverse(z, net, swap=False):
    return coupling_b(z, net, swap, True, affine=lambda b, s, t: b * (-s).exp() - t)


@mistake(
    "2b", "The inverse's log_det is that of the forward map: it belongs to the map from z to x, which shrinks again."
)
def coupling_inverse(z, net, swap=False):
    return coupling_b(z, net, swap, True, log_det=lambda s: s.sum(1))


@mistake("2b", "The inverse does the forward map once more: subtract and divide.")
def coupling_inverse(z, net, swap=False):
    return coupling_b(z, net, swap, False)


@mistake("2b", "The inverse asks the network about the part that moved: only z_a is what the forward map has seen.")
def coupling_inverse(z, net, swap=False):
    n = z.shape[1] // 2
    z_a, z_b = z[:, :n], z[:, n:]
    raw, t = net(z_b[:, :n]).chunk(2, dim=1)
    s = 2 * torch.tanh(raw / 2)
    return torch.cat([z_a, (z_b - t) * (-s).exp()], 1), -s.sum(1)


@mistake("2b", "coupling_inverse ignores swap.")
def coupling_inverse(z, net, swap=False):
    return coupling_b(z, net, False, True)


@mistake("2b", "With swap, your inverse joins the parts in the wrong order: each coordinate keeps its place.")
def coupling_inverse(z, net, swap=False):
    return coupling_b(z, net, swap, True, place=False)


@mistake("2b", "The inverse uses the raw log-scale: both directions pass it through bounded.")
def coupling_inverse(z, net, swap=False):
    return coupling_b(z, net, swap, True, bound=False)


# 2c. RealNVP


@mistake("2c", "All your layers leave the same part alone: it is never modelled. The parts take turns.")
def realnvp_forward(x, nets):
    total = x.new_zeros(len(x))
    for net in nets:
        x, log_det = coupling_forward(x, net)
        total = total + log_det
    return x, total


@mistake("2c", "Your turns begin with the wrong part: layer 0 has swap=False.")
def realnvp_forward(x, nets):
    total = x.new_zeros(len(x))
    for k, net in enumerate(nets):
        x, log_det = coupling_forward(x, net, swap=k % 2 == 0)
        total = total + log_det
    return x, total


@mistake("2c", "realnvp_forward keeps the last layer's log_det only: those of all layers add.")
def realnvp_forward(x, nets):
    for k, net in enumerate(nets):
        x, log_det = coupling_forward(x, net, swap=k % 2 == 1)
    return x, log_det


@mistake("2c", "Each of your layers is given x: it takes what the layer before it put out.")
def realnvp_forward(x, nets):
    total = x.new_zeros(len(x))
    for k, net in enumerate(nets):
        z, log_det = coupling_forward(x, net, swap=k % 2 == 1)
        total = total + log_det
    return z, total


@mistake("2c", "realnvp_forward subtracts the layers' log-determinants: those of maps in a row add.")
def realnvp_forward(x, nets):
    total = x.new_zeros(len(x))
    for k, net in enumerate(nets):
        x, log_det = coupling_forward(x, net, swap=k % 2 == 1)
        total = total - log_det
    return x, total


@mistake("2c", "realnvp_forward runs through the layers from the last to the first: data enters at layer 0.")
def realnvp_forward(x, nets):
    total = x.new_zeros(len(x))
    for k in reversed(range(len(nets))):
        x, log_det = coupling_forward(x, nets[k], swap=k % 2 == 1)
        total = total + log_det
    return x, total


@mistake("2c", "realnvp_forward returns a log_det of 0: true before training, when every layer is the identity.")
def realnvp_forward(x, nets):
    for k, net in enumerate(nets):
        x, _ = coupling_forward(x, net, swap=k % 2 == 1)
    return x, x.new_zeros(len(x))


@mistake("2c", "realnvp_log_prob forgets the volume: add the layers' log-determinants.")
def realnvp_log_prob(x, nets):
    return standard_normal_log_prob(realnvp_forward(x, nets)[0])


@mistake("2c", "Your samples run through the layers in the order of the data: noise enters at the last layer.")
def realnvp_sample(noise, nets):
    for k, net in enumerate(nets):
        noise, _ = coupling_inverse(noise, net, swap=k % 2 == 1)
    return noise


@mistake(
    "2c", "On the way back your turns are counted from the noise: a layer keeps the swap that it had going forward."
)
def realnvp_sample(noise, nets):
    for k, net in enumerate(reversed(list(nets))):
        noise, _ = coupling_inverse(noise, net, swap=k % 2 == 1)
    return noise


@mistake("2c", "realnvp_sample applies the forward layers: noise becomes data through their inverses.")
def realnvp_sample(noise, nets):
    for k in reversed(range(len(nets))):
        noise, _ = coupling_forward(noise, nets[k], swap=k % 2 == 1)
    return noise


@mistake("2c", "realnvp_sample ignores the turns: undo each layer with its own swap.")
def realnvp_sample(noise, nets):
    for net in reversed(list(nets)):
        noise, _ = coupling_inverse(noise, net)
    return noise


@mistake("2c", "realnvp_sample returns the noise: true before training, when every layer is the identity.")
def realnvp_sample(noise, nets):
    return noise.clone()


@mistake("2c", "realnvp_sample draws noise of its own: use the noise that it is given.")
def realnvp_sample(noise, nets):
    x = torch.randn_like(noise)
    for k in reversed(range(len(nets))):
        x, _ = coupling_inverse(x, nets[k], swap=k % 2 == 1)
    return x


# 2d. Masks that keep the order


def masks_b(
    degrees,
    hidden,
    k,
    inner=torch.ge,
    outer=torch.gt,
    units=None,
    inputs=None,
    outputs=None,
    interleave=False,
    last=None,
):
    """The masks with places to go wrong in."""
    d = len(degrees)
    natural = torch.arange(1, d + 1)
    below, masks = natural if inputs == "natural" else degrees, []
    for n, width in enumerate(hidden):
        above = 1 + torch.arange(width) * (d - 1) // width if units is None else units(width, d)
        compare = inner if last is None or n == 0 else last
        masks.append(compare(above[:, None], below))
        below = above
    out = outer((natural if outputs == "natural" else degrees)[:, None], below)
    return [*masks, out.repeat_interleave(k, 0) if interleave else out.repeat(k, 1)]


@mistake(
    "2d", "Your outputs see units of their own degree, and so coordinate i sees itself: the output's rule is strict."
)
def made_masks(degrees, hidden, k=2):
    return masks_b(degrees, hidden, k, outer=torch.ge)


@mistake(
    "2d", "Your hidden units may not see units of their own degree: their rule is not strict, only the output's is."
)
def made_masks(degrees, hidden, k=2):
    return masks_b(degrees, hidden, k, inner=torch.gt)


@mistake(
    "2d", "Your masks follow the order 1, 2, ..., D: the degrees of the inputs are given, and so are the outputs'."
)
def made_masks(degrees, hidden, k=2):
    return masks_b(degrees, hidden, k, inputs="natural", outputs="natural")


@mistake("2d", "Your outputs follow the order 1, 2, ..., D, your inputs the given one: both have the given degrees.")
def made_masks(degrees, hidden, k=2):
    return masks_b(degrees, hidden, k, outputs="natural")


@mistake("2d", "Your hidden degrees begin at 0: such a unit sees nothing, and degree D - 1 never occurs.")
def made_masks(degrees, hidden, k=2):
    return masks_b(degrees, hidden, k, units=lambda width, d: torch.arange(width) * (d - 1) // width)


@mistake("2d", "All your hidden units have the degree 1: they see the first coordinate alone.")
def made_masks(degrees, hidden, k=2):
    return masks_b(degrees, hidden, k, units=lambda width, d: torch.ones(width, dtype=torch.int64))


@mistake("2d", "Your output units are grouped by coordinate: the first D units are one for each, then D more.")
def made_masks(degrees, hidden, k=2):
    return masks_b(degrees, hidden, k, interleave=True)


@mistake("2d", "Your output layer has D units: there are k numbers for each coordinate.")
def made_masks(degrees, hidden, k=2):
    return masks_b(degrees, hidden, 1)


@mistake("2d", "Your masks are transposed: rows belong to the units above, columns to those below.")
def made_masks(degrees, hidden, k=2):
    return [mask.T for mask in masks_b(degrees, hidden, k)]


@mistake("2d", "Your masks let everything through: that is an ordinary network, and every coordinate sees itself.")
def made_masks(degrees, hidden, k=2):
    return [torch.ones_like(mask) for mask in masks_b(degrees, hidden, k)]


@mistake("2d", "Your masks let nothing through: the order is kept, and nothing is modelled.")
def made_masks(degrees, hidden, k=2):
    return [torch.zeros_like(mask) for mask in masks_b(degrees, hidden, k)]


@mistake("2d", "Only your last mask keeps the order: the hidden layers mix everything before it gets there.")
def made_masks(degrees, hidden, k=2):
    *inner, out = masks_b(degrees, hidden, k)
    return [*(torch.ones_like(mask) for mask in inner), out]


def made_b(x, weights, biases, masks, first=True, last=True, relu_at_end=False, relu=True, bias=True, fold=None):
    """The network with places to go wrong in."""
    a = x
    for n, (weight, shift, mask) in enumerate(zip(weights, biases, masks)):
        masked = weight if (n == 0 and not first) or (n == len(weights) - 1 and not last) else weight * mask
        a = a @ masked.T + (shift if bias else 0)
        if relu and (relu_at_end or n < len(weights) - 1):
            a = a.relu()
    return fold(a) if fold else a.unflatten(1, (-1, x.shape[1]))


@mistake("2d", "made ignores the masks.")
def made(x, weights, biases, masks):
    return made_b(x, weights, biases, [torch.ones_like(mask) for mask in masks])


@mistake("2d", "made leaves the first layer's mask out.")
def made(x, weights, biases, masks):
    return made_b(x, weights, biases, masks, first=False)


@mistake("2d", "made ends in a ReLU: shifts and log-scales may be negative.")
def made(x, weights, biases, masks):
    return made_b(x, weights, biases, masks, relu_at_end=True)


@mistake("2d", "made has no ReLU: three linear layers in a row are one.")
def made(x, weights, biases, masks):
    return made_b(x, weights, biases, masks, relu=False)


@mistake("2d", "made leaves the biases out: they are all that the first coordinate has.")
def made(x, weights, biases, masks):
    return made_b(x, weights, biases, masks, bias=False)


@mistake("2d", "made groups its output by coordinate: entry [b, n, i] is output n D + i.")
def made(x, weights, biases, masks):
    return made_b(x, weights, biases, masks, fold=lambda a: a.unflatten(1, (x.shape[1], -1)).mT)


@mistake("2d", "made returns one long row for each point: (B, k, D) is asked for.")
def made(x, weights, biases, masks):
    return made_b(x, weights, biases, masks, fold=lambda a: a)


@mistake("2d", "made changes the weights that it is given, in place: the next call would find them masked.")
def made(x, weights, biases, masks):
    for weight, mask in zip(weights, masks):
        weight *= mask
    return made_b(x, weights, biases, masks)


# 2e. A masked autoregressive flow


def maf_b(x, net, bound=True, sign=1.0, swap=False, log_det=lambda alpha: -alpha.sum(1), white=None):
    """log p(x) with places to go wrong in."""
    mu, raw = net(x).unbind(1)
    if swap:
        mu, raw = raw, mu
    alpha = 2 * torch.tanh(raw / 2) if bound else raw
    z = white(x, mu, alpha) if white else (x - mu) * (-sign * alpha).exp()
    return standard_normal_log_prob(z) + log_det(alpha)


@mistake("2e", "Your log-density adds the log-scales: from data to noise the map divides by e^alpha.")
def maf_log_prob(x, net):
    return maf_b(x, net, log_det=lambda alpha: alpha.sum(1))


@mistake("2e", "Your log-density has no determinant: that is right only where all scales are 1, before training.")
def maf_log_prob(x, net):
    return maf_b(x, net, log_det=lambda alpha: 0.0)


@mistake("2e", "On its way to the noise your density multiplies by e^alpha: solve x = z e^alpha + mu for z.")
def maf_log_prob(x, net):
    return maf_b(x, net, sign=-1.0)


@mistake("2e", "Your density sends noise to data: it multiplies and adds where it should subtract and divide.")
def maf_log_prob(x, net):
    return maf_b(x, net, white=lambda x, mu, alpha: x * alpha.exp() + mu)


@mistake("2e", "Your density uses the raw log-scale: pass it through bounded.")
def maf_log_prob(x, net):
    return maf_b(x, net, bound=False)


@mistake("2e", "Your density takes mu for the log-scale: net's answer holds mu first, then r.")
def maf_log_prob(x, net):
    return maf_b(x, net, swap=True)


@mistake(
    "2e", "Your log-density calls the network once for each coordinate: all of the data is there, one call tells all."
)
def maf_log_prob(x, net):
    total = x.new_zeros(len(x))
    for i in range(x.shape[1]):
        mu, raw = net(x)[:, :, i].unbind(1)
        alpha = bounded(raw)
        total = total - 0.5 * ((x[:, i] - mu) * (-alpha).exp()) ** 2 - alpha - 0.5 * math.log(2 * math.pi)
    return total


@mistake("2e", "Your log-density calls the network twice: keep what it said.")
def maf_log_prob(x, net):
    mu, alpha = net(x)[:, 0], bounded(net(x)[:, 1])
    return standard_normal_log_prob((x - mu) * (-alpha).exp()) - alpha.sum(1)


def maf_draw_b(noise, net, start=0, steps=None, scale=lambda raw: bounded(raw).exp(), invert=False, reverse=False):
    """Samples with places to go wrong in."""
    x = torch.zeros_like(noise)
    order = list(range(noise.shape[1]))
    for i in (order[::-1] if reverse else order)[:steps]:
        mu, raw = net(x)[:, :, i].unbind(1)
        x[:, i] = (
            noise[:, i] if i < start else (noise[:, i] - mu) / scale(raw) if invert else noise[:, i] * scale(raw) + mu
        )
    return x


@mistake("2e", "Your samples take one pass: the network must see the data that is filled in, and not the noise.")
def maf_sample(noise, net):
    mu, raw = net(noise).unbind(1)
    return noise * bounded(raw).exp() + mu


@mistake("2e", "Your samples take x_1 for noise as it is: its conditional has a mean and a scale as well.")
def maf_sample(noise, net):
    return maf_draw_b(noise, net, start=1)


@mistake("2e", "Your samples end one coordinate early: the last one is never filled in.")
def maf_sample(noise, net):
    return maf_draw_b(noise, net, steps=-1)


@mistake("2e", "Your samples are made with the density's formula: from noise to data, multiply and add.")
def maf_sample(noise, net):
    return maf_draw_b(noise, net, invert=True)


@mistake("2e", "Your samples use the raw log-scale: pass it through bounded, as the density does.")
def maf_sample(noise, net):
    return maf_draw_b(noise, net, scale=lambda raw: raw.exp())


@mistake("2e", "Your samples call the network once more than is needed: after coordinate D nothing is left to ask.")
def maf_sample(noise, net):
    x = maf_draw_b(noise, net)
    net(x)
    return x


@mistake("2e", "Your samples call the network for each row by itself: all rows of a batch go through together.")
def maf_sample(noise, net):
    return torch.cat([maf_draw_b(row[None], net) for row in noise])


@mistake("2e", "Your samples ask for the mean and for the scale in two calls: one call tells both.")
def maf_sample(noise, net):
    x = torch.zeros_like(noise)
    for i in range(noise.shape[1]):
        x[:, i] = noise[:, i] * bounded(net(x)[:, 1, i]).exp() + net(x)[:, 0, i]
    return x


@mistake("2e", "maf_sample returns the noise: true before training, when the layer is the identity.")
def maf_sample(noise, net):
    return noise.clone()


# 2f. An inverse autoregressive flow


def iaf_draw_b(noise, nets, sign=-1.0, order=True, flip="between", bound=True, gauss=True, feed=True, last=False):
    """Samples and their density with places to go wrong in."""
    x, dets = noise, []
    for k in reversed(range(len(nets))) if order else range(len(nets)):
        m, raw = nets[k](x if feed else noise).unbind(1)
        s = bounded(raw) if bound else raw
        x = x * s.exp() + m
        dets.append(s.sum(1))
        if flip == "always" or (flip == "between" and k != (0 if order else len(nets) - 1)):
            x = x.flip(1)
    total = sign * (dets[-1] if last else sum(dets))
    return x, (standard_normal_log_prob(noise) if gauss else standard_normal_log_prob(x)) + total


@mistake(
    "2f",
    "The density of your samples adds the log-scales: a map from noise to data that stretches dilutes the density.",
)
def iaf_sample(noise, nets):
    return iaf_draw_b(noise, nets, sign=1.0)


@mistake("2f", "The density of your samples has no determinant: right only where all scales are 1, before training.")
def iaf_sample(noise, nets):
    return iaf_draw_b(noise, nets, sign=0.0)


@mistake("2f", "iaf_sample begins with layer 1: noise enters at layer K.")
def iaf_sample(noise, nets):
    return iaf_draw_b(noise, nets, order=False)


@mistake("2f", "iaf_sample never reverses the coordinates: the first one would then be modelled worst in every layer.")
def iaf_sample(noise, nets):
    return iaf_draw_b(noise, nets, flip="never")


@mistake("2f", "iaf_sample uses the raw log-scales: pass them through bounded.")
def iaf_sample(noise, nets):
    return iaf_draw_b(noise, nets, bound=False)


@mistake("2f", "All of iaf_sample's networks see the first noise: each is given what comes into its own layer.")
def iaf_sample(noise, nets):
    return iaf_draw_b(noise, nets, feed=False)


@mistake("2f", "iaf_sample fills in coordinate by coordinate, as a MAF must: here all noise is known at once.")
def iaf_sample(noise, nets):
    x, log_prob = noise, standard_normal_log_prob(noise)
    for k in reversed(range(len(nets))):
        y, x = x, torch.zeros_like(x)
        for i in range(x.shape[1]):
            m, raw = nets[k](x)[:, :, i].unbind(1)
            x[:, i] = y[:, i] * bounded(raw).exp() + m
            log_prob = log_prob - bounded(raw)
        x = x.flip(1) if k > 0 else x
    return x, log_prob


@mistake(
    "2f",
    "iaf_sample is right and calls the network for each coordinate: the noise is known, so one call a layer will do.",
)
def iaf_sample(noise, nets):
    for k in range(len(nets)):
        for _ in range(noise.shape[1] - 1):
            nets[k](noise)
    return iaf_draw_b(noise, nets)


def iaf_density_b(x, nets, sign=-1.0, order=True, flip="between", bound=True, wrong_side=False, steps=None, extra=0):
    """log p(x) with places to go wrong in."""
    total = x.new_zeros(len(x))
    layers = range(len(nets)) if order else list(reversed(range(len(nets))))
    for place, k in enumerate(layers):
        if flip == "always" or (flip == "between" and place > 0):
            x = x.flip(1)
        z = torch.zeros_like(x)
        for i in range(x.shape[1])[:steps]:
            m, raw = nets[k](x if wrong_side else z)[:, :, i].unbind(1)
            s = bounded(raw) if bound else raw
            z[:, i] = (x[:, i] - m) * (-s).exp()
            total = total + sign * s
        for _ in range(extra):
            nets[k](z)
        x = z
    return standard_normal_log_prob(x) + total


@mistake(
    "2f", "iaf_log_prob asks the networks about the data: the parameters depend on the noise before each coordinate."
)
def iaf_log_prob(x, nets):
    return iaf_density_b(x, nets, wrong_side=True)


@mistake("2f", "iaf_log_prob adds the log-scales: from data to noise they are divided by.")
def iaf_log_prob(x, nets):
    return iaf_density_b(x, nets, sign=1.0)


@mistake("2f", "iaf_log_prob has no determinant.")
def iaf_log_prob(x, nets):
    return iaf_density_b(x, nets, sign=0.0)


@mistake("2f", "iaf_log_prob begins with layer K: data enters at layer 1.")
def iaf_log_prob(x, nets):
    return iaf_density_b(x, nets, order=False)


@mistake("2f", "iaf_log_prob never reverses the coordinates, which sampling does between two layers.")
def iaf_log_prob(x, nets):
    return iaf_density_b(x, nets, flip="never")


@mistake("2f", "iaf_log_prob uses the raw log-scales: pass them through bounded.")
def iaf_log_prob(x, nets):
    return iaf_density_b(x, nets, bound=False)


@mistake("2f", "iaf_log_prob asks each network once more when all noise is found: collect the log-scales on the way.")
def iaf_log_prob(x, nets):
    return iaf_density_b(x, nets, extra=1)


@mistake("2f", "iaf_log_prob is the density of noise: x has to be sent through the layers first.")
def iaf_log_prob(x, nets):
    return standard_normal_log_prob(x)


# 3a. The losses of the two players


@mistake(
    "3a",
    "Your discriminator's loss takes the logarithm of a sigmoid, which has rounded to 0 or 1: stay with the logits.",
)
def discriminator_loss(real_logits, fake_logits):
    return -torch.sigmoid(real_logits).log().mean() - (1 - torch.sigmoid(fake_logits)).log().mean()


@mistake("3a", "Your small constant keeps the discriminator's logarithm finite and wrong: near -18 in place of -1000.")
def discriminator_loss(real_logits, fake_logits):
    return -(torch.sigmoid(real_logits) + 1e-8).log().mean() - (1 - torch.sigmoid(fake_logits) + 1e-8).log().mean()


@mistake("3a", "Your discriminator calls data fake and samples real.")
def discriminator_loss(real_logits, fake_logits):
    return -F.logsigmoid(-real_logits).mean() - F.logsigmoid(fake_logits).mean()


@mistake("3a", "Your discriminator's loss is V: it wants V large, and a loss is made small.")
def discriminator_loss(real_logits, fake_logits):
    return F.logsigmoid(real_logits).mean() + F.logsigmoid(-fake_logits).mean()


@mistake("3a", "Your discriminator's loss adds up over the batch: each expectation is a mean.")
def discriminator_loss(real_logits, fake_logits):
    return -F.logsigmoid(real_logits).sum() - F.logsigmoid(-fake_logits).sum()


@mistake("3a", "Your discriminator's loss is halved: V is the sum of two expectations, not their average.")
def discriminator_loss(real_logits, fake_logits):
    return 0.5 * (-F.logsigmoid(real_logits).mean() - F.logsigmoid(-fake_logits).mean())


@mistake("3a", "Your discriminator's mean runs over data and samples together: each of the two has its own mean.")
def discriminator_loss(real_logits, fake_logits):
    return 2 * torch.cat([-F.logsigmoid(real_logits), -F.logsigmoid(-fake_logits)]).mean()


@mistake("3a", "A sigmoid is applied to your logits before a loss that applies its own: it squashes them twice.")
def discriminator_loss(real_logits, fake_logits):
    real, fake = torch.sigmoid(real_logits), torch.sigmoid(fake_logits)
    return F.softplus(-real).mean() + F.softplus(fake).mean()


@mistake("3a", "Your discriminator's loss is 0: it has to be computed from the logits.")
def discriminator_loss(real_logits, fake_logits):
    return 0.0 * (real_logits.sum() + fake_logits.sum())


@mistake("3a", "generator_loss ignores the objective: it is non-saturating either way.")
def generator_loss(fake_logits, objective="non_saturating"):
    return -F.logsigmoid(fake_logits).mean()


@mistake("3a", "generator_loss ignores the objective: it is minimax either way.")
def generator_loss(fake_logits, objective="non_saturating"):
    return F.logsigmoid(-fake_logits).mean()


@mistake(
    "3a", "Your minimax generator minimises -log(1 - D): that is the discriminator's wish, and drives its samples away."
)
def generator_loss(fake_logits, objective="non_saturating"):
    return F.softplus(fake_logits).mean() if objective == "minimax" else F.softplus(-fake_logits).mean()


@mistake("3a", "Your non-saturating generator minimises log D: to look real, it should maximise it.")
def generator_loss(fake_logits, objective="non_saturating"):
    return -F.softplus(fake_logits).mean() if objective == "minimax" else -F.softplus(-fake_logits).mean()


@mistake(
    "3a", "Your generator's loss takes the logarithm of a sigmoid, which has rounded to 0 or 1: stay with the logits."
)
def generator_loss(fake_logits, objective="non_saturating"):
    d = torch.sigmoid(fake_logits)
    return (1 - d).log().mean() if objective == "minimax" else -d.log().mean()


@mistake("3a", "Your small constant keeps the generator's logarithm finite and takes the gradient away.")
def generator_loss(fake_logits, objective="non_saturating"):
    d = torch.sigmoid(fake_logits).clamp(1e-7, 1 - 1e-7)
    return (1 - d).log().mean() if objective == "minimax" else -d.log().mean()


@mistake("3a", "Your generator's losses add up over the batch: an expectation is a mean.")
def generator_loss(fake_logits, objective="non_saturating"):
    return -F.softplus(fake_logits).sum() if objective == "minimax" else F.softplus(-fake_logits).sum()


@mistake("3a", "Your generator's loss has no gradient: it was detached, or made of numbers.")
def generator_loss(fake_logits, objective="non_saturating"):
    a = fake_logits.detach()
    return (-F.softplus(a).mean() if objective == "minimax" else F.softplus(-a).mean()) + 0.0 * fake_logits.sum()


@mistake("3a", "Your generator's loss is 0.")
def generator_loss(fake_logits, objective="non_saturating"):
    return 0.0 * fake_logits.sum()


# 3b. The optimal discriminator


@mistake("3b", "Your discriminator gives the probability of a sample: D is that of data.")
def optimal_discriminator(p, q):
    return torch.where(p + q > 0, q / (p + q), 0.5)


@mistake("3b", "p / q is how much more often data comes up there, not a probability: it may exceed 1.")
def optimal_discriminator(p, q):
    return torch.where(p + q > 0, p / q, 0.5)


@mistake("3b", "Where neither p nor q has mass your discriminator is 0/0: say 1/2.")
def optimal_discriminator(p, q):
    return p / (p + q)


@mistake("3b", "Where neither p nor q has mass your discriminator says 0: 1/2 is asked for.")
def optimal_discriminator(p, q):
    return p / (p + q).clamp_min(1e-30)


@mistake("3b", "Your discriminator is 1/2 everywhere: right only once the generator has won.")
def optimal_discriminator(p, q):
    return torch.full_like(p, 0.5)


@mistake("3b", "gan_value leaves the samples out: q log(1 - d) belongs to it.")
def gan_value(d, p, q):
    return torch.xlogy(p, d).sum()


@mistake("3b", "gan_value averages over the values: p and q are the weights already, so it is a sum.")
def gan_value(d, p, q):
    return (torch.xlogy(p, d) + torch.xlogy(q, 1 - d)).mean()


@mistake("3b", "gan_value has the sign of a loss: V is what the discriminator makes large.")
def gan_value(d, p, q):
    return -(torch.xlogy(p, d) + torch.xlogy(q, 1 - d)).sum()


@mistake("3b", "gan_value multiplies 0 by -infinity: 0 log 0 counts as 0.")
def gan_value(d, p, q):
    return (p * d.log() + q * (1 - d).log()).sum()


def kl_b(p, q):
    """KL with zeros."""
    return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum()


@mistake("3b", "js_divergence lacks its factors 1/2: it lies between 0 and log 2.")
def js_divergence(p, q):
    m = 0.5 * (p + q)
    return kl_b(p, m) + kl_b(q, m)


@mistake("3b", "js_divergence compares p with q directly: both are compared with their mixture, which is 0 nowhere.")
def js_divergence(p, q):
    return 0.5 * (kl_b(p, q) + kl_b(q, p))


@mistake("3b", "js_divergence counts one direction: the mean of two divergences makes it symmetric.")
def js_divergence(p, q):
    return kl_b(p, 0.5 * (p + q))


@mistake("3b", "js_divergence is in bits: take natural logarithms.")
def js_divergence(p, q):
    m = 0.5 * (p + q)
    return 0.5 * (kl_b(p, m) + kl_b(q, m)) / math.log(2)


@mistake("3b", "The divergences in js_divergence run from the mixture: m stands second.")
def js_divergence(p, q):
    m = 0.5 * (p + q)
    return 0.5 * (kl_b(m, p) + kl_b(m, q))


@mistake("3b", "js_divergence multiplies 0 by -infinity, or divides 0 by 0: such terms count as 0.")
def js_divergence(p, q):
    m = 0.5 * (p + q)
    return 0.5 * ((p * (p / m).log()).sum() + (q * (q / m).log()).sum())


@mistake("3b", "js_divergence drops every value that p or q lacks: what only one of them has counts most.")
def js_divergence(p, q):
    both = (p > 0) & (q > 0)
    m = 0.5 * (p + q)
    return 0.5 * (p * (p / m).log() + q * (q / m).log())[both].sum()


@mistake("3b", "js_divergence is 0: that is so between equal distributions only.")
def js_divergence(p, q):
    return 0.0 * (p + q).sum()


# 3c. The gradient penalty


def penalty_b(critic, x, fake, u, graph=True, weight=None, norm=None, loss=None, at=None, total=torch.sum):
    """The penalty with places to go wrong in."""
    w = u.view(-1, *[1] * (x.ndim - 1)) if weight is None else weight(u)
    x_hat = (at(x, fake, w) if at else w * x + (1 - w) * fake).detach().requires_grad_()
    (slope,) = torch.autograd.grad(total(critic(x_hat)), x_hat, create_graph=graph)
    norms = norm(slope) if norm else slope.flatten(1).norm(dim=1)
    return loss(norms) if loss else (norms - 1).square().mean()


@mistake(
    "3c", "Your penalty has the right value and trains nothing: its slope was computed without a graph of its own."
)
def gradient_penalty(critic, x, fake, u):
    return penalty_b(critic, x, fake, u, graph=False)


@mistake("3c", "You take one norm of the whole batch: each example has a slope of its own.")
def gradient_penalty(critic, x, fake, u):
    return penalty_b(critic, x, fake, u, norm=lambda slope: slope.norm())


@mistake("3c", "You take the norm along one axis of an image: it runs over all channels and pixels of an example.")
def gradient_penalty(critic, x, fake, u):
    return penalty_b(critic, x, fake, u, norm=lambda slope: slope.norm(dim=1))


@mistake("3c", "u weighs the samples in your points: it is the share of the data.")
def gradient_penalty(critic, x, fake, u):
    return penalty_b(critic, x, fake, u, at=lambda x, fake, w: w * fake + (1 - w) * x)


@mistake("3c", "Your u is broadcast along the last axis: it then weighs coordinates, not examples.")
def gradient_penalty(critic, x, fake, u):
    return penalty_b(critic, x, fake, u, weight=lambda u: u)


@mistake("3c", "Your u has one axis too few for images: give it as many axes as x has.")
def gradient_penalty(critic, x, fake, u):
    return penalty_b(critic, x, fake, u, weight=lambda u: u[:, None])


@mistake("3c", "Your penalty looks at the samples: the slope counts at points between data and samples.")
def gradient_penalty(critic, x, fake, u):
    return penalty_b(critic, x, fake, u, at=lambda x, fake, w: fake)


@mistake("3c", "Your slope is that of the critic's mean, which is smaller by a factor B.")
def gradient_penalty(critic, x, fake, u):
    return penalty_b(critic, x, fake, u, total=torch.mean)


@mistake("3c", "Your penalty pulls the slope to 0: it is asked to be 1.")
def gradient_penalty(critic, x, fake, u):
    return penalty_b(critic, x, fake, u, loss=lambda norms: norms.square().mean())


@mistake("3c", "You penalise the squared norm's distance from 1: take the norm itself.")
def gradient_penalty(critic, x, fake, u):
    return penalty_b(critic, x, fake, u, loss=lambda norms: (norms.square() - 1).square().mean())


@mistake("3c", "You penalise slopes above 1 only: those below are asked for as well.")
def gradient_penalty(critic, x, fake, u):
    return penalty_b(critic, x, fake, u, loss=lambda norms: (norms - 1).clamp(min=0).square().mean())


@mistake("3c", "You average the norms first: the square belongs to each example's distance from 1.")
def gradient_penalty(critic, x, fake, u):
    return penalty_b(critic, x, fake, u, loss=lambda norms: (norms.mean() - 1).square())


@mistake("3c", "Your penalty is a sum over the batch: it is a mean.")
def gradient_penalty(critic, x, fake, u):
    return penalty_b(critic, x, fake, u, loss=lambda norms: (norms - 1).square().sum())


@mistake("3c", "Your penalty is 0.")
def gradient_penalty(critic, x, fake, u):
    return 0.0 * critic(x).sum()


@mistake("3c", "Your critic's loss makes samples score high and data low: it should be the other way round.")
def critic_loss(critic, x, fake, u, penalty=10.0):
    return critic(x).mean() - critic(fake).mean() + penalty * gradient_penalty(critic, x, fake, u)


@mistake("3c", "Your critic's loss has no penalty: nothing keeps the critic from growing without bound.")
def critic_loss(critic, x, fake, u, penalty=10.0):
    return critic(fake).mean() - critic(x).mean()


@mistake("3c", "Your critic's loss ignores the weight of the penalty that it is given.")
def critic_loss(critic, x, fake, u, penalty=10.0):
    return critic(fake).mean() - critic(x).mean() + 10.0 * gradient_penalty(critic, x, fake, u)


@mistake("3c", "Your critic's loss subtracts the penalty, and so rewards slopes far from 1.")
def critic_loss(critic, x, fake, u, penalty=10.0):
    return critic(fake).mean() - critic(x).mean() - penalty * gradient_penalty(critic, x, fake, u)


# 3d. One round of the game


@mistake("3d", "Your discriminator's step has a graph back into the generator, whose gradients then join its own step.")
def gan_step(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss):
    optimizer_G.zero_grad()
    optimizer_D.zero_grad()
    first = d_loss(D(x), D(G(noise[0])))
    first.backward()
    optimizer_D.step()
    second = g_loss(D(G(noise[1])))
    second.backward()
    optimizer_G.step()
    return first.item(), second.item()


@mistake(
    "3d",
    "Your discriminator's step runs back through the generator, for gradients that are thrown away: cut the graph.",
)
def gan_step(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss):
    first = d_loss(D(x), D(G(noise[0])))
    optimizer_D.zero_grad()
    first.backward()
    optimizer_D.step()
    second = g_loss(D(G(noise[1])))
    optimizer_G.zero_grad()
    second.backward()
    optimizer_G.step()
    return first.item(), second.item()


def step_b(
    x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss, clear=(True, True), step=(True, True), reuse=0, cut=False
):
    """A round with places to go wrong in."""
    first = d_loss(D(x), D(G(noise[0]).detach()))
    if clear[0]:
        optimizer_D.zero_grad()
    first.backward()
    if step[0]:
        optimizer_D.step()
    samples = G(noise[0 if reuse else 1])
    second = g_loss(D(samples.detach() + 0 * samples if cut else samples))
    if clear[1]:
        optimizer_G.zero_grad()
    second.backward()
    if step[1]:
        optimizer_G.step()
    return first.item(), second.item()


@mistake(
    "3d", "Your discriminator's old gradients, those of the generator's step among them, are still in its next step."
)
def gan_step(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss):
    return step_b(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss, clear=(False, True))


@mistake("3d", "Your generator's old gradients are never cleared.")
def gan_step(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss):
    return step_b(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss, clear=(True, False))


@mistake("3d", "Your discriminator never moves.")
def gan_step(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss):
    return step_b(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss, step=(False, True))


@mistake("3d", "Your generator stays where it is: its optimiser takes no step, or the graph from its loss to G is cut.")
def gan_step(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss):
    return step_b(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss, cut=True)


@mistake("3d", "Your generator is judged on the samples of the discriminator's step: draw fresh ones from noise[1].")
def gan_step(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss):
    return step_b(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss, reuse=1)


@mistake("3d", "Your players have exchanged their noise: noise[0] is the discriminator's.")
def gan_step(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss):
    return step_b(x, noise.flip(0), G, D, optimizer_G, optimizer_D, d_loss, g_loss)


@mistake("3d", "Your generator is judged by the discriminator of before its step.")
def gan_step(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss):
    second = g_loss(D(G(noise[1])))
    optimizer_G.zero_grad()
    second.backward()
    fake = G(noise[0]).detach()
    first = d_loss(D(x), D(fake))
    optimizer_D.zero_grad()
    first.backward()
    optimizer_D.step()
    optimizer_G.step()
    return first.item(), second.item()


@mistake("3d", "Your generator moves first: the discriminator begins, with samples of the generator as it was.")
def gan_step(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss):
    second = g_loss(D(G(noise[1])))
    optimizer_G.zero_grad()
    second.backward()
    optimizer_G.step()
    first = d_loss(D(x), D(G(noise[0]).detach()))
    optimizer_D.zero_grad()
    first.backward()
    optimizer_D.step()
    return first.item(), second.item()


@mistake("3d", "The discriminator moves in the generator's step as well: there it stands still.")
def gan_step(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss):
    losses = step_b(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss)
    optimizer_D.step()
    return losses


@mistake("3d", "Your discriminator's loss is given samples where data belongs, and data where samples belong.")
def gan_step(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss):
    return step_b(x, noise, G, D, optimizer_G, optimizer_D, lambda real, fake: d_loss(fake, real), g_loss)


@mistake("3d", "You return the generator's loss first: the discriminator's comes first.")
def gan_step(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss):
    return step_b(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss)[::-1]


@mistake("3d", "You return the losses of after the steps: each is computed before its own player's step.")
def gan_step(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss):
    step_b(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss)
    return d_loss(D(x), D(G(noise[0]))).item(), g_loss(D(G(noise[1]))).item()


@mistake("3d", "You return losses of 0.")
def gan_step(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss):
    step_b(x, noise, G, D, optimizer_G, optimizer_D, d_loss, g_loss)
    return 0.0, 0.0


# 3e. Which modes are there?


def counts_b(x, centres, limit, every=False, power=2.0):
    """Counts with places to go wrong in."""
    distance = torch.cdist(x, centres, p=power)
    if every:
        return (distance < limit).sum(0)
    nearest, mode = distance.min(1)
    return torch.bincount(mode[nearest < limit], minlength=len(centres))


@mistake("3e", "mode_counts counts all samples, good or not: those that are too far from their centre count for none.")
def mode_counts(x, centres, sigma, radius=3.0):
    return counts_b(x, centres, math.inf)


@mistake("3e", "A sample where discs overlap counts twice with you: it belongs to its nearest centre alone.")
def mode_counts(x, centres, sigma, radius=3.0):
    return counts_b(x, centres, radius * sigma, every=True)


@mistake("3e", "mode_counts measures each coordinate by itself: a disc is round, its radius a Euclidean distance.")
def mode_counts(x, centres, sigma, radius=3.0):
    return counts_b(x, centres, radius * sigma, power=math.inf)


@mistake("3e", "mode_counts compares a squared distance with a distance.")
def mode_counts(x, centres, sigma, radius=3.0):
    return counts_b(x, centres, math.sqrt(radius * sigma))


@mistake("3e", "mode_counts' limit is radius itself: it is counted in standard deviations.")
def mode_counts(x, centres, sigma, radius=3.0):
    return counts_b(x, centres, radius)


@mistake("3e", "mode_counts' limit is three standard deviations whatever radius says.")
def mode_counts(x, centres, sigma, radius=3.0):
    return counts_b(x, centres, 3.0 * sigma)


@mistake("3e", "mode_counts is shorter than the list of centres: a centre at its end without samples counts 0.")
def mode_counts(x, centres, sigma, radius=3.0):
    distance, mode = torch.cdist(x, centres).min(1)
    return torch.bincount(mode[distance < radius * sigma])


@mistake("3e", "mode_counts says whether a centre has samples: say how many.")
def mode_counts(x, centres, sigma, radius=3.0):
    return (counts_b(x, centres, radius * sigma) > 0).long()


@mistake("3e", "mode_coverage gives the share of modes first: their number is asked for.")
def mode_coverage(x, centres, sigma, radius=3.0):
    counts = mode_counts(x, centres, sigma, radius)
    return float((counts > 0).double().mean()), float(counts.sum()) / len(x)


@mistake("3e", "mode_coverage counts every centre as covered that is nearest to some sample: a good sample is needed.")
def mode_coverage(x, centres, sigma, radius=3.0):
    every = mode_counts(x, centres, sigma, math.inf)
    return int((every > 0).sum()), float(mode_counts(x, centres, sigma, radius).sum()) / len(x)


@mistake("3e", "mode_coverage's share is the number of good samples: divide by that of all samples.")
def mode_coverage(x, centres, sigma, radius=3.0):
    counts = mode_counts(x, centres, sigma, radius)
    return int((counts > 0).sum()), float(counts.sum())


@mistake("3e", "mode_coverage's share is a mean over the modes: it is the good samples' share of all samples.")
def mode_coverage(x, centres, sigma, radius=3.0):
    counts = mode_counts(x, centres, sigma, radius)
    return int((counts > 0).sum()), float(counts.double().mean()) / len(x)


@mistake("3e", "mode_coverage does not hand its radius on.")
def mode_coverage(x, centres, sigma, radius=3.0):
    counts = mode_counts(x, centres, sigma)
    return int((counts > 0).sum()), float(counts.sum()) / len(x)


@mistake("3e", "pack puts rows together that lie far apart: row j holds m consecutive ones.")
def pack(x, m):
    groups = len(x) // m
    return torch.cat([x[i * groups : (i + 1) * groups] for i in range(m)], 1)


@mistake("3e", "pack mixes the coordinates of a group: each sample's coordinates stay together.")
def pack(x, m):
    groups = len(x) // m
    return x[: groups * m].reshape(groups, m, -1).mT.reshape(groups, -1)


@mistake("3e", "pack keeps the axis of the group: its answer is (N // m, m D).")
def pack(x, m):
    groups = len(x) // m
    return x[: groups * m].reshape(groups, m, -1)


@mistake("3e", "pack fails, or errs, where N is no multiple of m: what is left over is dropped.")
def pack(x, m):
    return x.reshape(len(x) // m, -1)


@mistake("3e", "Your groups overlap: each sample belongs to one group.")
def pack(x, m):
    return torch.cat([x[i : len(x) - m + 1 + i] for i in range(m)], 1)
