# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Problem set 2: latent variable models (100 points)
#
# Three answers to one question: how can a network turn noise into data, and how does one fit it? A **variational
# autoencoder** maximises a bound on the likelihood, a **normalising flow** the likelihood itself, and a **generative
# adversarial network** does without: it plays against a critic.
#
# | section | what you build | points |
# |---|---|---|
# | 1. Variational autoencoders | bounds from one code and from many, posterior collapse, discrete codes, digits | 48 |
# | 2. Normalising flows | change of variables, couplings and RealNVP, masks, autoregressive flows | 28 |
# | 3. Generative adversarial networks | losses, the optimal discriminator, gradient penalty, mode collapse | 24 |
#
# **How it works.** Replace each `raise NotImplementedError` by your code and keep names and arguments as they are.
# After each answer a cell calls `check("1a")`: it runs *public checks* at fixed inputs. Your grade comes from the same
# checks at other inputs. Many questions give partial credit. Written questions are answered in the text cell below them
# and are read by a person.
#
# **Rules that hold everywhere.**
# * All logarithms are natural; log-likelihoods and KL divergences are in **nats**.
# * The first axis is the batch. Shapes are written in every docstring; `...` stands for any number of leading axes.
# * Your functions get tensors of dtype float64 in the checks; do not convert them to float32 unless a question says so.
# * A function must not change its inputs: work on copies.
# * Library functions are welcome where they help. Where a question wants you to build what a library has, write it
#   yourself first and compare; you will need to know what is inside.

# %% tags=["setup"]
import torch

device = "cuda" if torch.cuda.is_available() else "cpu"

# %%
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# %% [markdown]
# # 1. Variational autoencoders (48 points)
#
# A latent variable model tells how an image $x$ came about: a **code** $z \in \mathbb R^Z$ is drawn from the prior
# $p(z) = N(0, I)$, and a network, the **decoder**, turns it into a distribution $p_\theta(x \mid z)$ over images. The
# likelihood sums over all codes that could have been meant,
#
# $$p_\theta(x) = \int p(z)\, p_\theta(x \mid z)\, dz ,$$
#
# and for a network this integral has no formula. Drawing codes from the prior does not help, as almost none of them
# fits a given $x$. So a second network, the **encoder**, proposes codes that may fit,
#
# $$q_\phi(z \mid x) = N\big(z \mid \mu_\phi(x),\ \mathrm{diag}\, \sigma_\phi^2(x)\big),$$
#
# and both are trained together on a lower bound of $\log p_\theta(x)$, the **ELBO**. You build its parts (1a, 1b), the
# bound itself (1c) and a tighter one (1d), look at the way in which it most often goes wrong (1e), replace the Gaussian
# codes by discrete ones (1f), train a model on digits (1g), and prove what was used (1h).
#
# The encoder always puts out $\mu$ and the **log-variance** $\log\sigma^2$, because that may be any real number. It is
# called `logvar` everywhere; the standard deviation is `(0.5 * logvar).exp()`.

# %% [markdown]
# ## 1a. KL divergences between Gaussians (5 points)
#
# The **Kullback-Leibler divergence** of $q$ from $p$ is $\mathrm{KL}(q \,\|\, p) = \mathbb E_q[\log q(z) - \log p(z)]$.
# It is 0 if $q = p$, and positive otherwise. In one dimension, for $q = N(\mu_q, \sigma_q^2)$ and
# $p = N(\mu_p, \sigma_p^2)$, the integral can be done by hand:
#
# $$\mathrm{KL}(q \,\|\, p) = \frac12 \Big[ \log \frac{\sigma_p^2}{\sigma_q^2}
# + \frac{\sigma_q^2 + (\mu_q - \mu_p)^2}{\sigma_p^2} - 1 \Big] .$$
#
# If both have diagonal covariances, the $Z$ coordinates are independent, and their divergences add up.
#
# Write `kl_diagonal_normals` for two such Gaussians, and `kl_to_standard_normal` for $p = N(0, I)$, the case that a VAE
# needs. There may be any number of leading axes, also none.
#
# | symbol | code | shape |
# |---|---|---|
# | $\mu_q$, $\log \sigma_q^2$ | `mu, logvar`, or `mu_q, logvar_q` | (..., Z) |
# | $\mu_p$, $\log \sigma_p^2$ | `mu_p, logvar_p` | (..., Z) |
# | $\mathrm{KL}(q \,\Vert\, p)$ | returned | (...) |
#
# *What goes wrong:* the divergence is not symmetric, and which of the two widths is the divisor decides which one you
# have computed. An error in $\tfrac12$ or in what `logvar` means often goes unnoticed in training: the model still
# learns something, under a bound that is none.


# %% tags=["answer:1a"]
def kl_to_standard_normal(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, diag exp(logvar)) || N(0, I)) in nats: mu, logvar (..., Z) -> (...)."""
    # BEGIN SOLUTION
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum(-1)
    # END SOLUTION


def kl_diagonal_normals(mu_q: Tensor, logvar_q: Tensor, mu_p: Tensor, logvar_p: Tensor) -> Tensor:
    """KL(q || p) in nats of two Gaussians with diagonal covariances: all arguments (..., Z) -> (...)."""
    # BEGIN SOLUTION
    squared = (mu_q - mu_p).square() * (-logvar_p).exp()
    return 0.5 * (squared + (logvar_q - logvar_p).exp() - 1 - (logvar_q - logvar_p)).sum(-1)
    # END SOLUTION


# %% tags=["check"]
check("1a")

# %% [markdown]
# **A look (needs 1a).** What it costs to leave the prior, for one coordinate, in nats.


# %%
def plot_kl() -> None:
    mu = torch.linspace(-3, 3, 121, dtype=torch.float64)
    std = torch.linspace(0.05, 2.5, 120, dtype=torch.float64)
    m, s = torch.meshgrid(mu, std, indexing="xy")  # (120, 121) each
    cost = kl_to_standard_normal(m[..., None], 2 * s[..., None].log())
    plt.figure(figsize=(6, 3.8))
    lines = plt.contour(mu, std, cost, levels=[0.05, 0.25, 0.5, 1, 2, 3, 4, 5], cmap="viridis")
    plt.clabel(lines)
    plt.plot(0, 1, "k*", markersize=12)
    plt.xlabel("mean")
    plt.ylabel("standard deviation")
    plt.title("KL from N(0, 1)")
    plt.show()


plot_kl()

# %% [markdown]
# *What to see:* zero at the star alone. A wide $q$ is soon dear, a narrow one is dear only slowly: each halving of the
# standard deviation costs at most $\log 2 = 0.69$ nats. This is what one bit of information about $x$ costs the code.

# %% [markdown]
# ## 1b. A sample that lets gradients through, and its densities (6 points)
#
# **The sample.** Noise $\epsilon \sim N(0, I)$ that knows nothing of the networks is shifted and stretched,
#
# $$z = \mu + \sigma \odot \epsilon ,$$
#
# so that $z$ is a differentiable function of $\mu$ and $\log\sigma^2$. Write `reparameterize`. If `noise` is given, use
# it; its leading axes may be more than those of `mu`, which is then broadcast (k samples for each example, say).
# Otherwise draw it, shaped like `mu`.
#
# **The density of a code**, with a diagonal covariance, sums over the $Z$ coordinates:
#
# $$\log N(z \mid \mu, \sigma^2)
# = -\frac12 \sum_{j=1}^Z \Big[ \frac{(z_j - \mu_j)^2}{\sigma_j^2} + \log \sigma_j^2 + \log 2\pi \Big] .$$
#
# **The density of an image** of $D$ black-and-white pixels $x_d \in \{0, 1\}$, to which the decoder gives the
# **logits** $l_d$, so that a pixel is 1 with probability $1 / (1 + e^{-l_d})$:
#
# $$\log p(x \mid l) = \sum_{d=1}^D x_d \log \frac1{1 + e^{-l_d}} + (1 - x_d) \log \frac1{1 + e^{l_d}} .$$
#
# It must be exact for logits of $\pm 10^4$, and so must its gradient; at $l = 10^4$ the second logarithm is $-10^4$,
# although $1 + e^{10^4}$ is more than a number can hold. Early in training, decoders do put out such values.
#
# | symbol | code | shape |
# |---|---|---|
# | $\epsilon$, $z$ | `noise`, `z` | (..., Z) |
# | $l$ | `logits` | (..., D) |
# | $x$ | `x`, of zeros and ones | (..., D), broadcast against `logits` |
#
# *What goes wrong:* a sample from a library's `Normal(mu, std).sample()` has the right distribution and no gradient at
# all: the loss falls all the same, since the decoder learns, and the encoder never hears of it. And a logarithm of a
# probability that was rounded to 0 or 1 is lost, whatever small number is added to it.


# %% tags=["answer:1b"]
def reparameterize(mu: Tensor, logvar: Tensor, noise: Tensor | None = None) -> Tensor:
    """z = mu + sigma * noise: mu, logvar (..., Z) and noise (..., Z) -> (..., Z)."""
    # BEGIN SOLUTION
    noise = torch.randn_like(mu) if noise is None else noise
    return mu + (0.5 * logvar).exp() * noise
    # END SOLUTION


def log_normal(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """log N(z | mu, diag exp(logvar)) in nats: (..., Z) each, broadcast against each other -> (...)."""
    # BEGIN SOLUTION
    squared = (z - mu).square() * (-logvar).exp()
    return -0.5 * (squared + logvar + math.log(2 * math.pi)).sum(-1)
    # END SOLUTION


def log_bernoulli(x: Tensor, logits: Tensor) -> Tensor:
    """log p(x) in nats of independent pixels: x (..., D) of 0 and 1, logits (..., D) -> (...)."""
    # BEGIN SOLUTION
    softplus = logits.clamp(min=0) + torch.log1p(torch.exp(-logits.abs()))  # log(1 + e^l)
    return (x * logits - softplus).sum(-1)
    # END SOLUTION


# %% tags=["check"]
check("1b")

# %% [markdown]
# ## 1c. The evidence lower bound (5 points)
#
# For any $q$, and so for any encoder,
#
# $$\log p_\theta(x) \ \ge\ \mathcal L(x) = \mathbb E_{q_\phi(z \mid x)}\big[\log p_\theta(x \mid z)\big]
# - \mathrm{KL}\big(q_\phi(z \mid x) \,\|\, p(z)\big) .$$
#
# The first term asks that the code tells what the image was, the second that it tells no more than is needed. The
# expectation is estimated with **one** code for each image, $z = \mu_\phi(x) + \sigma_\phi(x) \odot \epsilon$; the KL
# is exact, by 1a.
#
# Write `elbo`, the estimate for each image of a batch, and `vae_loss`, what is to be minimised: minus the **mean over
# the batch**. `encode` and `decode` are functions:
#
# | symbol | code | shape |
# |---|---|---|
# | $x$, pixels of 0 and 1 | `x` | (B, *shape): (B, 64), (B, 8, 8), (B, 3, 32, 32), ... |
# | $\mu_\phi(x)$, $\log\sigma_\phi^2(x)$ | `mu, logvar = encode(x)` | (B, Z) each |
# | $\epsilon$ | `noise` | (B, Z) |
# | logits of $p_\theta(x \mid z)$ | `decode(z)` | (B, *shape) |
# | $\mathcal L(x)$ | `elbo(...)` | (B,) |
#
# *What goes wrong:* a library's loss averages over everything unless it is told otherwise. If the pixels are averaged
# and the units of the code are summed, the KL weighs 64 times too much for an image of 64 pixels, and 150 thousand
# times for a photograph. That model ignores its code, and in 1e you see why. All sums run over an image; the only mean
# is the one over the batch, at the very end.


# %% tags=["answer:1c"]
def elbo(x: Tensor, encode: Callable, decode: Callable, noise: Tensor) -> Tensor:
    """The bound on log p(x) in nats, estimated with one code an image: x (B, *shape), noise (B, Z) -> (B,)."""
    # BEGIN SOLUTION
    mu, logvar = encode(x)
    logits = decode(reparameterize(mu, logvar, noise))  # (B, *shape)
    return log_bernoulli(x.flatten(1), logits.flatten(1)) - kl_to_standard_normal(mu, logvar)
    # END SOLUTION


def vae_loss(x: Tensor, encode: Callable, decode: Callable, noise: Tensor) -> Tensor:
    """Minus the mean bound over the batch, in nats an image: a scalar."""
    # BEGIN SOLUTION
    return -elbo(x, encode, decode, noise).mean()
    # END SOLUTION


# %% tags=["check"]
check("1c")

# %% [markdown]
# **A look (needs 1a to 1c).** A code of one number, three pixels, one image. Here $\log p(x)$ can be computed by
# adding up over a fine grid of codes. The bound is drawn for every Gaussian $q$.


# %%
def one_number_model() -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """A decoder from codes (..., 1) to three logits, an image (1, 3), and log p(x), by the sum over a grid."""
    slope = torch.tensor([[3.0, -2.0, 1.5]], dtype=torch.float64)
    offset = torch.tensor([-1.0, 0.5, 1.0], dtype=torch.float64)

    def decode(z: Tensor) -> Tensor:
        return z * slope + offset

    x = torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)
    grid = torch.linspace(-8, 8, 4001, dtype=torch.float64)[:, None]
    zero = torch.zeros_like(grid)
    log_joint = log_normal(grid, zero, zero) + log_bernoulli(x, decode(grid))  # (4001,)
    return decode, x, log_joint.logsumexp(0) + math.log(16 / 4000)


def plot_bound() -> None:
    decode, x, log_p = one_number_model()
    mu = torch.linspace(-0.5, 2.5, 61, dtype=torch.float64)
    std = torch.linspace(0.1, 1.5, 57, dtype=torch.float64)
    m, s = (v.reshape(-1, 1) for v in torch.meshgrid(mu, std, indexing="xy"))
    noise = torch.special.ndtri((torch.arange(200, dtype=torch.float64) + 0.5) / 200)  # 200 evenly spread quantiles
    bound = torch.zeros(len(m), dtype=torch.float64)
    for e in noise:
        images = x.expand(len(m), -1)
        bound += elbo(images, lambda _: (m, 2 * s.log()), decode, e.expand(len(m), 1)) / len(noise)
    gap = (log_p - bound).view(len(std), len(mu))
    plt.figure(figsize=(6, 3.8))
    lines = plt.contour(mu, std, gap, levels=[0.01, 0.03, 0.1, 0.3, 1, 2], cmap="viridis")
    plt.clabel(lines)
    best = gap.argmin()
    plt.plot(m[best], s[best], "r*", markersize=12)
    plt.xlabel("mean of q")
    plt.ylabel("standard deviation of q")
    plt.title(f"log p(x) - ELBO in nats; smallest: {float(gap.min()):.4f}")
    plt.show()


plot_bound()

# %% [markdown]
# *What to see:* the gap is nowhere negative, and at the star it is tiny but not 0: the true posterior of this model is
# not quite Gaussian, and the gap is the KL between the two. An encoder is trained to find the star for every image.

# %% [markdown]
# ## 1d. Many codes: the importance weighted bound (6 points)
#
# Let the encoder propose $k$ codes for each image and average their **importance weights** before the logarithm:
#
# $$\mathcal L_k(x) = \mathbb E_{z_1, \dots, z_k \sim q_\phi(z \mid x)}\Big[\log \frac1k \sum_{i=1}^k w_i\Big], \qquad
# w_i = \frac{p(z_i)\, p_\theta(x \mid z_i)}{q_\phi(z_i \mid x)} .$$
#
# $\mathcal L_1$ is the ELBO, $\mathcal L_k$ rises with $k$ (you prove it in 1h) and tends to $\log p_\theta(x)$. So it
# is an objective for training (an importance weighted autoencoder, IWAE) and, with a large $k$, the usual way to report
# the likelihood of a VAE. Weights of images are of the size of $e^{-100}$: work with their logarithms throughout.
#
# Its gradient is a weighted mean of those of the single codes, with the **normalised weights** $\tilde w_i$. They also
# tell how many codes did the work, by the **effective sample size** $S$, between 1 and $k$:
#
# $$\frac{\partial}{\partial \log w_i} \log \frac1k \sum_{j=1}^k w_j = \tilde w_i = \frac{w_i}{\sum_{j=1}^k w_j},
# \qquad S = \frac{1}{\sum_{i=1}^k \tilde w_i^2} .$$
#
# | symbol | code | shape |
# |---|---|---|
# | $x$ | `x` | (B, D) |
# | $\mu_\phi(x)$, $\log\sigma_\phi^2(x)$ | `encode(x)` | (B, Z) each |
# | $\epsilon_i$, so that $z_i = \mu_\phi(x) + \sigma_\phi(x) \odot \epsilon_i$ | `noise` | (B, k, Z) |
# | logits of $p_\theta(x \mid z)$ | `decode(z)` | (..., D) for z (..., Z) |
# | $\log w_i$ | `log_w` | (B, k) |
# | $\log \frac1k \sum_i w_i$ | `iwae_bound(log_w)` | (B,) |
# | $\tilde w_i$ | `importance_weights(log_w)` | (B, k) |
# | $S$ | `effective_sample_size(log_w)` | (B,) |
#
# *What goes wrong:* every code has a weight of its own, so there is no place for the KL's closed form, which is a mean
# over all codes. And whoever swaps mean and logarithm has computed an ELBO with less noise, which is something else.


# %% tags=["answer:1d"]
def log_weights(x: Tensor, encode: Callable, decode: Callable, noise: Tensor) -> Tensor:
    """log p(x, z_i) - log q(z_i | x) in nats at the codes that noise (B, k, Z) gives for x (B, D) -> (B, k)."""
    # BEGIN SOLUTION
    mu, logvar = (v[:, None] for v in encode(x))  # (B, 1, Z)
    z = reparameterize(mu, logvar, noise)  # (B, k, Z)
    zero = torch.zeros_like(z)
    log_prior, log_q = log_normal(z, zero, zero), log_normal(z, mu, logvar)  # (B, k)
    return log_bernoulli(x[:, None], decode(z)) + log_prior - log_q
    # END SOLUTION


def iwae_bound(log_w: Tensor) -> Tensor:
    """The bound on log p(x) from the k codes of each image, in nats: (B, k) -> (B,)."""
    # BEGIN SOLUTION
    return log_w.logsumexp(1) - math.log(log_w.shape[1])
    # END SOLUTION


def importance_weights(log_w: Tensor) -> Tensor:
    """The weights of the k codes of each image, normalised: (B, k) -> (B, k)."""
    # BEGIN SOLUTION
    return log_w.softmax(1)
    # END SOLUTION


def effective_sample_size(log_w: Tensor) -> Tensor:
    """How many of the k codes do the work, a number between 1 and k: (B, k) -> (B,)."""
    # BEGIN SOLUTION
    return 1 / importance_weights(log_w).square().sum(1)
    # END SOLUTION


# %% tags=["check"]
check("1d")

# %% [markdown]
# **A look (needs 1b and 1d).** The model of one number again, with an encoder that is wrong on purpose.


# %%
def plot_iwae() -> None:
    torch.manual_seed(0)
    decode, x, log_p = one_number_model()
    mu, logvar = torch.zeros(2000, 1, dtype=torch.float64), torch.full((2000, 1), -0.5, dtype=torch.float64)
    log_w = log_weights(x.expand(2000, -1), lambda _: (mu, logvar), decode, torch.randn(2000, 512, 1, dtype=x.dtype))
    ks = [2**i for i in range(10)]
    _, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6))
    bounds = [iwae_bound(log_w[:, :k]) for k in ks]
    left.errorbar(ks, [b.mean() for b in bounds], [b.std() for b in bounds], fmt="o-", label="mean and spread")
    left.axhline(log_p, color="black", linestyle="--", label="log p(x)")
    left.set(xscale="log", xlabel="k", ylabel="nats", title="The bound of k codes", ylim=(log_p - 4, log_p + 1))
    left.legend(loc="lower right")
    right.plot(ks, [effective_sample_size(log_w[:, :k]).mean() for k in ks], "o-", label="effective sample size")
    right.plot(ks, ks, "k:", label="k")
    right.set(xscale="log", yscale="log", xlabel="k", title="How many codes do the work")
    right.legend()
    plt.show()


plot_iwae()

# %% [markdown]
# *What to see:* on average the bound rises with every doubling of $k$ and ends at the dashed line, while its spread
# shrinks. Single estimates may well lie above the line: it is their *mean* that is a bound. On the right, the larger
# part of the codes is wasted, since this $q$ looks in the wrong place.

# %% [markdown]
# ## 1e. Posterior collapse (6 points)
#
# The KL is paid at once, while its return comes only when the decoder has learnt to read codes. So early in training
# the cheapest thing to do may be $q_\phi(z_j \mid x) = p(z_j)$ for a unit $j$ of the code: it costs nothing and says
# nothing, and a decoder that has seen nothing but noise in this unit ignores it from then on. The unit has
# **collapsed**; if all do, the model is a decoder without a code.
#
# **Seeing it.** `kl_per_unit`: the KL to the prior of each unit, averaged over the batch. `active_units`: the number of
# units $j$ whose mean moves with the image, $\mathrm{Var}_x[\mu_j(x)] > $ `threshold`.
#
# **Curing it.** Two remedies change the objective, at least for some time:
#
# * **KL annealing.** The KL gets a weight $\beta$ that grows linearly, from 0 at step 0 to 1 at step `warmup`, and
#   stays 1 from there on. With `warmup` = 0 it is 1 always.
# * **Free bits.** Up to $\lambda$ nats the information of a unit is free: nothing is gained by saying less.
#
# $$\text{loss} = -\frac1B \sum_{b=1}^B \log p_\theta(x_b \mid z_b)
# + \beta \sum_{j=1}^Z \max\Big(\lambda,\ \frac1B \sum_{b=1}^B \mathrm{KL}_{bj}\Big), \qquad
# \mathrm{KL}_{bj} = \mathrm{KL}\big(q_\phi(z_j \mid x_b) \,\|\, N(0, 1)\big) .$$
#
# With $\beta = 1$, $\lambda = 0$ it is the loss of 1c. The log-likelihoods of the batch are handed to you.
#
# | symbol | code | shape |
# |---|---|---|
# | $\mu$, $\log\sigma^2$ | `mu`, `logvar` | (B, Z) |
# | $\log p_\theta(x_b \mid z_b)$ | `log_likelihood` | (B,) |
# | $\beta$, $\lambda$ | `weight`, `free_bits` (in nats, in spite of the name) | numbers |
#
# *What goes wrong:* the maximum stands outside of the mean over the batch and inside of the sum over the units. In
# other places it frees something else: single images may say nothing while others say much, or one unit may use up what
# was meant for all.


# %% tags=["answer:1e"]
def kl_per_unit(mu: Tensor, logvar: Tensor) -> Tensor:
    """The KL of each unit to N(0, 1) in nats, averaged over the batch: (B, Z) -> (Z,)."""
    # BEGIN SOLUTION
    return kl_to_standard_normal(mu[..., None], logvar[..., None]).mean(0)  # each unit as a code of length 1
    # END SOLUTION


def active_units(mu: Tensor, threshold: float = 0.01) -> int:
    """How many units have a mean whose variance over the images exceeds the threshold: mu (B, Z) -> a whole number."""
    # BEGIN SOLUTION
    return int((mu.var(0) > threshold).sum())
    # END SOLUTION


def kl_weight(step: int, warmup: int) -> float:
    """The weight of the KL at a step (0, 1, 2, ...), growing linearly from 0 to 1 over `warmup` steps."""
    # BEGIN SOLUTION
    return min(1.0, step / warmup) if warmup > 0 else 1.0
    # END SOLUTION


def weighted_loss(
    log_likelihood: Tensor, mu: Tensor, logvar: Tensor, weight: float = 1.0, free_bits: float = 0.0
) -> Tensor:
    """The loss with a weight on the KL and free bits for each unit: (B,), (B, Z), (B, Z) -> a scalar in nats."""
    # BEGIN SOLUTION
    kl = kl_per_unit(mu, logvar).clamp(min=free_bits).sum()
    return weight * kl - log_likelihood.mean()
    # END SOLUTION


# %% tags=["check"]
check("1e")

# %% [markdown]
# ## 1f. Discrete codes: the VQ-VAE (6 points)
#
# A **vector-quantised** autoencoder has a **codebook** of $K$ vectors $e_1, \dots, e_K \in \mathbb R^Z$, which is
# learned. The encoder's output $z_e$ is replaced by the nearest of them, and the decoder sees only that one:
#
# $$i^* = \arg\min_i \|z_e - e_i\|^2, \qquad z_q = e_{i^*} .$$
#
# The code of an image is a whole number, or a grid of whole numbers if the encoder puts out a grid of vectors. No
# gradient passes through $\arg\min$, so three terms share the work. $\mathrm{sg}[\cdot]$ (stop gradient) is its
# argument with a gradient of 0:
#
# * **The straight-through estimator.** The decoder gets a tensor with the *value* $z_q$ whose gradient passes unchanged
#   to $z_e$, as if there had been no quantisation, and not to the codebook.
# * **The codebook loss** $\|\mathrm{sg}[z_e] - z_q\|^2$ draws the chosen vectors to the encoder's outputs.
# * **The commitment loss** $\|z_e - \mathrm{sg}[z_q]\|^2$ draws the encoder's outputs to their vectors.
#
# The norm sums over the $Z$ coordinates, and both losses are the **mean over all vectors**, of whatever leading axes.
#
# Like units, codebook vectors may die, as one that is never chosen is never moved. With $u_i$ the fraction of the
# vectors that chose $e_i$, the **perplexity** $\exp\big(-\sum_i u_i \log u_i\big)$, where $0 \log 0 = 0$, is the number
# of codebook vectors in use: 1 if all choose the same, $K$ if all are chosen equally often.
#
# | symbol | code | shape |
# |---|---|---|
# | $z_e$, $z_q$ | `z_e`, `z_q` | (..., Z) |
# | $e_1, \dots, e_K$ | `codebook` | (K, Z) |
# | $i^*$ | `codes`, int64 | (...) |
#
# *What goes wrong:* the two losses have the same value, so a printed number shows nothing when their gradients go to
# the wrong place: the codebook stands still, or the encoder runs away from it.


# %% tags=["answer:1f"]
def nearest_codes(z_e: Tensor, codebook: Tensor) -> Tensor:
    """The number of the nearest codebook vector: z_e (..., Z), codebook (K, Z) -> int64 (...)."""
    # BEGIN SOLUTION
    squared = (z_e[..., None, :] - codebook).square().sum(-1)  # (..., K)
    return squared.argmin(-1)
    # END SOLUTION


def straight_through(z_e: Tensor, z_q: Tensor) -> Tensor:
    """A tensor with the value z_q, whose gradient reaches z_e unchanged and z_q not at all: (..., Z) -> (..., Z)."""
    # BEGIN SOLUTION
    return z_e + (z_q - z_e).detach()
    # END SOLUTION


def vq_losses(z_e: Tensor, z_q: Tensor) -> tuple[Tensor, Tensor]:
    """The codebook loss and the commitment loss: z_e, z_q (..., Z) -> two scalars."""
    # BEGIN SOLUTION
    codebook_loss = (z_e.detach() - z_q).square().sum(-1).mean()
    commitment_loss = (z_e - z_q.detach()).square().sum(-1).mean()
    return codebook_loss, commitment_loss
    # END SOLUTION


def perplexity(codes: Tensor, K: int) -> Tensor:
    """The number of codebook vectors in use, between 1 and K: codes, whole numbers (...) below K -> a scalar."""
    # BEGIN SOLUTION
    usage = torch.bincount(codes.flatten(), minlength=K) / codes.numel()  # (K,)
    return torch.special.entr(usage.double()).sum().exp()
    # END SOLUTION


# %% tags=["check"]
check("1f")

# %% [markdown]
# **A look (needs 1f).** Points in the plane are the encoder's outputs, and only the codebook learns: 32 vectors that
# start far from the points, and 32 that start on some of them.


# %%
def plot_codebook() -> None:
    g = torch.Generator().manual_seed(0)
    angle = 6.3 * torch.rand(600, generator=g)
    radius = 1 + 0.15 * torch.randn(600, generator=g)
    points = torch.stack([radius * angle.cos(), radius * angle.sin() + 1], 1)  # a ring, (600, 2)
    starts = {"start around (2, -1)": torch.tensor([2.0, -1.0]) + 0.3 * torch.randn(32, 2, generator=g)}
    starts["start on points"] = points[:32]
    learned = {}
    for title, start in starts.items():
        codebook = start.clone().requires_grad_()
        descent = torch.optim.SGD([codebook], lr=0.5)
        for _ in range(200):
            descent.zero_grad()
            vq_losses(points, codebook[nearest_codes(points, codebook)])[0].backward()
            descent.step()
        learned[title] = codebook.detach()
    _, axes = plt.subplots(1, 2, figsize=(11, 4.2))
    for axis, (title, codebook) in zip(axes, learned.items(), strict=True):
        codes = nearest_codes(points, codebook)
        axis.scatter(*points.T, c=codes, cmap="prism", s=5)
        axis.scatter(*codebook.T, color="black", marker="x")
        axis.set(title=f"{title}: perplexity {float(perplexity(codes, 32)):.1f} of 32", aspect="equal")
    plt.show()


plot_codebook()

# %% [markdown]
# *What to see:* each cross speaks for the points of its colour. On the left, the few vectors that happened to be
# nearest were chosen, moved and chosen again; the others were never chosen and stay where they started. It is the
# collapse of 1e once more. On the right almost all are in use, which is why codebooks are often started on the data.

# %% [markdown]
# ## 1g. A VAE on handwritten digits (8 points)
#
# Images of 8 by 8 pixels
# ([Optical recognition of handwritten digits](https://doi.org/10.24432/C50P49), E. Alpaydin and C. Kaynak, CC BY 4.0),
# made black and white: a pixel is 1 if its gray level is above 7. Write the training loop, `fit_vae`. Encoder and
# decoder are **perceptrons**: linear layers with the activation $\mathrm{SiLU}(a) = a / (1 + e^{-a})$ between them,
# none after the last. Each is given as the list of its layers, and a layer is a pair of weight (out, in) and bias
# (out,), as `torch.nn.Linear` keeps them; `perceptron` in the cell below says exactly how they are evaluated. How many
# layers, and how wide, is up to you, up to half a million weights in all.
#
# * The encoder takes an image (64,) to $2Z$ numbers: $\mu$, then $\log\sigma^2$.
# * The decoder takes a code (Z,) to 64 logits.
#
# The check fits on a random three quarters of the images. From what you return it computes by itself, with $k = 50$
# codes and its own noise, the bound of 1d on the log-likelihood of each of the other images. It is a bound whatever
# your encoder does, and a tight one if the encoder is good. Its mean over these images, as a **gain** over a model of
# independent pixels, decides:
#
# | gain in nats per image | points |
# |---|---|
# | $\ge 2$: the code says something | 2 |
# | $\ge 4$ | 4 |
# | $\ge 6$ | 6 |
# | $\ge 7$ | 8 |
#
# The solution reaches about 8 in 5 seconds on one CPU thread; you have 120 seconds. It has one hidden layer on each
# side, Adam, and some thousand steps on small batches. What may help: a learning rate that falls to zero in the end,
# more steps, wider layers, the bound of 1d as the objective, KL annealing; what does not help is to look at the loss
# after 200 steps only. Keep some training images aside to see what generalises.
#
# The three options are for the pictures: `latent` is $Z$, `weight` the weight of the KL once any annealing is over
# (the bound is for weight 1), `steps` the number of gradient steps. The check leaves all three at your defaults.
#
# The images come as float64; training in float32 is faster, and here you may. Make your tensors on the device
# of `train`.
#
# *What goes wrong:* reconstructions and training loss tell you little about the likelihood of new images; a model may
# copy its input perfectly through codes that no prior would ever draw. Measure the bound, on images that it has not
# seen.


# %%
def perceptron(layers: list[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
    """Linear layers (weight (out, in), bias (out,)) with SiLU between them: (..., in of the first) -> (..., out)."""
    x = x.to(layers[0][0])  # the layers' dtype and device
    for i, (weight, bias) in enumerate(layers):
        x = torch.nn.functional.linear(x if i == 0 else torch.nn.functional.silu(x), weight, bias)
    return x


# %% tags=["answer:1g"]
def fit_vae(train: Tensor, latent: int = 12, weight: float = 1.0, steps: int = 2500) -> tuple[list, list]:
    """Train a VAE: images train (N, 64) of 0 and 1 -> the layers of the encoder and those of the decoder."""
    # BEGIN SOLUTION
    train, d, hidden = train.float(), train.shape[1], 256
    encoder = torch.nn.Sequential(torch.nn.Linear(d, hidden), torch.nn.SiLU(), torch.nn.Linear(hidden, 2 * latent))
    decoder = torch.nn.Sequential(torch.nn.Linear(latent, hidden), torch.nn.SiLU(), torch.nn.Linear(hidden, d))
    both = torch.nn.ModuleList([encoder, decoder]).to(train.device)
    optimizer = torch.optim.Adam(both.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)  # up, then down to zero
    for _ in range(steps):
        x = train[torch.randint(len(train), (128,), device=train.device)]
        mu, logvar = encoder(x).chunk(2, dim=-1)
        log_likelihood = log_bernoulli(x, decoder(reparameterize(mu, logvar)))
        loss = weighted_loss(log_likelihood, mu, logvar, weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    encoder_layers, decoder_layers = ([(f.weight.detach(), f.bias.detach()) for f in net[::2]] for net in both)
    return encoder_layers, decoder_layers
    # END SOLUTION


# %% tags=["check"]
check("1g")

# %% [markdown]
# **A look (needs 1a to 1e and 1g).** Two models: one with a KL of weight 1, one with a KL of weight 64, which is what
# the mean over the pixels comes to.


# %%
def load_digits() -> tuple[Tensor, Tensor, Tensor]:
    """Black-and-white digits (1348, 64) to train on and (449, 64) to test on, and which digits the latter are."""
    for folder in (Path("data"), Path("ps2/data")):
        if (folder / "digits.npz").exists():
            with np.load(folder / "digits.npz") as stored:
                train, test, labels = (torch.tensor(stored[name]) for name in ("train", "test", "test_labels"))
            break
    else:
        from sklearn.datasets import load_digits as from_sklearn  # Colab has it: the same images, the same split

        images, target = (torch.tensor(v) for v in (from_sklearn().images, from_sklearn().target))
        last = torch.arange(len(images)) % 4 == 3
        train, test, labels = images[~last], images[last], target[last]
    return *((v.flatten(1) > 7).double().to(device) for v in (train, test)), labels


def trained(train: Tensor, **options: float) -> tuple[list, list]:
    """The layers of your model, without a graph."""
    encoder, decoder = fit_vae(train, **options)
    return [(w.detach(), b.detach()) for w, b in encoder], [(w.detach(), b.detach()) for w, b in decoder]


def show_rows(rows: dict[str, Tensor]) -> None:
    """Rows of images, (12, 64) each, with a title."""
    _, axes = plt.subplots(len(rows), 12, figsize=(11, 1.15 * len(rows)))
    for line, (title, images) in zip(axes, rows.items(), strict=True):
        line[0].set_title(title, loc="left", fontsize=9)
        for axis, image in zip(line, images, strict=True):
            axis.imshow(image.view(8, 8).cpu(), cmap="gray_r", vmin=0, vmax=1)
            axis.axis("off")
    plt.show()


def plot_digits_vae() -> None:
    torch.manual_seed(0)
    train, test, _ = load_digits()
    models = {weight: trained(train, weight=weight, steps=steps) for weight, steps in ((1.0, 2500), (64.0, 600))}
    _, (left, right) = plt.subplots(1, 2, figsize=(11, 3.2))
    rows = {"held-out images": test[:12]}
    ks = [1, 4, 16, 64, 256]
    for weight, (encoder, decoder) in models.items():
        encode = lambda x, layers=encoder: perceptron(layers, x).chunk(2, dim=-1)  # noqa: E731
        decode = lambda z, layers=decoder: perceptron(layers, z)  # noqa: E731
        mu, logvar = encode(test)
        title = f"KL of weight {weight:g}"
        left.plot(kl_per_unit(mu, logvar).sort(descending=True).values.cpu(), "o-", label=title)
        log_w = log_weights(test, encode, decode, torch.randn(len(test), 256, mu.shape[1], device=test.device))
        right.plot(ks, [iwae_bound(log_w[:, :k]).mean().item() for k in ks], "o-", label=title)
        rows[f"{title}, {active_units(mu)} active units: reconstructions"] = decode(mu[:12]).sigmoid()
        rows[f"{title}: decoded from draws of the prior"] = decode(torch.randn_like(mu[:12])).sigmoid()
    left.set(xlabel="unit, sorted", ylabel="nats", title="What each unit says: KL to the prior")
    right.set(xscale="log", xlabel="k", ylabel="nats per image", title="Bound on held-out images")
    right.legend()
    plt.show()
    show_rows(rows)


plot_digits_vae()

# %% [markdown]
# *What to see:* the first model uses its units, with up to about a nat each, and most of its draws can be read. The
# second has collapsed: no unit says anything, every reconstruction is the same blurred mean of all digits, and more
# codes do not lift its bound.

# %% [markdown]
# **A map of a code of two numbers (needs 1b, 1e and 1g).** Left, where the encoder puts the held-out digits; right,
# what the decoder makes of a grid of codes, at evenly spread quantiles of the prior.


# %%
def plot_map() -> None:
    torch.manual_seed(0)
    train, test, labels = load_digits()
    encoder, decoder = trained(train, latent=2, steps=1500)
    mu = perceptron(encoder, test)[:, :2].cpu()
    _, (left, right) = plt.subplots(1, 2, figsize=(11, 5))
    points = left.scatter(*mu.T, c=labels, cmap="tab10", s=12, vmin=-0.5, vmax=9.5)
    plt.colorbar(points, ax=left, ticks=range(10))
    left.set(title="Means of held-out digits", aspect="equal")
    side = torch.special.ndtri((torch.arange(14) + 0.5) / 14)
    first, second = torch.meshgrid(side, -side, indexing="xy")
    codes = torch.stack([first, second], -1).to(device)  # (14, 14, 2), the first row on top
    images = perceptron(decoder, codes).sigmoid().view(14, 14, 8, 8)
    right.imshow(images.transpose(1, 2).reshape(112, 112).cpu(), cmap="gray_r")
    right.set(title="Decoded grid")
    right.axis("off")
    plt.show()


plot_map()

# %% [markdown]
# *What to see:* nobody told the model which digit is which, yet most digits have a region of their own, and a walk
# through the grid turns one smoothly into the next. Two numbers are not enough for all of them: where colours mix on
# the left, images are blurred on the right.

# %% [markdown]
# ## 1h. Why these are bounds (6 points, written)
#
# Let $p_\theta(x, z) = p(z)\, p_\theta(x \mid z)$, and let $q(z)$ be a density, for one observed $x$, with $q(z) > 0$
# wherever $p_\theta(x, z) > 0$. Write $w(z) = p_\theta(x, z) / q(z)$.
#
# 1. Show that $\log p_\theta(x) = \mathbb E_q[\log w(z)] + \mathrm{KL}\big(q(z) \,\|\, p_\theta(z \mid x)\big)$. Why is
#    the first term a lower bound, and for which $q$ is it tight? Show that it equals
#    $\mathbb E_q[\log p_\theta(x \mid z)] - \mathrm{KL}(q(z) \,\|\, p(z))$.
# 2. Show that $\mathcal L_k = \mathbb E\big[\log \frac1k \sum_{i=1}^k w(z_i)\big] \le \log p_\theta(x)$, where
#    $z_1, \dots, z_k$ are drawn from $q$ independently.
# 3. Show that $\mathcal L_{k+1} \ge \mathcal L_k$. (Hint: of $k + 1$ weights, leave out one that is chosen at random.
#    What is the expectation of the mean of the rest?)
# 4. A colleague reports that with a better $q$ of the same form the bound is the same for $k = 1$ and $k = 1000$.
#    What do you conclude about $q$? One sentence.

# %% [markdown] tags=["written:1h", "points:6"]
# <!-- BEGIN SOLUTION -->
# **1.** By Bayes' rule $p_\theta(x, z) = p_\theta(z \mid x)\, p_\theta(x)$, so $\log p_\theta(x) = \log w(z) +
# \log \frac{q(z)}{p_\theta(z \mid x)}$ for every $z$ with $q(z) > 0$ and $p_\theta(z \mid x) > 0$. The left side does
# not depend on $z$; the expectation under $q$ of the right side is
#
# $$\log p_\theta(x) = \mathbb E_q[\log w(z)] + \mathrm{KL}\big(q(z) \,\|\, p_\theta(z \mid x)\big) .$$
#
# A KL divergence is never negative, hence the bound. It is 0 exactly if the two densities agree, so the bound is tight
# if and only if $q(z) = p_\theta(z \mid x)$ (almost everywhere), the posterior. With
# $\log w(z) = \log p_\theta(x \mid z) + \log p(z) - \log q(z)$ and the definition of the KL,
#
# $$\mathbb E_q[\log w(z)] = \mathbb E_q[\log p_\theta(x \mid z)] - \mathbb E_q\Big[\log\frac{q(z)}{p(z)}\Big]
# = \mathbb E_q[\log p_\theta(x \mid z)] - \mathrm{KL}\big(q(z) \,\|\, p(z)\big) .$$
#
# **2.** A single weight has the expectation $\mathbb E_q[w(z)] = \int q(z) \frac{p_\theta(x, z)}{q(z)}\, dz =
# \int p_\theta(x, z)\, dz = p_\theta(x)$, and so has the mean of $k$ weights. The logarithm is concave, so by Jensen
# $\mathcal L_k \le \log \mathbb E\big[\frac1k \sum_i w(z_i)\big] = \log p_\theta(x)$.
#
# **3.** Let $J$ be uniform on $1, \dots, k+1$, independent of the $z_i$, and let
# $M_J = \frac1k \sum_{i \ne J} w(z_i)$. Given the $z_i$, each weight is kept with probability $\frac{k}{k+1}$, so
# $\mathbb E_J[M_J] = \frac1k \cdot \frac{k}{k+1} \sum_{i=1}^{k+1} w(z_i) = \frac1{k+1}\sum_{i=1}^{k+1} w(z_i)$.
# Therefore, by Jensen for the expectation over $J$,
#
# $$\mathcal L_{k+1} = \mathbb E\big[\log \mathbb E_J[M_J]\big] \ge \mathbb E\big[\mathbb E_J[\log M_J]\big]
# = \mathcal L_k ,$$
#
# since for each value of $J$ the remaining $k$ codes are independent draws from $q$, so $\mathbb E[\log M_J] =
# \mathcal L_k$.
#
# **4.** If $\mathcal L_1 = \mathcal L_{1000}$, Jensen's inequality holds with equality, so the weights do not vary:
# $w(z)$ is constant, $q$ is the exact posterior, and both bounds equal $\log p_\theta(x)$.
#
# Rubric:
# * 2 points: part 1 (1 for the identity, from Bayes' rule or from expanding the KL; half for the sign of the KL and the
#   case of equality, named as the posterior; half for the second form).
# * 1 point: part 2 (half for the unbiased weight, half for Jensen with its direction).
# * 2 points: part 3 (1 for the mean over subsets being the mean of all, 1 for Jensen inside of the outer expectation
#   and the same law of every subset).
# * 1 point: part 4 (half for constant weights, half for the posterior).
# <!-- END SOLUTION -->

# %% [markdown]
# # 2. Normalising flows (28 points)
#
# A VAE has a latent variable that must be integrated out, so its likelihood is known only through a bound. A
# **normalising flow** has none to integrate out: it is an *invertible* map $f$ between data $x \in \mathbb R^D$ and
# noise $z = f(x) \in \mathbb R^D$, so each $x$ comes from exactly one $z$. If $z \sim N(0, I)$, sampling is
# $x = f^{-1}(z)$, and the density of $x$ is exact:
#
# $$\log p(x) = \log N(f(x) \mid 0, I) + \log\left|\det \frac{\partial f(x)}{\partial x}\right| .$$
#
# The second term counts volume: where $f$ stretches space, the mass of a small box of data is spread over a larger box
# of noise. The art is in maps that are rich, that can be inverted, and whose determinant is cheap: a general one costs
# $O(D^3)$. You will begin with maps whose determinant everybody knows (2a), build couplings (2b) and a RealNVP (2c),
# then the masked networks (2d) behind autoregressive flows (2e, 2f), and prove what you used (2g).
#
# **Conventions, everywhere in this section.** `forward` goes from data towards noise, `inverse` from noise towards
# data. Each returns a pair: the points it arrives at, and the log-determinant **of the map that was just applied**.
#
# | symbol | code | shape |
# |---|---|---|
# | $x$, $z$ | `x`, `z` | (B, D) |
# | $\log\lvert\det\rvert$ | `log_det` | (B,), one number for each point, in nats |
# | a layer's log-scale and shift | `s`, `t` | as the text says |
#
# Log-scales come from networks, and one outlier early in training could make $e^s$ overflow. So all of them are passed
# through the given `bounded`, a smooth function that is nearly the identity around 0 and never leaves $(-2, 2)$. It is
# applied to a **raw** log-scale, once, before anything else is done with it.


# %%
def bounded(raw: Tensor) -> Tensor:
    """The log-scale 2 tanh(raw / 2) that a raw output of a network stands for; any shape."""
    return 2 * torch.tanh(raw / 2)


# %% [markdown]
# ## 2a. Change of variables (3 points)
#
# Four small functions.
#
# **`standard_normal_log_prob`.** $\log N(z \mid 0, I) = -\tfrac12 \|z\|^2 - \tfrac D2 \log 2\pi$.
#
# **`linear_forward`.** $z = W x + b$ with an invertible matrix $W$, of any sign of determinant. Its Jacobian is $W$
# everywhere. Take the logarithm of the *absolute value*, and mind that a determinant itself may over- or underflow
# where its logarithm is harmless (`torch.linalg.slogdet`).
#
# **`logit_forward`.** Pixels lie in $[0, 1]$, noise on the whole line. The map
#
# $$p_d = \alpha + (1 - 2\alpha)\, x_d, \qquad z_d = \log \frac{p_d}{1 - p_d}$$
#
# opens the interval; $\alpha$ keeps black and white finite. It acts on each coordinate by itself, so the Jacobian is
# diagonal, and its log-determinant is a sum of logarithms of one-dimensional derivatives $\partial z_d / \partial x_d$:
# work them out.
#
# **`flow_log_prob`.** The formula above, for any `forward` that maps x to the pair (z, log_det).
#
# | symbol | code | shape |
# |---|---|---|
# | $W$, $b$ | `weight`, `bias` | (D, D), (D,) |
# | $\alpha$ | `alpha` | a number in (0, ½) |
# | $f$ | `forward(x)` -> `z, log_det` | (B, D) -> (B, D), (B,) |
#
# *What goes wrong:* a log-determinant with the wrong sign still trains, to a "likelihood" that grows without bound. And
# $W$ stretches every point alike, yet `log_det` has an entry for each of them.


# %% tags=["answer:2a"]
def standard_normal_log_prob(z: Tensor) -> Tensor:
    """log N(z | 0, I) in nats: z (B, D) -> (B,)."""
    # BEGIN SOLUTION
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * math.log(2 * math.pi))
    # END SOLUTION


def linear_forward(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """z = W x + b for each row of x (B, D), weight (D, D), bias (D,) -> z (B, D), log_det (B,)."""
    # BEGIN SOLUTION
    log_det = torch.linalg.slogdet(weight).logabsdet  # ()
    return x @ weight.T + bias, log_det.expand(len(x))
    # END SOLUTION


def logit_forward(x: Tensor, alpha: float = 0.05) -> tuple[Tensor, Tensor]:
    """z = logit(alpha + (1 - 2 alpha) x), elementwise: x (B, D) in [0, 1] -> z (B, D), log_det (B,)."""
    # BEGIN SOLUTION
    p = alpha + (1 - 2 * alpha) * x
    z = p.log() - (-p).log1p()
    return z, (math.log(1 - 2 * alpha) - p.log() - (-p).log1p()).sum(-1)  # dz/dp = 1 / (p (1 - p))
    # END SOLUTION


def flow_log_prob(x: Tensor, forward: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    """log p(x) in nats of the flow with the map forward(x) -> z, log_det: x (B, D) -> (B,)."""
    # BEGIN SOLUTION
    z, log_det = forward(x)
    return standard_normal_log_prob(z) + log_det
    # END SOLUTION


# %% tags=["check"]
check("2a")

# %% [markdown]
# **A look (needs 2a).** One pixel, three flows: the logit alone, and the logit followed by a linear map. Each curve is
# a density on $[0, 1]$.


# %%
def plot_pixel() -> None:
    x = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None]  # (2001, 1)
    plt.figure(figsize=(6, 3.5))
    for scale, shift in ((1.0, 0.0), (0.5, 0.0), (2.0, 2.0)):

        def forward(x: Tensor, scale: float = scale, shift: float = shift) -> tuple[Tensor, Tensor]:
            y, first = logit_forward(x)
            z, second = linear_forward(y, y.new_full((1, 1), scale), y.new_full((1,), shift))
            return z, first + second

        p = flow_log_prob(x, forward).exp()
        mass = torch.trapezoid(p, x[:, 0])
        plt.plot(x, p, label=f"scale {scale}, shift {shift}: mass {mass:.3f}")
    plt.xlabel("pixel")
    plt.ylabel("density")
    plt.legend()
    plt.title("The same noise, pulled back through three maps")
    plt.show()


plot_pixel()

# %% [markdown]
# *What to see:* one Gaussian becomes a broad hill, a trough with its mass towards the edges, or a narrow hill off the
# centre, whatever the map makes of it. A little of the mass lies outside of $[0, 1]$, in the slack that $\alpha$
# leaves: hence 0.997 in place of 1 for the first. The second map shrinks the line, so that more of the noise lies
# beyond the images of 0 and 1.

# %% [markdown]
# ## 2b. An affine coupling (4 points)
#
# Cut $x$ into two parts, leave $x_a$ alone, and let it choose an affine map for $x_b$. With a network `net` that gives
# raw log-scales $r$ and shifts $t$,
#
# $$(r, t) = \mathrm{net}(x_a), \quad s = \mathrm{bounded}(r), \qquad z_a = x_a, \qquad z_b = x_b \odot e^{s} + t .$$
#
# The network may be anything: it is never inverted. Whoever has $z$ has $z_a = x_a$, hence $s$ and $t$, and can undo
# the affine map. The Jacobian is triangular, with 1 and $e^{s_j}$ on its diagonal.
#
# The first part has the first $\lfloor D/2 \rfloor$ coordinates, the second part the others. With `swap=False` the
# first part is $x_a$ and the second $x_b$; with `swap=True` it is the other way round. The coordinates keep their
# **places**: what stood first in $x$ stands first in $z$.
#
# | symbol | code | shape |
# |---|---|---|
# | $x_a$, $x_b$ | parts of `x` | (B, D_a), (B, D_b) |
# | $r, t$ | `net(x_a)`, side by side: $r$, then $t$ | (B, 2 D_b) |
# | $s$ | `s`, bounded | (B, D_b) |
#
# `coupling_forward` returns $z$ and the log-determinant of $x \mapsto z$, `coupling_inverse` returns $x$ and the
# log-determinant of $z \mapsto x$.
#
# *What goes wrong:* a freshly made flow often starts as the identity, $s = t = 0$, and there nearly every mistake is
# invisible. Try yours with random weights, an odd $D$, both values of `swap`, and go there and back.


# %% tags=["answer:2b"]
def coupling_forward(x: Tensor, net: Callable[[Tensor], Tensor], swap: bool = False) -> tuple[Tensor, Tensor]:
    """One coupling, data to noise: x (B, D) -> z (B, D), log_det (B,); net: (B, D_a) -> (B, 2 D_b)."""
    # BEGIN SOLUTION
    first, second = x.split([x.shape[1] // 2, x.shape[1] - x.shape[1] // 2], dim=1)
    x_a, x_b = (second, first) if swap else (first, second)
    raw, t = net(x_a).chunk(2, dim=1)
    s = bounded(raw)  # (B, D_b)
    z_b = x_b * s.exp() + t
    return torch.cat([z_b, x_a] if swap else [x_a, z_b], dim=1), s.sum(1)
    # END SOLUTION


def coupling_inverse(z: Tensor, net: Callable[[Tensor], Tensor], swap: bool = False) -> tuple[Tensor, Tensor]:
    """The same coupling, noise to data: z (B, D) -> x (B, D), log_det (B,) of this map."""
    # BEGIN SOLUTION
    first, second = z.split([z.shape[1] // 2, z.shape[1] - z.shape[1] // 2], dim=1)
    z_a, z_b = (second, first) if swap else (first, second)
    raw, t = net(z_a).chunk(2, dim=1)  # the part that stayed is known, so the map is too
    s = bounded(raw)
    x_b = (z_b - t) * (-s).exp()
    return torch.cat([x_b, z_a] if swap else [z_a, x_b], dim=1), -s.sum(1)
    # END SOLUTION


# %% tags=["check"]
check("2b")

# %% [markdown]
# ## 2c. RealNVP: couplings in a stack (4 points)
#
# One coupling leaves half of the coordinates as they are. Put $K$ of them in a row, $f = f_K \circ \dots \circ f_1$,
# and let the parts take turns: layer $k = 0, 1, 2, \dots$ (counted from 0, from data towards noise) has `swap=False`
# where $k$ is even and `swap=True` where it is odd. A composition multiplies Jacobians, so log-determinants add:
#
# $$\log p(x) = \log N(z \mid 0, I) + \sum_{k} \log\left|\det \frac{\partial f_k}{\partial f_{k-1}}\right| .$$
#
# * `realnvp_forward` sends data through all layers: $z$, and the sum of the log-determinants.
# * `realnvp_log_prob` gives $\log p(x)$, in one pass.
# * `realnvp_sample` sends given noise the other way, $x = f^{-1}(z)$, in one pass as well, and returns $x$ alone.
#
# Use 2a and 2b.
#
# | symbol | code | shape |
# |---|---|---|
# | the networks of $f_1, \dots, f_K$ | `nets`, a sequence of K functions | each as in 2b |
# | $z \sim N(0, I)$ | `noise` | (B, D) |
#
# *What goes wrong:* each layer sees what the one before it put out. And a layer must be undone by itself: with its own
# network and its own `swap`, whatever the number of layers.


# %% tags=["answer:2c"]
def realnvp_forward(x: Tensor, nets: Sequence[Callable[[Tensor], Tensor]]) -> tuple[Tensor, Tensor]:
    """All couplings in a row, data to noise: x (B, D) -> z (B, D), log_det (B,)."""
    # BEGIN SOLUTION
    z, total = x, x.new_zeros(len(x))
    for k, net in enumerate(nets):
        z, log_det = coupling_forward(z, net, swap=k % 2 == 1)
        total = total + log_det
    return z, total
    # END SOLUTION


def realnvp_log_prob(x: Tensor, nets: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
    """log p(x) in nats: x (B, D) -> (B,)."""
    # BEGIN SOLUTION
    return flow_log_prob(x, lambda data: realnvp_forward(data, nets))
    # END SOLUTION


def realnvp_sample(noise: Tensor, nets: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
    """The data x (B, D) that noise (B, D) stands for."""
    # BEGIN SOLUTION
    x = noise
    for k in reversed(range(len(nets))):
        x, _ = coupling_inverse(x, nets[k], swap=k % 2 == 1)
    return x
    # END SOLUTION


# %% tags=["check"]
check("2c")

# %% [markdown]
# **A look (needs 2a, 2b and 2c).** Eight couplings, trained by maximum likelihood on two half moons: some seconds.


# %%
def two_moons(n: int, generator: torch.Generator) -> Tensor:
    """n points (n, 2) on two half circles that reach into each other, with noise 0.1."""
    angle = math.pi * torch.rand(n, generator=generator)
    lower = torch.rand(n, generator=generator) < 0.5
    upper_arc, lower_arc = (
        torch.stack([angle.cos(), angle.sin()], 1),
        torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1),
    )
    return torch.where(lower[:, None], lower_arc, upper_arc) + 0.1 * torch.randn(n, 2, generator=generator)


def small_network(d_in: int, d_out: int, width: int = 64) -> nn.Sequential:
    """Two hidden layers. The last layer starts at 0, so that a flow begins as the identity."""
    last = nn.Linear(width, d_out)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(d_in, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), last)


def train_realnvp(layers: int = 8, steps: int = 600, batch: int = 512) -> tuple[nn.ModuleList, list[float]]:
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    nets = nn.ModuleList(small_network(1, 2) for _ in range(layers)).to(device)
    optimizer = torch.optim.Adam(nets.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=steps)
    losses = []
    for _ in range(steps):
        loss = -realnvp_log_prob(two_moons(batch, g).to(device), nets).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return nets, losses


@torch.no_grad()
def plot_realnvp() -> None:
    with torch.enable_grad():
        nets, losses = train_realnvp()
    _, axes = plt.subplots(1, 4, figsize=(17, 3.6), layout="constrained")
    axes[0].plot(losses, linewidth=0.7)
    axes[0].set(xlabel="step", ylabel="nats per point", ylim=(0.8, 3), title="$-\\log p(x)$ of each batch")
    side_x, side_y = torch.linspace(-1.8, 2.8, 150), torch.linspace(-1.3, 1.8, 120)
    grid = torch.cartesian_prod(side_x, side_y).to(device)  # (150 * 120, 2)
    p = realnvp_log_prob(grid, nets).exp().reshape(150, 120).cpu()
    mass = p.sum() * (side_x[1] - side_x[0]) * (side_y[1] - side_y[0])
    axes[1].pcolormesh(side_x, side_y, p.T, cmap="magma", shading="auto")
    axes[1].set(title=f"density; its sum over the picture: {mass:.3f}", aspect="equal")
    samples = realnvp_sample(torch.randn(1500, 2, generator=torch.Generator().manual_seed(1)).to(device), nets).cpu()
    axes[2].scatter(*samples.T, s=3)
    axes[2].set(title="1,500 samples", aspect="equal", xlim=(-1.8, 2.8), ylim=(-1.3, 1.8))
    line = torch.linspace(-2.5, 2.5, 300)
    for level in torch.linspace(-2.5, 2.5, 21):
        for noise in (torch.stack([line, level.expand(300)], 1), torch.stack([level.expand(300), line], 1)):
            axes[3].plot(*realnvp_sample(noise.to(device), nets).cpu().T, color="black", linewidth=0.4)
    axes[3].set(title="a square grid of noise, as the flow sees it", aspect="equal", xlim=(-1.8, 2.8), ylim=(-1.3, 1.8))
    plt.show()


plot_realnvp()

# %% [markdown]
# *What to see:* the loss starts near 2.5 and settles near 1.1 nats (a spike is a step that went too far; with
# log-scales that are bounded, the flow finds its way back). The density sums to about 1 over the picture, with no
# effort on your part: that is what the log-determinant is for. A thin bridge joins the moons; a continuous invertible
# map cannot tear one Gaussian into two pieces, it can only stretch what lies between them. The grid shows how: its
# lines never cross anew, they crowd together where data is dense.

# %% [markdown]
# ## 2d. Masks that keep the order: MADE (4 points)
#
# By the chain rule every density is a product of conditionals, $p(x) = \prod_i p(x_i \mid x_{<i})$, in **any** order of
# the coordinates. An autoregressive flow computes the parameters of all $D$ conditionals by one network that must keep
# the order: what belongs to coordinate $i$ may depend on coordinates that come **before** $i$, not on $x_i$ itself and
# on nothing later. MADE does it with masks. Give each unit a **degree**:
#
# * Input coordinate $i$ has the degree $m_i$, its place in the order: the degrees of the $D$ inputs are $1, \dots, D$
#   in some given order, and the one with degree 1 comes first.
# * A hidden unit of degree $m$ is allowed to know the inputs of degree $\le m$. It may be connected to any unit of the
#   layer below that knows nothing beyond this.
# * The outputs for coordinate $i$ are allowed to know the inputs of degree $< m_i$, and are connected accordingly.
#
# Useful degrees for hidden units are $1, \dots, D - 1$ (why not $D$?). In a layer of $H$ units, let unit
# $j = 0, \dots, H - 1$ have the degree $1 + \lfloor j\,(D - 1)/H \rfloor$: that spreads them evenly, and if
# $H \ge D - 1$ each degree occurs.
#
# **`made_masks`** returns a list of matrices of zeros and ones (of any dtype), one for each hidden layer and one for
# the output, each of the shape of the layer's weight: (units above, units below). The output layer has $k D$ units:
# first one for each of the $D$ coordinates, then $D$ more, and so on.
#
# **`made`** runs the network: in each layer the weight counts only where the mask is 1 and the bias counts as it is;
# a ReLU follows each layer but the last. It returns (B, k, D): entry $[b, n, i]$ is output $n D + i$ for row $b$, the
# $n$-th number for coordinate $i$.
#
# | symbol | code | shape |
# |---|---|---|
# | $m_i$ | `degrees`, whole numbers, a permutation of 1..D | (D,) |
# | widths of the hidden layers | `hidden`, a sequence of one or more numbers, each at least D - 1 | |
# | numbers for each coordinate | `k` | 2: a shift and a log-scale |
# | weights, biases, masks | `weights`, `biases`, `masks`, lists | (H_above, H_below), (H_above,), (H_above, H_below) |
#
# *What goes wrong:* one unit too many and $x_i$ sees itself; then the "density" is no density, and its likelihood can
# be driven as high as you like. One unit too few, and the model is right but weaker than it need be. The check looks at
# both, through the Jacobian.


# %% tags=["answer:2d"]
def made_masks(degrees: Tensor, hidden: Sequence[int], k: int = 2) -> list[Tensor]:
    """Masks of zeros and ones: degrees (D,) -> [(hidden[0], D), (hidden[1], hidden[0]), ..., (k D, hidden[-1])]."""
    # BEGIN SOLUTION
    below, masks = degrees, []
    for width in hidden:
        above = 1 + torch.arange(width, device=degrees.device) * (len(degrees) - 1) // width  # (width,)
        masks.append(above[:, None] >= below)
        below = above
    return [*masks, (degrees[:, None] > below).repeat(k, 1)]
    # END SOLUTION


def made(x: Tensor, weights: list[Tensor], biases: list[Tensor], masks: list[Tensor]) -> Tensor:
    """The masked network: x (B, D) -> (B, k, D)."""
    # BEGIN SOLUTION
    a = x
    for n, (weight, bias, mask) in enumerate(zip(weights, biases, masks, strict=True)):
        a = F.linear(a.relu() if n > 0 else a, weight * mask, bias)  # (B, units of this layer)
    return a.unflatten(1, (-1, x.shape[1]))
    # END SOLUTION


# %% tags=["check"]
check("2d")

# %% [markdown]
# **A look (needs 2d).** Your masks for $D = 6$ in a shuffled order, and what they add up to: which output can see which
# input.


# %%
def plot_masks() -> None:
    degrees = torch.tensor([3, 1, 6, 2, 5, 4])
    masks = [mask.double() for mask in made_masks(degrees, [12, 12], k=1)]
    paths = masks[2] @ masks[1] @ masks[0]  # (6, 6), how many ways lead from an input to an output
    place = degrees.argsort()
    _, axes = plt.subplots(1, 5, figsize=(16, 3.4), layout="constrained", width_ratios=[1, 2, 2, 1.6, 1.6])
    titles = ("first mask", "second mask", "output mask", "paths", "paths, sorted by the order")
    for axis, picture, title in zip(axes, [*masks, paths, paths[place][:, place]], titles, strict=True):
        axis.imshow(picture, cmap="Greys", vmin=0, vmax=float(picture.max()) * 1.2)
        axis.set(title=title, xticks=[], yticks=[], xlabel="below", ylabel="above")
    for i in range(6):
        for j in range(6):
            axes[3].text(j, i, int(paths[i, j]), ha="center", va="center", color="tab:red", fontsize=8)
    plt.show()


plot_masks()

# %% [markdown]
# *What to see:* the fourth picture looks like nothing in particular. Sort rows and columns by the order, and it is
# strictly lower triangular: the diagonal is empty, everything below it is full.

# %% [markdown]
# ## 2e. A masked autoregressive flow (4 points)
#
# Take each conditional to be Gaussian, with a mean $\mu_i$ and a log-scale $\alpha_i$ that an autoregressive network
# computes from the coordinates of the **data** before $i$ (here the order is simply $1, \dots, D$):
#
# $$x_i = z_i\, e^{\alpha_i} + \mu_i, \qquad \mu_i = \mu_i(x_{<i}), \quad \alpha_i = \mathrm{bounded}(r_i(x_{<i})) .$$
#
# Read from left to right this samples; solved for $z$ it is a flow with a triangular Jacobian.
#
# * `maf_log_prob` gives $\log p(x)$. The data is all there, so **one** call of the network will do.
# * `maf_sample` turns noise into data. There $x_i$ must be known before the parameters of $x_{i+1}$ can be computed, so
#   you need $D$ calls of the network, **no more**, each on the whole batch.
#
# The network `net` is given and keeps the order: whatever stands in coordinates $i, i + 1, \dots$ of its input has no
# influence on what it says about coordinate $i$. The check counts how often you call it.
#
# | symbol | code | shape |
# |---|---|---|
# | $\mu$ and the raw log-scale $r$ | `net(x)`: `[:, 0]` and `[:, 1]` | (B, 2, D) |
# | $z$ | `noise` | (B, D) |
#
# *What goes wrong:* the conditional of $x_1$ is Gaussian too, with a mean and a scale of its own: nothing precedes
# $x_1$, but the biases speak. And $\alpha$ is the log-scale of the *data* given the past: mind in which direction it
# stretches.


# %% tags=["answer:2e"]
def maf_log_prob(x: Tensor, net: Callable[[Tensor], Tensor]) -> Tensor:
    """log p(x) in nats, with one call of net: x (B, D) -> (B,)."""
    # BEGIN SOLUTION
    mu, raw = net(x).unbind(1)  # (B, D), (B, D)
    alpha = bounded(raw)
    return standard_normal_log_prob((x - mu) * (-alpha).exp()) - alpha.sum(1)
    # END SOLUTION


def maf_sample(noise: Tensor, net: Callable[[Tensor], Tensor]) -> Tensor:
    """The data x (B, D) that noise (B, D) stands for, with D calls of net."""
    # BEGIN SOLUTION
    x = torch.zeros_like(noise)
    for i in range(noise.shape[1]):
        mu, raw = net(x)[:, :, i].unbind(1)  # of coordinate i: they depend on what is filled in already
        x[:, i] = noise[:, i] * bounded(raw).exp() + mu
    return x
    # END SOLUTION


# %% tags=["check"]
check("2e")

# %% [markdown]
# ## 2f. An inverse autoregressive flow (4 points)
#
# Let the parameters depend on the coordinates of the **noise** before $i$ in place of the data's. One layer, from noise
# $z$ to data $x$:
#
# $$x_i = z_i\, e^{s_i} + m_i, \qquad m_i = m_i(z_{<i}), \quad s_i = \mathrm{bounded}(r_i(z_{<i})) .$$
#
# The formula is that of 2e but for one letter, and the costs change places: a sample, *with its density*, takes one
# call of the network, while the density of a point that somebody else gives you takes $D$, for its noise must be found
# coordinate by coordinate. Variational inference only ever asks for the density of its own samples; that is what this
# flow was invented for.
#
# Stack $K$ layers. As everywhere here they are numbered from data towards noise, and **between** two layers (not before
# the first, not after the last) the order of the coordinates is reversed, so that the last becomes the first:
# data – layer 1 – reverse – layer 2 – … – reverse – layer $K$ – noise.
#
# * `iaf_sample` gives $x$ and $\log p(x)$, from noise, with $K$ calls in all.
# * `iaf_log_prob` gives $\log p(x)$ of any $x$, with $K D$ calls in all.
#
# | symbol | code | shape |
# |---|---|---|
# | the networks of layers $1, \dots, K$ | `nets`, a sequence of K functions | each (B, D) -> (B, 2, D) |
# | $m$ and the raw log-scale $r$ of one layer | `net(z)`: `[:, 0]` and `[:, 1]` | (B, 2, D) |
# | $z \sim N(0, I)$ at the end | `noise` | (B, D) |
#
# *What goes wrong:* noise enters at layer $K$. A determinant belongs to a direction: you walk from noise to data in the
# first function, from data to noise in the second, and $\log p(x)$ of the same $x$ must be the same number in both.


# %% tags=["answer:2f"]
def iaf_sample(noise: Tensor, nets: Sequence[Callable[[Tensor], Tensor]]) -> tuple[Tensor, Tensor]:
    """Noise (B, D) -> the data x (B, D), log p(x) in nats (B,); each net is called once."""
    # BEGIN SOLUTION
    x, log_prob = noise, standard_normal_log_prob(noise)
    for k in reversed(range(len(nets))):
        m, raw = nets[k](x).unbind(1)
        s = bounded(raw)
        x, log_prob = x * s.exp() + m, log_prob - s.sum(1)
        if k > 0:
            x = x.flip(1)
    return x, log_prob
    # END SOLUTION


def iaf_log_prob(x: Tensor, nets: Sequence[Callable[[Tensor], Tensor]]) -> Tensor:
    """log p(x) in nats (B,) of any points x (B, D); each net is called D times."""
    # BEGIN SOLUTION
    log_det = x.new_zeros(len(x))
    for k, net in enumerate(nets):
        if k > 0:
            x = x.flip(1)
        z = torch.zeros_like(x)
        for i in range(x.shape[1]):
            m, raw = net(z)[:, :, i].unbind(1)
            s = bounded(raw)
            z[:, i] = (x[:, i] - m) * (-s).exp()
            log_det = log_det - s
        x = z  # what the next layer is given
    return standard_normal_log_prob(x) + log_det
    # END SOLUTION


# %% tags=["check"]
check("2f")

# %% [markdown]
# **A look (needs 2d, 2e and 2f).** One layer of each kind, with the same masked network, on 256 points in 2 to 128
# dimensions: milliseconds for a density and for a sample.


# %%
@torch.no_grad()
def plot_speed() -> None:
    torch.manual_seed(0)
    dimensions, curves = [2, 4, 8, 16, 32, 64, 128], {}
    for d in dimensions:
        masks = [mask.float().to(device) for mask in made_masks(torch.arange(1, d + 1), [256])]
        weights = [torch.randn(mask.shape, device=device) / mask.shape[1] ** 0.5 for mask in masks]
        biases = [torch.zeros(len(mask), device=device) for mask in masks]
        points = torch.randn(256, d, device=device)

        def net(x: Tensor, layers: tuple = (weights, biases, masks)) -> Tensor:
            return made(x, *layers)

        tasks = {
            "MAF, density": lambda x=points, net=net: maf_log_prob(x, net),
            "MAF, sample": lambda x=points, net=net: maf_sample(x, net),
            "IAF, density": lambda x=points, net=net: iaf_log_prob(x, [net]),
            "IAF, sample": lambda x=points, net=net: iaf_sample(x, [net])[1],
        }
        for name, task in tasks.items():
            seconds = []
            for _ in range(6):  # the best of six: the others waited for something else
                start = time.perf_counter()
                task().sum().item()
                seconds.append(time.perf_counter() - start)
            curves.setdefault(name, []).append(1e3 * min(seconds))
    plt.figure(figsize=(6, 3.8))
    for (name, times), style in zip(curves.items(), ("o-", "o--", "s--", "s-"), strict=True):
        plt.loglog(dimensions, times, style, label=name)
    plt.xlabel("dimension D")
    plt.ylabel("milliseconds for 256 points")
    plt.legend()
    plt.title("What takes one pass, and what takes D")
    plt.show()


plot_speed()

# %% [markdown]
# *What to see:* both axes are logarithmic. Two curves rise slowly, two by a factor of a thousand. The two flows are
# mirror images: what is one pass for one is $D$ passes for the other. A RealNVP would lie low in both tasks, and pays
# in another coin: each of its layers leaves half of the coordinates untouched.

# %% [markdown]
# ## 2g. Triangles (5 points, written)
#
# Let $f: \mathbb R^D \to \mathbb R^D$ be differentiable and invertible with a differentiable inverse, $z = f(x)$, and
# let $z$ have the density $p_Z$.
#
# 1. Show for $D = 1$, from $P(X \le a)$, that $p_X(x) = p_Z(f(x))\, |f'(x)|$. Treat rising and falling $f$. Say in one
#    sentence what takes the place of $|f'|$ in $D$ dimensions, and why.
# 2. Show that the log-determinants of two layers $f_2 \circ f_1$ add, and say at which points each is to be evaluated.
# 3. Write down the Jacobian $\partial z / \partial x$ of the coupling of 2b (with `swap=False`) and of the masked
#    autoregressive layer of 2e, as far as needed to see that both are triangular, and read off $\log|\det|$. What does
#    it cost, next to a general Jacobian?
# 4. Why does the layer of 2e give a density in one pass and a sample only in $D$, though its Jacobian is triangular in
#    both directions? And which of the flows 2c, 2e, 2f would you take (a) to fit data by maximum likelihood, where
#    nobody waits for samples; (b) for a posterior $q(z \mid x)$ inside a VAE; (c) where both density and samples must
#    be fast? One reason each.

# %% [markdown] tags=["written:2g", "points:5"]
# <!-- BEGIN SOLUTION -->
# **1.** Let $F_Z$ be the distribution function of $z$. If $f$ rises, $P(X \le a) = P(f(X) \le f(a)) = F_Z(f(a))$, whose
# derivative is $p_Z(f(a)) f'(a)$. If $f$ falls, $P(X \le a) = P(f(X) \ge f(a)) = 1 - F_Z(f(a))$, with the derivative
# $-p_Z(f(a)) f'(a)$, and $-f' = |f'|$. (An invertible continuous $f$ on the line does one or the other.) In $D$
# dimensions it is $|\det \partial f / \partial x|$: near $x$ the map is linear up to smaller terms, and a linear map
# multiplies the volume of every small box by the absolute value of its determinant, while the box keeps its mass.
#
# **2.** By the chain rule $\frac{\partial (f_2 \circ f_1)}{\partial x}(x) = J_2(f_1(x))\, J_1(x)$. Determinants of
# products multiply, so $\log|\det| = \log|\det J_2(f_1(x))| + \log|\det J_1(x)|$: the first at $x$, the second at what
# the first layer puts out.
#
# **3.** Coupling, coordinates ordered as $(x_a, x_b)$:
#
# $$\frac{\partial z}{\partial x} = \begin{pmatrix} I & 0 \\ \ast & \mathrm{diag}(e^{s(x_a)}) \end{pmatrix},
# \qquad \log|\det| = \sum_j s_j(x_a) .$$
#
# Autoregressive: $z_i = (x_i - \mu_i(x_{<i}))\, e^{-\alpha_i(x_{<i})}$ depends on $x_1, \dots, x_i$ only, so
# $\partial z_i / \partial x_j = 0$ for $j > i$, with $\partial z_i / \partial x_i = e^{-\alpha_i}$ on the diagonal, and
# $\log|\det| = -\sum_i \alpha_i$. The determinant of a triangular matrix is the product of its diagonal: a sum of $D$
# terms, $O(D)$, whatever stands below the diagonal ($\ast$ is never computed). A general determinant takes $O(D^3)$,
# and the matrix itself $D$ passes backwards.
#
# **4.** The parameters of $z_i$ depend on $x_{<i}$. Given the data, all of them are known at once: one pass. Given the
# noise, $x_1$ has to be computed before $\mu_2, \alpha_2$ are known, then $x_2$, and so on: the computation has a chain
# of length $D$. A triangular system has a cheap determinant, and is solved by substitution, one unknown after the
# other. (a) MAF (or RealNVP): training asks for densities of given points only, and every coordinate is
# transformed in every layer. (b) IAF: the bound needs samples and the density of these very samples, both from one
# pass; points from elsewhere never occur. (c) RealNVP: one pass in both directions.
#
# Rubric:
# * 1 point: part 1 (half for both cases with the absolute value, half for the determinant as the change of volume).
# * 1 point: part 2, with the second Jacobian taken at $f_1(x)$.
# * 1.5 points: part 3 (half for each Jacobian, half for the cost).
# * 1.5 points: part 4 (half for the chain of dependence, 1 for the three choices with their reasons; MAF or RealNVP are
#   both right in (a)).
# <!-- END SOLUTION -->

# %% [markdown]
# # 3. Generative adversarial networks (24 points)
#
# A GAN has no likelihood at all. A **generator** $G$ maps noise $z$ to samples $G(z)$; a **discriminator** $D$ looks at
# an example and says with which probability it is real. They play a game over one number,
#
# $$\min_G \max_D\; V(D, G), \qquad
# V(D, G) = \mathbb E_{x \sim \text{data}}[\log D(x)] + \mathbb E_z[\log(1 - D(G(z)))] .$$
#
# $D$ is a network that puts out a **logit** $a(x)$, any real number, with $D(x) = \sigma(a(x)) = 1 / (1 + e^{-a(x)})$.
# You will write the losses of both players (3a), find the best answer to a fixed generator and what the game measures
# then (3b), give the critic of a Wasserstein GAN its slope (3c), play one round (3d), count modes (3e), and show why
# the generator does not minimise the game's own value in practice (3f).

# %% [markdown]
# ## 3a. The losses of the two players (4 points)
#
# The discriminator minimises $-V$. For the generator there are two choices:
#
# $$L_D = -\mathbb E_x[\log D(x)] - \mathbb E_z[\log(1 - D(G(z)))], \qquad
# L_G^{\text{minimax}} = \mathbb E_z[\log(1 - D(G(z)))], \qquad
# L_G^{\text{non-saturating}} = -\mathbb E_z[\log D(G(z))] .$$
#
# All of them are to be computed from logits, with the mean over a batch for each expectation, and must be exact for
# logits up to $\pm 10^3$. There $\sigma(a)$ has long rounded to 0 or 1, and its logarithm, or that of $1 - \sigma(a)$,
# is $-\infty$; yet $\log \sigma(a)$ is a harmless number near $-10^3$ or near 0. So are the gradients, which is where
# the two losses of the generator differ: the check compares them at samples which $D$ rejects with near certainty.
#
# | symbol | code | shape |
# |---|---|---|
# | $a(x)$ on data | `real_logits` | (B,) |
# | $a(G(z))$ on samples | `fake_logits` | (B',), not always as many |
# | which $L_G$ | `objective`: `"minimax"` or `"non_saturating"` | a string |
#
# *What goes wrong:* keeping $D$ away from 0 and 1 by a small constant replaces an infinite loss by a wrong one, without
# a gradient. And a generator that is trained with the discriminator's sign walks away from the data.


# %% tags=["answer:3a"]
def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-V in nats from the logits on data (B,) and on samples (B',): a scalar."""
    # BEGIN SOLUTION
    return -F.logsigmoid(real_logits).mean() - F.logsigmoid(-fake_logits).mean()  # 1 - sigmoid(a) = sigmoid(-a)
    # END SOLUTION


def generator_loss(fake_logits: Tensor, objective: str = "non_saturating") -> Tensor:
    """What G minimises, in nats, from the logits on its samples (B',); objective as above: a scalar."""
    # BEGIN SOLUTION
    if objective == "minimax":
        return F.logsigmoid(-fake_logits).mean()
    return -F.logsigmoid(fake_logits).mean()
    # END SOLUTION


# %% tags=["check"]
check("3a")

# %% [markdown]
# **A look (needs 3a).** Both losses of the generator, and how strongly each pulls at a sample, against its logit.


# %%
def plot_losses() -> None:
    a = torch.linspace(-8, 8, 400, dtype=torch.float64)
    _, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6))
    for objective in ("minimax", "non_saturating"):
        logits = a.clone().requires_grad_()
        losses = torch.stack([generator_loss(logit[None], objective) for logit in logits])
        (slope,) = torch.autograd.grad(losses.sum(), logits)
        left.plot(a, losses.detach(), label=objective)
        right.plot(a, -slope, label=objective)
    left.set(xlabel="logit of a sample", ylabel="nats", title="The generator's loss")
    right.set(xlabel="logit of a sample", title="How hard it pulls the logit up")
    right.axvspan(-8, -4, color="tab:red", alpha=0.1)
    right.text(-7.8, 0.5, "samples that D\nsees through")
    left.legend()
    plt.show()


plot_losses()

# %% [markdown]
# *What to see:* both losses fall from left to right, so both want samples that $D$ takes for real. The minimax loss is
# flat where it matters most: at the start of training, when every sample is seen through. The other one pulls hardest
# there, and stops where a sample already passes.

# %% [markdown]
# ## 3b. The optimal discriminator (3 points)
#
# Fix the generator, and let data and samples have the distributions $p$ and $q$, here on $K$ values. Then
#
# $$V(d) = \sum_{i=1}^K p_i \log d_i + q_i \log(1 - d_i), \qquad d_i \in [0, 1],$$
#
# is maximised term by term. You will find the $d^*$ that does it, and that the value there is, up to constants, the
# **Jensen–Shannon divergence**: with the mixture $m = \tfrac12 (p + q)$,
#
# $$\mathrm{JS}(p, q) = \tfrac12 \mathrm{KL}(p \,\|\, m) + \tfrac12 \mathrm{KL}(q \,\|\, m), \qquad
# V(d^*) = 2\, \mathrm{JS}(p, q) - \log 4 .$$
#
# Probabilities may be 0, and $0 \log 0 = 0$ as always (`torch.xlogy` knows it). Where both are 0 nothing is ever seen;
# let $d^*_i = \tfrac12$ there.
#
# | symbol | code | shape |
# |---|---|---|
# | $p$, $q$ | `p`, `q` | (K,), each sums to 1 |
# | $d$, $d^*$ | `d`, returned | (K,) |
# | $V(d)$, $\mathrm{JS}(p, q)$ | returned, in nats | () |
#
# *What goes wrong:* the zeros. A value that only $p$ has contributes to the divergence, and one that neither has must
# not turn everything into NaN.


# %% tags=["answer:3b"]
def optimal_discriminator(p: Tensor, q: Tensor) -> Tensor:
    """The probabilities d* (K,) of "real" that maximise V, for data p (K,) and samples q (K,)."""
    # BEGIN SOLUTION
    seen = p + q > 0
    return torch.where(seen, p / torch.where(seen, p + q, 1.0), 0.5)
    # END SOLUTION


def gan_value(d: Tensor, p: Tensor, q: Tensor) -> Tensor:
    """V(d) in nats of any discriminator d (K,): a scalar."""
    # BEGIN SOLUTION
    return (torch.xlogy(p, d) + torch.xlogy(q, 1 - d)).sum()
    # END SOLUTION


def js_divergence(p: Tensor, q: Tensor) -> Tensor:
    """JS(p, q) in nats: a scalar between 0 and log 2."""
    # BEGIN SOLUTION
    m = 0.5 * (p + q)
    to_p = torch.xlogy(p, p) - torch.xlogy(p, m)  # (K,)
    to_q = torch.xlogy(q, q) - torch.xlogy(q, m)
    return 0.5 * (to_p + to_q).sum()
    # END SOLUTION


# %% tags=["check"]
check("3b")

# %% [markdown]
# **A look (needs 3b).** Data and samples are two narrow hills on a line, some distance apart. What does the game say
# about the distance?


# %%
def plot_distance() -> None:
    x = torch.linspace(-12, 12, 2401, dtype=torch.float64)
    p = torch.softmax(-0.5 * x**2, 0)
    gaps = torch.linspace(0, 8, 60, dtype=torch.float64)
    hills = [torch.softmax(-0.5 * (x - gap) ** 2, 0) for gap in gaps]
    _, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6))
    for gap in (1.0, 3.0, 6.0):
        left.plot(x, optimal_discriminator(p, torch.softmax(-0.5 * (x - gap) ** 2, 0)), label=f"gap {gap:g}")
    left.fill_between(x, p / p.max(), color="gray", alpha=0.3, label="data")
    left.set(xlabel="x", ylabel="D*(x)", title="The optimal discriminator", xlim=(-4, 10))
    left.legend()
    right.plot(gaps, [js_divergence(p, q) for q in hills], label="Jensen–Shannon divergence")
    right.axhline(math.log(2), color="black", linestyle=":", label="log 2")
    right.plot(gaps, gaps / 8, color="tab:green", label="Wasserstein distance / 8")
    right.set(xlabel="gap", title="A distance that goes blind, and one that does not")
    right.legend()
    plt.show()


plot_distance()

# %% [markdown]
# *What to see:* the farther apart the hills, the steeper the wall between them, and the flatter everything else: on the
# right $D^*$ is 0 with no slope that could tell a sample where to go. The divergence has reached $\log 2$ at a gap of
# about 5 and does not change any more. The Wasserstein distance, the way that the mass must be carried, still grows.

# %% [markdown]
# ## 3c. A critic with a slope: the gradient penalty (4 points)
#
# In a Wasserstein GAN $D$ is a **critic** that puts out any number, high for data and low for samples. If it nowhere
# climbs faster than 1 per unit of length, the largest possible difference of its two means *is* the Wasserstein
# distance. The slope is kept near 1 by a penalty at random points $\hat x$ between data and samples:
#
# $$L = \underbrace{\tfrac1B \textstyle\sum_b D(\tilde x_b) - \tfrac1B \sum_b D(x_b)}_{\text{minus the distance}}
# + \lambda\, \frac1B \sum_{b=1}^B \big(\|\nabla_{\hat x} D(\hat x_b)\|_2 - 1\big)^2, \qquad
# \hat x_b = u_b\, x_b + (1 - u_b)\, \tilde x_b ,$$
#
# with one number $u_b \in [0, 1]$ **for each example**. The norm is taken over everything that belongs to one example:
# all coordinates of a point, all channels and pixels of an image.
#
# * `gradient_penalty` returns the mean of $(\|\nabla D(\hat x_b)\| - 1)^2$, without $\lambda$.
# * `critic_loss` returns $L$.
#
# Both are trained by gradient descent on the critic's parameters, so they must be differentiable in those: a derivative
# of a derivative (`torch.autograd.grad` has an option for it). `critic(x)` works on each example by itself and returns
# (B,).
#
# | symbol | code | shape |
# |---|---|---|
# | $x$, $\tilde x$ | `x`, `fake` | (B, ...): points (B, D) or images (B, C, H, W) |
# | $u$ | `u` | (B,) |
# | $\lambda$ | `penalty` | a number |
#
# *What goes wrong:* a penalty with the right value that trains nothing; one norm for the whole batch; a $u$ that is
# broadcast along the wrong axis. `x` and `fake` come without `requires_grad`, and you must not change that.


# %% tags=["answer:3c"]
def gradient_penalty(critic: Callable[[Tensor], Tensor], x: Tensor, fake: Tensor, u: Tensor) -> Tensor:
    """Mean of (|slope of the critic| - 1)^2 between x and fake (B, ...), at u (B,): a scalar."""
    # BEGIN SOLUTION
    u = u.view(-1, *[1] * (x.ndim - 1))  # (B, 1, ..., 1)
    x_hat = (u * x + (1 - u) * fake).detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(x_hat).sum(), x_hat, create_graph=True)  # (B, ...)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()
    # END SOLUTION


def critic_loss(
    critic: Callable[[Tensor], Tensor], x: Tensor, fake: Tensor, u: Tensor, penalty: float = 10.0
) -> Tensor:
    """The critic's loss L on data x and samples fake (B, ...), with u (B,): a scalar."""
    # BEGIN SOLUTION
    gap = critic(x).mean() - critic(fake).mean()
    return -gap + penalty * gradient_penalty(critic, x, fake, u)
    # END SOLUTION


# %% tags=["check"]
check("3c")

# %% [markdown]
# ## 3d. One round of the game (4 points)
#
# Write one alternating step: first the discriminator's, then the generator's.
#
# 1. **Discriminator.** Samples from `noise[0]`; one step of `optimizer_D` on `d_loss(logits on x, logits on samples)`.
#    This step is about $D$ alone: no gradient may reach the generator's parameters, not even one that is thrown away
#    later (it would cost a whole backward pass through $G$).
# 2. **Generator.** *Fresh* samples from `noise[1]`, judged by the discriminator **after** its step; one step of
#    `optimizer_G` on `g_loss(logits on samples)`. This gradient must run through $D$ to reach $G$, but $D$ does not
#    move.
#
# Return the two losses as plain numbers, each computed before its own player's step. The next round starts from
# whatever the last one left in `.grad`, and must not be misled by it. The losses are handed in as functions, so that
# the same round plays any game: that of 3a, or the others which the check brings.
#
# | symbol | code | shape |
# |---|---|---|
# | data | `x` | (B, D) |
# | noise for both players' samples | `noise` | (2, B, latent) |
# | $G$, $D$ | `G`, `D`, callable: `G(noise[0])`, `D(x)` | (B, latent) -> (B, D), (B, D) -> (B,) |
# | their optimisers | `optimizer_G`, `optimizer_D`, each with the parameters of one network | |
# | $L_D$, $L_G$ | `d_loss(real_logits, fake_logits)`, `g_loss(fake_logits)` | scalars |
#
# *What goes wrong:* a graph that is cut in one place too many leaves $G$ where it is for ever; one cut too few, and $G$
# is trained to help the discriminator.


# %% tags=["answer:3d"]
def gan_step(
    x: Tensor,
    noise: Tensor,
    G: Callable[[Tensor], Tensor],
    D: Callable[[Tensor], Tensor],
    optimizer_G: torch.optim.Optimizer,
    optimizer_D: torch.optim.Optimizer,
    d_loss: Callable[[Tensor, Tensor], Tensor],
    g_loss: Callable[[Tensor], Tensor],
) -> tuple[float, float]:
    """One round on x (B, D) and noise (2, B, latent): D moves, then G -> the losses of D and of G."""
    # BEGIN SOLUTION
    with torch.no_grad():  # no graph, so no way back into G
        fake = G(noise[0])
    loss_of_d = d_loss(D(x), D(fake))
    optimizer_D.zero_grad()
    loss_of_d.backward()
    optimizer_D.step()
    loss_of_g = g_loss(D(G(noise[1])))
    optimizer_G.zero_grad()
    loss_of_g.backward()  # leaves gradients in D as well, which the next round clears
    optimizer_G.step()
    return loss_of_d.item(), loss_of_g.item()
    # END SOLUTION


# %% tags=["check"]
check("3d")

# %% [markdown]
# ## 3e. Which modes are there? (4 points)
#
# A generator may produce perfect samples of a small part of the data: **mode collapse**. Neither player's loss shows
# it. On data whose modes are known it can be counted. Take a mixture of $K$ Gaussians with centres $c_1, \dots, c_K$
# and standard deviation $\sigma$, and draw $N$ samples:
#
# * Each sample belongs to its **nearest** centre. It is a *good* one if it is less than `radius` standard deviations
#   away from it (3 unless told otherwise), in Euclidean distance.
# * `mode_counts` gives the number of good samples of each centre.
# * `mode_coverage` gives how many centres have at least one, and the share of **all** samples that are good.
#
# A remedy from outside of the losses, *packing* (PacGAN): let $D$ judge groups of $m$ samples at once, all real or all
# fake. One sample on a mode looks fine; that $m$ in a row all lie on the same few modes looks suspicious.
#
# * `pack` puts each $m$ consecutive rows side by side: row $j$ of its answer holds rows $jm, \dots, jm + m - 1$. What
#   is left over at the end, fewer than $m$ rows, is dropped.
#
# | symbol | code | shape |
# |---|---|---|
# | samples | `x` | (N, D) |
# | $c_k$, $\sigma$ | `centres`, `sigma` | (K, D), a number |
# | counts | returned, whole numbers | (K,) |
# | modes covered, share | returned, a whole number and a number in [0, 1] | |
# | packed | returned | (N // m, m D) |
#
# *What goes wrong:* a disc around one centre may overlap the next one's, and still each sample counts once. A centre
# without samples has a count, too: 0.


# %% tags=["answer:3e"]
def mode_counts(x: Tensor, centres: Tensor, sigma: float, radius: float = 3.0) -> Tensor:
    """How many good samples each centre has: x (N, D), centres (K, D) -> int64 (K,)."""
    # BEGIN SOLUTION
    distance = (x[:, None] - centres).norm(dim=-1)  # (N, K)
    nearest, mode = distance.min(dim=1)  # (N,), (N,)
    return torch.bincount(mode[nearest < radius * sigma], minlength=len(centres))
    # END SOLUTION


def mode_coverage(x: Tensor, centres: Tensor, sigma: float, radius: float = 3.0) -> tuple[int, float]:
    """(modes covered, share of good samples) for x (N, D) and centres (K, D)."""
    # BEGIN SOLUTION
    counts = mode_counts(x, centres, sigma, radius)
    return int((counts > 0).sum()), float(counts.sum()) / len(x)
    # END SOLUTION


def pack(x: Tensor, m: int) -> Tensor:
    """Each m consecutive rows side by side: x (N, D) -> (N // m, m D)."""
    # BEGIN SOLUTION
    groups = len(x) // m
    return x[: groups * m].reshape(groups, m * x.shape[1])
    # END SOLUTION


# %% tags=["check"]
check("3e")

# %% [markdown]
# **A look (needs 3a, 3d and 3e).** A grid of 25 Gaussians and two small networks: some seconds of training.


# %%
def grid_centres() -> Tensor:
    """The 25 centres (25, 2) of the grid."""
    side = torch.arange(-4.0, 5.0, 2.0)
    return torch.cartesian_prod(side, side)


def gan_network(d_in: int, d_out: int, activation: Callable[[], nn.Module], width: int = 64) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(d_in, width), activation()]
    for _ in range(2):
        layers += [nn.Linear(width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, d_out))


def train_gan(steps: int = 2000, batch: int = 128, sigma: float = 0.2) -> tuple[dict[int, Tensor], Tensor, Tensor]:
    """Samples (2500, 2) at some steps; (step, modes, share) every 50 steps; the losses of both players (steps, 2)."""
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    centres = grid_centres().to(device)
    body, judge = gan_network(2, 2, nn.ReLU).to(device), gan_network(2, 1, lambda: nn.LeakyReLU(0.2)).to(device)
    players = [torch.optim.Adam(net.parameters(), betas=(0.5, 0.99)) for net in (body, judge)]
    kept, trace, losses = {}, [], []
    for step in range(steps + 1):
        if step % 50 == 0:
            with torch.no_grad():
                samples = 4 * body(torch.randn(2500, 2, generator=g).to(device))
            trace.append([step, *mode_coverage(samples, centres, sigma)])
            if step in (steps // 20, steps // 4, steps):
                kept[step] = samples.cpu()
        for player in players:
            player.param_groups[0]["lr"] = 2e-3 * (1 - step / (steps + 1))
        points = centres[torch.randint(25, (batch,), generator=g)]
        points = points + sigma * torch.randn(batch, 2, generator=g).to(device)
        codes = torch.randn(2, batch, 2, generator=g).to(device)
        networks = (lambda z: 4 * body(z), lambda x: judge(x / 4).squeeze(1))
        losses.append(gan_step(points, codes, *networks, *players, discriminator_loss, generator_loss))
    return kept, torch.tensor(trace), torch.tensor(losses)


def plot_gan() -> None:
    kept, trace, losses = train_gan()
    _, axes = plt.subplots(1, 5, figsize=(19, 3.6), layout="constrained")
    for axis, (step, samples) in zip(axes, kept.items(), strict=False):
        axis.scatter(*grid_centres().T, s=90, color="tab:orange", alpha=0.4)
        axis.scatter(*samples.T, s=1)
        axis.set(title=f"samples, step {step:,}", xlim=(-6, 6), ylim=(-6, 6), aspect="equal")
    axes[3].plot(trace[:, 0], trace[:, 1] / 25, label="modes covered / 25")
    axes[3].plot(trace[:, 0], trace[:, 2], label="share of good samples")
    axes[3].axhline(1 - math.exp(-4.5), color="black", linestyle=":", label="share, true samples")
    axes[3].set(xlabel="step", ylim=(0, 1.02), title="what is counted")
    axes[3].legend(loc="center right")
    smooth = losses.unfold(0, 20, 20).mean(-1)
    axes[4].plot(20 * torch.arange(len(smooth)), smooth, label=["discriminator", "generator"])
    axes[4].axhline(math.log(4), color="black", linestyle=":", label="log 4 and log 2")
    axes[4].axhline(math.log(2), color="black", linestyle=":")
    axes[4].set(xlabel="step", ylim=(0, 3), title="what the players see (nats)")
    axes[4].legend()
    plt.show()


plot_gan()

# %% [markdown]
# *What to see:* $G$ spends its first steps on a few modes, and not the same ones each time: it runs from where $D$ has
# caught up to where it has not, so the count jumps up and down, and it settles only as the learning rate falls. The
# losses, meanwhile, hover around $\log 4$ and $\log 2$, where they would stand if $G$ were perfect; they tell nothing
# of all this. And samples lie between the modes: a continuous $G$ cannot tear the noise apart. What helps is patience
# (several times as many steps), noise on all that $D$ sees, which fades during the training, the critic of 3c, or a $D$
# that sees packs of samples. Try one, and let the counts decide.

# %% [markdown]
# ## 3f. What the game measures, and what it teaches (5 points, written)
#
# 1. Let data and samples have densities $p$ and $q$. Find the $D^*$ that maximises $V$ for this $q$, show that
#    $V(D^*) = 2\,\mathrm{JS}(p, q) - \log 4$, and conclude which $q$ is the generator's optimum, and what $D^*$ and $V$
#    are there. (The JS divergence is not negative and 0 only for $p = q$; you may use it.)
# 2. With $D = \sigma(a)$: compute the derivatives of the minimax loss $\log(1 - \sigma(a))$ and of the non-saturating
#    loss $-\log \sigma(a)$ with respect to the logit $a$ of one sample. What happens to each while $D$ sees through all
#    samples? Why does changing the loss not change the point where the game comes to rest?
# 3. Suppose that $p$ and $q$ live on disjoint sets. What are $D^*$ and $\mathrm{JS}(p, q)$, and what does an optimal
#    discriminator teach the generator? What does the critic of 3c offer in its place?

# %% [markdown] tags=["written:3f", "points:5"]
# <!-- BEGIN SOLUTION -->
# **1.** $V = \int p(x) \log D(x) + q(x) \log(1 - D(x))\, dx$, and $D(x)$ may be chosen at each $x$ by itself. For
# $p, q > 0$ the function $d \mapsto p \log d + q \log(1 - d)$ is concave, with derivative $p/d - q/(1 - d)$, which
# vanishes at $d = p/(p + q)$ (where only one of the two is positive, the maximum is at 1 or 0, as the formula says). So
# $D^* = p / (p + q)$. With $m = (p + q)/2$ we have $D^* = \frac{p}{2m}$ and $1 - D^* = \frac{q}{2m}$, so
#
# $$V(D^*) = \int p \log \frac{p}{2m} + \int q \log \frac{q}{2m}
# = \mathrm{KL}(p \,\|\, m) + \mathrm{KL}(q \,\|\, m) - 2 \log 2 = 2\,\mathrm{JS}(p, q) - \log 4 .$$
#
# The generator makes this as small as possible, which is at $\mathrm{JS} = 0$, that is at $q = p$. There
# $D^* = \tfrac12$ everywhere and $V = -\log 4$.
#
# **2.** $\sigma' = \sigma (1 - \sigma)$, hence
#
# $$\frac{d}{da} \log(1 - \sigma(a)) = -\sigma(a) = -D, \qquad \frac{d}{da}\big(-\log \sigma(a)\big) = -(1 - D) .$$
#
# If $D$ sees through a sample, $D \approx 0$: the minimax gradient vanishes exponentially in $|a|$, and $G$ does not
# learn although it is at its worst; the other is near its largest size, 1. Both are negative everywhere: both pull each
# logit upwards, only with other weights on the samples. At rest, $q = p$ and the best $D$ is constant, $\tfrac12$: its
# logit has no slope in $x$, so the gradient that reaches $G$ through $x$ is 0 for either loss. (Away from rest the two
# do differ: the non-saturating $G$ does not minimise the JS divergence.)
#
# **3.** $D^* = 1$ on the support of $p$ and 0 on that of $q$; $m = p/2$ on the one and $q/2$ on the other, so both KL
# terms are $\log 2$ and $\mathrm{JS} = \log 2$, however far apart they are. Moving $q$ a little leaves it at $\log 2$,
# and $D^*$ is constant around the samples: the generator gets no gradient (in practice, of an almost optimal $D$: a
# tiny or a meaningless one). The critic's difference of means estimates the Wasserstein distance, which shrinks with
# every step that the samples take towards the data, and its slope, kept near 1 on the way between them, tells each
# sample where to go.
#
# Rubric:
# * 2 points: part 1 (1 for $D^*$ with an argument for the maximum, half for the JS form, half for $q = p$ with the
#   values $\tfrac12$ and $-\log 4$).
# * 2 points: part 2 (1 for both derivatives, half for the vanishing one at $D \approx 0$, half for a reason that the
#   resting point is the same).
# * 1 point: part 3 (half for $\log 2$ whatever the distance and no gradient, half for what the critic offers).
# <!-- END SOLUTION -->

# %% [markdown]
# # Submit

# %% tags=["submit"]
submit()
