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
# # Problem set 3: diffusion models (100 points)
#
# To draw a sample from a complicated distribution in one go is hard. To take a small step from a sample of a slightly
# noisier distribution is easy: it is a Gaussian step, and all that it needs is the direction in which the density
# grows. This problem set builds samplers from such steps, learns the direction from data, makes the way shorter and
# steers it, straightens it into a flow, and ends with the network that does it best.
#
# | section | what you build | points |
# |---|---|---|
# | 1. Scores and Langevin dynamics | the score of a mixture, chains that sample, their error, learning a score | 21 |
# | 2. Denoising diffusion | schedules, noising, the way back, the loss, the sampler, a model that you train | 31 |
# | 3. Faster and steered sampling | DDIM, guidance by a label, inpainting, SDEdit | 17 |
# | 4. Flow matching | paths and velocities, Euler and Heun, optimal pairs, straighter ways | 22 |
# | 5. A diffusion transformer | patches, adaLN-zero blocks, the embedding of time | 9 |
#
# **How it works.** Replace each `raise NotImplementedError` by your code and keep names and arguments as they are.
# After each answer a cell calls `check("1a")`: it runs *public checks* at fixed inputs. Your grade comes from the same
# checks at other inputs. Many questions give partial credit. Written questions are answered in the text cell below them
# and are read by a person.
#
# **Rules that hold everywhere.**
# * All logarithms are natural; log-densities and energies are in **nats**.
# * The first axis is the batch: `x` is (B, D), or (B, \*shape) for points and images alike. Shapes are written like
#   this in every docstring.
# * Your functions get tensors of dtype float64 in the checks; do not convert them to float32. (Networks that you train
#   yourself may of course work in float32.)
# * A function must not change its inputs: work on copies (`y = x - mean` makes one, `x -= mean` does not).
# * Where noise is needed it is handed in, as a tensor of draws from N(0, 1), so that each question has one answer.

# %% tags=["setup"]
import torch

device = "cuda" if torch.cuda.is_available() else "cpu"

# %%
import math
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

# %% [markdown]
# # 1. Scores and Langevin dynamics (21 points)
#
# A density can be written as $p(x) = e^{-E(x)} / Z$ with an **energy** $E$ that is low where $x$ is likely. The number
# $Z$ makes it integrate to 1, and for most models nobody can compute it. But the **score**
#
# $$\nabla \log p(x) = -\nabla E(x)$$
#
# does not contain $Z$. It is a vector field: at each point it says in which direction the density grows, and how fast.
# You will compute it for a mixture (1a), draw samples with nothing but it (1b), find out how wrong those samples are
# and repair them (1c), and learn a score from data alone (1d, 1e).

# %% [markdown]
# ## 1a. The score of a Gaussian mixture (4 points)
#
# A mixture of $K$ round Gaussians in $D$ dimensions, with weights from logits $l \in \mathbb R^K$ (to which any
# constant may be added), has the density
#
# $$p(x) = \sum_{k=1}^K \pi_k\, N(x \mid \mu_k, \sigma_k^2 I), \qquad \pi_k = \frac{e^{l_k}}{\sum_j e^{l_j}}, \qquad
# \log N(x \mid \mu, \sigma^2 I) = -\frac{\|x - \mu\|^2}{2 \sigma^2} - D \log \sigma - \frac D2 \log 2 \pi .$$
#
# Write its energy $E(x) = -\log p(x)$ and its score $\nabla \log p(x)$. Differentiate the logarithm of a sum, and each
# component's own score comes out, with a factor that you know from EM:
#
# $$\nabla \log p(x) = \sum_{k=1}^K r_k(x)\, \nabla \log N(x \mid \mu_k, \sigma_k^2 I), \qquad
# r_k(x) = \frac{\pi_k\, N(x \mid \mu_k, \sigma_k^2 I)}{\sum_j \pi_j\, N(x \mid \mu_j, \sigma_j^2 I)} .$$
#
# Both must be exact far away from all components, where every density is 0 in floating point: chains start there.
#
# | symbol | code | shape |
# |---|---|---|
# | $x$ | `x` | (B, D) |
# | $l$ | `logits` | (K,) |
# | $\mu_k$ | `means` | (K, D) |
# | $\sigma_k$ | `stds`, standard deviations | (K,) |
#
# *What goes wrong:* a density that rounds to 0 has no logarithm, and 0/0 is no responsibility: stay with logarithms
# and normalise them last (`torch.logsumexp`, `torch.softmax`). And the responsibilities depend on $x$; with $\pi_k$
# in their place every component pulls everywhere.


# %% tags=["answer:1a"]
def mixture_energy(x: Tensor, logits: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    """-log p(x) in nats: x (B, D), logits (K,), means (K, D), stds (K,) -> (B,)."""
    # BEGIN SOLUTION
    return -torch.logsumexp(log_joint(x, logits, means, stds), dim=1)
    # END SOLUTION


def mixture_score(x: Tensor, logits: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    """grad log p(x): x (B, D), logits (K,), means (K, D), stds (K,) -> (B, D)."""
    # BEGIN SOLUTION
    r = torch.softmax(log_joint(x, logits, means, stds), dim=1)  # (B, K)
    pull = (means - x[:, None]) / stds[:, None] ** 2  # (B, K, D): each component's own score
    return (r[:, :, None] * pull).sum(1)


def log_joint(x: Tensor, logits: Tensor, means: Tensor, stds: Tensor) -> Tensor:
    """log pi_k + log N(x | mu_k, sigma_k^2 I): (B, K)."""
    d = x.shape[1]
    squared = ((x[:, None] - means) ** 2).sum(2)  # (B, K)
    log_density = -0.5 * squared / stds**2 - d * stds.log() - 0.5 * d * math.log(2 * math.pi)
    return torch.log_softmax(logits, dim=0) + log_density
    # END SOLUTION


# %% tags=["check"]
check("1a")

# %% [markdown]
# **A look (needs 1a).** Three clouds of different sizes, and where their score points. You will meet this mixture
# again.


# %%
def clouds_mixture() -> tuple[Tensor, Tensor, Tensor]:
    """Logits (3,), means (3, 2) and standard deviations (3,) of the mixture in the pictures."""
    logits = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    means = torch.tensor([[-2.0, -1.0], [2.0, -0.5], [0.0, 2.0]], dtype=torch.float64)
    return logits, means, torch.tensor([0.7, 0.5, 0.4], dtype=torch.float64)


def square_grid(side: int, reach: float = 4.0) -> Tensor:
    """Points (side * side, 2) of a square grid over [-reach, reach]^2."""
    line = torch.linspace(-reach, reach, side, dtype=torch.float64)
    return torch.cartesian_prod(line, line)


def density_background(axis: plt.Axes) -> None:
    """The mixture's density, as shades of grey."""
    p = torch.exp(-mixture_energy(square_grid(120), *clouds_mixture())).view(120, 120)
    axis.imshow(p.T, origin="lower", extent=(-4, 4, -4, 4), cmap="Greys", vmax=1.3 * p.max())
    axis.set(xlim=(-4, 4), ylim=(-4, 4), aspect="equal")


def plot_score() -> None:
    x = square_grid(21)
    score = mixture_score(x, *clouds_mixture())
    length = score.norm(dim=1, keepdim=True)
    _, axis = plt.subplots(figsize=(5.5, 5))
    density_background(axis)
    arrows = axis.quiver(*x.T, *(score / length).T, length[:, 0], cmap="viridis", scale=28, width=0.004)
    plt.colorbar(arrows, label="length of the score")
    axis.set_title("The score of a mixture")
    plt.show()


plot_score()

# %% [markdown]
# *What to see:* all arrows (drawn equally long) lead uphill. Between two clouds there is a line where the direction
# turns: to either side of it another cloud takes over. Far away the score is long, near the centres and on the passes
# between them it vanishes.

# %% [markdown]
# ## 1b. Langevin dynamics (3 points)
#
# Going downhill on the energy finds the modes. Going downhill **and** adding Gaussian noise of exactly the right size
# gives samples. With the step size $\varepsilon$ and the temperature $T$, the **unadjusted Langevin algorithm** is
#
# $$x_{k+1} = x_k - \varepsilon\, \nabla E(x_k) + \sqrt{2 \varepsilon T}\; \xi_k, \qquad \xi_k \sim N(0, I),$$
#
# and for small $\varepsilon$ its points, after a while, are distributed as $p(x) \propto e^{-E(x)/T}$. At $T = 1$
# that is the density we want; at $T = 0$ it is plain gradient descent.
#
# `energy` is any function from points (B, \*shape) to energies (B,), made of torch operations, and each chain's energy
# depends on that chain alone. So autograd's gradient of the **sum** of the energies holds each chain's own gradient.
# Return the whole way: the start first, then the points after each step.
#
# | symbol | code | shape |
# |---|---|---|
# | $E$ | `energy` | (B, \*shape) -> (B,) |
# | $x_0$, all chains side by side | `x` | (B, \*shape) |
# | $\varepsilon$, $T$ | `step_size`, `temperature` | numbers |
# | $\xi_k$ | `noise[k]` | (B, \*shape) of the (steps, B, \*shape) |
#
# *What goes wrong:* a chain of thousands of steps must not keep the graph of all steps before it, so what you return
# does not require gradients. And a network's parameters must not find gradients in their `.grad` afterwards: ask for
# the gradient in `x` alone (`torch.autograd.grad`). Samples are often drawn inside of `torch.no_grad()`; where you
# need gradients, `with torch.enable_grad():` turns them on again.


# %% tags=["answer:1b"]
def langevin(
    energy: Callable[[Tensor], Tensor], x: Tensor, step_size: float, noise: Tensor, temperature: float = 1.0
) -> Tensor:
    """Unadjusted chains from x (B, *shape), noise (steps, B, *shape) -> all points (steps + 1, B, *shape)."""
    # BEGIN SOLUTION
    trajectory = [x.detach()]
    for xi in noise:
        with torch.enable_grad():
            x = trajectory[-1].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(energy(x).sum(), x)
        trajectory.append(trajectory[-1] - step_size * gradient + math.sqrt(2 * step_size * temperature) * xi)
    return torch.stack(trajectory)
    # END SOLUTION


# %% tags=["check"]
check("1b")

# %% [markdown]
# **A look (needs 1a and 1b).** 300 chains on the three clouds, started in a corner; the way of three of them.


# %%
def plot_langevin() -> None:
    g = torch.Generator().manual_seed(0)
    start = torch.tensor([3.0, 3.0], dtype=torch.float64) + 0.3 * torch.randn(300, 2, generator=g, dtype=torch.float64)
    noise = torch.randn(600, 300, 2, generator=g, dtype=torch.float64)
    way = langevin(lambda x: mixture_energy(x, *clouds_mixture()), start, 0.02, noise)  # (601, 300, 2)
    _, axes = plt.subplots(1, 4, figsize=(15, 4))
    for axis, k in zip(axes, (5, 50, 600), strict=False):
        density_background(axis)
        axis.scatter(*way[k].T, s=5, color="tab:red")
        axis.set_title(f"after {k} steps")
    density_background(axes[3])
    for chain in (0, 1, 2):
        axes[3].plot(*way[:, chain].T, linewidth=0.6)
    axes[3].set_title("three chains")
    plt.show()


plot_langevin()

# %% [markdown]
# *What to see:* all chains run into the two clouds nearest to the corner, and stay. After 600 steps the red points
# have the shape of each cloud, but not its share: the cloud at the left should hold half of them, and has far fewer.
# Between clouds the density is low, and a chain has to climb by luck. This slow mixing is the reason why diffusion
# models first blur the distribution, and sharpen it on the way.

# %% [markdown]
# ## 1c. The error of a step, and its repair (5 points)
#
# A step of size $\varepsilon$ keeps the drift fixed for its whole length, so the chain settles at a distribution that
# is a little wrong. For a Gaussian target we can say how wrong. Let $E(x) = \frac12 x^\top A x$ with a symmetric,
# positive definite **precision** matrix $A$, so that the target at temperature $T$ is $N(0, T A^{-1})$. A step is
# linear,
#
# $$x_{k+1} = (I - \varepsilon A)\, x_k + \sqrt{2 \varepsilon T}\; \xi_k ,$$
#
# so if $x_k$ has the covariance $S$, then $x_{k+1}$ has $(I - \varepsilon A)\, S\, (I - \varepsilon A)^\top + 2
# \varepsilon T I$. The chain is at rest where the two are equal. In the eigenvectors of $A$ this is one equation a
# coordinate: solve it.
#
# **`ula_covariance`** returns that covariance $S$. **`largest_step`** returns the $\varepsilon$ from which on the chain
# has no stationary law at all: it swings to and fro in some direction, and further each time.
#
# The repair is that of **Metropolis and Hastings**: the step is only a *proposal* $x'$, drawn from
#
# $$q(x' \mid x) = N\big(x' \,\big|\; x - \varepsilon \nabla E(x),\; 2 \varepsilon T I\big),$$
#
# and it is accepted with the probability $\min(1, e^{\rho})$, otherwise the chain stays where it is for this step. The
# **log-ratio** compares the two directions of the move:
#
# $$\rho(x, x') = \log \frac{e^{-E(x')/T}\; q(x \mid x')}{e^{-E(x)/T}\; q(x' \mid x)} .$$
#
# With it the stationary law is exactly $p$, at any step size. **`mala_log_ratio`** returns $\rho$ for each chain, and
# **`mala`** runs chains: with `uniform` $u \in (0, 1)$, a proposal is accepted where $\log u < \rho$. It returns the
# points where the chains end, and the fraction of all proposals that were accepted.
#
# | symbol | code | shape |
# |---|---|---|
# | $A$ | `precision` | (D, D) |
# | $\varepsilon$, $T$ | `step_size`, `temperature` | numbers |
# | $x$, $x'$ | `x`, `proposal` | (B, \*shape) |
# | $\xi_k$, $u_k$ | `noise`, `uniform` | (steps, B, \*shape), (steps, B) |
# | $S$, the largest step, $\rho$ | returned | (D, D), a number, (B,) |
#
# *What goes wrong:* a Langevin proposal is **not** symmetric: it prefers to go downhill, so $q(x \mid x')$ uses the
# gradient at $x'$. The same variance stands in both $q$, so their constants cancel; the factor in the exponent does
# not.


# %% tags=["answer:1c"]
def ula_covariance(precision: Tensor, step_size: float, temperature: float = 1.0) -> Tensor:
    """The covariance (D, D) at which unadjusted chains on E(x) = x^T A x / 2 settle; precision (D, D) is A."""
    # BEGIN SOLUTION
    a, vectors = torch.linalg.eigh(precision)
    # s = (1 - eps a)^2 s + 2 eps T, solved for s
    variances = temperature / (a * (1 - 0.5 * step_size * a))  # (D,)
    return vectors @ torch.diag(variances) @ vectors.T
    # END SOLUTION


def largest_step(precision: Tensor) -> float:
    """The step size from which on unadjusted chains on E(x) = x^T A x / 2 explode; precision (D, D) is A."""
    # BEGIN SOLUTION
    return 2.0 / torch.linalg.eigvalsh(precision).max().item()  # where |1 - eps a| reaches 1
    # END SOLUTION


def mala_log_ratio(
    energy: Callable[[Tensor], Tensor], x: Tensor, proposal: Tensor, step_size: float, temperature: float = 1.0
) -> Tensor:
    """log [p(x') q(x | x') / (p(x) q(x' | x))] for x and x' = proposal, both (B, *shape) -> (B,)."""
    # BEGIN SOLUTION
    e, gradient = energy_and_gradient(energy, x)
    e_new, gradient_new = energy_and_gradient(energy, proposal)
    back = (x - proposal + step_size * gradient_new).flatten(1).square().sum(1)  # (B,)
    forth = (proposal - x + step_size * gradient).flatten(1).square().sum(1)
    return (e - e_new) / temperature - (back - forth) / (4 * step_size * temperature)


def energy_and_gradient(energy: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """E(x) (B,) and its gradient, shaped like x."""
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        e = energy(x)
        (gradient,) = torch.autograd.grad(e.sum(), x)
    return e.detach(), gradient
    # END SOLUTION


def mala(
    energy: Callable[[Tensor], Tensor],
    x: Tensor,
    step_size: float,
    noise: Tensor,
    uniform: Tensor,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Adjusted chains from x (B, *shape) -> where they end (B, *shape), fraction of accepted proposals ()."""
    # BEGIN SOLUTION
    x, accepted = x.detach(), torch.zeros_like(uniform[0])
    for xi, u in zip(noise, uniform, strict=True):
        proposal = langevin(energy, x, step_size, xi[None], temperature)[1]
        accept = u.log() < mala_log_ratio(energy, x, proposal, step_size, temperature)  # (B,)
        x = torch.where(accept.view(-1, *[1] * (x.ndim - 1)), proposal, x)
        accepted += accept
    return x, accepted.mean() / len(noise)
    # END SOLUTION


# %% tags=["check"]
check("1c")

# %% [markdown]
# **A look (needs 1b and 1c).** Chains on N(0, 1) at four step sizes: the variance that they reach, and your formula.


# %%
def plot_step_error() -> None:
    g = torch.Generator().manual_seed(0)
    precision = torch.eye(1, dtype=torch.float64)
    sizes = torch.linspace(0.05, 1.75, 60)

    def energy(x: Tensor) -> Tensor:
        return 0.5 * (x**2).sum(1)

    plt.figure(figsize=(6, 3.5))
    plt.plot(sizes, [ula_covariance(precision, float(e)).item() for e in sizes], color="black", label="your formula")
    for i, e in enumerate((0.1, 0.5, 1.0, 1.5)):
        start = torch.zeros(4000, 1, dtype=torch.float64)
        noise = torch.randn(100, 4000, 1, generator=g, dtype=torch.float64)
        uniform = torch.rand(100, 4000, generator=g, dtype=torch.float64)
        free = langevin(energy, start, e, noise)[-1]
        adjusted, rate = mala(energy, start, e, noise, uniform)
        plt.plot(e, free.var(), "o", color="tab:red", label=None if i else "unadjusted chains")
        plt.plot(e, adjusted.var(), "s", color="tab:blue", label=None if i else "adjusted (share accepted)")
        plt.annotate(f"{rate:.0%}", (e, adjusted.var()), (e, 0.45), ha="center", fontsize=8)
    plt.axhline(1, color="gray", linestyle=":", label="target")
    plt.axvline(largest_step(precision), color="gray", linestyle="--", label="your largest step")
    plt.xlabel("step size")
    plt.ylabel("variance")
    plt.ylim(0, 6)
    plt.legend()
    plt.title("What a step that is too long costs")
    plt.show()


plot_step_error()

# %% [markdown]
# *What to see:* the red points lie on your curve, which leaves the target at once and rises to infinity at the largest
# step. The blue ones stay at 1; they pay with proposals that are thrown away.

# %% [markdown]
# ## 1d. Learning a score: denoising score matching (4 points)
#
# Of data we have points, no energy. Blur the data with noise of the standard deviation $\sigma$: the density $p_\sigma$
# of $\tilde x = x + \sigma \epsilon$, $\epsilon \sim N(0, I)$, has a score too, and it can be learnt by a regression
# whose targets we know, because given $x$ the point $\tilde x$ is Gaussian:
#
# $$\nabla_{\tilde x} \log N(\tilde x \mid x, \sigma^2 I) = -\frac{\tilde x - x}{\sigma^2}
# = -\frac{\epsilon}{\sigma} .$$
#
# Fit $s(\tilde x, \sigma)$ to that target at many noise levels at once, each example with its own. The **denoising
# score matching** loss is, for a batch,
#
# $$L = \frac1B \sum_{b=1}^B \lambda(\sigma_b)\; \frac12 \Big\| s(x_b + \sigma_b \epsilon_b, \sigma_b)
# + \frac{\epsilon_b}{\sigma_b} \Big\|^2 ,$$
#
# with the squared norm summed over all coordinates of an example. The targets are as large as $1/\sigma$, so without
# weights ($\lambda = 1$) the smallest levels drown all others; the usual choice is $\lambda(\sigma) = \sigma^2$.
#
# **`dsm_loss`** computes it, `weighted` or not. The network `score(x, sigma)` gets points (B, \*shape) and levels (B,).
#
# What does it learn? The best $s$ is the score of the **blurred** data, $\nabla \log p_\sigma$ (you prove it in 1e).
# For Gaussian data, $x \sim N(m, C)$, the blurred density is Gaussian as well: find its covariance, and write its score
# **`blurred_score`**. Last, **`tweedie`** turns any score into a denoiser, by Tweedie's formula
#
# $$\mathbb E[x \mid \tilde x] = \tilde x + \sigma^2\, \nabla \log p_\sigma(\tilde x) .$$
#
# | symbol | code | shape |
# |---|---|---|
# | $s$ | `score(x, sigma)` | (B, \*shape), (B,) -> (B, \*shape) |
# | $x$ in the loss; $\tilde x$ in the other two | `x` | (B, \*shape); (B, D) in `blurred_score` |
# | $\sigma_b$ | `sigma` | (B,), one for each example |
# | $\epsilon$ | `noise` | (B, \*shape) |
# | $m$, $C$ | `mean`, `cov` | (D,), (D, D) |
#
# *What goes wrong:* `sigma * x` with sigma (B,) and x (B, D) multiplies along the *last* axis: an error, or, if B = D
# or B = 1, a silent nonsense. Give sigma the shape (B, 1, ..., 1) first.


# %% tags=["answer:1d"]
def dsm_loss(
    score: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor, noise: Tensor, weighted: bool = True
) -> Tensor:
    """The denoising score matching loss, a scalar: x and noise (B, *shape), sigma (B,)."""
    # BEGIN SOLUTION
    level = sigma.view(-1, *[1] * (x.ndim - 1))  # (B, 1, ..., 1)
    gap = score(x + level * noise, sigma) + noise / level  # (B, *shape)
    squared = 0.5 * gap.square().flatten(1).sum(1)  # (B,)
    return (squared * sigma**2 if weighted else squared).mean()
    # END SOLUTION


def blurred_score(x: Tensor, sigma: Tensor, mean: Tensor, cov: Tensor) -> Tensor:
    """The score of N(mean, cov) blurred by noise of each point's own sigma (B,), at x (B, D) -> (B, D)."""
    # BEGIN SOLUTION
    blurred = cov + sigma[:, None, None] ** 2 * torch.eye(len(cov), dtype=cov.dtype, device=cov.device)  # (B, D, D)
    return torch.linalg.solve(blurred, mean - x)
    # END SOLUTION


def tweedie(score: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor) -> Tensor:
    """E[clean point | noisy point x], from the score of the blurred data: x (B, *shape), sigma (B,) -> (B, *shape)."""
    # BEGIN SOLUTION
    return x + sigma.view(-1, *[1] * (x.ndim - 1)) ** 2 * score(x, sigma)
    # END SOLUTION


# %% tags=["check"]
check("1d")

# %% [markdown]
# **A look (needs 1d).** The loss of the score $s(\tilde x, \sigma) = -\tilde x / (c + \sigma^2)$ on data from N(0, 1),
# as a function of $c$.


# %%
def plot_dsm() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(20000, 1, generator=g, dtype=torch.float64)
    noise = torch.randn(20000, 1, generator=g, dtype=torch.float64)
    values = torch.linspace(0.4, 2.0, 33)
    plt.figure(figsize=(6, 3.5))
    for level in (0.3, 0.6, 1.2):
        sigma = torch.full((20000,), level, dtype=torch.float64)
        losses = [dsm_loss(lambda z, s, c=c: -z / (c + s[:, None] ** 2), x, sigma, noise).item() for c in values]
        plt.plot(values, losses, label=rf"$\sigma$ = {level}")
    plt.axvline(1, color="gray", linestyle=":")
    plt.ylim(0, None)
    plt.xlabel("c")
    plt.ylabel("weighted loss")
    plt.legend()
    plt.title("Denoising score matching finds the variance of the data")
    plt.show()


plot_dsm()

# %% [markdown]
# *What to see:* each curve is lowest at $c = 1$, the variance of the clean data, and none reaches 0: what is left is
# the part of the noise that nobody can guess. At small $\sigma$ nearly all of it is left, and the curve is flat.

# %% [markdown]
# ## 1e. Why denoising gives the score (5 points, written)
#
# Let $p(x)$ be the density of the data, $q(\tilde x \mid x) = N(\tilde x \mid x, \sigma^2 I)$, and
# $p_\sigma(\tilde x) = \int q(\tilde x \mid x)\, p(x)\, dx$. For a function $s: \mathbb R^D \to \mathbb R^D$ define
#
# $$J_{\text{explicit}}(s) = \mathbb E_{\tilde x \sim p_\sigma}\, \tfrac12 \big\| s(\tilde x)
# - \nabla \log p_\sigma(\tilde x) \big\|^2, \qquad
# J_{\text{denoising}}(s) = \mathbb E_{x \sim p}\, \mathbb E_{\tilde x \sim q(\cdot \mid x)}\,
# \tfrac12 \big\| s(\tilde x) - \nabla_{\tilde x} \log q(\tilde x \mid x) \big\|^2 .$$
#
# 1. Show that the two differ by a number that does not depend on $s$. (You may exchange integrals and derivatives.)
# 2. Conclude which $s$ minimises $J_{\text{denoising}}$, and derive Tweedie's formula
#    $\mathbb E[x \mid \tilde x] = \tilde x + \sigma^2 \nabla \log p_\sigma(\tilde x)$ from it.
# 3. Can $J_{\text{denoising}}$ reach 0? Answer in one or two sentences.

# %% [markdown] tags=["written:1e", "points:5"]
# <!-- BEGIN SOLUTION -->
# **1.** Expand both squares. The terms $\frac12 \mathbb E \|s(\tilde x)\|^2$ are equal, since $\tilde x$ has the
# density $p_\sigma$ in both. The terms without $s$ do not matter (they are assumed finite). What is left are the
# products:
#
# $$\mathbb E_{p_\sigma} \langle s(\tilde x), \nabla \log p_\sigma(\tilde x) \rangle
# = \int \langle s(\tilde x), \nabla p_\sigma(\tilde x) \rangle\, d\tilde x
# = \int \Big\langle s(\tilde x), \int p(x)\, \nabla_{\tilde x}\, q(\tilde x \mid x)\, dx \Big\rangle d\tilde x$$
# $$= \iint p(x)\, q(\tilde x \mid x)\, \langle s(\tilde x), \nabla_{\tilde x} \log q(\tilde x \mid x) \rangle\, dx\,
# d\tilde x = \mathbb E_{p}\, \mathbb E_{q}\, \langle s(\tilde x), \nabla_{\tilde x} \log q(\tilde x \mid x) \rangle ,$$
#
# where $\nabla f = f\, \nabla \log f$ was used for $f = p_\sigma$ and for $f = q$. So
# $J_{\text{denoising}}(s) - J_{\text{explicit}}(s) = \frac12 \mathbb E \|\nabla_{\tilde x} \log q\|^2
# - \frac12 \mathbb E \|\nabla \log p_\sigma\|^2$, without $s$.
#
# **2.** $J_{\text{explicit}} \ge 0$ with 0 at $s = \nabla \log p_\sigma$ (and only there, up to a set of measure 0), so
# the same $s$ minimises $J_{\text{denoising}}$. On the other hand $J_{\text{denoising}}$ is a regression on the target
# $-(\tilde x - x) / \sigma^2$, which is minimised by the conditional mean of its target,
# $s(\tilde x) = (\mathbb E[x \mid \tilde x] - \tilde x) / \sigma^2$. Both are the minimiser, so
# $\mathbb E[x \mid \tilde x] = \tilde x + \sigma^2 \nabla \log p_\sigma(\tilde x)$.
#
# **3.** Only if $x$ is a function of $\tilde x$, that is if all data are one point: otherwise several $x$ can have
# led to the same $\tilde x$, and the variance of the target given $\tilde x$ remains.
#
# Rubric:
# * 3 points: part 1 (1 for expanding and seeing that the terms with $\|s\|^2$ agree, 2 for the cross term: 1 for
#   $\nabla p_\sigma = \int p\, \nabla q$, 1 for $\nabla f = f \nabla \log f$ used in both directions).
# * 1.5 points: part 2 (0.5 for the minimiser; 1 for Tweedie with the conditional mean of the target; a direct
#   calculation of $\nabla \log p_\sigma$ is as good).
# * 0.5 points: part 3 (a reason is needed).
# <!-- END SOLUTION -->

# %% [markdown]
# # 2. Denoising diffusion (31 points)
#
# Langevin chains have two troubles: they hardly cross from one cloud to another (1b), and a learnt score is bad where
# there was no data. Diffusion models avoid both. A **forward process** turns data into pure noise in $T$ small steps:
#
# $$q(x_t \mid x_{t-1}) = N\big(x_t \,\big|\; \sqrt{1 - \beta_t}\; x_{t-1},\; \beta_t I\big), \qquad t = 1, \dots, T .$$
#
# Each step shrinks what is there a little and adds a little noise; at $t = T$ nothing but N(0, I) is left. A network
# learns to undo one step, for every $t$, and samples are made by going all the way back.
#
# **Time counts from 1 to $T$, and 0 is the data**: $x_0$ is data and $x_T$ is noise. All tables have $T + 1$ entries,
# so that what belongs to $t$ stands at index $t$.
#
# | symbol | code | shape |
# |---|---|---|
# | $x_0$, $x_t$, $\epsilon$ | `x_0`, `x_t`, `noise` or `eps` | (B, \*shape) |
# | $t$ | `t` | (B,) int64, each example its own |
# | $\beta_t$ | `betas[t]`, `betas[0]` = 0 | (T + 1,) |
# | $\bar\alpha_t = \prod_{s=1}^t (1 - \beta_s)$ | `alpha_bar[t]`, `alpha_bar[0]` = 1 | (T + 1,) |

# %% [markdown]
# ## 2a. Noise schedules (3 points)
#
# Two famous choices of the betas.
#
# **Linear.** For $T = 1000$ steps, Ho et al. take $\beta_t$ evenly spaced from $10^{-4}$ to $0.02$, both included. For
# another $T$ we space $T$ numbers evenly between the same two ends and multiply them all by $1000 / T$, so that fewer
# steps add as much noise in all.
#
# **Cosine.** Nichol and Dhariwal choose $\bar\alpha$, with $s = 0.008$:
#
# $$f(t) = \cos^2\Big( \frac{t/T + s}{1 + s} \cdot \frac \pi 2 \Big), \qquad
# \beta_t = 1 - \frac{f(t)}{f(t-1)}, \qquad t = 1, \dots, T .$$
#
# In both, no beta may be larger than 0.999 (larger ones are set to 0.999): a step with $\beta = 1$ forgets everything.
#
# **`linear_betas`** and **`cosine_betas`** return the $T$ numbers $\beta_1, \dots, \beta_T$. **`noise_tables`** turns
# those into the two tables that all of the following questions use, with $T + 1$ entries each. All are float64.
#
# | symbol | code | shape |
# |---|---|---|
# | $T$ | `num_steps` | a whole number |
# | $\beta_1, \dots, \beta_T$ | returned by the first two, argument of the third | (T,) |
# | $\beta_t$ and $\bar\alpha_t$, $t = 0, \dots, T$ | returned by `noise_tables` | (T + 1,) each |
#
# *What goes wrong:* a product of a thousand numbers close to 1, taken in float32, is off in the fourth digit, and
# torch's default is float32.


# %% tags=["answer:2a"]
def linear_betas(num_steps: int) -> Tensor:
    """Evenly spaced betas, stretched to any number of steps: (T,) float64."""
    # BEGIN SOLUTION
    betas = torch.linspace(1e-4, 0.02, num_steps, dtype=torch.float64) * (1000 / num_steps)
    return betas.clamp(max=0.999)
    # END SOLUTION


def cosine_betas(num_steps: int) -> Tensor:
    """Betas for which alpha_bar falls like a squared cosine: (T,) float64."""
    # BEGIN SOLUTION
    t = torch.arange(num_steps + 1, dtype=torch.float64)
    f = torch.cos((t / num_steps + 0.008) / 1.008 * math.pi / 2) ** 2  # (T + 1,)
    return (1 - f[1:] / f[:-1]).clamp(max=0.999)
    # END SOLUTION


def noise_tables(betas: Tensor) -> tuple[Tensor, Tensor]:
    """betas (T,) of the steps 1 to T -> betas and alpha_bar, (T + 1,) each, whose entry t belongs to time t."""
    # BEGIN SOLUTION
    betas = torch.cat([torch.zeros_like(betas[:1]), betas])  # (T + 1,)
    return betas, torch.cumprod(1 - betas, dim=0)
    # END SOLUTION


# %% tags=["check"]
check("2a")

# %% [markdown]
# **A look (needs 2a).** What is left of the data, and the ratio of signal to noise.


# %%
def plot_schedules() -> None:
    _, axes = plt.subplots(1, 2, figsize=(11, 3.5))
    for name, schedule in {"linear": linear_betas, "cosine": cosine_betas}.items():
        for steps, style in ((1000, "-"), (50, "--")):
            _, alpha_bar = noise_tables(schedule(steps))
            time = torch.arange(steps + 1) / steps
            axes[0].plot(time, alpha_bar, style, label=f"{name}, T = {steps}")
            axes[1].plot(time[1:], torch.log(alpha_bar / (1 - alpha_bar))[1:], style)
    axes[0].set_ylabel(r"$\bar\alpha_t$")
    axes[1].set_ylabel(r"$\log\; \bar\alpha_t / (1 - \bar\alpha_t)$")
    axes[0].legend()
    for axis in axes:
        axis.set_xlabel("t / T")
    plt.show()


plot_schedules()

# %% [markdown]
# *What to see:* the linear schedule has destroyed most of the signal half-way; the cosine one takes its time. The
# dashed curves nearly cover the solid ones: with fewer steps each step does more, and the way is the same.

# %% [markdown]
# ## 2b. Noise in one jump (2 points)
#
# A sum of Gaussians is Gaussian, so the $t$ steps from $x_0$ to $x_t$ can be taken at once:
#
# $$q(x_t \mid x_0) = N\big(x_t \,\big|\; \sqrt{\bar\alpha_t}\; x_0,\; (1 - \bar\alpha_t)\, I\big), \qquad
# x_t = \sqrt{\bar\alpha_t}\; x_0 + \sqrt{1 - \bar\alpha_t}\; \epsilon .$$
#
# This is what makes training cheap: no chain needs to be run. Each example has its own time, and examples are points
# (B, D) or images (B, C, H, W).
#
# *What goes wrong:* `alpha_bar[t]` has the shape (B,). Times x_0 (B, D) it meets the last axis, not the first, and if
# B = D nobody complains.


# %% tags=["answer:2b"]
def q_sample(x_0: Tensor, t: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t from x_0 in one jump: x_0 and noise (B, *shape), t (B,) in 0..T, alpha_bar (T + 1,) -> (B, *shape)."""
    # BEGIN SOLUTION
    bar = per_example(alpha_bar, t, x_0)
    return bar.sqrt() * x_0 + (1 - bar).sqrt() * noise


def per_example(table: Tensor, t: Tensor, x: Tensor) -> Tensor:
    """The table's entries at t (B,), shaped (B, 1, ..., 1) to be multiplied with x (B, *shape)."""
    return table[t].view(-1, *[1] * (x.ndim - 1))
    # END SOLUTION


# %% tags=["check"]
check("2b")

# %% [markdown]
# **A look (needs 2a and 2b).** The forward process on two moons, each cloud drawn in one jump.


# %%
def moons(n: int, seed: int = 0) -> Tensor:
    """Points (n, 2) on two moons, with mean 0 and deviation 1 in each coordinate."""
    g = torch.Generator().manual_seed(seed)
    angle = math.pi * torch.rand(n, generator=g, dtype=torch.float64)
    upper = torch.rand(n, generator=g, dtype=torch.float64) < 0.5
    x = torch.stack(
        [torch.where(upper, angle.cos(), 1 - angle.cos()), torch.where(upper, angle.sin(), 0.5 - angle.sin())], 1
    )
    x = x + 0.1 * torch.randn(n, 2, generator=g, dtype=torch.float64)
    return (x - x.mean(0)) / x.std(0)


def plot_forward() -> None:
    x_0 = moons(1500)
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(1), dtype=x_0.dtype)
    _, alpha_bar = noise_tables(cosine_betas(100))
    _, axes = plt.subplots(1, 5, figsize=(15, 3.2))
    for axis, t in zip(axes, (0, 10, 30, 60, 100), strict=True):
        x_t = q_sample(x_0, torch.full((1500,), t), noise, alpha_bar)
        axis.scatter(*x_t.T, s=3, c=x_0[:, 0], cmap="coolwarm")
        axis.set(title=f"t = {t}", xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), aspect="equal")
    plt.show()


plot_forward()

# %% [markdown]
# *What to see:* the colour is where a point came from. The thin structure goes first, then the two moons melt together,
# and at the end the colours are mixed: $x_T$ knows nothing of $x_0$. Going back, the coarse is decided first.

# %% [markdown]
# ## 2c. The step back, if we knew the data (4 points)
#
# Given $x_0$, the step from $x_t$ back to $x_{t-1}$ is a Gaussian that we can write down, by Bayes' rule:
#
# $$q(x_{t-1} \mid x_t, x_0) = N\big(\tilde\mu_t(x_t, x_0),\; \tilde\beta_t I\big), \qquad
# \tilde\mu_t = \frac{\sqrt{\bar\alpha_{t-1}}\; \beta_t}{1 - \bar\alpha_t}\, x_0
# + \frac{\sqrt{1 - \beta_t}\; (1 - \bar\alpha_{t-1})}{1 - \bar\alpha_t}\, x_t, \qquad
# \tilde\beta_t = \frac{1 - \bar\alpha_{t-1}}{1 - \bar\alpha_t}\, \beta_t .$$
#
# At $t = 1$ it has the variance 0 and stands on $x_0$. Write it, for a batch whose examples have times of their own.
#
# | symbol | code | shape |
# |---|---|---|
# | $x_0$, $x_t$ | `x_0`, `x_t` | (B, \*shape) |
# | $t$ | `t`, from 1 to T | (B,) |
# | $\beta$, $\bar\alpha$ | `betas`, `alpha_bar` | (T + 1,) |
# | $\tilde\mu_t$ | returned first | (B, \*shape) |
# | $\tilde\beta_t$ | returned second | (B, 1, ..., 1), as many axes as x_t |
#
# *What goes wrong:* four tables, two of them at $t - 1$, one of those under a root. A good test is a point without
# noise: if $x_t = \sqrt{\bar\alpha_t}\, x_0$, then the mean is $\sqrt{\bar\alpha_{t-1}}\, x_0$.


# %% tags=["answer:2c"]
def q_posterior(x_0: Tensor, x_t: Tensor, t: Tensor, betas: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    """q(x_{t-1} | x_t, x_0): mean (B, *shape) and variance (B, 1, ..., 1); t (B,) in 1..T, tables (T + 1,)."""
    # BEGIN SOLUTION
    beta, bar, before = (per_example(table, i, x_t) for table, i in ((betas, t), (alpha_bar, t), (alpha_bar, t - 1)))
    weight_0 = before.sqrt() * beta / (1 - bar)
    weight_t = (1 - beta).sqrt() * (1 - before) / (1 - bar)
    return weight_0 * x_0 + weight_t * x_t, beta * (1 - before) / (1 - bar)
    # END SOLUTION


# %% tags=["check"]
check("2c")

# %% [markdown]
# ## 2d. Three things to predict (3 points)
#
# Going back needs $x_0$, and a network has to guess it from $x_t$. Since $x_t$ is known and $x_t =
# \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon$, it can just as well guess the noise, or a mixture
# of the two that is called the velocity:
#
# $$v = \sqrt{\bar\alpha_t}\; \epsilon - \sqrt{1 - \bar\alpha_t}\; x_0 .$$
#
# Why a third one? At $t = T$ almost all is noise, so that $\epsilon$ tells nearly nothing of $x_0$; at small $t$ it
# is the other way round. The pair $(x_t, v)$ is the pair $(x_0, \epsilon)$ turned by an angle, and turning back is
# harmless at every $t$.
#
# **`velocity`** computes $v$. **`split`** takes what a network has put out and returns the pair $(x_0, \epsilon)$
# that it means. `prediction` says what the output is: `"eps"`, `"x0"` or `"v"`. With `clip`, the guess of $x_0$ is
# cut off to $[-1, 1]$ at the end, as one does for images, whose pixels lie there; $\epsilon$ stays as it is.
#
# | symbol | code | shape |
# |---|---|---|
# | what the network has put out | `out` | (B, \*shape) |
# | $x_t$, $x_0$, $\epsilon$, $v$ | `x_t`, `x_0`, `eps`, `velocity(...)` | (B, \*shape) |
# | $t$, from 1 to T | `t` | (B,) |
# | $\bar\alpha$ | `alpha_bar` | (T + 1,) |
#
# *What goes wrong:* "x0" needs its noise too, and "v" two equations for two unknowns: solve them on paper.


# %% tags=["answer:2d"]
def velocity(x_0: Tensor, eps: Tensor, t: Tensor, alpha_bar: Tensor) -> Tensor:
    """v from x_0 and eps, both (B, *shape); t (B,), alpha_bar (T + 1,) -> (B, *shape)."""
    # BEGIN SOLUTION
    bar = per_example(alpha_bar, t, x_0)
    return bar.sqrt() * eps - (1 - bar).sqrt() * x_0
    # END SOLUTION


def split(
    out: Tensor, x_t: Tensor, t: Tensor, alpha_bar: Tensor, prediction: str = "eps", clip: bool = False
) -> tuple[Tensor, Tensor]:
    """The pair (x_0, eps) that an output at (x_t, t) means, all (B, *shape); t (B,) in 1..T, alpha_bar (T + 1,)."""
    # BEGIN SOLUTION
    bar = per_example(alpha_bar, t, x_t)
    a, s = bar.sqrt(), (1 - bar).sqrt()
    if prediction == "eps":
        x_0, eps = (x_t - s * out) / a, out
    elif prediction == "x0":
        x_0, eps = out, (x_t - a * out) / s
    else:  # a rotation: its inverse is its transpose
        x_0, eps = a * x_t - s * out, s * x_t + a * out
    return (x_0.clamp(-1, 1) if clip else x_0), eps
    # END SOLUTION


# %% tags=["check"]
check("2d")

# %% [markdown]
# ## 2e. The loss (3 points)
#
# Training is a regression. Take data $x_0$, a time and noise for each example, make $x_t$, and ask the network for the
# target. The loss is the mean square error over the batch **and** over all coordinates:
#
# $$L = \operatorname{mean}\big( (\mathrm{net}(x_t, t) - \text{target})^2 \big), \qquad
# \text{target} = \epsilon,\; x_0 \text{ or } v ,$$
#
# as `prediction` says. (With $\epsilon$ this is $L_{\text{simple}}$ of Ho et al.; where it comes from, you find in 2h.)
#
# | symbol | code | shape |
# |---|---|---|
# | the network | `net(x_t, t)` | (B, \*shape), (B,) int64 -> (B, \*shape) |
# | $x_0$, $\epsilon$ | `x_0`, `noise` | (B, \*shape) |
# | $t$ | `t` | (B,) in 1..T |
# | $\bar\alpha$ | `alpha_bar` | (T + 1,) |
#
# *What goes wrong:* the network must see $x_t$ and $t$ as they are. One that sees a trace of the target learns to copy
# it, with a wonderful loss and worthless samples.


# %% tags=["answer:2e"]
def ddpm_loss(
    net: Callable[[Tensor, Tensor], Tensor],
    x_0: Tensor,
    t: Tensor,
    noise: Tensor,
    alpha_bar: Tensor,
    prediction: str = "eps",
) -> Tensor:
    """The mean square error of the network's prediction, a scalar: x_0 and noise (B, *shape), t (B,) in 1..T."""
    # BEGIN SOLUTION
    target = {"eps": noise, "x0": x_0, "v": velocity(x_0, noise, t, alpha_bar)}[prediction]
    return (net(q_sample(x_0, t, noise, alpha_bar), t) - target).square().mean()
    # END SOLUTION


# %% tags=["check"]
check("2e")

# %% [markdown]
# ## 2f. The sampler (4 points)
#
# Now all the way back. Start from $x_T \sim N(0, I)$; for $t = T, T - 1, \dots, 1$ ask the network at $(x_t, t)$,
# read its guess $\hat x_0$ off the output, and take the step that would be right if the guess were true:
#
# $$x_{t-1} = \tilde\mu_t(x_t, \hat x_0) + \sigma_t\, z_t, \qquad z_t \sim N(0, I), \qquad
# \sigma_t^2 = \tilde\beta_t \;\text{ or }\; \beta_t .$$
#
# `variance` says which of the two, `"posterior"` or `"beta"`: both are used, and in the limit of many steps they agree.
# The last step, from $t = 1$ to the data, adds **no noise** in either case.
#
# **`p_sample`** takes one step, with one $t$ for all examples, a Python int. **`ddpm_sample`** goes all the way;
# `noise[t]` is $z_t$, the noise of the step from $t$ to $t - 1$, and `noise[0]` and `noise[1]` must not matter.
#
# | symbol | code | shape |
# |---|---|---|
# | the network | `net(x_t, t)` | (B, \*shape), (B,) int64 -> (B, \*shape) |
# | $x_T$, $x_t$ | `x_T`, `x_t` | (B, \*shape) |
# | $z_t$ | `noise` in `p_sample`; `noise[t]` in `ddpm_sample` | (B, \*shape); (T + 1, B, \*shape) |
# | $\beta$, $\bar\alpha$ | `betas`, `alpha_bar` | (T + 1,) |
# | what the output is; whether guesses of $x_0$ are cut off | `prediction`, `clip` | as in 2d |
#
# *What goes wrong:* a network is asked at the time at which $x_t$ is, also in the last step. Guesses are clipped at
# each step, while they are made; samples are never clipped. And 1000 steps through a network that keep a graph fill
# any memory: sample without gradients.


# %% tags=["answer:2f"]
def p_sample(
    net: Callable[[Tensor, Tensor], Tensor],
    x_t: Tensor,
    t: int,
    noise: Tensor,
    betas: Tensor,
    alpha_bar: Tensor,
    prediction: str = "eps",
    variance: str = "posterior",
    clip: bool = False,
) -> Tensor:
    """One step back, x_{t-1} from x_t: x_t and noise (B, *shape), t an int in 1..T, tables (T + 1,)."""
    # BEGIN SOLUTION
    ts = torch.full((len(x_t),), t, device=x_t.device)  # (B,)
    with torch.no_grad():
        guess, _ = split(net(x_t, ts), x_t, ts, alpha_bar, prediction, clip)
    mean, sigma_squared = q_posterior(guess, x_t, ts, betas, alpha_bar)
    if t == 1:
        return mean
    if variance == "beta":
        sigma_squared = betas[t]
    return mean + sigma_squared.sqrt() * noise
    # END SOLUTION


def ddpm_sample(
    net: Callable[[Tensor, Tensor], Tensor],
    x_T: Tensor,
    noise: Tensor,
    betas: Tensor,
    alpha_bar: Tensor,
    prediction: str = "eps",
    variance: str = "posterior",
    clip: bool = False,
) -> Tensor:
    """Samples (B, *shape) by all T steps from x_T (B, *shape); noise (T + 1, B, *shape), tables (T + 1,)."""
    # BEGIN SOLUTION
    x = x_T
    for t in range(len(betas) - 1, 0, -1):
        x = p_sample(net, x, t, noise[t], betas, alpha_bar, prediction, variance, clip)
    return x
    # END SOLUTION


# %% tags=["check"]
check("2f")

# %% [markdown]
# **A look (needs 1a, 2a and 2f).** For a mixture the perfect network is known: noised, it is a mixture again, and the
# best guess of the noise is $-\sqrt{1 - \bar\alpha_t}$ times its score. So your sampler can be tried before anything is
# trained.


# %%
def plot_exact_sampler() -> None:
    g = torch.Generator().manual_seed(0)
    logits, means, stds = clouds_mixture()
    betas, alpha_bar = noise_tables(cosine_betas(200))

    def perfect(x_t: Tensor, t: Tensor) -> Tensor:
        bar = alpha_bar[t[0]]
        return -(1 - bar).sqrt() * mixture_score(x_t, logits, bar.sqrt() * means, (bar * stds**2 + 1 - bar).sqrt())

    noise = torch.randn(201, 600, 2, generator=g, dtype=torch.float64)
    x = torch.randn(600, 2, generator=g, dtype=torch.float64)
    way = [x]
    for t in range(200, 0, -1):
        x = p_sample(perfect, x, t, noise[t], betas, alpha_bar)
        way.append(x)
    _, axes = plt.subplots(1, 5, figsize=(15, 3.2))
    for axis, k in zip(axes, (0, 100, 150, 200), strict=False):
        density_background(axis)
        axis.scatter(*way[k].T, s=3, color="tab:red")
        axis.set_title(f"t = {200 - k}")
    density_background(axes[4])
    for chain in range(8):
        axes[4].plot(*torch.stack(way)[:, chain].T, linewidth=0.6)
    axes[4].set_title("eight ways")
    plt.show()
    share = torch.softmax(logits, 0)
    nearest = torch.cdist(x, means).argmin(1)
    print("share of each cloud:", [f"{(nearest == k).double().mean():.2f} (true {share[k]:.2f})" for k in range(3)])


plot_exact_sampler()

# %% [markdown]
# *What to see:* the same three clouds as in 1b, each with its right share after 200 steps, which 600 Langevin steps did
# not reach. Which cloud a sample goes to is decided early, where all is still blurred and nothing has to be climbed.

# %% [markdown]
# ## 2g. A diffusion model of your own (7 points)
#
# Write `train_points`: it gets points (N, 2), trains a diffusion model on them, and returns a **sampler**: a function
# that takes a number n and returns n new points (n, 2), in the units of the data. Your functions above do the work;
# left to you are the training loop and everything in it that one can choose: the number of diffusion steps, the
# schedule, what to predict, batch size, learning rate, how long. A network is given; change it or write another if
# you like.
#
# The check trains on 3000 points on two moons, turned, stretched and shifted as you have not seen them, asks for 1500
# samples, and compares them with 1500 fresh points. The figure is a **divergence in nats**, estimated from the
# distances to nearest neighbours (Wang et al. 2009): the mean of KL(fresh $\|$ yours), which sees what you miss, and
# KL(yours $\|$ fresh), which sees what you invent. Lower is better; real points against real points get
# $0.00 \pm 0.02$, one Gaussian with the right mean and covariance about 0.8.
#
# | divergence | points |
# |---|---|
# | $\le 0.6$: better than a Gaussian | 1 |
# | $\le 0.45$ | 3 |
# | $\le 0.3$ | 5 |
# | $\le 0.2$ | 7 |
#
# The solution gets about 0.05 and needs some 5 seconds of one CPU thread; you have 120.
#
# *What goes wrong:* the forward process ends at N(0, I) only if the data has about the mean 0 and the deviation 1 in
# each coordinate: standardise it, and undo that in your samples. Work in float32, the network's type. If samples are
# blurred: train longer, let the learning rate fall to 0 towards the end, use larger batches, or sample with an
# average of the network's weights over the last part of the training.


# %%
class PointNet(nn.Module):
    """A small network for points x (B, 2) at times t (B,) from 1 to `num_steps`: gives (B, 2)."""

    def __init__(self, num_steps: int, width: int = 128) -> None:
        super().__init__()
        self.num_steps = num_steps
        self.layers = nn.Sequential(
            nn.Linear(2 + 4 * 4 + 2 * 6, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2),
        )  # fmt: skip

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        # Waves of several lengths: from them a network learns fine structure sooner than from the numbers themselves.
        waves_x = (x[:, :, None] * 2.0 ** torch.arange(-1, 3, device=x.device)).flatten(1)  # (B, 8)
        waves_t = t[:, None] / self.num_steps * math.pi * 2.0 ** torch.arange(6, device=x.device)  # (B, 6)
        return self.layers(torch.cat([x, waves_x.sin(), waves_x.cos(), waves_t.sin(), waves_t.cos()], 1))


# %% tags=["answer:2g"]
def train_points(data: Tensor) -> Callable[[int], Tensor]:
    """Train a diffusion model on points data (N, 2); returns a function from n to n new points (n, 2)."""
    # BEGIN SOLUTION
    steps, batch, rate, num_steps = 1200, 512, 4e-3, 100
    shift, scale = data.mean(0).float(), data.std(0).float()
    x = (data.float() - shift) / scale
    betas, alpha_bar = (table.float().to(x.device) for table in noise_tables(cosine_betas(num_steps)))
    net = PointNet(num_steps).to(x.device)
    optimizer = torch.optim.Adam(net.parameters(), lr=rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)  # falls to 0
    for _ in range(steps):
        x_0 = x[torch.randint(len(x), (batch,), device=x.device)]
        t = torch.randint(1, num_steps + 1, (batch,), device=x.device)
        loss = ddpm_loss(net, x_0, t, torch.randn_like(x_0), alpha_bar)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()

    def sampler(n: int) -> Tensor:
        x_T = torch.randn(n, 2, device=x.device)
        noise = torch.randn(num_steps + 1, n, 2, device=x.device)
        return ddpm_sample(net, x_T, noise, betas, alpha_bar) * scale + shift

    return sampler
    # END SOLUTION


# %% tags=["check"]
check("2g")

# %% [markdown]
# **A look (needs 2g).** Your model after training on two moons.


# %%
def plot_samples() -> None:
    torch.manual_seed(0)
    data = moons(3000) * torch.tensor([2.0, 1.0], dtype=torch.float64) + 3
    samples = train_points(data.to(device))(1500).cpu()
    gaussian = data.mean(0) + torch.randn(1500, 2, dtype=data.dtype) @ torch.linalg.cholesky(torch.cov(data.T)).T
    _, axes = plt.subplots(1, 3, figsize=(13, 3.5), sharex=True, sharey=True)
    for axis, (title, x) in zip(
        axes, {"data": data[:1500], "your samples": samples, "one Gaussian": gaussian}.items(), strict=True
    ):
        axis.scatter(*x.T, s=3)
        axis.set_title(title)
    plt.show()


plot_samples()

# %% [markdown]
# *What to see:* two separate moons with clear edges and hardly a point between them. A bridge from one to the other,
# or a fuzzy outline, says that the network at small $t$ is not yet good.

# %% [markdown]
# ## 2h. Where the step back and the loss come from (5 points, written)
#
# Write $\alpha_t = 1 - \beta_t$, so that $\bar\alpha_t = \alpha_t\, \bar\alpha_{t-1}$, and let $t \ge 2$.
#
# 1. Derive $q(x_{t-1} \mid x_t, x_0)$ of 2c: write it by Bayes' rule as proportional to $q(x_t \mid x_{t-1})\,
#    q(x_{t-1} \mid x_0)$, and complete the square in $x_{t-1}$. (Say where you use that the forward process is a
#    Markov chain.)
# 2. The model takes the same step with a guess: $p_\theta(x_{t-1} \mid x_t) = N(\tilde\mu_t(x_t, \hat x_0),
#    \tilde\beta_t I)$, where $\hat x_0 = (x_t - \sqrt{1 - \bar\alpha_t}\, \hat\epsilon) / \sqrt{\bar\alpha_t}$ and
#    $\hat\epsilon$ is the network's output at $(x_t, t)$. Show that the corresponding term of the variational bound
#    is a weighted regression on the noise,
#
#    $$\mathrm{KL}\big( q(x_{t-1} \mid x_t, x_0) \,\big\|\, p_\theta(x_{t-1} \mid x_t) \big)
#    = w_t\, \|\epsilon - \hat\epsilon\|^2,
#    \qquad w_t = \frac{\beta_t}{2\, \alpha_t\, (1 - \bar\alpha_{t-1})} .$$
#
# 3. $L_{\text{simple}}$ of 2e has no weights. Compared with the bound, does it care more about small or about large
#    $t$? One sentence, with a reason.

# %% [markdown] tags=["written:2h", "points:5"]
# <!-- BEGIN SOLUTION -->
# **1.** Bayes' rule, given $x_0$: $q(x_{t-1} \mid x_t, x_0) = q(x_t \mid x_{t-1}, x_0)\, q(x_{t-1} \mid x_0) / q(x_t
# \mid x_0)$, and $q(x_t \mid x_{t-1}, x_0) = q(x_t \mid x_{t-1})$ since the process is Markov. As a function of $y =
# x_{t-1}$,
#
# $$-2 \log q(y \mid x_t, x_0) = \frac{\|x_t - \sqrt{\alpha_t}\, y\|^2}{\beta_t}
# + \frac{\|y - \sqrt{\bar\alpha_{t-1}}\, x_0\|^2}{1 - \bar\alpha_{t-1}} + \text{const}
# = P \|y\|^2 - 2 \Big\langle y,\; \frac{\sqrt{\alpha_t}}{\beta_t} x_t
# + \frac{\sqrt{\bar\alpha_{t-1}}}{1 - \bar\alpha_{t-1}} x_0 \Big\rangle + \text{const},$$
#
# $$P = \frac{\alpha_t}{\beta_t} + \frac1{1 - \bar\alpha_{t-1}}
# = \frac{\alpha_t (1 - \bar\alpha_{t-1}) + \beta_t}{\beta_t (1 - \bar\alpha_{t-1})}
# = \frac{1 - \bar\alpha_t}{\beta_t (1 - \bar\alpha_{t-1})} ,$$
#
# because $\alpha_t + \beta_t = 1$ and $\alpha_t \bar\alpha_{t-1} = \bar\alpha_t$. A quadratic $P\|y\|^2 - 2\langle y,
# h\rangle$ is a Gaussian with the variance $1/P = \tilde\beta_t$ and the mean $h / P$; $\tilde\beta_t$ times the two
# coefficients of $h$ gives $\frac{\sqrt{\alpha_t} (1 - \bar\alpha_{t-1})}{1 - \bar\alpha_t}$ at $x_t$ and
# $\frac{\sqrt{\bar\alpha_{t-1}}\, \beta_t}{1 - \bar\alpha_t}$ at $x_0$.
#
# **2.** Two Gaussians with the same covariance $\tilde\beta_t I$: the KL is the squared distance of the means over
# $2 \tilde\beta_t$. The means differ only in $x_0$ against $\hat x_0$, and
# $x_0 - \hat x_0 = -\sqrt{1 - \bar\alpha_t}\, (\epsilon - \hat\epsilon) / \sqrt{\bar\alpha_t}$. So
#
# $$\mathrm{KL} = \frac1{2 \tilde\beta_t} \cdot \frac{\bar\alpha_{t-1}\, \beta_t^2}{(1 - \bar\alpha_t)^2} \cdot
# \frac{1 - \bar\alpha_t}{\bar\alpha_t}\, \|\epsilon - \hat\epsilon\|^2
# = \frac{1 - \bar\alpha_t}{2 \beta_t (1 - \bar\alpha_{t-1})} \cdot \frac{\beta_t^2}{(1 - \bar\alpha_t)\, \alpha_t}\,
# \|\epsilon - \hat\epsilon\|^2 = \frac{\beta_t}{2 \alpha_t (1 - \bar\alpha_{t-1})}\, \|\epsilon - \hat\epsilon\|^2 .$$
#
# **3.** The bound's weights $w_t$ are largest at small $t$, where $1 - \bar\alpha_{t-1}$ is tiny; without them the loss
# cares relatively more about large $t$: about coarse structure, less about details that nobody sees.
#
# Rubric:
# * 2.5 points: part 1 (0.5 for Bayes' rule with the Markov property named, 1 for the quadratic with its two
#   coefficients, 1 for $P$ simplified and for the mean).
# * 2 points: part 2 (0.5 for the KL of two Gaussians with one covariance, 0.5 for $x_0 - \hat x_0$ in terms of the
#   noise, 1 for the weight).
# * 0.5 points: part 3 (with the reason).
# <!-- END SOLUTION -->

# %% [markdown]
# # Submit
#
# Restart the kernel, run everything from the top, **save the notebook**, then run the cell below. It names every answer
# that is missing and writes the zip that you hand in.

# %% [markdown]
# # 3. Faster and steered sampling (17 points)
#
# A trained diffusion model is a function that looks at a noisy $x_t$ and guesses what is signal and what is noise. In
# this section nothing is trained: you take such a function as it is and make it sample in ten steps instead of a
# thousand (3a), listen to a label (3b), fill in what is missing (3c), and redo a rough drawing (3d).
#
# All of it happens on the scale of times $t = 0, 1, \dots, T$, where
#
# $$x_t = \sqrt{\bar\alpha_t}\; x_0 + \sqrt{1 - \bar\alpha_t}\; \epsilon, \qquad \epsilon \sim N(0, I), \qquad
# 1 = \bar\alpha_0 > \bar\alpha_1 > \dots > \bar\alpha_T \approx 0 .$$
#
# | symbol | code | shape |
# |---|---|---|
# | $x_0$ **data**, $x_T$ **noise** | `x_0`, `x_T` | (B, \*shape): vectors (B, D) or images (B, C, H, W) |
# | $T$ | `num_steps`, and `len(alpha_bar) - 1` | a whole number |
# | $\bar\alpha_0, \dots, \bar\alpha_T$ | `alpha_bar` | (T + 1,); entry $t$ stands at index $t$, entry 0 is 1 |
# | $\hat x_0, \hat\epsilon$, the two guesses | `denoise(x_t, t)` returns both | (B, \*shape) each; `t` is an int |
# | noise that you would draw | `noise`, given | see each question |
#
# No schedule is prescribed: your functions get the table `alpha_bar` and must work with any. Wherever noise is needed
# it is handed to you, so that each answer is one definite tensor.

# %% [markdown]
# ## 3a. DDIM: fewer steps (6 points)
#
# The training loss sees each $x_t$ by itself, never two at once. So a trained network serves **every** process whose
# single times look as above, and one may choose a process with long strides. Song, Meng and Ermon's step goes from time
# $t$ to any earlier time $s < t$: guess data and noise, then put them together again with the weights of time $s$.
#
# $$x_s = \sqrt{\bar\alpha_s}\;\hat x_0 + \sqrt{1 - \bar\alpha_s - \sigma^2}\;\hat\epsilon + \sigma z, \qquad
# \sigma = \eta\, \sqrt{\frac{1-\bar\alpha_s}{1-\bar\alpha_t}}\; \sqrt{1 - \frac{\bar\alpha_t}{\bar\alpha_s}}, \qquad
# z \sim N(0, I) .$$
#
# However large $\sigma$ is, old noise and new noise have the variance $1 - \bar\alpha_s$ together, as time $s$ asks.
# With $\eta = 1$ and $s = t - 1$ this is the step of the DDPM. With $\eta = 0$ nothing is drawn: $x_T$ alone decides on
# the sample.
#
# The times of a sampler with $S$ steps lie evenly between $T$ and 0, each rounded to the nearest whole number (halves
# do not occur in the checks):
#
# $$\tau_i = \mathrm{round}\Big(T\,\frac{S - i}{S}\Big), \qquad i = 0, \dots, S, \qquad
# T = \tau_0 > \tau_1 > \dots > \tau_S = 0 .$$
#
# | symbol | code | shape |
# |---|---|---|
# | $\tau_0, \dots, \tau_S$ | `ddim_timesteps(num_steps, steps)` | (S + 1,), int64 |
# | $x_t, x_s$ | `x_t`, returned by `ddim_step` | (B, \*shape) |
# | $\eta$ | `eta` | a number from 0 to 1 |
# | $z$ of one step | `noise`; may be None where `eta` is 0 | (B, \*shape) |
# | $z$ of all steps, the first step's first | `noise` of `ddim_sample` | (S, B, \*shape) |
#
# *What goes wrong:* papers disagree on what $\alpha$ means. The DDIM paper writes $\alpha_t$ for what is
# $\bar\alpha_t$ here and in the DDPM paper, and whoever puts in $\alpha_t = 1 - \beta_t$ gets pictures that are merely
# a little off. And a grid that starts below $T$, or ends above 0, feeds the network a noise level that $x$ does not
# have.


# %% tags=["answer:3a"]
def ddim_timesteps(num_steps: int, steps: int) -> Tensor:
    """`steps` + 1 times, evenly from `num_steps` down to 0: (steps + 1,) int64."""
    # BEGIN SOLUTION
    return (torch.arange(steps, -1, -1, dtype=torch.float64) * (num_steps / steps)).round().long()
    # END SOLUTION


def ddim_step(
    denoise: Callable[[Tensor, int], tuple[Tensor, Tensor]],
    alpha_bar: Tensor,
    x_t: Tensor,
    t: int,
    s: int,
    *,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """x_s (B, *shape) from x_t (B, *shape), for times s < t; alpha_bar (T + 1,), noise (B, *shape)."""
    # BEGIN SOLUTION
    x_0, eps = denoise(x_t, t)
    bar_t, bar_s = alpha_bar[t], alpha_bar[s]
    sigma = eta * ((1 - bar_s) / (1 - bar_t) * (1 - bar_t / bar_s)).sqrt()
    x_s = bar_s.sqrt() * x_0 + (1 - bar_s - sigma**2).clamp(min=0).sqrt() * eps
    return x_s if eta == 0 else x_s + sigma * noise
    # END SOLUTION


def ddim_sample(
    denoise: Callable[[Tensor, int], tuple[Tensor, Tensor]],
    alpha_bar: Tensor,
    x_T: Tensor,
    steps: int,
    *,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """x_0 (B, *shape) from x_T (B, *shape) in `steps` DDIM steps; noise (steps, B, *shape)."""
    # BEGIN SOLUTION
    x, taus = x_T, ddim_timesteps(len(alpha_bar) - 1, steps).tolist()
    for i in range(steps):
        z = None if noise is None else noise[i]
        x = ddim_step(denoise, alpha_bar, x, taus[i], taus[i + 1], eta=eta, noise=z)
    return x
    # END SOLUTION


# %% tags=["check"]
check("3a")

# %% [markdown]
# **A model to play with.** The next cell holds a small network for this and the later pictures, and its training: read
# it if you like, there is nothing to fill in. It works in other units than ours: in place of $x_t$ it sees
# $x_0 + \sigma\epsilon$, at any noise level $\sigma$, and learns to return $x_0$. `as_denoise` translates.


# %%
class SmallNet(nn.Module):
    """x (B, D), a number u (B,) between `low` and `high`, perhaps a class y (B,) -> (B, D).

    Points in the plane are shown to it together with a few waves of theirs, so that it soon learns what is fine.
    """

    def __init__(self, d: int, low: float, high: float, num_classes: int = 0, width: int = 128) -> None:
        super().__init__()
        self.waves = [1.0, 2.0, 4.0] if d == 2 else []
        self.register_buffer("centres", torch.linspace(low, high, 9))
        self.first = nn.Linear(d * (1 + 2 * len(self.waves)) + 9, width)
        self.table = nn.Embedding(num_classes + 1, width)  # the last row stands for "no class"
        self.rest = nn.Sequential(
            *(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, d))
        )

    def forward(self, x: Tensor, u: Tensor, y: Tensor | None = None) -> Tensor:
        spacing = self.centres[1] - self.centres[0]
        bumps = torch.exp(-(((u[:, None] - self.centres) / spacing) ** 2))  # (B, 9)
        y = torch.full(u.shape, self.table.num_embeddings - 1, device=x.device) if y is None else y
        waves = [f(w * x) for w in self.waves for f in (torch.sin, torch.cos)]
        return self.rest(self.first(torch.cat([x, *waves, bumps], 1)) + self.table(y))


LOW, HIGH, SPREAD = math.log(0.02), math.log(50.0), 0.7  # noise levels, in logarithms; the spread of the data


def guess_data(net: SmallNet, x: Tensor, u: Tensor, y: Tensor | None = None) -> Tensor:
    """The guess of x_0 from x = x_0 + e^u * noise: the network only says what the best linear guess misses."""
    level = u.exp()[:, None]  # (B, 1)
    size = (level**2 + SPREAD**2).sqrt()
    return SPREAD**2 / size**2 * x + SPREAD * level / size * net(x / size, u, y)


def fit_denoiser(data: Tensor, labels: Tensor | None, num_classes: int, steps: int, width: int) -> SmallNet:
    """Train on data (N, D): some seconds. One label in five is dropped, so the network knows "no class" as well."""
    torch.manual_seed(0)
    net = SmallNet(data.shape[1], LOW, HIGH, num_classes, width).to(device)
    data = data.to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(data), (256,), device=device)
        clean = data[rows]
        u = LOW + (HIGH - LOW) * torch.rand(256, device=device)
        y = None
        if labels is not None:
            y = torch.where(torch.rand(256, device=device) < 0.2, num_classes, labels.to(device)[rows])
        guess = guess_data(net, clean + u.exp()[:, None] * torch.randn_like(clean), u, y)
        weight = 1 / (u.exp() / (1 + u.exp() / SPREAD)) ** 2  # errors count more where the noise is small
        loss = (weight * (guess - clean).square().mean(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return net.requires_grad_(False)


T = 100
_levels = torch.linspace(LOW, HIGH, T, dtype=torch.float64, device=device).exp()  # times 1 to T
alpha_bar = torch.cat([torch.ones_like(_levels[:1]), 1 / (1 + _levels**2)])  # (T + 1,)


def as_denoise(guess: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, int], tuple[Tensor, Tensor]]:
    """`denoise(x_t, t)` from a function that guesses x_0 from (x_0 + e^u * noise, u)."""

    def denoise(x_t: Tensor, t: int) -> tuple[Tensor, Tensor]:
        x = x_t.flatten(1) * (1 + _levels[t - 1] ** 2).sqrt()
        x_0 = guess(x, _levels[t - 1].log().float().expand(len(x)))
        return x_0.view_as(x_t), ((x - x_0) / _levels[t - 1]).view_as(x_t)

    return denoise


def petals(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points (n, 2) on three overlapping petals, and which petal each lies on (n,)."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (n,), generator=g)
    r, wobble = torch.rand(n, generator=g) ** 0.7 * 1.5, torch.randn(n, generator=g)
    angle = y * (2 * math.pi / 3) + 0.9 * r + 0.45 * wobble / (0.6 + r)
    return torch.stack([r * angle.cos(), r * angle.sin()], 1), y


points, petal = petals(6000)
point_net = fit_denoiser(points, petal, 3, steps=900, width=128)


# %%
def plot_few_steps() -> None:
    torch.manual_seed(1)
    x_T = torch.randn(1500, 2, device=device)
    denoise = as_denoise(lambda x, u: guess_data(point_net, x, u))
    _, axes = plt.subplots(2, 5, figsize=(13, 5.4), sharex=True, sharey=True)
    for row, eta in zip(axes, (0.0, 1.0)):
        row[0].scatter(*points[:1500].T, s=2, color="black")
        row[0].set(title="data", ylabel=f"eta = {eta:g}", xlim=(-2.2, 2.2), ylim=(-2.2, 2.2))
        for axis, steps in zip(row[1:], (2, 5, 20, 100)):
            x = ddim_sample(denoise, alpha_bar, x_T, steps, eta=eta, noise=torch.randn(steps, *x_T.shape).to(device))
            axis.scatter(*x.cpu().T, s=2)
            axis.set(title=f"{steps} steps")
    plt.suptitle("One network, sampled with more or fewer steps", y=1.04)
    plt.show()


plot_few_steps()

# %% [markdown]
# *What to see:* with 2 steps both rows are shrunken to a triangle: $\hat x_0$ is an average over all that $x_t$ may
# have been. At 5 steps the upper row ($\eta = 0$) has longer petals than the lower one: fresh noise needs many steps to
# be taken out again. From 20 steps on both show the petals as well as this small network knows them, and 100 steps
# bring little more.

# %% [markdown]
# ## 3b. Classifier-free guidance (4 points)
#
# A network that has seen labels gives samples of a class, but often timid ones. Guidance exaggerates. For that the
# network must know the answer with *and* without the label, so during training some labels are replaced by a **null**
# class $\varnothing$. When sampling, it is asked twice, and one goes beyond the answer with label, away from the one
# without:
#
# $$\tilde f = (1 + w)\, f(x_t, t, c) - w\, f(x_t, t, \varnothing) .$$
#
# Why: for a prediction of the noise, $-f / \sqrt{1-\bar\alpha_t}$ is an estimate of $\nabla_x \log p_t(x)$, with the
# label of $\nabla_x \log p_t(x \mid c)$. By Bayes' rule the difference of the two is $\nabla_x \log p_t(c \mid x)$, so
# that $\tilde f$ belongs to $p_t(x)\, p_t(c \mid x)^{1+w}$: the class counts $1 + w$ times. The three usual things to
# predict (noise, data, $v$) are affine functions of each other at a given $x_t$, and $1 + w$ and $-w$ sum to 1, so the
# formula is the same for each.
#
# **Two scales are about.** Here, as in the paper of Ho and Salimans, $w = 0$ is the plain model of the class and
# $w = -1$ the model without label. Others (Imagen, the `guidance_scale` of diffusers) write
# $f(\varnothing) + s\,(f(c) - f(\varnothing))$, which is ours with $s = 1 + w$.
#
# | symbol | code | shape |
# |---|---|---|
# | $f$ | `predict(x_t, t, y)` | (B, \*shape), (B,), (B,) -> (B, \*shape); each example by itself |
# | $c$ | `y`, int64, or None for no class at all | (B,) |
# | $\varnothing$ | `null`, an index like the others (the number of classes, say) | an int |
# | whose label goes | `dropped`, True where it does | (B,), bool |
# | $w$ | `guidance` | a number |
#
# Where `y` is None, all are of the null class, and `guidance` has nothing to steer by: the answer is
# $f(x_t, t, \varnothing)$.
#
# *What goes wrong:* the null class is no class among the others: with `null` = 0 taken for granted, zeros are never
# drawn as zeros again. And `y` belongs to the caller: drop labels in a copy.


# %% tags=["answer:3b"]
def drop_labels(y: Tensor, dropped: Tensor, null: int) -> Tensor:
    """The labels to train with: y (B,) int64, the null class where dropped (B,) bool is True -> (B,) int64."""
    # BEGIN SOLUTION
    return y.masked_fill(dropped, null)
    # END SOLUTION


def guided_prediction(
    predict: Callable[[Tensor, Tensor, Tensor], Tensor],
    x_t: Tensor,
    t: Tensor,
    y: Tensor | None,
    null: int,
    guidance: float,
) -> Tensor:
    """The prediction (B, *shape) with guidance w: x_t (B, *shape), t (B,), y (B,) int64 or None."""
    # BEGIN SOLUTION
    nothing = torch.full((len(x_t),), null, device=x_t.device)
    if y is None or guidance == 0:  # one answer is enough
        return predict(x_t, t, nothing if y is None else y)
    both = predict(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([y, nothing]))  # (2B, *shape)
    conditional, unconditional = both.chunk(2)
    return (1 + guidance) * conditional - guidance * unconditional
    # END SOLUTION


# %% tags=["check"]
check("3b")

# %% [markdown]
# **A look (needs 3a and 3b).** The three petals overlap in the middle. What does guidance do there?


# %%
def plot_guidance() -> None:
    torch.manual_seed(2)
    x_T = torch.randn(1500, 2, device=device)
    y = torch.arange(1500, device=device) % 3
    _, axes = plt.subplots(1, 5, figsize=(14, 3.2), sharex=True, sharey=True)
    for axis, w in zip(axes, (-1.0, 0.0, 1.0, 3.0, 8.0)):

        def predict(x: Tensor, u: Tensor, w: float = w) -> Tensor:
            return guided_prediction(lambda *a: guess_data(point_net, *a), x, u, y, 3, w)

        x = ddim_sample(as_denoise(predict), alpha_bar, x_T, 25)
        axis.scatter(*points[:1500].T, s=1, color="lightgray")
        axis.scatter(*x.cpu().T, s=2, c=y.cpu(), cmap="brg")
        axis.set(title=f"w = {w:g}", xlim=(-3.5, 3.5), ylim=(-3.5, 3.5))
    plt.suptitle("Guidance: samples of three classes over the data (grey)", y=1.04)
    plt.show()


plot_guidance()

# %% [markdown]
# *What to see:* at $w = -1$ the colours are mixed over all petals, at $w = 0$ each colour has its own petal and the
# middle is shared. At $w = 1$ the middle, where the class is in doubt, is left empty. Beyond, the samples gather in a
# few places and at last leave the data altogether: purer and purer, less and less diverse, and then wrong. Pictures
# from text at too high a scale, with their glaring colours, are the same thing in a million dimensions.

# %% [markdown]
# ## 3c. Inpainting (4 points)
#
# Part of a picture is known, the rest is to be filled in. No network has to be trained for that: sample as usual, and
# after each step **overwrite the known part** with the known data, noised to the level of the moment. With the mask $m$
# (1 where known) and the known picture $x$,
#
# $$x_{t-1} = m \odot \Big(\sqrt{\bar\alpha_{t-1}}\;x + \sqrt{1 - \bar\alpha_{t-1}}\;\epsilon\Big)
# + (1 - m) \odot \tilde x_{t-1}, \qquad \tilde x_{t-1} = \texttt{p\_sample}(x_t, t, z) .$$
#
# The two parts do not fit each other well: the known one is noised anew each time, whatever the unknown one has become.
# **RePaint** lets them get used to each other: after the overwriting, go *back* from $t-1$ to $t$ by one step of the
# forward process, and do the whole step again, $U$ times in all:
#
# $$x_t = \sqrt{1 - \beta_t}\;x_{t-1} + \sqrt{\beta_t}\;\epsilon', \qquad
# \beta_t = 1 - \frac{\bar\alpha_t}{\bar\alpha_{t-1}} .$$
#
# Back one goes between two tries, so not after the last one; and at $t = 1$ not at all: there, of the $U$ tries, each
# starts from the same $x_1$ and the last one counts. The answer is $x$ itself where it is known, and $x_0$ elsewhere.
#
# | symbol | code | shape |
# |---|---|---|
# | one step of the way back | `p_sample(x_t, t, noise)`, with an int `t`, returns $\tilde x_{t-1}$ | (B, \*shape) |
# | $x$ | `x`, of which only the known part may matter | (B, \*shape) |
# | $m$ | `mask`, True where known | bool; broadcasts to (B, \*shape) |
# | start | `x_T` | (B, \*shape) |
# | $U$ | `resample` | at least 1; 1 is plain overwriting |
# | $\epsilon$, for try $u$ of the step from $t$ to $t-1$ | `noise_known[t, u]` | (T + 1, U, B, \*shape) |
# | $z$, for `p_sample` | `noise_step[t, u]` | (T + 1, U, B, \*shape) |
# | $\epsilon'$, for going back after try $u$ | `noise_back[t, u]` | (T + 1, U, B, \*shape) |
#
# *What goes wrong:* the known part put in *without* noise is cleaner than anything the network has ever seen at that
# time. And each step has two times in it; ask yourself which of the two the known part must have.


# %% tags=["answer:3c"]
def inpaint(
    p_sample: Callable[[Tensor, int, Tensor], Tensor],
    alpha_bar: Tensor,
    x: Tensor,
    mask: Tensor,
    x_T: Tensor,
    noise_known: Tensor,
    noise_step: Tensor,
    noise_back: Tensor,
    resample: int = 1,
) -> Tensor:
    """x (B, *shape) where mask is True, and what fits to it elsewhere: (B, *shape). T * `resample` calls."""
    # BEGIN SOLUTION
    x_t = x_T
    for t in range(len(alpha_bar) - 1, 0, -1):
        bar = alpha_bar[t - 1]
        for u in range(resample):
            known = bar.sqrt() * x + (1 - bar).sqrt() * noise_known[t, u]  # at t = 1: x itself
            x_before = torch.where(mask, known, p_sample(x_t, t, noise_step[t, u]))  # x_{t-1}
            if u < resample - 1 and t > 1:
                beta = 1 - alpha_bar[t] / bar
                x_t = (1 - beta).sqrt() * x_before + beta.sqrt() * noise_back[t, u]
        x_t = x_before
    return x_t
    # END SOLUTION


# %% tags=["check"]
check("3c")

# %% [markdown]
# **A look (needs 3a and 3c).** Digits of 8 by 8 pixels, whose upper half is known. The network is a small one, trained
# for some seconds on all digits without their labels; a step is `ddim_step` with $\eta = 1$.


# %%
def digits_to_train() -> Tensor:
    """Handwritten digits (1348, 8, 8) with values from -1 to 1."""
    for folder in (Path("data"), Path("ps3/data")):
        if (folder / "digits.npz").exists():
            with np.load(folder / "digits.npz") as stored:
                return torch.tensor(stored["train"]).float() / 8 - 1
    from sklearn.datasets import load_digits as from_sklearn  # Colab has it: the same images

    images = torch.tensor(from_sklearn().images)
    return images[torch.arange(len(images)) % 4 < 3].float() / 8 - 1


digit_images = digits_to_train()
digit_net = fit_denoiser(digit_images.flatten(1), None, 0, steps=800, width=192)
digit_denoise = as_denoise(lambda x, u: guess_data(digit_net, x, u))


def digit_step(x_t: Tensor, t: int, noise: Tensor) -> Tensor:
    """A step from t to t - 1 with fresh noise."""
    return ddim_step(digit_denoise, alpha_bar, x_t, t, t - 1, eta=1.0, noise=noise)


def show_rows(rows: list[Tensor], names: list[str], title: str) -> None:
    """A row of images (n, 8, 8) each, under one another, with the name of each row."""
    n = len(rows[0])
    _, axes = plt.subplots(len(rows), 1, figsize=(0.75 * n, 0.85 * len(rows) + 0.5))
    for axis, row, name in zip(axes, rows, names):
        padded = F.pad(row.detach().cpu().float(), (1, 1, 1, 1), value=-0.4)  # (n, 10, 10)
        axis.imshow(padded.permute(1, 0, 2).flatten(1), cmap="gray_r", vmin=-1, vmax=1)
        axis.set(xticks=[], yticks=[])
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    plt.suptitle(title, y=0.98)
    plt.show()


def plot_inpainting() -> None:
    torch.manual_seed(3)
    x = digit_images[:12].flatten(1).to(device)  # (12, 64)
    mask = torch.arange(64, device=device) < 32
    rows = [x, torch.where(mask, x, 0.0)]
    x_T = torch.randn_like(x)
    for resample in (1, 5):
        noises = torch.randn(3, T + 1, resample, *x.shape, device=device)
        rows.append(inpaint(digit_step, alpha_bar, x, mask, x_T, *noises, resample=resample))
    names = ["real", "known", "overwriting", "RePaint, U = 5"]
    show_rows([row.view(-1, 8, 8) for row in rows], names, "The lower half is made up")


plot_inpainting()

# %% [markdown]
# *What to see:* the upper halves are the given ones in all rows. In the third row, lower halves are strokes of digits
# that do not always continue what stands above; in the last the strokes run on more smoothly. They need not be the real
# ones: an 8 and a 9, say, may share an upper half.

# %% [markdown]
# ## 3d. SDEdit (3 points)
#
# Half of the way is enough if the start is good. Noise a **guide** $x$ (a rough drawing, a picture to vary) to some
# time $t$, and denoise from there:
#
# $$x_t = \sqrt{\bar\alpha_t}\;x + \sqrt{1 - \bar\alpha_t}\;\epsilon, \qquad
# x_{s-1} = \texttt{p\_sample}(x_s, s, z_s) \quad \text{for } s = t, t-1, \dots, 1 .$$
#
# What is coarser than the noise survives, what is finer is the model's. $t = 0$ gives the guide back, $t = T$ forgets
# it.
#
# | symbol | code | shape |
# |---|---|---|
# | $x$ | `x` | (B, \*shape) |
# | $t$ | `t`, from 0 to T | an int |
# | $\epsilon$ | `noise` | (B, \*shape) |
# | $z_s$ | `noise_step[s]` | (T + 1, B, \*shape) |
#
# *What goes wrong:* the guide is *scaled* as it is noised: added to noise unscaled, it is brighter than any $x_t$ that
# the network knows.


# %% tags=["answer:3d"]
def sdedit(
    p_sample: Callable[[Tensor, int, Tensor], Tensor],
    alpha_bar: Tensor,
    x: Tensor,
    t: int,
    noise: Tensor,
    noise_step: Tensor,
) -> Tensor:
    """The guide x (B, *shape), noised to time t and denoised again: (B, *shape). t calls of p_sample."""
    # BEGIN SOLUTION
    x_t = alpha_bar[t].sqrt() * x + (1 - alpha_bar[t]).sqrt() * noise
    for s in range(t, 0, -1):
        x_t = p_sample(x_t, s, noise_step[s])
    return x_t
    # END SOLUTION


# %% tags=["check"]
check("3d")

# %% [markdown]
# **A look (needs 3a and 3d).** Four crude drawings (bars and boxes: no digit looks like that), redone at different
# strengths.


# %%
def crude_drawings() -> Tensor:
    """A bar, a box, two bars and an angle (4, 8, 8), of values -1 and 1."""
    x = -torch.ones(4, 8, 8)
    x[0, :, 3:5] = 1
    x[1, 1:7, 1:7], x[1, 3:5, 3:5] = 1, -1
    x[2, 0:2, 1:7], x[2, 6:8, 1:7], x[2, 2:6, 4:6] = 1, 1, 1
    x[3, 0:2, 1:7], x[3, 2:8, 4:6] = 1, 1
    return x


def plot_sdedit() -> None:
    torch.manual_seed(4)
    x = crude_drawings().flatten(1).repeat_interleave(3, 0).to(device)  # each three times
    noise, noise_step = torch.randn_like(x), torch.randn(T + 1, *x.shape, device=device)
    times = (0, 35, 50, 60, 100)
    rows = [sdedit(digit_step, alpha_bar, x, t, noise, noise_step).view(-1, 8, 8) for t in times]
    show_rows(rows, [f"t = {t}" for t in times], "SDEdit: each drawing three times")


plot_sdedit()

# %% [markdown]
# *What to see:* at $t = 35$ the drawings have lost their hard edges. Around $t = 50$ they are digits in somebody's hand
# that still have the shape that was drawn: the box is a 0, the two bars a 2 or a 3, the angle a 7 or a 9, and three
# noises give three variants of each. At $t = 60$ a hint of the drawing is left, at $t = 100$ nothing, and columns of
# one drawing differ as any samples do.

# %% [markdown]
# # 4. Flow matching (22 points)
#
# The same goal by a shorter road: a velocity field $v(x, t)$ that carries noise to data. Follow it from $t = 0$ to
# $t = 1$,
#
# $$\frac{dx}{dt} = v(x, t),$$
#
# and a noise has become a sample. You will learn such a field by plain regression (4a), follow it (4b), and make its
# paths straight, first by pairing noise and data well (4c), then by letting the flow pair them (4d). Why regression on
# single pairs gives a field for the whole is for you to prove (4e).
#
# **Mind the direction.** Here $x_0$ is **noise** and $x_1$ is **data**, and $t$ runs from 0 to 1 in the direction of
# sampling. In diffusion, above, $x_0$ is the data. Both habits are in all the papers.
#
# | symbol | code | shape |
# |---|---|---|
# | $x_0$ noise, $x_1$ data | `x_0`, `x_1` | (B, \*shape): (B, D) or (B, C, H, W) |
# | $t$ | `t` | (B,), a time for each example, in [0, 1] |
# | $v$ | `velocity(x, t)` | (B, \*shape), (B,) -> (B, \*shape) |

# %% [markdown]
# ## 4a. The path, its velocity, and the loss (4 points)
#
# Take a noise and a data point, and walk from one to the other on the straight line at constant speed. At time $t$ the
# walker is at
#
# $$x_t = (1 - t)\, x_0 + t\, x_1, \qquad \frac{d x_t}{dt} = x_1 - x_0 .$$
#
# Learn to tell the velocity from the place, over many pairs and times:
#
# $$\mathcal L = \frac1{BD} \sum_{b=1}^B \big\| v\big(x_t^{(b)}, t^{(b)}\big)
# - \big(x_1^{(b)} - x_0^{(b)}\big) \big\|^2 ,$$
#
# a mean over the batch **and** over the $D$ numbers of an example ($D = CHW$ for images). Each example has a time of
# its own.
#
# *What goes wrong:* `t` has the shape (B,). Multiplied with (B, D) as it is, it is an error, or, if B happens to equal
# D, no error and nonsense.


# %% tags=["answer:4a"]
def straight_path(x_0: Tensor, x_1: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """x_t and its velocity, (B, *shape) each: noise x_0 and data x_1 (B, *shape), t (B,)."""
    # BEGIN SOLUTION
    t = t.view(-1, *[1] * (x_1.ndim - 1))  # (B, 1, ..., 1)
    return (1 - t) * x_0 + t * x_1, x_1 - x_0
    # END SOLUTION


def flow_matching_loss(velocity: Callable[[Tensor, Tensor], Tensor], x_0: Tensor, x_1: Tensor, t: Tensor) -> Tensor:
    """The mean square of the velocity's error, a scalar: x_0 and x_1 (B, *shape), t (B,)."""
    # BEGIN SOLUTION
    x_t, target = straight_path(x_0, x_1, t)
    return (velocity(x_t, t) - target).square().mean()
    # END SOLUTION


# %% tags=["check"]
check("4a")

# %% [markdown]
# ## 4b. Two solvers (4 points)
#
# To follow $dx/dt = v(x, t)$ through the times $t_0, t_1, \dots, t_n$ of a grid, with $h_i = t_{i+1} - t_i$:
#
# *Euler* trusts the velocity at the beginning of each step,
#
# $$x_{i+1} = x_i + h_i\, v(x_i, t_i) .$$
#
# *Heun* takes Euler's step on trial, looks at the velocity where it leads, and goes along the mean of the two:
#
# $$k_1 = v(x_i, t_i), \qquad k_2 = v(x_i + h_i k_1,\ t_{i+1}), \qquad x_{i+1} = x_i + \frac{h_i}2 (k_1 + k_2) .$$
#
# Euler asks the field once a step, and its error at the end shrinks like $h$; Heun asks twice, and its error shrinks
# like $h^2$.
#
# | symbol | code | shape |
# |---|---|---|
# | $t_0, \dots, t_n$ | `t`, rising or falling, evenly spaced or not | (n + 1,) |
# | $x_0, \dots, x_n$ | returned, the start first | (n + 1, B, \*shape) |
# | $v(x, s)$ | `velocity(x, s)`, which wants a time **for each example** | (B, \*shape), (B,) |
#
# *What goes wrong:* a grid of $n + 1$ times has $n$ steps. And $h$ is negative on the way from data to noise, which
# needs no special case.


# %% tags=["answer:4b"]
def euler(velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor) -> Tensor:
    """The path (n + 1, B, *shape) from x (B, *shape) at t[0] through the times t (n + 1,); n calls of velocity."""
    # BEGIN SOLUTION
    path = [x]
    for now, after in pairwise(t):
        x = x + (after - now) * velocity(x, now.expand(len(x)))
        path.append(x)
    return torch.stack(path)
    # END SOLUTION


def heun(velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor) -> Tensor:
    """The path (n + 1, B, *shape) from x (B, *shape) at t[0] through the times t (n + 1,); 2n calls of velocity."""
    # BEGIN SOLUTION
    path = [x]
    for now, after in pairwise(t):
        h = after - now
        k_1 = velocity(x, now.expand(len(x)))
        k_2 = velocity(x + h * k_1, after.expand(len(x)))
        x = x + h / 2 * (k_1 + k_2)
        path.append(x)
    return torch.stack(path)
    # END SOLUTION


# %% tags=["check"]
check("4b")

# %% [markdown]
# **A look (needs 4a and 4b).** A small network learns to carry noise to six blobs. Left, the lines that the training
# walks on; then the paths of the flow that comes out.


# %%
def blobs(n: int, seed: int = 0) -> Tensor:
    """Six small blobs (n, 2) on a circle."""
    g = torch.Generator().manual_seed(seed)
    angle = torch.randint(6, (n,), generator=g) * (math.pi / 3)
    return 2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.15 * torch.randn(n, 2, generator=g)


def fit_flow(x_0: Tensor, x_1: Tensor, steps: int = 1000, start: SmallNet | None = None) -> SmallNet:
    """Flow matching on the pairs x_0[i], x_1[i] (N, 2), in batches of 256."""
    torch.manual_seed(0)
    net = SmallNet(2, 0.0, 1.0).to(device)
    if start is not None:
        net.load_state_dict(start.state_dict())
    x_0, x_1 = x_0.to(device), x_1.to(device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        rows = torch.randint(len(x_0), (256,), device=device)
        loss = flow_matching_loss(net, x_0[rows], x_1[rows], torch.rand(256, device=device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return net.requires_grad_(False)


def draw_paths(axis: plt.Axes, path: Tensor, title: str, lines: int = 60) -> None:
    """A path (n + 1, B, 2): its ends as points, and some of its lines."""
    path = path.cpu()
    axis.plot(*path[:, :lines].permute(2, 0, 1), color="gray", linewidth=0.5)
    axis.scatter(*path[0, :lines].T, s=5, color="black", zorder=2)
    axis.scatter(*path[-1].T, s=2, color="tab:red", zorder=2)
    axis.set(title=title, xlim=(-3, 3), ylim=(-3, 3))


torch.manual_seed(5)
noise_points, blob_points = torch.randn(20000, 2), blobs(20000)
fine = torch.linspace(0, 1, 41, device=device)
fresh_noise = torch.randn(1000, 2, generator=torch.Generator().manual_seed(6)).to(device)


@cache
def first_flow() -> SmallNet:
    """The flow from noise to the blobs, trained when it is first asked for; run this cell again to train it anew."""
    return fit_flow(noise_points, blob_points)


# %%
def plot_flow() -> None:
    flow_net = first_flow()
    _, axes = plt.subplots(1, 4, figsize=(14, 3.6), sharex=True, sharey=True)
    draw_paths(axes[0], torch.stack([noise_points[:1000], blob_points[:1000]]), "pairs as drawn")
    draw_paths(axes[1], heun(flow_net, fresh_noise, fine), "Heun, 40 steps (80 calls)")
    draw_paths(axes[2], heun(flow_net, fresh_noise, fine[::10]), "Heun, 4 steps (8 calls)")
    draw_paths(axes[3], euler(flow_net, fresh_noise, fine[::5]), "Euler, 8 steps (8 calls)")
    plt.suptitle("From noise (black) to the blobs (red)", y=1.04)
    plt.show()


plot_flow()

# %% [markdown]
# *What to see:* the straight lines on the left cross everywhere. A field has one velocity a place, so the paths of a
# flow never cross at the same time: they set out for the middle of the data and bend outwards later. That is what costs
# solver steps. With 8 calls more points are left between the blobs than with 80, and Euler's steps, always along the
# tangent, fall a little short.

# %% [markdown]
# ## 4c. Pairs that do not cross (4 points)
#
# Nothing forces us to pair noise and data at random. Any pairing will do that keeps both distributions, and within a
# batch of $B$ noises and $B$ data points every permutation does. Take the one whose lines are shortest in all:
#
# $$j^* = \arg\min_{j \in S_B} \sum_{i=1}^B \big\| x_0^{(i)} - x_1^{(j(i))} \big\|^2 .$$
#
# Its lines hardly cross, and the flow becomes nearly straight. There are $B!$ permutations, but it can be found much
# faster. **Bring the noises in one at a time**, and keep the pairing of those that are in as good as can be. A new
# noise $i$ may take a data point $j$ at the cost $C_{ij}$. If $j$ has an owner $r$ already, then $r$ has to move to
# another $k$, which costs $C_{rk} - C_{rj}$ more (perhaps less than nothing), and so on, until a free data point ends
# the chain. So compute for all $j$
#
# $$d_j = \text{the cost of the cheapest chain that makes } j \text{ the last one taken} :
# \qquad d_j \leftarrow C_{ij}, \qquad
# d_k \leftarrow \min\big(d_k,\ d_j + C_{r(j)\,k} - C_{r(j)\,j}\big) \text{ over all owned } j,$$
#
# the second line again and again until nothing changes (each time at least one more $d$ is final, so $B$ times
# suffice), remembering which $j$ each $d_k$ came from. Pick the free $j$ with the smallest $d_j$ and walk its chain
# back, moving every owner on it. (This is the shortest path of Bellman and Ford in the graph of moves.)
#
# Whatever finds the minimum is right; the checks go up to B = 40 and to data of several dimensions. SciPy has it as
# `linear_sum_assignment`, good to compare with on Colab, but write it without: this notebook runs on torch alone.
#
# | symbol | code | shape |
# |---|---|---|
# | $C_{ij}$, **squared** distances | `pairing_cost(x_0, x_1)` | (B, B) |
# | $j^*(1), \dots, j^*(B)$ | `ot_pairing(x_0, x_1)` | (B,), int64: `x_1[j]` lies in the order of `x_0` |
#
# *What goes wrong:* giving each noise the nearest data point that is left is greedy: the last ones are left with what
# nobody wanted. And swapping any two as long as it helps gets stuck where only a round of three would.


# %% tags=["answer:4c"]
def pairing_cost(x_0: Tensor, x_1: Tensor) -> Tensor:
    """All squared distances (B, B) between noises x_0 (B, *shape), in rows, and data x_1 (B, *shape)."""
    # BEGIN SOLUTION
    return (x_0.flatten(1)[:, None] - x_1.flatten(1)).square().sum(-1)
    # END SOLUTION


def ot_pairing(x_0: Tensor, x_1: Tensor) -> Tensor:
    """The permutation j (B,) for which the sum over i of ||x_0[i] - x_1[j[i]]||^2 is least; x_0, x_1 (B, *shape)."""
    # BEGIN SOLUTION
    cost = pairing_cost(x_0, x_1).cpu()
    slack = 1e-12 * float(cost.max())  # below that, a difference is rounding
    owner = torch.full((len(cost),), -1)  # of each x_1: the x_0 that has it
    for i in range(len(cost)):
        chain, before = cost[i].clone(), torch.full((len(cost),), -1)  # (B,) each: d_j, and whence it came
        owned = (owner >= 0).nonzero().squeeze(1)  # (i,)
        rows = owner[owned]
        extra = cost[rows] - cost[rows, owned][:, None]  # (i, B): what it costs the owner of a to move to b
        for _ in range(i):
            best, place = (chain[owned, None] + extra).min(0)  # (B,)
            better = best < chain - slack
            if not better.any():
                break
            chain, before = torch.where(better, best, chain), torch.where(better, owned[place], before)
        j = int(chain.masked_fill(owner >= 0, math.inf).argmin())
        while j >= 0:  # walk the chain back: each owner on it moves one on
            k = int(before[j])
            owner[j] = owner[k] if k >= 0 else i
            j = k
    return owner.argsort().to(x_0.device)
    # END SOLUTION


# %% tags=["check"]
check("4c")

# %% [markdown]
# **A look (needs 4a to 4c).** The same noise and the same blobs, paired in batches of 128 before they are learned.


# %%
def plot_ot_flow(batches: int = 16, size: int = 128) -> None:
    x_0, x_1 = noise_points[: batches * size], blob_points[: batches * size]
    order = [ot_pairing(x_0[k : k + size], x_1[k : k + size]) + k for k in range(0, len(x_0), size)]
    x_1 = x_1[torch.cat(order)]
    net = fit_flow(x_0, x_1, steps=600)
    _, axes = plt.subplots(1, 4, figsize=(14, 3.6), sharex=True, sharey=True)
    draw_paths(axes[0], torch.stack([x_0[:size], x_1[:size]]), "a batch, paired", size)
    draw_paths(axes[1], heun(net, fresh_noise, fine), "Heun, 40 steps")
    draw_paths(axes[2], euler(net, fresh_noise, fine[::10]), "Euler, 4 steps")
    draw_paths(axes[3], euler(net, fresh_noise, fine[::40]), "Euler, 1 step")
    plt.suptitle("The flow of well-paired noise and data", y=1.04)
    plt.show()


plot_ot_flow()

# %% [markdown]
# *What to see:* the paired lines lead outwards and hardly cross, and so do the paths of the flow, nearly straight. Four
# steps of Euler do as well as forty of Heun. A single one has the right shape already, with some points on their way
# from one blob to the next: which way to go is decided in the middle, within a short distance.

# %% [markdown]
# ## 4d. Straightening a flow (5 points)
#
# The pairs may also come from a flow. Send each noise along the flow that was learned, $x_1 = \mathrm{ODE}(x_0)$, and
# learn a second flow from the pairs $(x_0, \mathrm{ODE}(x_0))$, with the loss of 4a: that is **reflow**. Paths of a
# flow do not cross, so pairs that are joined by them cross less than random ones, and the second flow is straighter.
#
# **`reflow_pairs`.** Both ends of the flow's paths. The pairs are data for the next training, so no gradient may lead
# from them back into the first flow's network.
#
# **`straightness`.** How far a flow's velocity is from constant along its paths. For a path
# $x^{(0)}, \dots, x^{(n)}$ at evenly spaced times from 0 to 1, the velocity on step $i$ is
# $u_i = n\,(x^{(i+1)} - x^{(i)})$, and
#
# $$S = \frac1{nB} \sum_{i=0}^{n-1} \sum_{b=1}^B \big\| u_i^{(b)} - \big(x^{(n),b} - x^{(0),b}\big) \big\|^2 ,$$
#
# summed over the numbers of an example, averaged over steps and batch: 0 for straight lines at constant speed.
#
# **A case in closed form.** Let $x_0 \sim N(0, I)$ and $x_1 \sim N(\mu, \lambda^2 I)$ (a scalar $\lambda > 0$). The
# best velocity is the mean velocity of all that pass through $x$ at time $t$,
# $v(x, t) = \mathbb E[x_1 - x_0 \mid x_t = x]$ (4e), and everything is Gaussian, so that for each coordinate
#
# $$\mathbb E[a \mid b] = \mathbb E a + \frac{\mathrm{Cov}(a, b)}{\mathrm{Var}(b)}\,(b - \mathbb E b) .$$
#
# * `gaussian_velocity`: $v$ for **independent** pairs. Its flow turns out to carry $x_0$ to $\mu + \lambda x_0$.
# * `rectified_velocity`: $v$ for the pairs $(x_0, \mu + \lambda x_0)$ of a reflow. Find $x_0$ from $x_t$ and $t$; it is
#   the same formula with another covariance.
#
# | symbol | code | shape |
# |---|---|---|
# | how to follow a field | `solver(velocity, x, t)`, as `euler` and `heun` are called | -> (n + 1, B, \*shape) |
# | its times | `t` of `reflow_pairs` | (n + 1,) |
# | $x^{(0)}, \dots, x^{(n)}$ | `path` | (n + 1, B, \*shape) |
# | $x$, $t$ | `x`, `t` of the two velocities | (B, D), (B,) |
# | $\mu$, $\lambda$ | `mean`, `std` | (D,), a number |
#
# *What goes wrong:* pairs of noise and *real* data teach the first flow once more. And deviations in opposite
# directions must not cancel.


# %% tags=["answer:4d"]
def reflow_pairs(
    solver: Callable[..., Tensor], velocity: Callable[[Tensor, Tensor], Tensor], x_0: Tensor, t: Tensor
) -> tuple[Tensor, Tensor]:
    """The noise x_0 (B, *shape) and where the flow carries it (B, *shape), without gradients; t (n + 1,)."""
    # BEGIN SOLUTION
    with torch.no_grad():
        return x_0, solver(velocity, x_0, t)[-1]
    # END SOLUTION


def straightness(path: Tensor) -> Tensor:
    """S, a scalar, of a path (n + 1, B, *shape) at evenly spaced times from 0 to 1; 0 if it is straight."""
    # BEGIN SOLUTION
    velocity = path.diff(dim=0) * (len(path) - 1)  # (n, B, *shape)
    return (velocity - (path[-1] - path[0])).square().flatten(2).sum(-1).mean()
    # END SOLUTION


def gaussian_velocity(x: Tensor, t: Tensor, mean: Tensor, std: float) -> Tensor:
    """E[x_1 - x_0 | x_t = x] (B, D) for independent x_0 ~ N(0, I), x_1 ~ N(mean, std^2 I); t (B,), mean (D,)."""
    # BEGIN SOLUTION
    t = t[:, None]  # (B, 1)
    covariance = t * std**2 - (1 - t)  # of x_1 - x_0 with x_t
    variance = (t * std) ** 2 + (1 - t) ** 2  # of x_t
    return mean + covariance / variance * (x - t * mean)
    # END SOLUTION


def rectified_velocity(x: Tensor, t: Tensor, mean: Tensor, std: float) -> Tensor:
    """E[x_1 - x_0 | x_t = x] (B, D) for the pairs x_0 ~ N(0, I), x_1 = mean + std * x_0; t (B,), mean (D,)."""
    # BEGIN SOLUTION
    t = t[:, None]  # (B, 1)
    x_0 = (x - t * mean) / (1 - t + t * std)  # the only noise that is at x at time t
    return mean + (std - 1) * x_0
    # END SOLUTION


# %% tags=["check"]
check("4d")

# %% [markdown]
# **A look (needs 4a, 4b and 4d).** The flow to the blobs, rectified once. Above each panel stands its straightness $S$.


# %%
def plot_reflow() -> None:
    flow_net = first_flow()
    x_0, x_1 = reflow_pairs(heun, flow_net, torch.randn(20000, 2, device=device), fine[::2])
    net = fit_flow(x_0, x_1, steps=600, start=flow_net)
    _, axes = plt.subplots(1, 4, figsize=(14, 3.8), sharex=True, sharey=True)
    for axis, one, name in ((axes[0], flow_net, "first flow"), (axes[2], net, "rectified")):
        path = euler(one, fresh_noise, torch.linspace(0, 1, 51, device=device))
        draw_paths(axis, path, f"{name}, S = {straightness(path):.3f}")
    for axis, one, name in ((axes[1], flow_net, "first flow"), (axes[3], net, "rectified")):
        draw_paths(axis, euler(one, fresh_noise, fine[::40]), f"{name}, 1 step of Euler")
    plt.suptitle("Reflow", y=1.04)
    plt.show()


plot_reflow()

# %% [markdown]
# *What to see:* reflow takes $S$ down to about a hundredth. One step of the first flow sends everything to the middle
# of the data, as it must: at $t = 0$ the best guess of the velocity is the mean of the data minus where you stand. One
# step of the rectified flow gives the six blobs, a little joined. What the first flow did wrong (points between the
# blobs) the second has learned faithfully: it has never seen the data.

# %% [markdown]
# ## 4e. Why it works (5 points, written)
#
# Pairs $(x_0, x_1)$ come from some joint distribution, $t$ is uniform on $[0, 1]$ and independent of them, and
# $x_t = (1-t)\,x_0 + t\,x_1$ has the density $p_t$. Let $v^*(x, t) = \mathbb E[\,x_1 - x_0 \mid x_t = x\,]$ be the mean
# velocity of all lines through $x$ at time $t$. You may exchange derivatives and expectations, and take all functions
# as smooth and all boundary terms as 0.
#
# 1. Show that $\mathbb E\,\|v(x_t, t) - (x_1 - x_0)\|^2
#    = \mathbb E\,\|v(x_t, t) - v^*(x_t, t)\|^2 + \mathbb E\,\|v^*(x_t, t) - (x_1 - x_0)\|^2$ for every field $v$.
#    Which field minimises the loss of 4a?
# 2. Show that $p_t$ and $v^*$ obey the continuity equation
#    $\partial_t p_t(x) = -\nabla\!\cdot\big(p_t(x)\, v^*(x, t)\big)$. (Differentiate $\mathbb E f(x_t)$ for a test
#    function $f$.) What does this say about the samples that one gets by following $v^*$ from $x_0 \sim p_0$?
# 3. The smallest possible loss is not 0 in general. What is it, when is it 0, and what does that mean for the number
#    of solver steps? Two or three sentences.

# %% [markdown] tags=["written:4e", "points:5"]
# <!-- BEGIN SOLUTION -->
# **1.** Write $u = x_1 - x_0$ and add and subtract $v^*(x_t, t)$:
#
# $$\mathbb E\|v - u\|^2 = \mathbb E\|v - v^*\|^2 + \mathbb E\|v^* - u\|^2
# + 2\,\mathbb E\big\langle v(x_t, t) - v^*(x_t, t),\ v^*(x_t, t) - u \big\rangle .$$
#
# Condition the last term on $(x_t, t)$. The first factor is then fixed, and the mean of the second is
# $v^*(x_t, t) - \mathbb E[u \mid x_t, t] = 0$ (since $t$ is independent of the pairs, conditioning on $t$ as well only
# says which time is meant). So the cross term vanishes. Only the first term on the right depends on $v$; it is 0 at
# $v = v^*$, and wherever $p_t(x) > 0$ only there. The regression returns $v^*$.
#
# **2.** For a test function $f$, by the chain rule along each line, then by conditioning on $x_t$,
#
# $$\frac{d}{dt}\, \mathbb E f(x_t) = \mathbb E\big[\nabla f(x_t)\cdot (x_1 - x_0)\big]
# = \mathbb E\big[\nabla f(x_t)\cdot \mathbb E[x_1 - x_0 \mid x_t]\big]
# = \int \nabla f(x) \cdot v^*(x, t)\, p_t(x)\, dx .$$
#
# The left side is $\int f\, \partial_t p_t\, dx$, the right side by partial integration
# $-\int f\, \nabla\!\cdot(p_t v^*)\, dx$. As $f$ is arbitrary, the continuity equation holds. It is also the equation
# that the density of points obeys which start at $p_0$ and follow $dx/dt = v^*$, and for a smooth field its solution
# from a given $p_0$ is unique. So at each time these points have the density $p_t$, and at $t = 1$ that of the data.
# (Single points do not go where their line would have led them; only the distributions agree.)
#
# **3.** At $v = v^*$ the loss is $\mathbb E\,\|x_1 - x_0 - v^*(x_t, t)\|^2$, the mean conditional variance of
# the velocity given place and time (divided by $D$ in the convention of 4a). It is 0 exactly if place and time
# determine the velocity: if (almost surely) lines of different velocity never cross at the same time. Then each line is
# a path of the flow, the paths are straight and walked at constant speed, and a single step of Euler is exact.
#
# Rubric:
# * 2 points: part 1 (1 for expanding with the cross term, 1 for the cross term's vanishing by conditioning, with the
#   minimiser named).
# * 2 points: part 2 (1 for the derivative of $\mathbb E f(x_t)$ with the conditional expectation put in, 1 for the
#   partial integration and for saying that following $v^*$ keeps the marginals $p_t$).
# * 1 point: part 3 (half for the conditional variance, half for no crossings, with one exact step of Euler).
# <!-- END SOLUTION -->

# %% [markdown]
# # 5. A diffusion transformer (9 points)
#
# Today's image models are transformers: cut the image into patches, treat each as a token, and let blocks of attention
# work on them. What is special is how they are told the time: it does not come in as one more token but *sets the
# dials* of every layer. You build the three pieces: patches (5a), the block (5b), and the time (5c). The notebook puts
# them together.

# %% [markdown]
# ## 5a. Patches (3 points)
#
# An image (C, H, W) is cut into squares of $p \times p$ pixels. They are numbered as one reads, row by row, each row
# from the left: the patch in row $r$ and column $c$ of the patches is token $n = r\,\frac Wp + c$. Inside of a token
# the numbers are ordered by the pixel's row, then its column, then its channel, so that the channel runs fastest:
#
# $$\mathrm{token}[b,\ n,\ (i\,p + j)\,C + k] = x[b,\ k,\ r p + i,\ c p + j], \qquad
# 0 \le i, j < p, \quad 0 \le k < C .$$
#
# | symbol | code | shape |
# |---|---|---|
# | $x$ | `x` | (B, C, H, W); $p$ divides H and W, which need not be equal |
# | $p$ | `p` | an int |
# | tokens | `patchify(x, p)` | (B, HW/p², p²C) |
# | and back | `unpatchify(tokens, p, shape)`, with `shape` = (C, H, W) | (B, C, H, W) |
#
# *What goes wrong:* one `reshape` gives the right shape and the wrong contents: it cuts the image into strips. With a
# wrong order, a network trains nearly as well, and the weights of others are useless in it.


# %% tags=["answer:5a"]
def patchify(x: Tensor, p: int) -> Tensor:
    """Images (B, C, H, W) -> tokens (B, HW/p^2, p^2 C), one for each patch of p by p pixels."""
    # BEGIN SOLUTION
    B, C, H, W = x.shape
    x = x.reshape(B, C, H // p, p, W // p, p)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(B, (H // p) * (W // p), p * p * C)  # from (B, rows, columns, p, p, C)
    # END SOLUTION


def unpatchify(tokens: Tensor, p: int, shape: tuple[int, int, int]) -> Tensor:
    """Tokens (B, HW/p^2, p^2 C) -> images (B, C, H, W), with (C, H, W) = shape."""
    # BEGIN SOLUTION
    C, H, W = shape
    x = tokens.reshape(len(tokens), H // p, W // p, p, p, C)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(len(tokens), C, H, W)  # from (B, C, rows, p, columns, p)
    # END SOLUTION


# %% tags=["check"]
check("5a")

# %% [markdown]
# ## 5b. A block that listens to the time (4 points)
#
# A transformer's block adds to its stream $x$ (B, L, d) first attention, then a perceptron. In the **DiT** block
# (Peebles and Xie) a conditioning vector $c$ (B, d), made from the time and the class, sets a shift, a scale and a gate
# for each of the two: one linear layer gives all six vectors at once,
#
# $$(\beta_1, \gamma_1, g_1, \beta_2, \gamma_2, g_2) = \mathrm{Linear}(\mathrm{SiLU}(c)), \qquad
# \mathrm{modulate}(h, \beta, \gamma) = h\,(1 + \gamma) + \beta,$$
#
# $$x \leftarrow x + g_1\, A\big(\mathrm{modulate}(\mathrm{norm}(x), \beta_1, \gamma_1)\big), \qquad
# x \leftarrow x + g_2\, M\big(\mathrm{modulate}(\mathrm{norm}(x), \beta_2, \gamma_2)\big) .$$
#
# All products are element by element; each example has its own six vectors, the same for all of its tokens. $A$ is
# attention, $M$ a perceptron: `up`, GELU (the tanh approximation, `F.gelu(..., approximate="tanh")`), `down`.
#
# The **zero** of *adaLN-zero*: the linear layer that makes the six vectors starts at zero, weights and biases. Then all
# gates are 0, a new block passes on what it gets, however deep the stack, and training opens the gates as it needs
# them.
#
# Write `modulate`, the end of `__init__`, and `forward`. The layers and the attention are given (you build attention
# itself in the next problem set).
#
# | symbol | code | shape |
# |---|---|---|
# | stream | `x` | (B, L, d) |
# | $c$ | `c` | (B, d) |
# | the six vectors, in the order above | `self.modulation`, of `F.silu(c)` | (B, 6d) |
# | norm, without weights of its own | `self.norm` | (B, L, d) |
# | $A$ | `self.attention` | (B, L, d) |
# | $M$ | `self.up`, `self.down` | d -> 4d -> d |
#
# *What goes wrong:* at the start every gate is 0, so *any* block that is gated at all looks right, whatever stands
# behind the gates. The checks open them. And zero gates with zero weights *everywhere* never learn: only one of the
# factors of a product may start at 0.


# %% tags=["answer:5b"]
def modulate(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """h (B, L, d), scaled and shifted by vectors (B, d) that all tokens of an example share: (B, L, d)."""
    # BEGIN SOLUTION
    return h * (1 + scale[:, None]) + shift[:, None]
    # END SOLUTION


class DiTBlock(nn.Module):
    """A block of a diffusion transformer: the stream x (B, L, d), told by c (B, d), to (B, L, d)."""

    def __init__(self, d: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(d, elementwise_affine=False)
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.modulation = nn.Linear(d, 6 * d)
        # Start the modulation at zero.
        # BEGIN SOLUTION
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        # END SOLUTION

    def attention(self, h: Tensor) -> Tensor:
        """Self-attention over the tokens, given: (B, L, d) -> (B, L, d)."""
        B, L, d = h.shape
        heads = self.qkv(h).view(B, L, 3, self.num_heads, d // self.num_heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # (B, heads, L, d / heads) each
        attended = F.scaled_dot_product_attention(q, k, v)
        return self.out(attended.transpose(1, 2).reshape(B, L, d))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        # BEGIN SOLUTION
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.modulation(F.silu(c)).chunk(6, -1)  # (B, d) each
        x = x + gate_1[:, None] * self.attention(modulate(self.norm(x), shift_1, scale_1))
        hidden = F.gelu(self.up(modulate(self.norm(x), shift_2, scale_2)), approximate="tanh")  # (B, L, 4d)
        return x + gate_2[:, None] * self.down(hidden)
        # END SOLUTION


# %% tags=["check"]
check("5b")

# %% [markdown]
# ## 5c. A number as a vector (2 points)
#
# A network hardly notices the difference between $t = 500$ and $t = 510$ if time comes in as one number. So it is shown
# to it on many clocks, fast and slow. With $d$ even, and $i = 0, \dots, \frac d2 - 1$,
#
# $$\omega_i = P^{-i / (d/2)}, \qquad
# e(t) = \big[\cos(\omega_0\, s\,t), \dots, \cos(\omega_{d/2-1}\, s\,t),\
# \sin(\omega_0\, s\,t), \dots, \sin(\omega_{d/2-1}\, s\,t)\big] .$$
#
# The fastest clock turns once in $2\pi$ units of $s\,t$, the slowest in almost $2\pi P$. The **scale** $s$ is 1 where
# time counts steps, and about 1,000 where it runs in $[0, 1]$, as in flow matching.
#
# | symbol | code | shape |
# |---|---|---|
# | $t$ | `t` | (B,), float |
# | $d$ | `d`, even | an int |
# | $P$, $s$ | `max_period`, `scale` | numbers |
# | $e(t)$ | returned; cosines first | (B, d) |
#
# *What goes wrong:* almost every codebase has its own variant: sines first, the two interleaved, $d/2 - 1$ in
# the exponent. Each works as well as the others, until you load somebody's weights.


# %% tags=["answer:5c"]
def sinusoidal_embedding(t: Tensor, d: int, *, max_period: float = 10_000.0, scale: float = 1.0) -> Tensor:
    """Times t (B,) as vectors (B, d), cosines first."""
    # BEGIN SOLUTION
    i = torch.arange(d // 2, device=t.device, dtype=t.dtype)
    omega = torch.exp(-math.log(max_period) * i / (d // 2))  # (d/2,)
    angle = scale * t[:, None] * omega  # (B, d/2)
    return torch.cat([angle.cos(), angle.sin()], dim=-1)
    # END SOLUTION


# %% tags=["check"]
check("5c")

# %% [markdown]
# **Put together (needs 4a, 4b and all of 5).** A transformer of two blocks, 16 patches of 2 by 2 pixels, learns the
# digits by flow matching.


# %%
class TinyDiT(nn.Module):
    """The velocity of images x (B, 1, 8, 8) at times t (B,), by a transformer on patches of 2 by 2 pixels."""

    def __init__(self, d: int = 48, depth: int = 2, num_heads: int = 4) -> None:
        super().__init__()
        self.d = d
        self.embed = nn.Linear(4, d)
        self.position = nn.Parameter(0.5 * torch.randn(16, d))
        self.time = nn.Sequential(nn.Linear(d, d), nn.SiLU(), nn.Linear(d, d))
        self.blocks = nn.ModuleList(DiTBlock(d, num_heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, 4)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        c = self.time(sinusoidal_embedding(t, self.d, scale=1000.0))  # (B, d)
        h = self.embed(patchify(x, 2)) + self.position  # (B, 16, d)
        for block in self.blocks:
            h = block(h, c)
        return unpatchify(self.head(self.norm(h)), 2, (1, 8, 8))


def train_dit(steps: int = 350) -> tuple[TinyDiT, list[float]]:
    torch.manual_seed(0)
    net, images = TinyDiT().to(device), digit_images[:, None].to(device)  # (1348, 1, 8, 8)
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    losses = []
    for _ in range(steps):
        x_1 = images[torch.randint(len(images), (64,), device=device)]
        loss = flow_matching_loss(net, torch.randn_like(x_1), x_1, torch.rand(64, device=device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return net.requires_grad_(False), losses


# %%
def plot_dit() -> None:
    dit, dit_losses = train_dit()
    torch.manual_seed(7)
    plt.figure(figsize=(6, 3))
    smooth = torch.tensor(dit_losses).unfold(0, 20, 20).mean(1)
    plt.plot(10 + 20 * np.arange(len(smooth)), smooth)
    plt.xlabel("step")
    plt.ylabel("flow matching loss")
    plt.title("Training the transformer")
    plt.show()
    path = heun(dit, torch.randn(12, 1, 8, 8, device=device), torch.linspace(0, 1, 21, device=device))
    rows = [path[i, :, 0] for i in (0, 8, 14, 20)]
    show_rows(rows, ["t = 0", "t = 0.4", "t = 0.7", "t = 1"], "Twelve digits on their way, 20 steps of Heun")


plot_dit()

# %% [markdown]
# *What to see:* the loss starts near 2 (gates closed, no patch knows of another) and falls to about 0.6. It does not go
# to 0: lines through one place have many velocities, and their variance stays (4e). The digits form out of noise,
# coarse before fine; after some seconds of training many of them can be read, not all.

# %% [markdown]
# # Submit
#
# Restart the kernel, run everything from the top, **save the notebook**, then run the cell below.

# %% tags=["submit"]
submit()
