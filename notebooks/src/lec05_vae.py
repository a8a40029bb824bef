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
# # A5. Variational autoencoders: how do you fit a model whose likelihood is an integral that nobody can compute?
#
# Lecture A3 fitted mixtures: a handful of hidden components, whose posterior is a softmax. Now the hidden variable is a
# vector of real numbers, a **code**, and a neural network turns it into an image. The likelihood becomes an integral over
# all codes, and no formula gives it. We derive a lower bound that one can compute from a single random code, train both
# halves of the model on it, look at what the codes have come to mean, measure how much the bound gives away, and break
# the model in three ways that look like bad luck and are bugs.
#
# Read beside it: [`latent/vae.py`](../genmodels/latent/vae.py) and [`latent/iwae.py`](../genmodels/latent/iwae.py).
# Papers: [Kingma and Welling 2014](https://arxiv.org/abs/1312.6114),
# [Burda, Grosse and Salakhutdinov 2016](https://arxiv.org/abs/1509.00519). Do it yourself:
# [problem set 2, section 1](../problem_sets/ps2/ps2.ipynb). Before it: [lecture A3](../notebooks/lec03_mixtures.ipynb).

# %%
import math

import torch
from matplotlib.figure import Figure
from torch import Tensor

from genmodels import data as datasets
from genmodels.latent import iwae
from genmodels.latent.iwae import IWAE
from genmodels.latent.vae import VAE, kl_to_standard_normal
from genmodels.notebook import Sizes, show, source
from genmodels.plotting import codes, curves, images
from genmodels.runs import train
from genmodels.training import Trainer, TrainSettings

device = "cuda" if torch.cuda.is_available() else "cpu"
pick = Sizes(large=device == "cuda")  # the one switch: larger networks and longer training where a GPU is there
_ = torch.manual_seed(0)

# %% [markdown]
# ## 1. A model with a continuous hidden cause
#
# To make an image $x \in \{0, 1\}^D$ of black and white pixels, first draw a code $z \in \mathbb R^Z$ from the standard
# normal distribution, the **prior** $p(z) = \mathcal N(0, I)$. A network with the parameters $\theta$, the **decoder**,
# turns it into $D$ numbers $a = a_\theta(z)$, the logits. Each pixel is then a coin with probability
# $s(a_d) = 1 / (1 + e^{-a_d})$ of being white:
#
# $$\log p_\theta(x \mid z) = \sum_{d=1}^D x_d \log s(a_d) + (1 - x_d) \log (1 - s(a_d)). \tag{1}$$
#
# Given the code, pixels are independent. Seen without it they are not, since all of them depend on the same $z$: that is
# what the code is for. By the sum rule the probability of an image is
#
# $$p_\theta(x) = \int p_\theta(x \mid z)\, p(z)\, dz. \tag{2}$$
#
# | symbol | meaning | code | shape |
# |---|---|---|---|
# | $x$ | a batch of B images | `x` | (B, 1, 8, 8), so $D = 64$ |
# | $z$ | their codes | `z` | (B, Z) |
# | $a_\theta(z)$ | the decoder's logits | `decoder(z)` | (B, D) |
# | $\mu_\phi(x), \log\sigma_\phi^2(x)$ | what the encoder says (section 2) | `mu, logvar = encode(x)` | (B, Z) each |
# | $\epsilon$ | standard normal noise (section 4) | `noise` | (B, Z) |
# | $\mathcal L(x)$ | the bound (section 2), in nats | `elbo(x)` | (B,) |
#
# Equation (1) in code works on logits, which neither overflow nor end in $\log 0$:

# %%
source(VAE.log_likelihood, "if self.likelihood", "return -F.binary")

# %% [markdown]
# Why not simply average $p_\theta(x \mid z)$ over many draws of $z$ from the prior? That is an unbiased estimate of (2).
# But an image is explained by a tiny region of codes, and nearly all draws miss it: section 6 measures how badly.
#
# ## 2. The bound
#
# Let somebody propose codes that fit the image: a distribution $q(z)$, any one that is positive everywhere. Multiply and
# divide by it. The logarithm is concave, so by **Jensen's inequality** the logarithm of an average is at least the
# average of the logarithms:
#
# $$\log p_\theta(x) = \log \mathbb E_{q(z)} \left[ \frac{p_\theta(x \mid z)\, p(z)}{q(z)} \right]
# \;\ge\; \mathbb E_{q(z)} \left[ \log \frac{p_\theta(x \mid z)\, p(z)}{q(z)} \right] =: \mathcal L(x). \tag{3}$$
#
# This is the **evidence lower bound** (ELBO). What does it cost? By the product rule
# $p_\theta(x \mid z)\, p(z) = p_\theta(x)\, p_\theta(z \mid x)$. Put this in, and $\log p_\theta(x)$ leaves the average:
#
# $$\mathcal L(x) = \log p_\theta(x) - \mathrm{KL}\big(q(z) \,\|\, p_\theta(z \mid x)\big), \qquad
# \mathrm{KL}(q \,\|\, p) = \mathbb E_q \Big[ \log \frac qp \Big] \ge 0. \tag{4}$$
#
# The gap is the distance from the proposal to the true posterior of the code. In lecture A3, $q$ was a table, computed
# afresh for each point. Here a second network with the parameters $\phi$, the **encoder**, looks at the image and names
# a Gaussian, $q_\phi(z \mid x) = \mathcal N(\mu_\phi(x), \mathrm{diag}\, \sigma_\phi^2(x))$: the cost of inference is
# shared by all images (**amortised**). Splitting the logarithm in (3) gives the form in which it is computed:
#
# $$\mathcal L(x) = \underbrace{\mathbb E_{q_\phi(z \mid x)}[\log p_\theta(x \mid z)]}_{\text{reconstruction}}
# - \underbrace{\mathrm{KL}\big(q_\phi(z \mid x) \,\|\, p(z)\big)}_{\text{price of the code}}. \tag{5}$$
#
# The first term wants codes from which the image can be recovered. The second charges, in nats, for every bit by which
# the code says more than the prior does.
#
# ## 3. The price of a code has a formula
#
# For one dimension with $q = \mathcal N(\mu, \sigma^2)$ and $p = \mathcal N(0, 1)$,
#
# $$\log q(z) - \log p(z) = -\tfrac12 \log \sigma^2 - \frac{(z - \mu)^2}{2\sigma^2} + \frac{z^2}{2},$$
#
# since both have the same $-\tfrac12 \log 2\pi$. Take the average under $q$. By the definition of the variance
# $\mathbb E (z - \mu)^2 = \sigma^2$, and $\mathbb E z^2 = \mu^2 + \sigma^2$. Hence
#
# $$\mathrm{KL} = \tfrac12 \big( \mu^2 + \sigma^2 - 1 - \log \sigma^2 \big), \tag{6}$$
#
# and as the dimensions are independent, the logarithms, and so the divergences, add up.

# %%
source(kl_to_standard_normal, "return")

# %%
mu, logvar = torch.tensor([0.8, -0.3]), torch.tensor([-1.0, 0.4])
z = mu + (0.5 * logvar).exp() * torch.randn(400_000, 2)
log_q = -0.5 * ((z - mu) ** 2 / logvar.exp() + logvar).sum(1)
log_p = -0.5 * z.square().sum(1)
print(f"formula (6): {kl_to_standard_normal(mu, logvar):.4f} nats")
print(f"average of log q - log p over 400,000 draws: {(log_q - log_p).mean():.4f} nats")

# %% [markdown]
# ## 4. A gradient through a random draw
#
# The reconstruction term is an average over $q_\phi$, and we must differentiate it with respect to $\phi$, which is what
# is drawn from. Write the draw as a function of the parameters and of noise that does not depend on them:
#
# $$z = \mu_\phi(x) + \sigma_\phi(x) \odot \epsilon, \qquad \epsilon \sim \mathcal N(0, I), \tag{7}$$
#
# with $\odot$ for the product element by element. Now
# $\nabla_\phi \mathbb E_\epsilon[f(\mu_\phi + \sigma_\phi \odot \epsilon)] = \mathbb E_\epsilon[\nabla_\phi f(\mu_\phi +
# \sigma_\phi \odot \epsilon)]$: the gradient of one draw is an unbiased estimate. Lecture A3 measured how much less noise
# this **reparameterised** gradient has than the one that only uses values of $f$.

# %%
source(VAE.reparameterize)

# %% [markdown]
# That is all. One code per image estimates (5), and the training loss is its negative, averaged over the batch. (A grey
# pixel is taken as the probability of a white one, and drawn afresh at each step.)

# %%
source(VAE.elbo)

# %%
source(VAE.loss)

# %% [markdown]
# Before we train, does (4) hold? With a code of one dimension the integral (2) is a sum over a fine grid, so everything
# can be computed. An untrained network on made-up data will do:

# %%
small = VAE((4,), latent=1, hidden=(8,), likelihood="gaussian").double()
x = torch.randn(3, 4).double()
with torch.no_grad():
    grid = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None]  # (G, 1): codes
    step = float(grid[1] - grid[0])
    log_joint = small.log_likelihood(x[:, None], grid) - 0.5 * grid[:, 0] ** 2 - 0.5 * math.log(2 * math.pi)  # (3, G)
    log_p = log_joint.logsumexp(1) + math.log(step)  # equation (2)
    mu, logvar = small.encode(x)
    log_q = -0.5 * ((grid[:, 0] - mu) ** 2 / logvar.exp() + logvar + math.log(2 * math.pi))
    bound = (log_q.exp() * (log_joint - log_q)).sum(1) * step  # equation (3)
    gap = (log_q.exp() * (log_q - (log_joint - log_p[:, None]))).sum(1) * step  # the divergence in (4)
for i in range(3):
    print(
        f"log p(x) = {log_p[i]:.4f}   bound = {bound[i]:.4f}   KL to the posterior = {gap[i]:.4f}   bound + KL = {bound[i] + gap[i]:.4f}"
    )

# %% [markdown]
# ## 5. Training, and what the codes mean
#
# Images of handwritten digits, 8 by 8 pixels. First with a code of two numbers, so that we can look at all of it.

# %%
steps = pick(3000, large=20_000, smoke=30)
flat = train("vae", data="digits", steps=steps, options={"latent": 2}, device=device)
digits = flat.data
vae2 = flat.model.cpu()
show(
    curves(flat.log, title="two-dimensional codes: the negative bound, nats per image"),
    "Most of the way is done in the first few hundred steps. The curve stays rough, because each step sees other "
    "images, other binary pixels and other noise.",
)

# %%
with torch.no_grad():
    mu, _ = vae2.encode(digits.train)
    quantiles = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(0.03, 0.97, 15))
    z = torch.stack(torch.meshgrid(quantiles, quantiles.flip(0), indexing="xy"), -1).reshape(-1, 2)
    decoded = vae2.decode(z)
show(
    codes(mu, digits.labels, title="mean codes of the training images"),
    "Each dot is an image, coloured by its digit, which the model never saw. Digits have found regions of their own, "
    "packed round the origin: a region far out would be expensive under (6). Where colours meet, the model cannot tell "
    "what it sees.",
)
show(
    images(decoded, columns=15, title="the same plane, decoded"),
    "What the decoder draws at each place of the plane (equal steps in probability). One digit turns into the next "
    "without a jump: where two digits meet, the images could be either.",
)

# %% [markdown]
# Two numbers are too few for ten digits in many styles. With sixteen:

# %%
run = train("vae", data="digits", steps=steps, device=device)
vae = run.model.cpu().eval()
test = torch.bernoulli(digits.test, generator=torch.Generator().manual_seed(1))  # binary, as (1) wants it
g = torch.Generator().manual_seed(2)
with torch.no_grad():
    for name, model in (("2 numbers", vae2), ("16 numbers", vae)):
        noise = torch.randn(len(test), model.latent, generator=g)
        price = kl_to_standard_normal(*model.encode(test)).mean()
        bound = model.elbo(test, noise).mean()
        print(
            f"{name:10s}: bound {bound:.1f} nats = reconstruction {bound + price:.1f} - price of the code {price:.1f}"
        )
    some = test[:12]
    pairs = torch.cat([some, vae.reconstruct(some)])
show(
    images(pairs, columns=12, title="test images and their reconstructions"),
    "Above: images that the model has not seen, with binary pixels. Below: what the decoder makes of their mean codes. "
    "Reconstructions are smoother: they are probabilities, and they show what the code has kept.",
)
show(
    images(vae.sample(24, generator=g), columns=12, title="24 draws: a code from the prior, then the decoder"),
    "New digits, from nothing but noise. Compare them with the draws of the mixture in lecture A3: pixels of a stroke "
    "now vary together. A few are no digit, as the prior also has room between the regions.",
)

# %%
with torch.no_grad():
    ends = [int((digits.test_labels == d).nonzero()[0]) for d in (0, 6, 1, 7)]
    mu = vae.encode(test[ends])[0]  # (4, 16)
    weight = torch.linspace(0, 1, 12)[:, None]
    paths = torch.cat([(1 - weight) * a + weight * b for a, b in ((mu[0], mu[1]), (mu[2], mu[3]))])
    between = vae.decode(paths)
show(
    images(between, columns=12, title="straight lines between two codes"),
    "From a 0 to a 6, and from a 1 to a 7. All the images on the way look like digits; a fade from one picture into the "
    "other would show both at once.",
)

# %% [markdown]
# ## 6. How much does the bound give away?
#
# Average $k$ importance weights *inside* the logarithm (Burda et al., equation 8). Jensen's inequality again says that
# this is a lower bound, and the more terms the average has, the less it varies and the less is lost:
#
# $$\mathcal L_k(x) = \mathbb E \Big[ \log \frac1k \sum_{i=1}^k w_i \Big], \qquad
# w_i = \frac{p_\theta(x \mid z_i)\, p(z_i)}{q_\phi(z_i \mid x)}, \quad z_i \sim q_\phi(z \mid x), \tag{8}$$
#
# with $\mathcal L_1 = \mathcal L$, $\mathcal L_k \le \mathcal L_{k+1}$, and $\mathcal L_k \to \log p_\theta(x)$ as
# $k \to \infty$. In code the logarithms of the weights are averaged by log-sum-exp. With (7), the exponent of
# $q_\phi(z_i \mid x)$ is just the noise:

# %%
source(iwae.log_weights, "mu, logvar", "return")

# %%
source(IWAE.elbo, "# eq. 8", "# eq. 8")

# %%
ks = pick([1, 3, 10, 30, 100, 300, 1000], large=[1, 3, 10, 30, 100, 300, 1000, 3000], smoke=[1, 10])
part = test[: pick(150, large=1000, smoke=10)]
generator = torch.Generator().manual_seed(3)
by_encoder = [float(vae.importance_bound(part, k, generator=generator).mean()) if isinstance(vae, IWAE)
              else float(iwae.importance_bound(vae, part, k, generator=generator).mean()) for k in ks]  # fmt: skip
with torch.no_grad():
    prior = torch.randn(max(ks), vae.latent, generator=generator)
    log_like = torch.stack(
        [vae.log_likelihood(image[None], prior) for image in part]
    )  # (N, k): weights under the prior
    by_prior = [float((log_like[:, :k].logsumexp(1) - math.log(k)).mean()) for k in ks]
figure = Figure(figsize=(5, 3))
axes = figure.add_subplot()
print("bounds with the encoder's codes:", {k: round(v, 2) for k, v in zip(ks, by_encoder, strict=True)})
axes.semilogx(ks, by_encoder, "o-", color="#2a6f97", label="codes proposed by the encoder")
axes.semilogx(ks, by_prior, "s--", color="#e07a5f", label="codes drawn from the prior")
axes.set(xlabel="codes per image, k", ylabel="bound on log p(x), nats")
axes.legend(frameon=False, fontsize=8)
show(
    figure,
    "Blue: with more codes the bound rises and levels off, near the true log-likelihood; the distance from its first "
    f"point to its last, {by_encoder[-1] - by_encoder[0]:.1f} nats, is about what the single-code bound gives away. "
    "Orange: codes drawn from the prior become useful only when there are about $e^{\\mathrm{price}}$ of them, the price "
    f"being that of section 5, in nats: here about $e^{{{price:.1f}}} \\approx {math.exp(price):.0f}$. On 28 by 28 digits "
    "the price is some 25 nats, and $e^{25}$ is 70 thousand million. This is what the encoder is for.",
)

# %% [markdown]
# ## 7. What goes wrong, and why
#
# Three faults that every second project has had. Each changes the loss in one place; the picture shows reconstructions
# (rows 1 and 2), draws from the prior (row 3), and how many nats each of the sixteen numbers of the code carries.


# %%
class MeanOverPixels(VAE):
    """The likelihood is averaged over the 64 pixels, the KL is summed: the price counts 64 times too much."""

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        x = torch.bernoulli(x)
        mu, logvar = self.encode(x)
        log_likelihood = self.log_likelihood(x, self.reparameterize(mu, logvar))
        return (kl_to_standard_normal(mu, logvar) - log_likelihood / 64).mean()


class NoGradientThroughCode(VAE):
    """The code is cut off from the graph: the encoder never hears from the decoder."""

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        x = torch.bernoulli(x)
        mu, logvar = self.encode(x)
        z = self.reparameterize(mu, logvar).detach()
        return (kl_to_standard_normal(mu, logvar) - self.log_likelihood(x, z)).mean()


class NoPrice(VAE):
    """The KL is left out: an autoencoder."""

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        x = torch.bernoulli(x)
        return -self.log_likelihood(x, self.reparameterize(*self.encode(x))).mean()


def trained(kind: type[VAE]) -> VAE:
    """The same network and settings as above, for a third of the steps."""
    torch.manual_seed(0)
    model = kind((1, 8, 8), latent=16, hidden=(256, 128))
    settings = TrainSettings(steps=pick(1000, large=5000, smoke=20), batch_size=128, lr=3e-3, schedule="cosine")
    Trainer(model, datasets.load("digits"), settings, seed=0, device=torch.device(device)).run(label=kind.__name__)
    return model.cpu().eval()


@torch.no_grad()
def post_mortem(model: VAE) -> Figure:
    figure = Figure(figsize=(8.5, 2.6))
    left, right = figure.subplots(1, 2, width_ratios=(2, 1))
    rows = torch.cat([some, model.reconstruct(some), model.sample(12, generator=torch.Generator().manual_seed(5))])
    canvas = rows.view(3, 12, 8, 8).permute(0, 2, 1, 3).reshape(24, 96)
    left.imshow(canvas, cmap="gray", vmin=0, vmax=1)
    left.set(xticks=[], yticks=[3.5, 11.5, 19.5], yticklabels=["image", "reconstruction", "draw"])
    mu, logvar = model.encode(test)
    nats = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).mean(0).sort(descending=True).values
    right.bar(range(16), nats.tolist(), color="#2a6f97")
    right.set(xlabel="number of the code, busiest first", ylabel="nats", ylim=(0, max(1.0, 1.05 * float(nats.max()))))
    figure.tight_layout()
    return figure


show(
    post_mortem(vae),
    "The healthy model, for comparison: reconstructions follow the images, draws look like digits, and several numbers of "
    "the code are at work. Those at 0 equal the prior whatever the image is: the model found that it does not need them.",
)

# %%
MEAN_OVER_PIXELS = True
if MEAN_OVER_PIXELS:
    show(
        post_mortem(trained(MeanOverPixels)),
        "**Posterior collapse.** With the likelihood averaged over pixels, a nat of code must save 64 nats of pixels to "
        "be worth its price. None does. The encoder says N(0, I) for every image, the decoder ignores the code, and "
        "every reconstruction and draw is the average digit.",
    )

# %%
NO_GRADIENT_THROUGH_CODE = True
if NO_GRADIENT_THROUGH_CODE:
    show(
        post_mortem(trained(NoGradientThroughCode)),
        "The same picture, for another reason. The encoder's only gradient comes from the price, which it pays least "
        "by saying nothing. A forgotten `detach`, a `torch.no_grad`, or drawing with `Normal(mu, std).sample()` "
        "in place of `.rsample()` does it, and no error is raised.",
    )

# %%
NO_PRICE = True
if NO_PRICE:
    show(
        post_mortem(trained(NoPrice)),
        "The opposite: excellent reconstructions, worthless draws. Codes are free, so the encoder spreads them over "
        "as wide a space as it likes (look at the nats) and the prior, from which draws take their codes, hits the "
        "empty space between them.",
    )

# %% [markdown]
# ## 8. Exercises
#
# **1.** What are encoder, bound and gap if the decoder ignores the code altogether, $p_\theta(x \mid z) = p_\theta(x)$?
#
# <details><summary>Answer</summary>
#
# The posterior equals the prior, so $q = \mathcal N(0, I)$ makes the gap in (4) zero and the bound $\log p_\theta(x)$
# itself. That is why collapse is a trap: it is a perfectly tight bound, on a poor model.
#
# </details>
#
# **2.** A code number has $\mu = 1$ and $\sigma = 0.1$ for some image. How many nats does it cost? How many bits?
#
# <details><summary>Answer</summary>
#
# By (6), $\tfrac12 (1 + 0.01 - 1 + 4.605) = 2.31$ nats, which is $2.31 / \log 2 = 3.33$ bits.
#
# </details>
#
# **3.** Show that the average of the price over all data, $\mathbb E_x\, \mathrm{KL}(q(z \mid x) \,\|\, p(z))$, is at
# least the mutual information between image and code under $q$. When is it equal?
#
# <details><summary>Answer</summary>
#
# With the average posterior $q(z) = \mathbb E_x\, q(z \mid x)$, write
# $\log \frac{q(z \mid x)}{p(z)} = \log \frac{q(z \mid x)}{q(z)} + \log \frac{q(z)}{p(z)}$. The average of the first term is
# the mutual information, that of the second is $\mathrm{KL}(q(z) \,\|\, p(z)) \ge 0$. They are equal if the average
# posterior is the prior; then draws from the prior find only codes that some image uses.
#
# </details>
#
# **4.** Prove $\mathcal L_1 \le \mathcal L_2$ in (8).
#
# <details><summary>Answer</summary>
#
# $\log \frac{w_1 + w_2}2 \ge \frac12 (\log w_1 + \log w_2)$, since the logarithm is concave. Take the average over
# independent $z_1, z_2$: the right side becomes $\mathcal L_1$ and the left side is $\mathcal L_2$. The same argument with
# averages over subsets of size $k$ shows $\mathcal L_k \le \mathcal L_{k+1}$.
#
# </details>
#
# **5.** Change `latent` to 1, 4 and 64 and train. Which bounds do you get, and how many numbers of the code stay at 0
# nats?
#
# <details><summary>Answer</summary>
#
# After 3,000 steps we found about -24.7 nats with 1, -23.6 with 2, -22.9 with 4, and no more from there on, within the
# noise of a tenth. With 64, five numbers carried more than 0.05 nats and the others stayed at the prior. A VAE chooses
# how many of its code's numbers it uses; unused ones cost nothing.
#
# </details>
#
# **6.** Train `iwae` (`train("iwae", data="digits", ...)`) and repeat the picture of section 6. Why does its curve start
# lower and end higher?
#
# <details><summary>Answer</summary>
#
# It is trained on $\mathcal L_k$, where one good code among $k$ is enough. Its encoder may therefore propose widely, which
# costs at $k = 1$, and its decoder is free to use posteriors that no single Gaussian fits, which pays at large $k$.
#
# </details>
#
# ## Where to go on
#
# * [`latent/vae.py`](../genmodels/latent/vae.py), with its tests ([`test_vae.py`](../tests/latent/test_vae.py)), which hold
#   the bound to a quadrature and to the exact linear case; [`latent/iwae.py`](../genmodels/latent/iwae.py).
# * Build it yourself: [problem set 2](../problem_sets/ps2/ps2.ipynb), section 1.
# * Next: an encoder that is a formula, and noise in place of codes: [lecture A10](../notebooks/lec10_diffusion.ipynb),
#   diffusion models, where the same bound returns with a thousand steps.
