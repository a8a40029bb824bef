"""The critic against optimal transport: shifted points, linear critics, finite differences."""

import math

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from genmodels.errors import UserError
from genmodels.gans.wgan_gp import WGANGP


class Linear(nn.Module):
    """The critic w·x, with a parameter w."""

    def __init__(self, w: list[float]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.w


class Bowl(nn.Module):
    """The critic a ‖x‖²/2, whose slope at x is a ‖x‖."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * self.a * x.flatten(1).square().sum(1)


def random_model(**options) -> WGANGP:
    torch.manual_seed(0)
    model = WGANGP((2,), latent=3, hidden=(16, 16), **options).double()
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0.0, 0.4)
    return model


@pytest.mark.parametrize("w", [[3.0, 4.0], [0.6, 0.8], [0.1, 0.0]])
def test_penalty_of_a_linear_critic(w: list[float]) -> None:
    """(‖w‖ − 1)² exactly, with the gradient 2 (‖w‖ − 1) w/‖w‖: the second derivative flows."""
    model = WGANGP((2,), latent=2, G=nn.Identity(), D=Linear(w))
    x, fake = torch.randn(7, 2).double(), torch.randn(7, 2).double()
    penalty = model.gradient_penalty(x, fake)
    norm = math.hypot(*w)
    assert penalty.item() == pytest.approx((norm - 1) ** 2, abs=1e-14)
    (slope,) = torch.autograd.grad(penalty, model.D.w)
    torch.testing.assert_close(slope, 2 * (norm - 1) / norm * torch.tensor(w).double(), rtol=1e-6, atol=1e-7)


def test_penalty_is_per_example_on_the_line_between() -> None:
    """With the slope a‖x̂‖ known at each x̂ = u x + (1 − u) x̃, the penalty is a mean over examples."""
    x, fake = torch.randn(6, 2).double(), torch.randn(6, 2).double()
    u = torch.tensor([0.0, 1.0, 0.25, 0.5, 0.75, 0.1]).double()
    model = WGANGP((2,), latent=2, G=nn.Identity(), D=Bowl(1.7))
    norms = [math.hypot(*(ui * xi + (1 - ui) * fi).tolist()) for ui, xi, fi in zip(u, x, fake, strict=True)]
    expected = sum((1.7 * r - 1) ** 2 for r in norms) / 6
    assert model.gradient_penalty(x, fake, u=u).item() == pytest.approx(expected, rel=1e-10)


def test_one_u_for_each_example() -> None:
    """Images too: x̂ lies on the segment. With x = 0 and x̃ = 1 everywhere, x̂ is constant over an image."""
    seen = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.detach())
            return x.flatten(1).sum(1)

    model = WGANGP((1, 4, 4), latent=2, G=nn.Identity(), D=Spy())
    model.gradient_penalty(torch.zeros(50, 1, 4, 4), torch.ones(50, 1, 4, 4))
    x_hat = seen[0].flatten(1)
    assert (x_hat.max(1).values == x_hat.min(1).values).all()
    level = x_hat[:, 0]
    assert level.min() >= 0
    assert level.max() <= 1
    assert stats.kstest(level.numpy(), "uniform").pvalue > 1e-3


def test_optimal_critic_of_shifted_points_measures_the_shift() -> None:
    """For data at s + x̃ the linear critic along s is optimal: minimising eq. 3 in closed form gives
    ‖w‖ = 1 + ‖s‖/(2λ), and with a large λ the gap is the shift, which is W."""
    shift = torch.tensor([1.2, -0.9], dtype=torch.float64)  # of length 1.5
    fake = torch.randn(64, 2).double()
    for penalty in (10.0, 1e4):
        model = WGANGP((2,), latent=2, penalty=penalty, G=nn.Identity(), D=Linear([0.3, 0.2]))
        optimizer = torch.optim.LBFGS(model.D.parameters(), max_iter=200, line_search_fn="strong_wolfe")

        def closure(model: WGANGP = model, optimizer: torch.optim.Optimizer = optimizer) -> Tensor:
            optimizer.zero_grad()
            loss = model.critic_loss(fake + shift, noise=fake)
            loss.backward()
            return loss

        optimizer.step(closure)
        torch.testing.assert_close(model.D.w.detach(), shift / 1.5 * (1 + 1.5 / (2 * penalty)), rtol=1e-4, atol=1e-4)
    gap = (model.critic(fake + shift).mean() - model.critic(fake).mean()).item()
    assert gap == pytest.approx(1.5, rel=1e-3)
    assert -model.critic_loss(fake + shift, noise=fake).item() == pytest.approx(1.5, rel=1e-3)


def test_trained_critic_estimates_the_distance() -> None:
    """A perceptron critic between N(0, 1) and N(2, 1) on the line comes close to W = 2 from below."""
    torch.manual_seed(0)
    model = WGANGP((1,), latent=1, hidden=(32, 32), penalty=10.0, G=nn.Identity())
    optimizer = torch.optim.Adam(model.D.parameters(), lr=5e-3, betas=(0.5, 0.9))
    for _ in range(250):
        loss = model.critic_loss(2 + torch.randn(256, 1), noise=torch.randn(256, 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    gap = model.critic(2 + torch.randn(20_000, 1)).mean() - model.critic(torch.randn(20_000, 1)).mean()
    assert 1.8 < gap.item() < 2.3


def test_critic_loss_has_the_right_slope() -> None:
    """The whole gradient of a random network's loss, penalty's second derivatives included, by differences."""
    model = random_model(penalty=3.0)
    x, noise, u = torch.randn(5, 2).double(), torch.randn(5, 3).double(), torch.rand(5).double()
    parameters = list(model.D.parameters())
    gradients = torch.autograd.grad(model.critic_loss(x, noise=noise, u=u), parameters, allow_unused=True)
    torch.manual_seed(1)
    direction = [torch.randn_like(p) for p in parameters]
    slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True) if g is not None).item()
    h, values = 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            torch._foreach_add_(parameters, direction, alpha=sign * h)
        values.append(model.critic_loss(x, noise=noise, u=u).item())
        with torch.no_grad():
            torch._foreach_sub_(parameters, direction, alpha=sign * h)
    assert slope == pytest.approx((values[0] - values[1]) / (2 * h), rel=1e-5)


def test_each_loss_leaves_the_other_player_alone() -> None:
    model = random_model()
    model.critic_loss(torch.randn(8, 2).double()).backward()
    assert all(p.grad is None for p in model.G.parameters())
    assert any(p.grad is not None for p in model.D.parameters())
    model.zero_grad(set_to_none=True)
    model.generator_loss(8).backward()
    assert all(p.grad is None for p in model.D.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.G.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_generator_climbs_the_critic() -> None:
    w = [0.6, 0.8]
    model = WGANGP((2,), latent=2, G=nn.Identity(), D=Linear(w))
    noise = torch.randn(4, 2).double().requires_grad_()
    model.generator_loss(4, noise=noise).backward()
    torch.testing.assert_close(noise.grad, -torch.tensor(w).double().expand(4, 2) / 4)


def test_training_losses_are_n_critic_fresh_ones_then_the_generators() -> None:
    model = random_model(n_critic=3)
    x = torch.randn(16, 2).double()
    seen = list(model.training_losses(x))
    assert [name for name, _ in seen] == ["critic"] * 3 + ["generator"]
    assert len({loss.item() for _, loss in seen[:3]}) == 3  # fresh noise each time
    groups = {name: {id(p) for p in ps} for name, ps in model.parameter_groups().items()}
    assert list(groups) == ["critic", "generator"]
    assert not groups["critic"] & groups["generator"]
    assert set.union(*groups.values()) == {id(p) for p in model.parameters()}


def test_generator_is_judged_by_the_stepped_critic() -> None:
    """The generator's loss is computed when it is asked for, over a whole batch, with the critic of that moment."""
    model = random_model(n_critic=2)
    losses = model.training_losses(torch.randn(16, 2).double())
    assert [next(losses)[0], next(losses)[0]] == ["critic", "critic"]
    with torch.no_grad():
        for p in model.D.parameters():
            p.mul_(-1.5)
    state = torch.get_rng_state()
    name, seen = next(losses)
    assert name == "generator"
    torch.set_rng_state(state)
    torch.testing.assert_close(seen, model.generator_loss(16))


def test_sampling_repeats_with_its_generator_and_knows_the_scale() -> None:
    model, scaled = random_model(), random_model(data_scale=10.0)
    a, b, c = (m.sample(5, generator=torch.Generator().manual_seed(1)) for m in (model, model, scaled))
    assert torch.equal(a, b)
    torch.testing.assert_close(c, 10 * a)
    torch.testing.assert_close(scaled.critic(10 * a), model.critic(a))


def test_loss_can_be_looked_at_without_gradients() -> None:
    """The penalty takes a gradient itself; the loss is the same under `no_grad`."""
    model = random_model()
    x, noise, u = torch.randn(8, 2).double(), torch.randn(8, 3).double(), torch.rand(8).double()
    expected = model.critic_loss(x, noise=noise, u=u).detach()
    with torch.no_grad():
        torch.testing.assert_close(model.critic_loss(x, noise=noise, u=u), expected)
        assert torch.isfinite(model.loss(x))


def test_images() -> None:
    model = WGANGP((1, 12, 12), latent=4, width=4, n_critic=1)
    for name, loss in model.training_losses(torch.rand(3, 1, 12, 12)):
        grads = torch.autograd.grad(loss, list(model.parameter_groups()[name]), allow_unused=True)
        assert all(torch.isfinite(g).all() for g in grads if g is not None)
    samples = model.sample(5)
    assert samples.shape == (5, 1, 12, 12)
    assert samples.min() >= 0
    assert samples.max() <= 1


def test_bad_input_is_one_line() -> None:
    with pytest.raises(UserError, match="at least one step, got n_critic = 0"):
        random_model(n_critic=0)
    with pytest.raises(UserError, match="expected a batch"):
        random_model().critic_loss(torch.zeros(4, 3))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_agrees_with_cpu() -> None:
    model = random_model()
    x, noise, u = torch.randn(8, 2).double(), torch.randn(8, 3).double(), torch.rand(8).double()
    here = [model.critic_loss(x, noise=noise, u=u), model.generator_loss(8, noise=noise)]
    model.cuda()
    x, noise, u = x.cuda(), noise.cuda(), u.cuda()
    there = [model.critic_loss(x, noise=noise, u=u), model.generator_loss(8, noise=noise)]
    torch.testing.assert_close([t.cpu() for t in there], here)
