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
# # Problem set 1: simple generative models (100 points)
#
# A generative model is a probability distribution that you can fit to data and draw from. This problem set builds the
# simplest ones from nothing, and with them the tools that every later model needs: likelihood, logarithms that do not
# overflow, latent variables, bounds, gradients of expectations, and gradients at all.
#
# | section | what you build | points |
# |---|---|---|
# | 1. Maximum likelihood | Gaussian, Bernoulli and categorical models, in closed form and by SGD | 21 |
# | 2. Mixtures and EM | a mixture that survives extreme inputs, EM, choosing $K$, handwritten digits | 40 |
# | 3. Variational inference | the ELBO, coordinate ascent, two gradient estimators and their noise | 26 |
# | 4. Backpropagation | a small engine for derivatives, and a network trained with it | 13 |
#
# **How it works.** Replace each `raise NotImplementedError` by your code and keep names and arguments as they are.
# After each answer a cell calls `check("1a")`: it runs *public checks* at fixed inputs. Your grade comes from the same
# checks at other inputs. Many questions give partial credit. Written questions are answered in the text cell below them
# and are read by a person.
#
# **Rules that hold everywhere.**
# * All logarithms are natural; log-likelihoods are in **nats**.
# * Points are rows: `x` is (N, D), N points in D dimensions. Shapes are written like this in every docstring.
# * Your functions get tensors of dtype float64 in the checks; do not convert them to float32.
# * A function must not change its inputs: work on copies (`y = x - mean` makes one, `x -= mean` does not).
# * Library functions are welcome where they help. Where a question wants you to build what a library has, write it
#   yourself first and compare; you will need to know what is inside.

# %% tags=["setup"]
import torch

device = "cuda" if torch.cuda.is_available() else "cpu"

# %%
import math
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

# %% [markdown]
# # 1. Maximum likelihood (21 points)
#
# We have data $x_1, \dots, x_N$ and a family of densities $p_\theta$. The **likelihood** of $\theta$ is the density
# that the model gives to all the data; for independent points it is a product, so its logarithm is a sum:
#
# $$\ell(\theta) = \sum_{n=1}^N \log p_\theta(x_n), \qquad \hat\theta = \arg\max_\theta\, \ell(\theta).$$
#
# For three families the maximum has a closed form (1a, 1b, 1c). For most it has none, and one walks uphill with
# gradients of small batches (1d). Why the likelihood is the right thing to maximise is for you to prove (1e).

# %% [markdown]
# ## 1a. A Gaussian in closed form (4 points)
#
# The Gaussian with mean $\mu \in \mathbb R^D$ and covariance $\Sigma \in \mathbb R^{D \times D}$ has the log-density
#
# $$\log N(x \mid \mu, \Sigma)
# = -\tfrac12 (x-\mu)^\top \Sigma^{-1} (x-\mu) - \tfrac12 \log|\Sigma| - \tfrac D2 \log 2\pi .$$
#
# Set the gradient of $\ell(\mu, \Sigma)$ to zero, and the sample moments come out:
#
# $$\hat\mu = \frac1N \sum_{n=1}^N x_n, \qquad
# \hat\Sigma = \frac1N \sum_{n=1}^N (x_n - \hat\mu)(x_n - \hat\mu)^\top .$$
#
# | symbol | code | shape |
# |---|---|---|
# | $x_n$, all of them | `x` | (N, D) |
# | $\hat\mu$ | `mean` | (D,) |
# | $\hat\Sigma$ | `cov` | (D, D) |
#
# *What goes wrong:* the divisor is $N$; the $N - 1$ that you may know (and that `torch.cov` uses unless told otherwise)
# makes the estimate unbiased, not most likely. And $\tfrac1N \sum x_n x_n^\top - \hat\mu\hat\mu^\top$ is the same on
# paper, but far from the origin it subtracts two huge, nearly equal numbers: with points near $10^7$ no digit is left.


# %% tags=["answer:1a"]
def gaussian_mle(x: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum-likelihood Gaussian: x (N, D) -> mean (D,), cov (D, D)."""
    # BEGIN SOLUTION
    mean = x.mean(0)  # (D,)
    centred = x - mean  # (N, D); centring first is what keeps the digits
    return mean, centred.T @ centred / len(x)
    # END SOLUTION


# %% tags=["check"]
check("1a")

# %% [markdown]
# **A look (needs 1a).** Points from a tilted Gaussian, and the ellipse that holds 95 % of your estimate.


# %%
def ellipse(mean: Tensor, cov: Tensor, mass: float = 0.95) -> tuple[Tensor, Tensor]:
    """The outline of the ellipse that holds `mass` of a two-dimensional Gaussian: x and y, (200,) each."""
    angle = torch.linspace(0, 2 * math.pi, 200, dtype=mean.dtype)
    circle = torch.stack([angle.cos(), angle.sin()])  # (2, 200)
    x, y = mean[:, None] + math.sqrt(-2 * math.log(1 - mass)) * torch.linalg.cholesky(cov) @ circle
    return x, y


def plot_gaussian() -> None:
    g = torch.Generator().manual_seed(0)
    tilt = torch.tensor([[1.5, 0.0], [1.0, 0.5]], dtype=torch.float64)
    x = torch.randn(400, 2, generator=g, dtype=torch.float64) @ tilt.T + 3
    plt.figure(figsize=(5, 4))
    plt.scatter(*x.T, s=6, color="gray", label="400 points")
    plt.plot(*ellipse(torch.full((2,), 3.0, dtype=torch.float64), tilt @ tilt.T), "k--", label="true density")
    plt.plot(*ellipse(*gaussian_mle(x)), color="tab:red", label="your estimate")
    plt.axis("equal")
    plt.legend()
    plt.title("The most likely Gaussian")
    plt.show()


plot_gaussian()

# %% [markdown]
# *What to see:* the red outline lies close to the dashed one, tilt included, and about 20 of the 400 points lie
# outside.

# %% [markdown]
# ## 1b. Bernoulli pixels (4 points)
#
# A black-and-white image is a vector $x \in \{0, 1\}^D$. The simplest model gives each pixel its own coin:
#
# $$\log p(x \mid \theta) = \sum_{d=1}^D x_d \log \theta_d + (1 - x_d) \log (1 - \theta_d), \qquad
# \theta_d = \sigma(l_d) = \frac1{1 + e^{-l_d}} .$$
#
# The **logit** $l_d = \log \frac{\theta_d}{1-\theta_d}$ may be any real number, which is what networks put out and what
# gradient descent needs. But computed as above it breaks: at $l = 10^4$ the sigmoid rounds to exactly 1 and
# $\log(1 - \theta)$ becomes $-\infty$, although the right value is a harmless $-10^4$. With
# $\mathrm{softplus}(l) = \log(1 + e^l)$ the same term reads
#
# $$x \log\sigma(l) + (1-x)\log(1 - \sigma(l)) = x\, l - \mathrm{softplus}(l), \qquad
# \mathrm{softplus}(l) = \max(l, 0) + \log\big(1 + e^{-|l|}\big),$$
#
# and in its second form the exponential can no longer overflow.
#
# Write `bernoulli_log_prob`, exact for logits up to $\pm 10^4$ and beyond, and `bernoulli_mle`, which returns the most
# likely **logits**. (The most likely $\theta_d$ is the fraction of ones in column $d$. In the checks each column holds
# zeros and ones; else the most likely logit is infinite. What to do then is the topic of 1c.)
#
# | symbol | code | shape |
# |---|---|---|
# | $l$ | `logits` | (D,) |
# | $x$ | `x`, of zeros and ones, float64 | (B, D), or (N, D) |
#
# *What goes wrong:* cutting $\theta$ off at $10^{-7}$ hides the infinity and gives a wrong number: $-16$ in place of
# $-10^4$, and no gradient. Pixels are independent, so their log-probabilities **add**.


# %% tags=["answer:1b"]
def bernoulli_log_prob(logits: Tensor, x: Tensor) -> Tensor:
    """log p(x) in nats of independent Bernoulli pixels: logits (D,), x (B, D) of 0 and 1 -> (B,)."""
    # BEGIN SOLUTION
    softplus = logits.clamp(min=0) + torch.log1p(torch.exp(-logits.abs()))  # (D,)
    return (x * logits - softplus).sum(1)
    # END SOLUTION


def bernoulli_mle(x: Tensor) -> Tensor:
    """The most likely logits (D,) for x (N, D) of 0 and 1."""
    # BEGIN SOLUTION
    theta = x.mean(0)  # (D,)
    return theta.log() - (1 - theta).log()
    # END SOLUTION


# %% tags=["check"]
check("1b")

# %% [markdown]
# ## 1c. Categorical data, and what was never seen (4 points)
#
# A categorical variable takes one of $K$ values. With logits $l \in \mathbb R^K$, which any constant may be added to,
#
# $$\log p(x = k) = l_k - \log \sum_{j=1}^K e^{l_j} .$$
#
# The sum overflows as soon as one logit is above 709. Since a constant may be added, subtract the largest logit from
# all: then the largest term of the sum is $e^0 = 1$, and terms that vanish next to it do no harm. You will meet this
# **log-sum-exp** trick everywhere, next in 2a.
#
# With counts $n_k$ of each value among $N$ observations, the most likely probabilities are $n_k / N$. They give
# probability **zero** to what was never seen: one new word, and the likelihood of the whole test set is zero. The usual
# cure pretends to have seen each value $\alpha$ times more (a **pseudo-count**; it is the mean of the posterior under a
# Dirichlet prior):
#
# $$\hat\theta_k = \frac{n_k + \alpha}{N + K \alpha} .$$
#
# | symbol | code | shape |
# |---|---|---|
# | $l$ | `logits` | (K,) |
# | $x$ | `x`, whole numbers 0 to K-1, int64 | (B,), or (N,) |
# | $\alpha$ | `pseudo_count` | a number, 0 for maximum likelihood |
#
# *What goes wrong:* the value $K - 1$ may never occur in the data, and the answer still has K entries.


# %% tags=["answer:1c"]
def categorical_log_prob(logits: Tensor, x: Tensor) -> Tensor:
    """log p(x) in nats: logits (K,), not normalised, up to 1e4 in size; x (B,) of whole numbers -> (B,)."""
    # BEGIN SOLUTION
    shifted = logits - logits.max()
    return (shifted - shifted.exp().sum().log())[x]
    # END SOLUTION


def categorical_mle(x: Tensor, num_classes: int, pseudo_count: float = 0.0) -> Tensor:
    """Probabilities (K,) from observations x (N,), each class counted `pseudo_count` times more than it was seen."""
    # BEGIN SOLUTION
    counts = torch.bincount(x, minlength=num_classes).double() + pseudo_count  # (K,)
    return counts / counts.sum()
    # END SOLUTION


# %% tags=["check"]
check("1c")

# %% [markdown]
# ## 1d. The same, by stochastic gradient descent (4 points)
#
# Where there is no closed form, go downhill on the mean negative log-likelihood of a small random batch $B_t$ at a
# time:
#
# $$L_t(\theta) = -\frac1{|B_t|} \sum_{n \in B_t} \log p_\theta(x_n), \qquad
# \theta_{t+1} = \theta_t - \eta\, \nabla L_t(\theta_t) .$$
#
# The gradient of $L_t$ is that of the whole data's loss on average, at a fraction of its cost, and because $L_t$ is a
# **mean**, the same learning rate $\eta$ serves batches of any size. Write the loop. It is the one that trains every
# model of this course; only `log_prob` changes.
#
# Random order is the caller's business here, so that each step has one right answer: row $t$ of `batches` holds the
# indices of the points of step $t$.
#
# | symbol | code | shape |
# |---|---|---|
# | $\log p_\theta(x)$ | `log_prob(x, *parameters)` | x (B, ...) -> (B,) |
# | $\theta$ | `parameters`, a list of tensors | any |
# | $B_t$ | `batches[t]` | (B,) of the (T, B), int64 |
# | $\eta$ | `learning_rate` | a number |
#
# Return the parameters after the last step, and the list of $L_t(\theta_t)$: each batch's loss **before** the step that
# it leads to.
#
# *What goes wrong:* PyTorch **adds** gradients to `.grad`; whoever forgets to clear it steps along the sum of all
# gradients so far. `torch.autograd.grad(loss, parameters)` returns them instead and leaves nothing behind.


# %% tags=["answer:1d"]
def fit_by_sgd(
    log_prob: Callable[..., Tensor], parameters: list[Tensor], x: Tensor, batches: Tensor, learning_rate: float
) -> tuple[list[Tensor], list[float]]:
    """SGD on the mean negative log-likelihood: x (N, ...), batches (T, B) -> parameters, T losses before each step."""
    # BEGIN SOLUTION
    parameters = [p.detach().clone().requires_grad_() for p in parameters]  # the caller keeps its own
    losses = []
    for batch in batches:
        loss = -log_prob(x[batch], *parameters).mean()
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for p, gradient in zip(parameters, gradients, strict=True):
                p -= learning_rate * gradient
        losses.append(loss.item())
    return [p.detach() for p in parameters], losses
    # END SOLUTION


# %% tags=["check"]
check("1d")

# %% [markdown]
# **A look (needs 1b and 1d).** Real data: handwritten digits, 8 by 8 pixels, black where a pixel is in its upper half.


# %%
def load_digits() -> tuple[Tensor, Tensor]:
    """Images of handwritten digits, (1348, 8, 8) to train on and (449, 8, 8) to test on, whole numbers 0 to 16."""
    for folder in (Path("data"), Path("ps1/data")):
        if (folder / "digits.npz").exists():
            with np.load(folder / "digits.npz") as stored:
                return torch.tensor(stored["train"]), torch.tensor(stored["test"])
    from sklearn.datasets import load_digits as from_sklearn  # Colab has it: the same images, the same split

    images = torch.tensor(from_sklearn().images.astype(np.uint8))
    test = torch.arange(len(images)) % 4 == 3
    return images[~test], images[test]


def plot_bernoulli() -> None:
    g = torch.Generator().manual_seed(0)
    x = (load_digits()[0].flatten(1) > 7).double()  # (1348, 64)
    x = x[:, (x.mean(0) > 0) & (x.mean(0) < 1)]  # pixels that are always white have no finite logit
    best = -bernoulli_log_prob(bernoulli_mle(x), x).mean()
    batches = torch.randint(len(x), (600, 32), generator=g)
    zeros = torch.zeros(x.shape[1], dtype=torch.float64)
    plt.figure(figsize=(6, 3.5))
    for rate in (0.02, 1.0, 10.0):
        _, losses = fit_by_sgd(lambda batch, logits: bernoulli_log_prob(logits, batch), [zeros], x, batches, rate)
        plt.plot(losses, linewidth=0.8, label=f"learning rate {rate}")
    plt.axhline(best, color="black", linestyle="--", label="closed form, all data")
    plt.xlabel("step")
    plt.ylabel("nats per image")
    plt.ylim(best - 5, best + 25)
    plt.legend()
    plt.title("SGD on Bernoulli pixels")
    plt.show()


plot_bernoulli()

# %% [markdown]
# *What to see:* 0.02 is still on its way, 1.0 arrives and hovers around the dashed line, 10 stays above it: its steps
# follow the noise of each batch. Single batches may lie below the line, the mean over all data cannot.

# %% [markdown]
# ## 1e. What maximum likelihood minimises (5 points, written)
#
# Let $p^*$ be the distribution that the data comes from, $p_\theta$ the model, and
# $\hat p = \frac1N \sum_n \delta_{x_n}$ the **empirical** distribution, which gives each observed point the mass $1/N$.
# For distributions on a finite set, $\mathrm{KL}(p \,\|\, q) = \sum_x p(x) \log \frac{p(x)}{q(x)}$.
#
# 1. Show that the $\theta$ that maximises $\sum_n \log p_\theta(x_n)$ is the one that minimises
#    $\mathrm{KL}(\hat p \,\|\, p_\theta)$, for data on a finite set.
# 2. Show that $\mathrm{KL}(p \,\|\, q) \ge 0$, with equality only for $p = q$. (You may use $\log u \le u - 1$, with
#    equality only at $u = 1$.)
# 3. Conclude: which $\theta$ does maximum likelihood find as $N \to \infty$, if $p^* = p_{\theta^*}$ for one
# $\theta^*$?    And what does the direction of the KL say about a model too small to fit: does it rather spread over
# all of the    data, or settle on a part of it? One or two sentences each.

# %% [markdown] tags=["written:1e", "points:5"]
# <!-- BEGIN SOLUTION -->
# **1.** Collect equal points: with $\hat p(x) = \frac1N \#\{n : x_n = x\}$,
#
# $$\mathrm{KL}(\hat p \,\|\, p_\theta) = \sum_x \hat p(x) \log \hat p(x) - \sum_x \hat p(x) \log p_\theta(x)
# = -H(\hat p) - \frac1N \sum_{n=1}^N \log p_\theta(x_n) .$$
#
# The entropy $H(\hat p)$ does not depend on $\theta$, and $-\frac1N$ is a negative constant factor, so the smallest KL
# belongs to the largest likelihood.
#
# **2.** Sum over the $x$ with $p(x) > 0$. By $\log u \le u - 1$ at $u = q(x)/p(x)$,
#
# $$-\mathrm{KL}(p \,\|\, q) = \sum_x p(x) \log \frac{q(x)}{p(x)} \le \sum_x p(x) \Big(\frac{q(x)}{p(x)} - 1\Big)
# = \sum_{x:\, p(x) > 0} q(x) - 1 \le 0 .$$
#
# Equality in the first step needs $q(x) = p(x)$ wherever $p(x) > 0$; then $q$ has no mass left elsewhere, so $q = p$.
#
# **3.** By the law of large numbers $\frac1N \sum_n \log p_\theta(x_n) \to \mathbb E_{p^*} \log p_\theta(x)$, which is
# $-H(p^*) - \mathrm{KL}(p^* \,\|\, p_\theta)$; it is largest where the KL is 0, that is at $p_\theta = p^*$, at
# $\theta^*$ (for this the limit has to hold uniformly in $\theta$; on a compact set of parameters it does). The
# expectation is under the *data*: where $p^*(x) > 0$ and $p_\theta(x) \to 0$ the KL is unbounded, where the model puts
# mass on what never occurs it costs only the mass. So a model that is too small spreads over all of the data.
#
# Rubric:
# * 2 points: part 1 (1 for splitting the KL into entropy and cross-entropy, 1 for seeing that the entropy is constant
#   and that the cross-entropy is the mean negative log-likelihood).
# * 2 points: part 2 (1 for the inequality with its sign right, 1 for the case of equality; Jensen's inequality with its
#   strict convexity is as good).
# * 1 point: part 3 (half for $\theta^*$ with the law of large numbers, half for "spreads", with a reason).
# <!-- END SOLUTION -->

# %% [markdown]
# # 2. Mixtures and EM (40 points)
#
# One Gaussian has one bump. A **mixture** of $K$ Gaussians first draws a component $z \in \{1, \dots, K\}$ with
# probabilities $\pi$, then a point from that component; nobody records $z$:
#
# $$p(x) = \sum_{k=1}^K \pi_k\, N(x \mid \mu_k, \Sigma_k) .$$
#
# The sum stands inside of the logarithm, so there is no closed form any more. You will compute this likelihood so that
# nothing overflows (2a), guess the hidden components (2b), refit to the guesses (2c), repeat (2d), draw from the
# result (2e), choose $K$ (2f), put it to work on images of digits (2g), and prove that it must get better (2h).
#
# | symbol | code | shape |
# |---|---|---|
# | $x_n$ | `x` | (N, D) |
# | $\log \pi_k$ up to a constant | `logits` | (K,); `weights` = softmax(`logits`) |
# | $\mu_k$ | `means` | (K, D) |
# | $\Sigma_k$ | `covs` | (K, D, D) |
# | $\log N(x_n \mid \mu_k, \Sigma_k)$ | `log_density` | (N, K) |
# | $r_{nk} = p(z_n = k \mid x_n)$ | `r` | (N, K) |

# %% [markdown]
# ## 2a. The likelihood of a mixture (5 points)
#
# Three functions, each used by the next.
#
# **`log_sum_exp`.** $\log \sum_k e^{a_k}$ along the last axis. A density in 64 dimensions is easily $e^{-1000}$, which
# is 0 in floating point, and the logarithm of 0 is $-\infty$. Take out the largest term **of each row**:
#
# $$\log \sum_k e^{a_k} = m + \log \sum_k e^{a_k - m}, \qquad m = \max_k a_k .$$
#
# **`gaussian_log_prob`.** All $K$ Gaussians at all $N$ points, (N, K). Factor $\Sigma = L L^\top$ with $L$ lower
# triangular (`torch.linalg.cholesky`); then, with $z$ the solution of $L z = x - \mu$
# (`torch.linalg.solve_triangular`),
#
# $$(x-\mu)^\top \Sigma^{-1} (x-\mu) = \|z\|^2, \qquad \tfrac12 \log |\Sigma| = \sum_d \log L_{dd} .$$
#
# That costs less than an inverse, loses fewer digits, and the determinant, a product that would under- or overflow in
# many dimensions, becomes a sum.
#
# **`mixture_log_prob`.** With logits $l$ that need not be normalised,
#
# $$\log p(x) = \log \sum_k e^{\log \pi_k + \log N(x \mid \mu_k, \Sigma_k)}, \qquad
# \log \pi_k = l_k - \log \sum_j e^{l_j} .$$
#
# *What goes wrong:* one maximum for the whole array keeps the largest row alive and sends the others to $-\infty$.
# Densities must be *added*, log-densities must not. A missing $\tfrac D2 \log 2\pi$ changes no fit, but it makes every
# number that you report wrong.


# %% tags=["answer:2a"]
def log_sum_exp(a: Tensor) -> Tensor:
    """log sum exp along the last axis, exact for entries of any finite size: (..., K) -> (...)."""
    # BEGIN SOLUTION
    m = a.max(-1, keepdim=True).values  # (..., 1)
    return (m + (a - m).exp().sum(-1, keepdim=True).log()).squeeze(-1)
    # END SOLUTION


def gaussian_log_prob(x: Tensor, means: Tensor, covs: Tensor) -> Tensor:
    """log N(x_n | mu_k, Sigma_k) in nats: x (N, D), means (K, D), covs (K, D, D) -> (N, K)."""
    # BEGIN SOLUTION
    factor = torch.linalg.cholesky(covs)  # (K, D, D)
    centred = (x - means[:, None]).mT  # (K, D, N)
    z = torch.linalg.solve_triangular(factor, centred, upper=False)  # (K, D, N)
    half_log_det = factor.diagonal(dim1=1, dim2=2).log().sum(1)  # (K,)
    return (-0.5 * z.square().sum(1) - half_log_det[:, None]).T - 0.5 * x.shape[1] * math.log(2 * math.pi)
    # END SOLUTION


def mixture_log_prob(x: Tensor, logits: Tensor, means: Tensor, covs: Tensor) -> Tensor:
    """log p(x_n) in nats of a mixture: x (N, D), logits (K,), means (K, D), covs (K, D, D) -> (N,)."""
    # BEGIN SOLUTION
    log_weights = logits - log_sum_exp(logits)  # (K,)
    return log_sum_exp(log_weights + gaussian_log_prob(x, means, covs))
    # END SOLUTION


# %% tags=["check"]
check("2a")

# %% [markdown]
# ## 2b. Responsibilities: the E-step (4 points)
#
# Which component did a point come from? Bayes' rule, with the prior $\pi_k$ and the likelihood
# $N(x_n \mid \mu_k, \Sigma_k)$:
#
# $$r_{nk} = p(z_n = k \mid x_n)
# = \frac{\pi_k\, N(x_n \mid \mu_k, \Sigma_k)}{\sum_j \pi_j\, N(x_n \mid \mu_j, \Sigma_j)} .$$
#
# You get the log-densities (from 2a, or from any other model: nothing here is Gaussian) and the logits of the prior.
# Far from all components every density is 0 in floating point, and $0 / 0$ is no answer; the ratio is perfectly well
# defined, though, and in logarithms you will find it.
#
# | symbol | code | shape |
# |---|---|---|
# | $\log \pi_k$ up to a constant | `logits`, up to $\pm 10^4$ | (K,) |
# | $\log N(x_n \mid \mu_k, \Sigma_k)$ | `log_density`, down to $-10^6$ | (N, K) |
# | $r_{nk}$ | returned | (N, K), rows sum to 1 |
#
# *What goes wrong:* normalising over the points (the wrong axis) asks which point a component produced.


# %% tags=["answer:2b"]
def responsibilities(logits: Tensor, log_density: Tensor) -> Tensor:
    """p(component k | x_n): logits (K,), log_density (N, K) in nats -> (N, K)."""
    # BEGIN SOLUTION
    log_joint = logits + log_density  # (N, K), up to a constant that cancels
    return (log_joint - log_sum_exp(log_joint)[:, None]).exp()
    # END SOLUTION


# %% tags=["check"]
check("2b")

# %% [markdown]
# ## 2c. The M-step (5 points)
#
# If the components were known, each Gaussian would be fitted to its own points as in 1a. Now each point belongs to
# component $k$ to the degree $r_{nk}$, and counts that much:
#
# $$N_k = \sum_n r_{nk}, \quad \pi_k = \frac{N_k}N, \quad \mu_k = \frac1{N_k} \sum_n r_{nk}\, x_n, \quad
# \Sigma_k = \frac1{N_k} \sum_n r_{nk} (x_n - \mu_k)(x_n - \mu_k)^\top + \rho I .$$
#
# The last term is no part of maximum likelihood. Without it a component that settles on a single point, or in fewer
# than $D$ directions, has a covariance without inverse and an *infinite* likelihood: a maximum that nobody wants. The
# **ridge** $\rho$ keeps each variance above $\rho$.
#
# | symbol | code | shape |
# |---|---|---|
# | $x_n$, $r_{nk}$ | `x`, `r` | (N, D), (N, K) |
# | $\rho$ | `ridge` | a number |
# | $\pi_k$, $\mu_k$, $\Sigma_k$ | returned: `weights`, `means`, `covs` | (K,), (K, D), (K, D, D) |
#
# *What goes wrong:* $\Sigma_k$ is centred at the **new** mean of its own component, and $r_{nk}$ counts once in the
# outer product, not once in each of its factors.


# %% tags=["answer:2c"]
def m_step(x: Tensor, r: Tensor, ridge: float = 1e-6) -> tuple[Tensor, Tensor, Tensor]:
    """Refit to weighted points: x (N, D), r (N, K) -> weights (K,), means (K, D), covs (K, D, D)."""
    # BEGIN SOLUTION
    count = r.sum(0)  # N_k (K,)
    means = r.T @ x / count[:, None]  # (K, D)
    centred = x - means[:, None]  # (K, N, D)
    scatter = (r.T[:, :, None] * centred).mT @ centred  # (K, D, D)
    covs = scatter / count[:, None, None] + ridge * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    return count / len(x), means, covs
    # END SOLUTION


# %% tags=["check"]
check("2c")

# %% [markdown]
# ## 2d. EM (5 points)
#
# Put it together. One iteration computes the responsibilities under the present parameters (E), then refits all
# parameters to them (M). Start from given parameters, do `steps` iterations, and keep a **history** of the mean
# log-likelihood
#
# $$\frac1N \sum_n \log p(x_n)$$
#
# in nats per point: at the start, and after each iteration, `steps + 1` numbers. The history is how you find your
# mistakes: with $\rho = 0$ it can never fall (2h), so if yours does, something is wrong.
#
# | symbol | code | shape |
# |---|---|---|
# | $\pi, \mu, \Sigma$ | `init`, a tuple, and the first value returned, another | (K,), (K, D), (K, D, D) |
# | history | the second value returned, a list of floats | `steps + 1` |
#
# *What goes wrong:* the E-step belongs *inside* of the loop; all three parameters are renewed from the same
# responsibilities; and the weights are probabilities while 2a and 2b want their logarithms.


# %% tags=["answer:2d"]
def em(
    x: Tensor, init: tuple[Tensor, Tensor, Tensor], steps: int, ridge: float = 1e-6
) -> tuple[tuple[Tensor, Tensor, Tensor], list[float]]:
    """EM from init = (weights, means, covs) on x (N, D) -> (weights, means, covs), steps + 1 mean log-likelihoods."""
    # BEGIN SOLUTION
    weights, means, covs = init
    history = []
    for _ in range(steps):
        log_density = gaussian_log_prob(x, means, covs)  # (N, K)
        history.append(log_sum_exp(weights.log() + log_density).mean().item())
        weights, means, covs = m_step(x, responsibilities(weights.log(), log_density), ridge)
    history.append(mixture_log_prob(x, weights.log(), means, covs).mean().item())
    return (weights, means, covs), history
    # END SOLUTION


# %% tags=["check"]
check("2d")

# %% [markdown]
# **A look (needs 1a and 2a to 2d).** Three clouds, three components, and a start that is bad on purpose.


# %%
def clouds(n: int, seed: int = 0) -> Tensor:
    """Points (n, 2) from three Gaussians."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.tensor([[0.0, 0.0], [4.0, 0.5], [1.5, 3.5]], dtype=torch.float64)
    shapes = torch.tensor([[[1.0, 0.8], [0, 0.5]], [[0.5, 0], [0, 1.0]], [[1.2, -0.6], [0, 0.4]]], dtype=torch.float64)
    z = torch.randint(3, (n,), generator=g)
    noise = torch.randn(n, 1, 2, generator=g, dtype=torch.float64)
    return centres[z] + (noise @ shapes[z]).squeeze(1)


def plot_em() -> None:
    x = clouds(500)
    eye = torch.eye(2, dtype=torch.float64).expand(3, 2, 2)
    init = (torch.full((3,), 1 / 3, dtype=torch.float64), x[:3] * 0.1 + x.mean(0), eye)
    _, axes = plt.subplots(1, 4, figsize=(15, 3.4))
    for axis, steps in zip(axes, (0, 5, 30), strict=False):
        (weights, means, covs), _ = em(x, init, steps)
        r = responsibilities(weights.log(), gaussian_log_prob(x, means, covs))
        axis.scatter(*x.T, c=r.clamp(0, 1).numpy(), s=5)  # three responsibilities are a colour: red, green, blue
        for k in range(3):
            axis.plot(*ellipse(means[k], covs[k]), color="black", linewidth=1)
        axis.set_title(f"after {steps} iterations")
    axes[3].plot(em(x, init, 60)[1])
    axes[3].set_title("log-likelihood, nats per point")
    axes[3].set_xlabel("iteration")
    plt.show()


plot_em()

# %% [markdown]
# *What to see:* the colour of a point mixes red, green and blue by its responsibilities: muddy at first, pure in the
# end except where clouds touch. The likelihood rises at every iteration: fast at first, then slowly while the
# components sort themselves out.

# %% [markdown]
# ## 2e. Sampling (4 points)
#
# To draw a point, draw a component, then a point of its Gaussian. Both come from plain noise, which you are given, so
# that the answer is exact:
#
# * **The component** from a uniform number $u \in [0, 1)$, by inverting the cumulative weights: component $k$ is chosen
#   if $\pi_1 + \dots + \pi_{k-1} \le u < \pi_1 + \dots + \pi_k$.
# * **The point** from white noise $\epsilon \sim N(0, I)$: $x = \mu_k + L_k\, \epsilon$ with the lower Cholesky factor
#   $\Sigma_k = L_k L_k^\top$.
#
# | symbol | code | shape |
# |---|---|---|
# | $u$ | `u` | (N,) |
# | $\epsilon$ | `eps` | (N, D) |
#
# Half of the points are for exactly these values, half for a sample of the right distribution however it is made from
# `u` and `eps`.
#
# *What goes wrong:* $L\epsilon$ for points in rows is `eps @ L.T`; without the transpose the covariance is
# $L^\top L$, another matrix. Averaging the means by their weights is not a draw from a mixture.


# %% tags=["answer:2e"]
def sample_mixture(u: Tensor, eps: Tensor, weights: Tensor, means: Tensor, covs: Tensor) -> Tensor:
    """Draw from a mixture with the noise given: u (N,) uniform, eps (N, D) standard normal -> (N, D)."""
    # BEGIN SOLUTION
    k = torch.searchsorted(weights.cumsum(0), u, right=True)  # (N,)
    k = k.clamp(max=len(weights) - 1)  # the cumulative weights may end a rounding error below 1
    factor = torch.linalg.cholesky(covs)[k]  # (N, D, D)
    return means[k] + (factor @ eps[:, :, None]).squeeze(2)
    # END SOLUTION


# %% tags=["check"]
check("2e")

# %% [markdown]
# ## 2f. How many components? (4 points)
#
# More components always fit the training data better, up to one on each point, which knows the training data by heart
# and nothing else. So fit on one part of the data, and compare the candidates on another part that the fit has not
# seen: the **held-out** log-likelihood, in nats per point.
#
# `fit(points, k)` fits a model with k components and returns its log-density, a function from points (M, D) to (M,).
# Fit each candidate, in the order given, and return the winner and all scores:
#
# $$s_i = \frac1M \sum_{m=1}^M \log p_{k_i}(x_m^{\text{held-out}}), \qquad \hat k = k_{\arg\max_i s_i} .$$
#
# | symbol | code | shape |
# |---|---|---|
# | the two parts | `train`, `held_out` | (N, D), (M, D) |
# | $k_1, k_2, \dots$ | `candidates`, a list of whole numbers in any order | |
# | $\hat k$, $(s_1, s_2, \dots)$ | returned: an int, and a list of floats | |
#
# *What goes wrong:* the winner is a number of components, not its place in the list. And never look at a test set to
# choose: what was used to choose has been fitted to.


# %% tags=["answer:2f"]
def choose_k(
    fit: Callable[[Tensor, int], Callable[[Tensor], Tensor]], train: Tensor, held_out: Tensor, candidates: list[int]
) -> tuple[int, list[float]]:
    """The candidate of the highest mean held-out log-likelihood, and the score of each in nats per point."""
    # BEGIN SOLUTION
    scores = [fit(train, k)(held_out).mean().item() for k in candidates]
    return candidates[scores.index(max(scores))], scores
    # END SOLUTION


# %% tags=["check"]
check("2f")

# %% [markdown]
# **A look (needs 2a to 2d and 2f).** The three clouds again, few points, one to ten components.


# %%
def plot_choice() -> None:
    train, held_out = clouds(90, seed=1), clouds(1000, seed=2)

    def fit(x: Tensor, k: int) -> Callable[[Tensor], Tensor]:
        g = torch.Generator().manual_seed(k)
        covs = torch.cov(x.T).expand(k, 2, 2)
        init = (torch.full((k,), 1 / k, dtype=x.dtype), x[torch.randperm(len(x), generator=g)[:k]], covs)
        (weights, means, covs), _ = em(x, init, 100, ridge=1e-3)
        return lambda points: mixture_log_prob(points, weights.log(), means, covs)

    candidates = list(range(1, 11))
    best, scores = choose_k(fit, train, held_out, candidates)
    plt.figure(figsize=(6, 3.5))
    plt.plot(candidates, [fit(train, k)(train).mean() for k in candidates], "o--", color="gray", label="training data")
    plt.plot(candidates, scores, "o-", color="tab:red", label="held-out data")
    plt.axvline(best, color="black", linestyle=":", label=f"chosen: {best}")
    plt.xlabel("number of components")
    plt.ylabel("nats per point")
    plt.legend()
    plt.title("Training likelihood cannot choose")
    plt.show()


plot_choice()

# %% [markdown]
# *What to see:* the gray curve climbs on (where it dips, a start ended in a poorer maximum); the red one turns where
# components begin to describe single points.

# %% [markdown]
# ## 2g. Handwritten digits (8 points)
#
# Now a density over images: 8 by 8 pixels, D = 64, written by hand
# ([Optical recognition of handwritten digits](https://doi.org/10.24432/C50P49), E. Alpaydin and C. Kaynak, CC BY 4.0).
# Gray levels are whole numbers $v$ from 0 to 16, and a density on whole numbers could grow without end by piling up on
# them. So uniform noise fills the gaps
# (**dequantisation**): $x = (v + \text{noise}) / 17 \in [0, 1)$. That done, the log-density of $x$ is, on average, at
# most the log-probability of the image $v$ plus $64 \log 17$.
#
# Write `fit_digits`: images (N, 64), about 1350 of them, to the weights, means and covariances of a Gaussian mixture of
# your design. Your functions above do the work; what is left to you is the number of components, the start, the ridge
# and the number of iterations. The check fits on a random three quarters of the images and computes the mean
# log-likelihood of the other quarter, in float64, from the parameters that you return. Its **gain** over one Gaussian
# fitted by maximum likelihood to the same images decides, in nats per image:
#
# | gain | points |
# |---|---|
# | $\ge -2$: about as good as one Gaussian | 1 |
# | $\ge 2$ | 3 |
# | $\ge 5$ | 5 |
# | $\ge 7$ | 7 |
#
# Ten components, well started and with a sensible ridge, reach 9 to 12, depending on the start, and there is room
# above. You have 120 seconds on one CPU thread; the solution needs less than one.
#
# Write also `sample_digits`: n images (n, 8, 8) drawn from a mixture with torch's own random numbers (`torch.rand`,
# `torch.randn`), clipped to [0, 1] since a Gaussian does not know where gray levels end (1 point).
#
# *What goes wrong:* a component with fewer points than the 64 dimensions has directions in which it saw nothing. With a
# tiny ridge its density there is a needle: a superb training likelihood, a terrible one elsewhere. With a huge ridge
# all pixels blur. The noise of dequantisation alone has the variance $\frac1{12 \cdot 17^2} \approx 0.0003$: variances
# far below that cannot be real. And components that start at the same place stay there: spread them, for instance over
# randomly chosen images, followed by some rounds of k-means.


# %% tags=["answer:2g"]
def fit_digits(train: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A mixture fitted to images: train (N, 64) in [0, 1) -> weights (K,), means (K, 64), covs (K, 64, 64)."""
    # BEGIN SOLUTION
    k = 10
    centres = train[torch.randperm(len(train))[:k]]  # (K, 64)
    for _ in range(20):  # k-means: each image to its nearest centre, each centre to the mean of its images
        nearest = torch.nn.functional.one_hot(torch.cdist(train, centres).argmin(1), k).to(train)  # (N, K)
        count = nearest.sum(0)[:, None]  # (K, 1)
        centres = torch.where(count > 0, nearest.T @ train / count.clamp(min=1), centres)
    start = 0.99 * nearest + 0.01 / k  # no component is left without any image
    params, _ = em(train, m_step(train, start, ridge=1e-3), steps=4, ridge=1e-3)
    return params
    # END SOLUTION


def sample_digits(n: int, weights: Tensor, means: Tensor, covs: Tensor) -> Tensor:
    """Draw images (n, 8, 8) in [0, 1] from a mixture over 64 pixels."""
    # BEGIN SOLUTION
    u, eps = torch.rand(n, dtype=means.dtype), torch.randn(n, means.shape[1], dtype=means.dtype)
    return sample_mixture(u, eps, weights, means, covs).clamp(0, 1).view(n, 8, 8)
    # END SOLUTION


# %% tags=["check"]
check("2g")

# %% [markdown]
# **A look (needs 1a, 2e and 2g).** Images, draws from one Gaussian, draws from your mixture, and your mixture's means.


# %%
def plot_digits() -> None:
    torch.manual_seed(0)
    images = load_digits()[0].flatten(1)
    x = (images + torch.rand(images.shape, dtype=torch.float64)) / 17
    weights, means, covs = fit_digits(x)
    mean, cov = gaussian_mle(x)
    rows = {
        "training images": x[:12].view(12, 8, 8),
        "one Gaussian": sample_digits(12, torch.ones(1, dtype=x.dtype), mean[None], cov[None]),
        "your mixture": sample_digits(12, weights, means, covs),
        "means, heaviest first": means[weights.argsort(descending=True)][:12].view(-1, 8, 8),
    }
    _, axes = plt.subplots(len(rows), 12, figsize=(12, 4.5))
    for row, (title, pictures) in zip(axes, rows.items(), strict=True):
        row[0].set_title(title, loc="left", fontsize=9)
        for axis in row:
            axis.axis("off")
        for axis, picture in zip(row, pictures, strict=False):
            axis.imshow(picture, cmap="gray_r", vmin=0, vmax=1)
    plt.show()


plot_digits()

# %% [markdown]
# *What to see:* one Gaussian knows which pixels go together, but its draws mix the strokes of several digits; most
# draws from the mixture can be read, with some noise. Means look like digits, and one digit may have two means (two
# ways to write a 1) while two digits share one: nobody told the model that there are ten.

# %% [markdown]
# ## 2h. EM never makes the likelihood worse (5 points, written)
#
# Let $p_\theta(x, z)$ be a model with a latent variable $z$ that takes finitely many values, for one observed $x$, and
# $\ell(\theta) = \log p_\theta(x) = \log \sum_z p_\theta(x, z)$. For a distribution $q$ over $z$ define
#
# $$F(q, \theta) = \sum_z q(z) \log \frac{p_\theta(x, z)}{q(z)} .$$
#
# 1. Show that $\ell(\theta) = F(q, \theta) + \mathrm{KL}\big(q(z) \,\|\, p_\theta(z \mid x)\big)$ for any $q$.
# 2. State the E-step and the M-step from $\theta_t$ to $\theta_{t+1}$ in terms of $F$, and show
#    $\ell(\theta_{t+1}) \ge \ell(\theta_t)$.
# 3. Somebody's M-step does not maximise, it only takes a step that makes $F$ no smaller. Does your proof still hold?
#    And does it show that EM finds the maximum of the likelihood? One sentence each.

# %% [markdown] tags=["written:2h", "points:5"]
# <!-- BEGIN SOLUTION -->
# **1.** For each $z$ with $q(z) > 0$, $p_\theta(x, z) = p_\theta(z \mid x)\, p_\theta(x)$. So
#
# $$F(q, \theta) = \sum_z q(z) \log \frac{p_\theta(z \mid x)\, p_\theta(x)}{q(z)}
# = \log p_\theta(x) \sum_z q(z) - \sum_z q(z) \log \frac{q(z)}{p_\theta(z \mid x)}
# = \ell(\theta) - \mathrm{KL}\big(q \,\|\, p_\theta(\cdot \mid x)\big).$$
#
# **2.** E: $q_t(z) = p_{\theta_t}(z \mid x)$, which maximises $F(\cdot, \theta_t)$, since by 1 the distance to
# $\ell(\theta_t)$, which does not depend on $q$, is the KL, and that becomes 0. M:
# $\theta_{t+1} = \arg\max_\theta F(q_t, \theta)$. Then
#
# $$\ell(\theta_{t+1}) \ge F(q_t, \theta_{t+1}) \ge F(q_t, \theta_t) = \ell(\theta_t) :$$
#
# the first step because the KL is not negative (1e), the second because the M-step maximised, the third because the
# E-step made the KL vanish at $\theta_t$. For independent points sum over $n$, with one $q_n$ for each point.
#
# **3.** Yes: of the M-step only $F(q_t, \theta_{t+1}) \ge F(q_t, \theta_t)$ was used (this is generalised EM). No: the
# likelihood never falls, but it may come to rest at a local maximum or a saddle (means that start equal stay equal).
#
# Rubric:
# * 2 points: part 1 (1 for $p(x, z) = p(z \mid x)\, p(x)$ inside of the logarithm, 1 for the KL with its sign and for
#   $\sum_z q(z) = 1$; Jensen alone gives the inequality but not the gap, and earns 1).
# * 2 points: part 2 (half for each of the two steps in terms of $F$; 1 for the chain, each of its three relations
#   with its reason).
# * 1 point: part 3 (half each).
# <!-- END SOLUTION -->

# %% [markdown]
# # 3. Variational inference (26 points)
#
# In section 2 EM found one best set of parameters. Often we want more: the whole **posterior** $p(z \mid x)$ of what we
# did not see. Bayes' rule gives it up to the **evidence** $p(x) = \int p(x, z)\, dz$, and that integral has no formula
# for almost any model you will meet, the VAE of the next problem set among them.
#
# Variational inference replaces the integral by an optimisation. Choose a family of simple densities
# $q_\lambda(z)$ and raise the **evidence lower bound**
#
# $$\mathrm{ELBO}(\lambda) = \mathbb E_{q_\lambda}[\log p(x, z)] - \mathbb E_{q_\lambda}[\log q_\lambda(z)]
# = \log p(x) - \mathrm{KL}\big(q_\lambda(z) \,\|\, p(z \mid x)\big) .$$
#
# You will compute it exactly where that can be done (3a), raise it in closed form for a mixture (3b), raise it for
# *any* model by two kinds of noisy gradient (3c, 3d), measure which of the two is noisier (3e), and prove the second
# equality above (3f).
#
# All logarithms are natural, so every bound is in **nats**. Widths are stored as `log_std` $= \log s$, since a number
# that may take any value is what an optimiser wants; the standard deviation is `log_std.exp()`, the variance
# `(2 * log_std).exp()`.

# %% [markdown]
# ## 3a. The ELBO where everything is known (5 points)
#
# First the divergence between two Gaussians with diagonal covariances. In one dimension
#
# $$\mathrm{KL}\big(N(m, s^2) \,\|\, N(m_0, s_0^2)\big)
# = \log\frac{s_0}{s} + \frac{s^2 + (m - m_0)^2}{2 s_0^2} - \frac12 ,$$
#
# and since the coordinates are independent, the divergence in $D$ dimensions is the **sum** over the coordinates.
#
# Then a model whose evidence we know. A vector $z \in \mathbb R^D$ is drawn once, and $N$ points scatter around it:
#
# $$z \sim N(0, \sigma^2 I), \qquad x_i \mid z \sim N(z, \tau^2 I), \quad i = 1, \dots, N, \qquad
# q(z) = N\big(m, \mathrm{diag}(s^2)\big).$$
#
# Written as *fit minus price*, the bound is
#
# $$\mathrm{ELBO} = \sum_{i=1}^N \mathbb E_q[\log N(x_i \mid z, \tau^2 I)] - \mathrm{KL}(q \,\|\, \text{prior}) .$$
#
# The expectation is exact, no sample is needed: $z_d = m_d + s_d \epsilon$ under $q$, so $\mathbb E_q (x_{id} - z_d)^2$
# is $(x_{id} - m_d)^2$ **plus** something. Work out what.
#
# | symbol | code | shape |
# |---|---|---|
# | $m$, $\log s$ | `mean`, `log_std` | (D,) in `elbo`, (B, D) in `gaussian_kl` |
# | $m_0$, $\log s_0$ | `prior_mean`, `prior_log_std` | (B, D) |
# | $x$ | `x` | (N, D) |
# | $\sigma$, $\tau$ | `prior_std`, `noise_std` | numbers: standard deviations, not variances |
#
# *What goes wrong:* the KL is not symmetric, so mind which argument is which; the prior is paid for **once**, since
# there is one $z$ for all points; and the normalising constants count, since we compare the bound with an evidence.


# %% tags=["answer:3a"]
def gaussian_kl(mean: Tensor, log_std: Tensor, prior_mean: Tensor, prior_log_std: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(prior_mean, prior_std^2)) in nats: four tensors (B, D) -> (B,), summed over D."""
    # BEGIN SOLUTION
    squared = (2 * log_std).exp() + (mean - prior_mean) ** 2  # E_q (z - prior_mean)^2, (B, D)
    per_coordinate = prior_log_std - log_std + 0.5 * squared * (-2 * prior_log_std).exp() - 0.5
    return per_coordinate.sum(1)
    # END SOLUTION


def elbo(x: Tensor, mean: Tensor, log_std: Tensor, prior_std: float, noise_std: float) -> Tensor:
    """The exact ELBO in nats, a scalar, of q = N(mean, diag(std^2)) for all points x (N, D) together."""
    # BEGIN SOLUTION
    n, d = x.shape
    squared = ((x - mean) ** 2).sum() + n * (2 * log_std).exp().sum()  # sum over i of E_q |x_i - z|^2
    fit = -0.5 * squared / noise_std**2 - n * d * math.log(noise_std) - 0.5 * n * d * math.log(2 * math.pi)
    zero = torch.zeros_like(mean)[None]
    price = gaussian_kl(mean[None], log_std[None], zero, zero + math.log(prior_std))  # (1,)
    return fit - price[0]
    # END SOLUTION


# %% tags=["check"]
check("3a")

# %% [markdown]
# **A look (needs 3a).** With one-dimensional points the posterior is a Gaussian, so the best $q$ reaches the evidence.


# %%
def plot_elbo() -> None:
    x = 1.0 + torch.randn(6, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigma, tau = 2.0, 1.0
    var = 1 / (1 / sigma**2 + len(x) / tau**2)
    best, std = var / tau**2 * x.sum(), math.sqrt(var)
    covariance = tau**2 * torch.eye(6, dtype=torch.float64) + sigma**2
    evidence = torch.distributions.MultivariateNormal(torch.zeros(6, dtype=torch.float64), covariance).log_prob(x[:, 0])
    grid = torch.linspace(-2.5, 1.5, 81, dtype=torch.float64)
    for shift in (0.0, 0.5, 1.0):
        bound = [elbo(x, (best + shift).view(1), log_std.view(1), sigma, tau) for log_std in grid]
        plt.plot(grid.exp(), bound, label=f"m = best + {shift}")
    plt.axhline(evidence, color="black", linestyle="--", label="evidence")
    plt.axvline(std, color="gray", linestyle=":", label="posterior's std")
    plt.xscale("log")
    plt.ylim(evidence - 12, evidence + 1)
    plt.xlabel("std of q")
    plt.ylabel("ELBO (nats)")
    plt.legend()
    plt.title("The bound touches the evidence at the posterior, and nowhere else")
    plt.show()


plot_elbo()

# %% [markdown]
# *What to see:* each curve lies below the dashed line; only the one with the right mean touches it, at the posterior's
# width. A $q$ that is too wide is punished fast, since it puts weight where the points deny it; one that is too narrow
# loses only logarithmically, the price $\log(s_0 / s)$ of being too sure.

# %% [markdown]
# ## 3b. Coordinate ascent for a Bayesian mixture (5 points)
#
# Now a model with no closed form. The means of a mixture of $K$ unit-variance Gaussians are unknown, and so is the
# class of each point:
#
# $$\mu_k \sim N(0, \sigma^2 I), \qquad c_i \sim \text{uniform on } \{1, \dots, K\}, \qquad
# x_i \mid c_i, \mu \sim N(\mu_{c_i}, I).$$
#
# The posterior couples everything; its **mean-field** approximation does not:
#
# $$q(\mu, c) = \prod_{k=1}^K N(\mu_k \mid m_k, s_k^2 I) \; \prod_{i=1}^N \mathrm{Cat}(c_i \mid \varphi_i) .$$
#
# *Coordinate ascent* (CAVI) sets one factor to its best while the others rest. The best factor is always
# $\log q_j = \mathbb E_{\text{others}}[\log p(x, \mu, c)] + \text{const}$, which gives here
#
# $$\varphi_{ik} \propto \exp\Big(\mathbb E_q[\mu_k]^\top x_i - \tfrac12 \mathbb E_q \|\mu_k\|^2\Big), \qquad
# s_k^2 = \frac{1}{1/\sigma^2 + \sum_i \varphi_{ik}}, \qquad m_k = s_k^2 \sum_i \varphi_{ik}\, x_i .$$
#
# (Terms that are the same for every $k$ were dropped from $\varphi_{ik}$: they cancel when the row is normalised.)
# Write one sweep: first $\varphi$ from the old $m$ and $s^2$, then $s^2$ and $m$ from the **new** $\varphi$.
#
# Compare with EM: $m_k$ is a mean that is pulled to the prior's 0, and a component's uncertainty $s_k^2$ enters
# through $\mathbb E_q\|\mu_k\|^2$, which is *not* $\|m_k\|^2$.
#
# | symbol | code | shape |
# |---|---|---|
# | $m_k$, $s_k^2$ | `m`, `s2` | (K, D), (K,): one **variance** for all $D$ coordinates of $\mu_k$ |
# | $\varphi_{ik}$ | `phi` | (N, K), rows sum to 1 |
# | $\sigma$ | `prior_std` | number |
#
# The ELBO below is given, as your debugger: after *any* sweep it may not fall. A bound that falls is a bug, never bad
# luck. (The reverse does not hold: a bound that rises proves nothing.)


# %% tags=["answer:3b"]
def cavi_sweep(x: Tensor, m: Tensor, s2: Tensor, prior_std: float) -> tuple[Tensor, Tensor, Tensor]:
    """One sweep over all factors: x (N, D), m (K, D), s2 (K,) -> new phi (N, K), m (K, D), s2 (K,).

    Large distances must not make NaNs: normalise phi with a softmax.
    """
    # BEGIN SOLUTION
    d = x.shape[1]
    squared_norm = (m**2).sum(1) + d * s2  # E_q |mu_k|^2, (K,)
    phi = (x @ m.T - 0.5 * squared_norm).softmax(1)  # (N, K)
    s2 = 1 / (1 / prior_std**2 + phi.sum(0))  # (K,)
    m = s2[:, None] * (phi.T @ x)  # (K, D)
    return phi, m, s2
    # END SOLUTION


# %%
def mixture_elbo(x: Tensor, phi: Tensor, m: Tensor, s2: Tensor, prior_std: float) -> Tensor:
    """The ELBO in nats of the Bayesian mixture for all points x (N, D) together: a scalar."""
    d, k = x.shape[1], len(m)
    squared = torch.cdist(x, m) ** 2 + d * s2  # E_q |x_i - mu_k|^2, (N, K)
    fit = -0.5 * squared - 0.5 * d * math.log(2 * math.pi) - math.log(k) - phi.clamp_min(1e-300).log()
    ratio = s2 / prior_std**2
    price = 0.5 * ((m**2).sum(1) / prior_std**2 + d * (ratio - 1 - ratio.log()))  # KL of each q(mu_k), (K,)
    return (phi * fit).sum() - price.sum()


# %% tags=["check"]
check("3b")

# %% [markdown]
# **A look (needs 3b).** Four clusters, six components, three starts.


# %%
def plot_cavi(sweeps: int = 40) -> None:
    g = torch.Generator().manual_seed(1)
    centres = torch.tensor([[4.0, 0.0], [-4.0, 1.0], [0.0, 4.0], [1.0, -4.0]], dtype=torch.float64)
    x = centres[torch.randint(4, (200,), generator=g)] + torch.randn(200, 2, generator=g, dtype=torch.float64)
    _, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    best = -math.inf
    for start in range(3):
        m, s2 = 2 * torch.randn(6, 2, generator=g, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
        bounds = []
        for _ in range(sweeps):
            phi, m, s2 = cavi_sweep(x, m, s2, 5.0)
            bounds.append(float(mixture_elbo(x, phi, m, s2, 5.0)))
        left.plot(range(1, sweeps + 1), bounds, label=f"start {start + 1}")
        if bounds[-1] > best:
            best, chosen = bounds[-1], (phi, m, s2)
    left.set(xlabel="sweep", ylabel="ELBO (nats)", title="The bound rises, to different heights")
    left.legend()
    phi, m, s2 = chosen
    right.scatter(*x.T, c=phi.argmax(1), s=8, cmap="tab10", vmin=0, vmax=9)
    for k in range(6):
        right.add_patch(plt.Circle(m[k].tolist(), 2 * float(s2[k].sqrt()), fill=False, color="black"))
    right.set(title="Circles: where each mean is believed to be (2 std)", aspect="equal")
    plt.show()


plot_cavi()

# %% [markdown]
# *What to see:* no curve ever falls, yet they end at different heights: coordinate ascent finds a local optimum, so run
# several starts and keep the best **bound**. On the right a small circle is a mean that many points pin down. Two
# clusters are shared by two components each, whose circles are wider, for each has fewer points. A component that lost
# all its points would go back to the prior, a huge circle around 0: unlike maximum likelihood, the Bayesian mixture
# never collapses onto a single point, and it knows what it does not know.

# %% [markdown]
# ## 3c. The reparameterised gradient (4 points)
#
# Closed forms are rare. For any model whose $\log p(x, z)$ can be *evaluated and differentiated*, write a sample of
# $q_\lambda = N(m, \mathrm{diag}(s^2))$ as a function of noise that knows nothing of $\lambda = (m, \log s)$:
#
# $$z = m + s \odot \epsilon, \qquad \epsilon \sim N(0, I) .$$
#
# Now the expectation is over $\epsilon$, and the gradient may pass inside it:
#
# $$\nabla_\lambda \mathrm{ELBO} = \mathbb E_\epsilon\big[\nabla_\lambda \log p(x, m + s \odot \epsilon)\big]
# + \nabla_\lambda H(q_\lambda), \qquad
# H(q_\lambda) = \sum_{d=1}^D \log s_d + \tfrac D2 \log(2 \pi e) .$$
#
# The entropy's gradient is exact; the expectation is replaced by the **mean** over the $S$ rows of the given `eps`.
#
# `log_joint` is a function: it takes z of shape (S, D) and returns $\log p(x, z)$ of shape (S,), for an $x$ that it
# knows. Return the estimates of $\nabla_m$ and $\nabla_{\log s}$, each (D,), as plain tensors (no graph attached).
# You may use `torch.autograd.grad`. The inputs `mean` and `log_std` come without `requires_grad`, and you must not
# change them: work on copies (`.clone().requires_grad_()`).
#
# *What goes wrong:* the gradient in $\log s$ is not that in $s$ (there is a factor $s$ between them), and the entropy
# pulls every $\log s_d$ **up**, by the same amount whatever the model.


# %% tags=["answer:3c"]
def reparam_gradient(
    log_joint: Callable[[Tensor], Tensor], mean: Tensor, log_std: Tensor, eps: Tensor
) -> tuple[Tensor, Tensor]:
    """Estimates (D,), (D,) of the ELBO's gradient in mean and log_std (D,), through z = mean + std * eps (S, D)."""
    # BEGIN SOLUTION
    mean = mean.clone().requires_grad_()
    log_std = log_std.clone().requires_grad_()
    z = mean + log_std.exp() * eps  # (S, D)
    estimate = log_joint(z).mean() + log_std.sum()  # the entropy, up to a constant
    grad_mean, grad_log_std = torch.autograd.grad(estimate, (mean, log_std))
    return grad_mean, grad_log_std
    # END SOLUTION


# %% tags=["check"]
check("3c")

# %% [markdown]
# ## 3d. The score-function gradient (4 points)
#
# And if $\log p(x, z)$ cannot be differentiated (a step, a simulator, a discrete $z$)? Differentiate $q$ instead. With
# $f(z) = \log p(x, z) - \log q_\lambda(z)$, so that $\mathrm{ELBO} = \mathbb E_q[f]$,
#
# $$\nabla_\lambda \mathrm{ELBO} = \mathbb E_{q_\lambda}\big[\nabla_\lambda \log q_\lambda(z)\; f(z)\big] .$$
#
# In words: make samples that did well more likely. $\nabla_\lambda \log q_\lambda(z)$ is called the *score*. Its
# expectation is 0, since $\int \nabla_\lambda q_\lambda = \nabla_\lambda 1 = 0$; so the derivative of the
# $-\log q_\lambda$ inside $f$ has left the formula. For our Gaussian, with $z$ **held fixed**, the score has a simple
# closed form in $m$ and in $\log s$; derive it from
# $\log q_\lambda(z) = \sum_d \big[ -\tfrac{(z_d - m_d)^2}{2 s_d^2} - \log s_d - \tfrac12 \log 2\pi \big]$.
#
# **Baseline.** Since the score has expectation 0, any constant may be subtracted from $f$ without a bias, and a good
# one makes the estimate far less noisy. The usual choice is the mean of $f$ over the *other* samples, so that $b_j$
# does not depend on $z_j$:
#
# $$g = \frac1S \sum_{j=1}^S \nabla_\lambda \log q_\lambda(z_j)\,\big(f(z_j) - b_j\big), \qquad
# b_j = \frac{1}{S - 1} \sum_{l \ne j} f(z_l) \;\text{ with baseline},\qquad b_j = 0 \;\text{ without.}$$
#
# You are given the samples `z` (S, D) themselves. They are **numbers**: nothing may be differentiated through them, and
# `log_joint` may have no derivative at all.
#
# *What goes wrong:* rewriting $z$ as $m + s\epsilon$ and letting autograd run through it gives a score of 0 in $m$, as
# a sample moves along with its density; and a baseline that contains its own sample biases the gradient towards 0.


# %% tags=["answer:3d"]
def score_gradient(
    log_joint: Callable[[Tensor], Tensor], mean: Tensor, log_std: Tensor, z: Tensor, baseline: bool = False
) -> tuple[Tensor, Tensor]:
    """Estimates (D,), (D,) of the ELBO's gradient in mean (D,) and log_std (D,) from samples z (S, D) of q."""
    # BEGIN SOLUTION
    eps = (z - mean) / log_std.exp()  # (S, D)
    log_q = -(0.5 * eps**2 + log_std + 0.5 * math.log(2 * math.pi)).sum(1)  # (S,)
    f = log_joint(z) - log_q  # (S,)
    if baseline:
        f = f - (f.sum() - f) / (len(f) - 1)
    score_mean, score_log_std = eps / log_std.exp(), eps**2 - 1  # (S, D)
    return (f[:, None] * score_mean).mean(0), (f[:, None] * score_log_std).mean(0)
    # END SOLUTION


# %% tags=["check"]
check("3d")

# %% [markdown]
# ## 3e. Which gradient is noisier? (3 points)
#
# Both estimators are right on average. What decides how fast you learn is their **variance**. Measure it: repeat the
# estimate $R$ times with fresh noise, and take for each coordinate the unbiased sample variance over the repetitions,
#
# $$\widehat{\mathrm{Var}}[g_d] = \frac{1}{R - 1} \sum_{r=1}^R \big(g_d^{(r)} - \bar g_d\big)^2 .$$
#
# `estimator` is a function like the one of 3c: `estimator(log_joint, mean, log_std, eps)` takes `eps` (S, D) and
# returns two tensors (D,). Here `eps` holds the noise of all repetitions, (R, S, D): one call per
# repetition, each with $S$ samples.
#
# *What goes wrong:* pooling all $R \cdot S$ samples gives the variance of *one* sample, $S$ times that of an estimate.


# %% tags=["answer:3e"]
def gradient_variance(
    estimator: Callable[..., tuple[Tensor, Tensor]],
    log_joint: Callable[[Tensor], Tensor],
    mean: Tensor,
    log_std: Tensor,
    eps: Tensor,
) -> tuple[Tensor, Tensor]:
    """Variances (D,), (D,) of the estimates in mean and in log_std, over the R repetitions in eps (R, S, D)."""
    # BEGIN SOLUTION
    estimates = [estimator(log_joint, mean, log_std, one) for one in eps]
    grads_mean = torch.stack([g for g, _ in estimates])  # (R, D)
    grads_log_std = torch.stack([g for _, g in estimates])
    return grads_mean.var(0), grads_log_std.var(0)
    # END SOLUTION


# %% tags=["check"]
check("3e")

# %% [markdown]
# **A look (needs 3c, 3d and 3e).** A Gaussian target in 1 to 100 dimensions; 200 estimates of $S = 8$ samples each.


# %%
def plot_variances() -> None:
    def log_joint(z: Tensor) -> Tensor:
        return -0.5 * ((z - 0.5) ** 2).sum(-1)

    def score(target: Callable[[Tensor], Tensor], m: Tensor, log_s: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        return score_gradient(target, m, log_s, m + log_s.exp() * eps)

    def baseline(target: Callable[[Tensor], Tensor], m: Tensor, log_s: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        return score_gradient(target, m, log_s, m + log_s.exp() * eps, baseline=True)

    g = torch.Generator().manual_seed(2)
    dimensions = [1, 2, 5, 10, 20, 50, 100]
    estimators = {"score": score, "score with baseline": baseline, "reparameterised": reparam_gradient}
    _, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
    for name, estimator in estimators.items():
        variances = []
        for d in dimensions:
            mean, log_std = torch.zeros(d), torch.full((d,), -0.5)
            pair = gradient_variance(estimator, log_joint, mean, log_std, torch.randn(200, 8, d, generator=g))
            variances.append([float(v.mean()) for v in pair])
        for axis, column in zip(axes, zip(*variances, strict=True), strict=True):
            axis.loglog(dimensions, column, marker="o", label=name)
    axes[0].set(xlabel="dimension D", ylabel="variance of a coordinate", title="gradient in m")
    axes[1].set(xlabel="dimension D", title="gradient in log s")
    axes[1].legend()
    plt.show()


plot_variances()

# %% [markdown]
# *What to see:* both axes are logarithmic. The reparameterised gradient does not care about the dimension, as each
# coordinate's slope depends on its own noise alone. The score function multiplies every coordinate by the *same* number
# $f$, which grows with $D$, and so the variance grows as $D^2$; a baseline takes the mean of $f$ away and leaves its
# noise, which grows as $D$: far better, and still hundreds of times worse in 100 dimensions. That is why VAEs use the
# reparameterised form, and why discrete latent variables, which have none, are hard.

# %% [markdown]
# ## 3f. The gap (5 points, written)
#
# Let $p(x, z)$ be a model with posterior $p(z \mid x)$, and $q(z)$ any density that is positive only where the
# posterior is.
#
# 1. Show that $\log p(x) - \mathrm{ELBO}(q) = \mathrm{KL}(q(z) \,\|\, p(z \mid x))$, and conclude that the ELBO is a
#    lower bound of the evidence. (2h had a $z$ with finitely many values; here it has a density. That a KL divergence
#    is not negative, and 0 only between equal densities, you may take from 1e.)
# 2. When is the bound tight? For the mixture of 3b, can it be tight with the mean-field family? Say why or why not.
# 3. Suppose the model's parameters $\theta$ are trained by raising the ELBO, too. Explain in two or three sentences
#    why the result may differ from maximum likelihood.
# 4. Show that subtracting a baseline leaves the expectation of the score-function gradient of 3d as it is, if $b_j$
#    does not depend on $z_j$. Where does your proof fail if $b_j$ contains $f(z_j)$?

# %% [markdown] tags=["written:3f", "points:5"]
# <!-- BEGIN SOLUTION -->
# **1.** Since $p(x, z) = p(z \mid x)\, p(x)$ and $\log p(x)$ does not depend on $z$,
#
# $$\mathrm{ELBO}(q) = \mathbb E_q\Big[\log \frac{p(x, z)}{q(z)}\Big]
# = \mathbb E_q\Big[\log p(x) + \log \frac{p(z \mid x)}{q(z)}\Big]
# = \log p(x) - \mathbb E_q\Big[\log \frac{q(z)}{p(z \mid x)}\Big]
# = \log p(x) - \mathrm{KL}(q(z) \,\|\, p(z \mid x)) .$$
#
# A KL divergence is not negative, hence $\mathrm{ELBO}(q) \le \log p(x)$ for every $q$.
#
# **2.** A KL divergence is 0 only between equal densities: the bound is tight if and only if $q(z) = p(z \mid x)$
# almost everywhere. In 3b it cannot be tight (for $K \ge 2$): in the posterior the classes depend on the means, and the
# classes of two points depend on each other through them, while $q$ makes all factors independent. (Also, the posterior
# is a mixture over all $K^N$ assignments, and is the same under any relabelling of the components, whereas each
# $q(\mu_k)$ is one Gaussian.)
#
# **3.** Raising $\mathrm{ELBO}(\theta, q) = \log p_\theta(x) - \mathrm{KL}(q \,\|\, p_\theta(z \mid x))$ in $\theta$
# raises the evidence *or* lowers the gap. Where the family of $q$ is too small, it pays to choose a $\theta$ whose
# posterior is easy to approximate even if its evidence is lower; the result is biased towards models that make $q$ look
# good. Only if the gap can be closed for each $\theta$ (as in EM's E-step) is the optimum that of maximum likelihood.
#
# **4.** The samples are independent, so given the others $b_j$ is a constant under $z_j \sim q_\lambda$, and
#
# $$\mathbb E[\nabla_\lambda \log q_\lambda(z_j)\, b_j]
# = \mathbb E\big[b_j\, \mathbb E_{z_j}[\nabla_\lambda \log q_\lambda(z_j)]\big] = 0, \quad \text{since} \quad
# \mathbb E_q[\nabla_\lambda \log q_\lambda]
# = \int q_\lambda \frac{\nabla_\lambda q_\lambda}{q_\lambda}\, dz
# = \nabla_\lambda \int q_\lambda\, dz = \nabla_\lambda 1 = 0 .$$
#
# If $b_j$ contains $f(z_j)$ it may not leave the inner expectation:
# $\mathbb E[\nabla_\lambda \log q_\lambda(z_j)\, f(z_j)]$ is the gradient itself. With the mean of all $S$ samples
# as the baseline, a share $\frac1S$ of it is subtracted.
#
# Rubric:
# - 1 point: the joint is split into posterior times evidence, and $\log p(x)$ leaves the expectation
# - 1 point: the divergence has its direction, $\mathrm{KL}(q(z) \,\|\, p(z \mid x))$, and sign; the bound follows
# - 1 point: tight exactly at the posterior, and a reason why mean field cannot reach it for the mixture
# - 1 point: training by the bound trades evidence against the gap
# - 1 point: the score has expectation 0, independence takes $b_j$ out, and what fails if $b_j$ contains $f(z_j)$
# <!-- END SOLUTION -->

# %% [markdown]
# # 4. Backpropagation from scratch (13 points)
#
# So far autograd did the work. Here you write it: a scalar reverse-mode engine in about sixty lines, the idea that
# PyTorch runs on tensors. Each number that takes part in a computation is a `Value`. It remembers which values it was
# made from and how strongly it reacts to each of them (its **local derivatives**). The record is a graph; the chain
# rule, run over it backwards, gives the derivative of the result by everything.

# %% [markdown]
# ## 4a. Values and their local derivatives (4 points)
#
# A `Value` holds
#
# - `data`, a Python float;
# - `grad`, a float that starts at 0 and is filled by the backward pass (4b);
# - `parents`, a tuple of pairs `(value, local)`: the values that this one was computed from, and the number
#   $\partial\, \text{this} / \partial\, \text{value}$ **at the current data**.
#
# For instance, with `a.data = 2` and `b.data = 5`, the product `a * b` is `Value(10.0, ((a, 5.0), (b, 2.0)))`. An
# operation may be built from others (so `a - b` may be `a + (-b)`), as long as data and derivatives come out right.
#
# Write `+`, `-`, `*`, `/` between values **and with plain numbers on either side** (`2 - a` calls `a.__rsub__(2)`;
# mind the order), `-a`, `a ** p` for a plain number $p$, and `exp`, `log`, `tanh`, `relu` (with derivative 0 at 0).
#
# *What goes wrong:* the local derivative is a number that belongs to the *input's* data, so $1/x$ for the logarithm,
# not $1/\log x$; and Python tries `2.0 - a` as `float.__sub__` first and then asks `a` for `__rsub__`, with the
# arguments the other way round.


# %% tags=["answer:4a"]
class Value:
    """A number that remembers how it was computed."""

    def __init__(self, data: float, parents: "tuple[tuple[Value, float], ...]" = ()) -> None:
        self.data = float(data)
        self.grad = 0.0
        self.parents = parents  # pairs (value, d self / d value)

    def __repr__(self) -> str:
        return f"Value({self.data:.4g}, grad={self.grad:.4g})"

    @staticmethod
    def wrap(other: "Value | float") -> "Value":
        """A plain number as a Value without parents; a Value as it is."""
        return other if isinstance(other, Value) else Value(other)

    def __add__(self, other: "Value | float") -> "Value":
        # BEGIN SOLUTION
        other = Value.wrap(other)
        return Value(self.data + other.data, ((self, 1.0), (other, 1.0)))
        # END SOLUTION

    def __mul__(self, other: "Value | float") -> "Value":
        # BEGIN SOLUTION
        other = Value.wrap(other)
        return Value(self.data * other.data, ((self, other.data), (other, self.data)))
        # END SOLUTION

    def __sub__(self, other: "Value | float") -> "Value":
        # BEGIN SOLUTION
        other = Value.wrap(other)
        return Value(self.data - other.data, ((self, 1.0), (other, -1.0)))
        # END SOLUTION

    def __truediv__(self, other: "Value | float") -> "Value":
        # BEGIN SOLUTION
        other = Value.wrap(other)
        return Value(self.data / other.data, ((self, 1 / other.data), (other, -self.data / other.data**2)))
        # END SOLUTION

    def __pow__(self, p: float) -> "Value":
        """self ** p for a plain number p."""
        # BEGIN SOLUTION
        return Value(self.data**p, ((self, p * self.data ** (p - 1)),))
        # END SOLUTION

    def __neg__(self) -> "Value":
        # BEGIN SOLUTION
        return Value(-self.data, ((self, -1.0),))
        # END SOLUTION

    # A plain number on the left: other + self, other * self, other - self, other / self.

    def __radd__(self, other: float) -> "Value":
        # BEGIN SOLUTION
        return self + other
        # END SOLUTION

    def __rmul__(self, other: float) -> "Value":
        # BEGIN SOLUTION
        return self * other
        # END SOLUTION

    def __rsub__(self, other: float) -> "Value":
        # BEGIN SOLUTION
        return Value.wrap(other) - self
        # END SOLUTION

    def __rtruediv__(self, other: float) -> "Value":
        # BEGIN SOLUTION
        return Value.wrap(other) / self
        # END SOLUTION

    def exp(self) -> "Value":
        # BEGIN SOLUTION
        out = math.exp(self.data)
        return Value(out, ((self, out),))
        # END SOLUTION

    def log(self) -> "Value":
        # BEGIN SOLUTION
        return Value(math.log(self.data), ((self, 1 / self.data),))
        # END SOLUTION

    def tanh(self) -> "Value":
        # BEGIN SOLUTION
        out = math.tanh(self.data)
        return Value(out, ((self, 1 - out**2),))
        # END SOLUTION

    def relu(self) -> "Value":
        # BEGIN SOLUTION
        return Value(max(self.data, 0.0), ((self, float(self.data > 0)),))
        # END SOLUTION


# %% tags=["check"]
check("4a")

# %% [markdown]
# ## 4b. The backward pass (5 points)
#
# Let $L$ be the `root`, the value we differentiate. For a node $v$ with children $c$ (the nodes that have $v$ among
# their parents), the chain rule says
#
# $$\frac{\partial L}{\partial v} = \sum_{c\,:\, v \in \mathrm{parents}(c)}
# \frac{\partial L}{\partial c}\, \frac{\partial c}{\partial v} , \qquad \frac{\partial L}{\partial L} = 1 .$$
#
# So a node may pass its gradient on only when **all** of its children have delivered theirs. An order in which each
# child stands before its parents is a *topological order*; walk the graph once in that order, and hand
# `gradient * local` to each parent. What must hold:
#
# - **Shared nodes.** A value that is used in several places, or twice in one (`a * a`, where `a` stands twice among the
#   parents), collects the **sum** of what its uses deliver.
# - **Once each.** The work is proportional to the number of edges. Following every path from the root is right as well,
#   but forty doublings `y = y + y` have $2^{40}$ paths.
# - **Deep graphs.** Python's call stack holds about 1,000 calls, and a chain of 10,000 values is not rare: find the
#   order with a loop and a list of your own in place of recursion.
# - **Accumulation, as in PyTorch.** `backward(root)` *adds* $\partial L / \partial v$ to `v.grad` for every node $v$ of
#   the graph, the root included. Called for a second loss, it adds the second gradient, also where the two graphs share
#   inner nodes. So keep the gradients of the running pass apart from what `grad` held before (a dictionary keyed by
#   `id(node)` does), or the old ones are passed on a second time.
#
# Use nothing of a node but `grad` and `parents`: the check brings nodes of its own, so that this question does not
# depend on 4a.


# %% tags=["answer:4b"]
def backward(root: "Value") -> None:
    """Add d root / d node to node.grad, for root and for every node that it was computed from."""
    # BEGIN SOLUTION
    uses = {id(root): 0}  # how many edges lead to a node from nodes of the graph
    stack = [root]
    while stack:
        for parent, _ in stack.pop().parents:
            if id(parent) not in uses:
                uses[id(parent)] = 0
                stack.append(parent)
            uses[id(parent)] += 1
    gradient = {id(root): 1.0}  # of this pass
    ready = [root]  # all of their children have delivered
    while ready:
        node = ready.pop()
        outgoing = gradient[id(node)]
        node.grad += outgoing
        for parent, local in node.parents:
            gradient[id(parent)] = gradient.get(id(parent), 0.0) + outgoing * local
            uses[id(parent)] -= 1
            if uses[id(parent)] == 0:
                ready.append(parent)
    # END SOLUTION


# %% tags=["check"]
check("4b")

# %% [markdown]
# ## 4c. Train a network with it (4 points)
#
# The proof: a classifier for points in the plane. One hidden layer of $H$ tanh units, labels $y_i \in \{-1, +1\}$,
#
# $$f(x) = b_2 + \sum_{h=1}^H w_{2,h} \tanh\Big(b_{1,h} + \sum_d W_{1,hd}\, x_d\Big), \qquad
# L = \frac1N \sum_{i=1}^N \log\big(1 + e^{-y_i f(x_i)}\big) ,$$
#
# trained by plain gradient descent on the whole set, $\theta \leftarrow \theta - \eta\, \partial L / \partial \theta$.
# The parameters come as a dict of `Value`s: `W1` a list of $H$ lists of $D$ values, `b1` and `w2` lists of $H$ values,
# `b2` one value. A point is a list of $D$ floats.
#
# `train_network` runs `steps` steps, changes the parameters' `data` **in place**, and returns the losses, each computed
# **before** its step's update. The given `parameters_of` lists all values in the dict.
#
# *What goes wrong:* `backward` adds, so the gradients must be set to 0 before each pass; if not, you follow the sum of
# all gradients so far, which looks like training with a large momentum and then blows up.


# %%
def parameters_of(params: dict) -> list:
    """All Values in the dict of parameters, in one list."""
    return [v for row in params["W1"] for v in row] + params["b1"] + params["w2"] + [params["b2"]]


# %% tags=["answer:4c"]
def network(params: dict, point: list[float]) -> "Value":
    """f(x), a Value, at one point (a list of D floats)."""
    # BEGIN SOLUTION
    out = params["b2"]
    for weights, bias, w2 in zip(params["W1"], params["b1"], params["w2"], strict=True):
        hidden = bias
        for weight, coordinate in zip(weights, point, strict=True):
            hidden = hidden + weight * coordinate
        out = out + w2 * hidden.tanh()
    return out
    # END SOLUTION


def train_network(params: dict, points: list[list[float]], labels: list[float], lr: float, steps: int) -> list[float]:
    """Gradient descent on the mean logistic loss: N points, N labels of -1.0 or 1.0 -> the losses before each step."""
    # BEGIN SOLUTION
    losses = []
    for _ in range(steps):
        total = Value(0.0)
        for point, label in zip(points, labels, strict=True):
            total = total + ((network(params, point) * -label).exp() + 1.0).log()
        loss = total / len(points)
        for p in parameters_of(params):
            p.grad = 0.0
        backward(loss)
        for p in parameters_of(params):
            p.data -= lr * p.grad
        losses.append(loss.data)
    return losses
    # END SOLUTION


# %% tags=["check"]
check("4c")

# %% [markdown]
# **A look (needs 4a, 4b and 4c).** Two half moons, eight hidden units, your own engine: some seconds of plain Python.


# %%
def plot_moons(hidden: int = 8, n: int = 40, steps: int = 200) -> None:
    rng = np.random.default_rng(0)
    angle = np.pi * rng.uniform(size=n)
    upper = np.stack([np.cos(angle), np.sin(angle)], 1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], 1)
    half = n // 2
    points = np.concatenate([upper[:half], lower[half:]]) + 0.08 * rng.normal(size=(n, 2))
    labels = np.where(np.arange(n) < half, 1.0, -1.0)
    params = {
        "W1": [[Value(w) for w in row] for row in 1.5 * rng.normal(size=(hidden, 2))],
        "b1": [Value(b) for b in rng.normal(size=hidden)],
        "w2": [Value(w) for w in rng.normal(size=hidden) / math.sqrt(hidden)],
        "b2": Value(0.0),
    }
    losses = train_network(params, points.tolist(), labels.tolist(), 1.0, steps)
    xs, ys = np.linspace(-1.6, 2.6, 50), np.linspace(-1.1, 1.6, 40)
    heights = [[network(params, [float(x), float(y)]).data for x in xs] for y in ys]
    _, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    left.plot(losses)
    left.set(xlabel="step", ylabel="loss (nats)", yscale="log", title="Training")
    right.contourf(xs, ys, heights, levels=[-1e9, -2, 0, 2, 1e9], cmap="RdBu", alpha=0.5)
    right.contour(xs, ys, heights, levels=[0.0], colors="black")
    right.scatter(*points.T, c=labels, cmap="RdBu", edgecolors="black")
    right.set(title="The decision boundary", aspect="equal")
    plt.show()


plot_moons()

# %% [markdown]
# *What to see:* the loss starts near $\log 2 = 0.69$, which is what a coin would get, and falls to about 0.05. The
# black line bends around both moons, as no straight line can. PyTorch does exactly this, with tensors in the nodes in
# place of numbers, and is faster by as much as a tensor holds numbers.

# %% [markdown]
# # Submit
#
# Restart the kernel, run everything from the top, **save the notebook**, then run the cell below. It names every answer
# that is missing and writes the zip that you hand in.

# %% tags=["submit"]
submit()
