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
# above. You have 120 seconds on one CPU thread; the solution needs about two.
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
    params, _ = em(train, m_step(train, start, ridge=1e-3), steps=15, ridge=1e-3)
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
