"""The Gaussian against PyTorch's distributions and the stationarity of the likelihood at the estimate."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.distributions import kl_divergence as torch_kl

from genmodels.errors import UserError
from genmodels.maximum_likelihood.gaussian import Gaussian, kl_divergence


def random_gaussian(d: int, shape: tuple[int, ...] | None = None) -> Gaussian:
    model = Gaussian(shape or (d,)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.6 * torch.randn_like(p))
    return model


def reference(model: Gaussian) -> MultivariateNormal:
    """The same Gaussian, from its moments alone."""
    return MultivariateNormal(model.mu.detach(), covariance_matrix=model.covariance.detach())


def data(n: int, d: int) -> Tensor:
    return torch.randn(n, d, dtype=torch.float64) @ torch.randn(d, d, dtype=torch.float64) + 3 * torch.randn(d).double()


@settings(max_examples=20, deadline=None)
@given(d=st.integers(1, 7), seed=st.integers(0, 10_000), scale=st.floats(0.1, 100.0))
def test_log_prob_is_the_density_of_its_moments(d: int, seed: int, scale: float) -> None:
    torch.manual_seed(seed)
    model = random_gaussian(d)
    x = scale * torch.randn(9, d, dtype=torch.float64)
    torch.testing.assert_close(model.log_prob(x), reference(model).log_prob(x), rtol=1e-9, atol=1e-9)


def test_density_integrates_to_one() -> None:
    model = random_gaussian(2)
    spread = 8 * model.covariance.diagonal().sqrt().detach()
    axes = [
        torch.linspace(-1, 1, 401, dtype=torch.float64) * s + m for s, m in zip(spread, model.mu.detach(), strict=True)
    ]
    grid = torch.cartesian_prod(*axes)
    cell = math.prod(float(a[1] - a[0]) for a in axes)
    assert abs(float(model.log_prob(grid).exp().sum().detach()) * cell - 1) < 1e-6


def test_gradient_of_the_likelihood_is_zero_at_the_estimate() -> None:
    x = data(60, 4)
    model = random_gaussian(4)
    start = model.loss(x).detach()
    assert torch.equal(model.fit_step(x), start)
    model.loss(x).backward()
    for p in model.parameters():
        assert float(p.grad.abs().max()) < 1e-10
    # and it is a maximum: any step away costs likelihood
    best = model.loss(x).detach()
    for _ in range(5):
        other = Gaussian((4,)).double()
        other.load_state_dict({k: v + 0.01 * torch.randn_like(v) for k, v in model.state_dict().items()})
        assert other.loss(x) > best


def test_fit_far_from_the_origin_in_single_precision() -> None:
    x = data(2000, 3)
    near, far = Gaussian((3,)).fit(x.float()), Gaussian((3,)).fit((x + 1000).float())
    torch.testing.assert_close(near.covariance, far.covariance, rtol=2e-3, atol=2e-3)


def test_gradient_descent_reaches_the_closed_form() -> None:
    x = data(100, 2) / 3
    exact, model = Gaussian((2,)).double().fit(x), Gaussian((2,)).double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model.loss(x)
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(model.covariance, exact.covariance, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.mu, exact.mu, rtol=1e-4, atol=1e-5)


def test_kl_is_that_of_torch_and_vanishes_for_equals() -> None:
    for d in (1, 2, 5):
        p, q = random_gaussian(d), random_gaussian(d)
        torch.testing.assert_close(kl_divergence(p, q), torch_kl(reference(p), reference(q)), rtol=1e-9, atol=1e-9)
        assert abs(kl_divergence(p, p).item()) < 1e-10
        assert kl_divergence(p, q).item() > 0


def test_kl_is_the_expected_log_ratio() -> None:
    p, q = random_gaussian(3), random_gaussian(3)
    x = p.sample(40_000, generator=torch.Generator().manual_seed(1))
    ratio = (p.log_prob(x) - q.log_prob(x)).detach()
    assert abs((ratio.mean() - kl_divergence(p, q)).item()) < 5 * ratio.std().item() / math.sqrt(len(x))


def test_samples_have_the_moments_and_the_shape() -> None:
    model = random_gaussian(6, shape=(2, 3))
    x = model.sample(40_000, generator=torch.Generator().manual_seed(2))
    assert x.shape == (40_000, 2, 3)
    assert torch.equal(x[:5], model.sample(40_000, generator=torch.Generator().manual_seed(2))[:5])
    flat, scale = x.flatten(1), float(model.covariance.detach().diagonal().max())
    torch.testing.assert_close(flat.mean(0), model.mu.detach(), rtol=0, atol=0.05 * scale**0.5)
    torch.testing.assert_close(flat.T.cov(), model.covariance.detach(), rtol=0, atol=0.06 * scale)


def test_bad_input_is_one_line() -> None:
    model = Gaussian((3,))
    for bad in (torch.zeros(2, 4), torch.zeros(3)):
        with pytest.raises(UserError, match="expected a batch of shape"):
            model.log_prob(bad)
    with pytest.raises(UserError, match="not positive definite"):
        model.fit(torch.randn(3, 3))  # three points span a plane
    with pytest.raises(UserError, match="not a number"):
        model.fit(torch.full((9, 3), math.nan))
    with pytest.raises(UserError, match="dimensions"):
        kl_divergence(Gaussian((2,)), Gaussian((3,)))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_agrees_with_the_cpu() -> None:
    model, x = random_gaussian(5), data(100, 5)
    on_cpu = model.log_prob(x)
    fitted = random_gaussian(5).fit(x).covariance
    torch.testing.assert_close(model.cuda().log_prob(x.cuda()).cpu(), on_cpu)
    torch.testing.assert_close(model.fit(x.cuda()).covariance.cpu(), fitted)
