r"""Classifier-free guidance: one network learns the noise with and without the label, and follows the difference.

While training, the label is replaced by a null class $\varnothing$ now and then (`label_dropout`), so that the same
network knows $\epsilon_\theta(x_t, c)$ and $\epsilon_\theta(x_t, \varnothing)$. By Bayes' rule their difference is, up
to a factor, the gradient of $\log p_t(c|x)$: a classifier that nobody trained. Sampling goes further that way,

$$\tilde\epsilon = (1 + w)\,\epsilon_\theta(x_t, c) - w\,\epsilon_\theta(x_t, \varnothing) \quad (6), \qquad
  -\tilde\epsilon / \sqrt{1-\bar\alpha_t} = \nabla_x \log\big[p_t(x)\,p_t(c|x)^{1+w}\big].$$

| paper | code | shape |
|---|---|---|
| $x_t, t$ | `x_t`, `t` (1..T; x_0 is data) | (B, *shape), (B,) |
| $c$ | `y` | (B,) int64 in 0..num_classes - 1 |
| $\varnothing$ | `null` = num_classes, or `y=None` | (B,) |
| $w$ | `guidance` | scalar |
| $p_{uncond}$ | `label_dropout` | scalar |

Two conventions of w are about. Here (and in the paper) w = 0 is the plain conditional model and w = -1 the
unconditional one; others (Imagen, diffusers' `guidance_scale`) write the null prediction plus s times the difference,
which is ours with s = 1 + w. The guided score is that of the product above at each t, but the product at t is not
what noising the product at 0 gives: samples follow no known density, and get purer and less diverse as w grows.

Data range as in `ddpm.py`. Reference: Ho, Salimans 2022, arXiv:2207.12598. We differ: sampling takes DDIM steps
(`ddim.py`), and both predictions come from one call on a batch twice as large.

Where students go wrong: without label dropout the null class is an untrained vector and guidance amplifies noise;
class 0 taken as null; the guided prediction used in the loss; x_0 clipped before the two are combined, not after.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from genmodels.diffusion.ddim import DDIM
from genmodels.diffusion.ddpm import DDPM
from genmodels.errors import UserError


class GuidedDDPM(DDIM):
    """A class-conditional diffusion model that can lean on its label: `guidance` is w, `label_dropout` p_uncond.

    The other options are those of `DDPM`. An injected `net` gets the index `num_classes` for "no class".
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        num_classes: int | None = None,
        guidance: float = 1.0,
        label_dropout: float = 0.1,
        num_steps: int = 1000,
        schedule: str = "linear",
        prediction: str = "eps",
        variance: str = "posterior",
        clip: bool | None = None,
        width: int | None = None,
        depth: int = 3,
        frequencies: int = 0,
        net: nn.Module | None = None,
    ) -> None:
        if not num_classes:
            raise UserError("guidance needs labelled data: num_classes must be at least 1")
        super().__init__(
            shape,
            num_steps=num_steps,
            schedule=schedule,
            prediction=prediction,
            variance=variance,
            clip=clip,
            width=width,
            depth=depth,
            frequencies=frequencies,
            num_classes=num_classes,
            net=net,
        )
        self.null, self.guidance, self.label_dropout = num_classes, guidance, label_dropout

    def with_guidance(self, w: float) -> GuidedDDPM:
        """The same model (weights shared) at another w, for any sampler that takes a model."""
        other = copy.copy(self)
        other.guidance = w
        return other

    def loss(
        self, x: Tensor, y: Tensor | None = None, *, t: Tensor | None = None, noise: Tensor | None = None
    ) -> Tensor:
        """The DDPM's loss with each label y (B,) dropped with probability `label_dropout`; all of them without y."""
        dropped = torch.rand(len(x), device=x.device) < self.label_dropout  # (B,)
        y = torch.full_like(dropped, self.null, dtype=torch.int64) if y is None else y.masked_fill(dropped, self.null)
        return super().loss(x, y, t=t, noise=noise)

    def denoise(self, x_t: Tensor, t: Tensor | int, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The guided guess of (x_0, eps), both (B, *shape); without y the unconditional one."""
        null = torch.full((len(x_t),), self.null, device=x_t.device)
        if y is None or self.guidance == 0:
            return super().denoise(x_t, t, null if y is None else y)
        both_t = torch.cat([t, t]) if isinstance(t, Tensor) and t.ndim > 0 else t
        both = self(torch.cat([x_t, x_t]), both_t, torch.cat([y, null]))  # (2B, *shape)
        conditional, unconditional = both.chunk(2)
        # Eq. 6. x_0 and v are affine in eps at a given x_t, and the weights sum to 1: it holds for each of the three.
        return self.split((1 + self.guidance) * conditional - self.guidance * unconditional, x_t, t)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        y: Tensor | None = None,
        *,
        guidance: float | None = None,
        steps: int = 50,
        eta: float = 0.0,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Draw (n, *shape) of classes y (n,), uniformly drawn ones without y; `guidance` overrides the model's w."""
        model = self if guidance is None else self.with_guidance(guidance)
        return super(GuidedDDPM, model).sample(n, y, steps=steps, eta=eta, generator=generator, noise=noise)

    def vlb_terms(self, x: Tensor, y: Tensor | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        """The bound's terms (B, T + 1) for the model that was trained: guidance is a sampler's, and bounds nothing."""
        return DDPM.vlb_terms(self.with_guidance(0.0), x, y, generator=generator)


if __name__ == "__main__":
    from genmodels.cli import run_recipe

    run_recipe("guidance")
