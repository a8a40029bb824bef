r"""Wasserstein GAN with gradient penalty: the critic measures a distance, so the generator always has a slope.

Where data and samples do not overlap, the Jensen–Shannon divergence is log 2 whatever the gap, and a good
discriminator gives no gradient. The Wasserstein-1 distance shrinks with the gap. By Kantorovich–Rubinstein duality it
is a maximum over functions that nowhere climb faster than 1 per unit of length,

    W(p, q) = max_{‖D‖_Lip ≤ 1}  E_data[D(x)] − E_z[D(G(z))]                            (Gulrajani et al., eq. 2)

Along the straight lines on which the optimal plan moves mass, the best D climbs at exactly 1 (their Proposition 1).
So slope 1 is asked for at random points between data and samples, in place of the Lipschitz bound:

    L = E_z[D(x̃)] − E_data[D(x)] + λ E[(‖∇D(x̂)‖ − 1)²],   x̂ = u x + (1 − u) x̃, u ~ U[0, 1]           (eq. 3)

| symbol | name | shape |
|---|---|---|
| D(x) | `critic(x)` | (B,), any real number: no sigmoid |
| x̃ = G(z) | `fake` | (B, *shape) |
| x̂ | `x_hat` | (B, *shape) |
| u (ε there) | `u` | (B,), one for each example |
| λ | `penalty` | float, 10 in the paper, 0.1 in its authors' code for points |
| n_critic | `n_critic` | critic's steps for one of the generator |

A batch x serves all n_critic steps of the critic, each with fresh z and u, and the generator then takes one step with
fresh z: the paper draws fresh data for each, which we leave to the next batch.

Data range and time: images in [0, 1], where G ends in a sigmoid; points in natural units, or times `data_scale`.
−(critic loss) without the penalty estimates W(p, q) in units of the data, and falls as the samples get better.

Reference: Gulrajani et al. 2017 (arXiv:1704.00028), after Arjovsky et al. 2017 (arXiv:1701.07875).

Where students go wrong: the norm is one for each example, not one for the whole batch; without `create_graph` the
penalty is a constant and trains nothing; batch norm in the critic makes D(x̂) depend on its neighbours; u has to be
one number per example, else x̂ fills a box instead of a line; and a critic that is not near its optimum points the
generator nowhere, hence n_critic > 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from genmodels.errors import UserError
from genmodels.model import GenerativeModel, check_batch
from genmodels.nets.adversarial import discriminator_network, frozen, generator_network, input_gradient


class WGANGP(GenerativeModel):
    """A generator and a critic for points (D,) or images (C, H, W).

    `hidden` are the widths of both perceptrons, `width` the channels of both image networks. Networks of your own
    may be given: `G` maps (B, latent) to (B, *shape), `D` maps (B, *shape) to (B, 1) or (B,).
    """

    def __init__(
        self,
        shape: Sequence[int],
        latent: int = 2,
        hidden: Sequence[int] = (128, 128, 128),
        *,
        penalty: float = 10.0,
        n_critic: int = 5,
        width: int = 32,
        data_scale: float = 1.0,
        G: nn.Module | None = None,
        D: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if n_critic < 1:
            raise UserError(f"the critic takes at least one step, got n_critic = {n_critic}")
        self.shape, self.latent, self.penalty, self.n_critic = tuple(shape), latent, penalty, n_critic
        self.G = G or generator_network(self.shape, latent, hidden, width=width, data_scale=data_scale)
        self.D = D or discriminator_network(self.shape, hidden, width=width, data_scale=data_scale)

    def critic(self, x: Tensor) -> Tensor:
        """D(x) (B,) at x (B, *shape): high where x looks like data."""
        values: Tensor = self.D(x)
        return values.reshape(len(x))

    def critic_loss(self, x: Tensor, *, noise: Tensor | None = None, u: Tensor | None = None) -> Tensor:
        """Eq. 3 at data x (B, *shape) and as many samples; `noise` is (B, latent), `u` (B,).

        Differentiable in D's parameters only.
        """
        check_batch(x, self.shape)
        with torch.no_grad():
            fake = self.G(self._noise(len(x)) if noise is None else noise)  # (B, *shape)
        real_values, fake_values = self.critic(torch.cat([x, fake])).chunk(2)  # (B,), (B,): one pass for both
        gap = real_values.mean() - fake_values.mean()
        return -gap + self.penalty * self.gradient_penalty(x, fake, u=u)

    @torch.enable_grad()  # the penalty is made of a gradient, also where the caller wants none
    def gradient_penalty(self, x: Tensor, fake: Tensor, *, u: Tensor | None = None) -> Tensor:
        """E[(‖∇D(x̂)‖ − 1)²] on lines from x to fake, both (B, *shape); a scalar, without the factor λ."""
        if u is None:
            u = torch.rand(len(x), device=x.device, dtype=x.dtype)
        u = u.view(-1, *[1] * (x.ndim - 1))  # (B, 1, ..., 1)
        x_hat = (u * x + (1 - u) * fake).detach().requires_grad_()  # (B, *shape)
        slope = input_gradient(self.critic(x_hat), x_hat).norm(dim=1)  # (B,)
        return (slope - 1.0).square().mean()

    def generator_loss(self, n: int, *, noise: Tensor | None = None) -> Tensor:
        """−E_z[D(G(z))] over n samples (or those of `noise` (n, latent)); differentiable in G's parameters only."""
        with frozen(self.D):
            return -self.critic(self.G(self._noise(n) if noise is None else noise)).mean()

    def training_losses(self, x: Tensor, y: Tensor | None = None) -> Iterator[tuple[str, Tensor]]:
        for _ in range(self.n_critic):
            yield "critic", self.critic_loss(x)
        yield "generator", self.generator_loss(len(x))

    def parameter_groups(self) -> dict[str, Iterable[nn.Parameter]]:
        return {"critic": self.D.parameters(), "generator": self.G.parameters()}

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The critic's loss, for a look at the game's state; nobody minimises it alone."""
        return self.critic_loss(x)

    @torch.no_grad()
    def sample(self, n: int, y: Tensor | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        """G(z) for n draws of z: (n, *shape)."""
        samples: Tensor = self.G(self._noise(n, generator))
        return samples

    def _noise(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        dtype = next((p.dtype for p in self.parameters()), torch.get_default_dtype())
        return torch.randn(n, self.latent, generator=generator, device=self.device, dtype=dtype)


if __name__ == "__main__":
    from genmodels.cli import run_recipe

    run_recipe("wgan_gp")
