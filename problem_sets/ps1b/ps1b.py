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

# %% tags=["setup"]
import torch

device = "cuda" if torch.cuda.is_available() else "cpu"

# %%
import math
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

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
