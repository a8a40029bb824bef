"""The mixture of Bernoullis against enumeration and closed forms."""

from __future__ import annotations

import pytest
import torch

from genmodels.errors import UserError
from genmodels.evaluation.bernoulli_mixture import BernoulliMixture, fit_bernoulli_mixture


def test_probabilities_of_all_images_sum_to_one() -> None:
    model = BernoulliMixture(torch.randn(3).double().log_softmax(0), 2 * torch.randn(3, 6, dtype=torch.float64))
    x = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 6)
    assert abs(float(model.log_prob(x).exp().sum()) - 1) < 1e-12
    p = model.log_weights.exp() @ model.logits.sigmoid()  # the marginal of each pixel
    torch.testing.assert_close(model.log_prob(x).exp() @ x.double(), p)


def test_one_component_is_the_smoothed_mean() -> None:
    x = torch.bernoulli(torch.rand(1, 2, 3).expand(50, 2, 3))
    model = fit_bernoulli_mixture(x, 1, steps=1)
    torch.testing.assert_close(model.logits.sigmoid()[0], ((x.sum(0) + 0.5) / 51).flatten().double())


def test_em_finds_two_far_patterns() -> None:
    patterns = torch.tensor([[0.9] * 10 + [0.1] * 10, [0.1] * 10 + [0.9] * 10])
    which = (torch.arange(600) < 400).long()
    x = torch.bernoulli(patterns[which], generator=torch.Generator().manual_seed(0))
    model = fit_bernoulli_mixture(x, 2, generator=torch.Generator().manual_seed(1))
    order = model.logits[:, 0].argsort(descending=True)
    torch.testing.assert_close(model.logits.sigmoid()[order], patterns.double(), rtol=0, atol=0.08)
    torch.testing.assert_close(model.log_weights.exp()[order], torch.tensor([1 / 3, 2 / 3]).double(), rtol=0, atol=0.02)
    assert model.log_prob(x).mean() > fit_bernoulli_mixture(x, 1).log_prob(x).mean() + 1


def test_more_components_than_images_is_one_line() -> None:
    with pytest.raises(UserError, match="can't start"):
        fit_bernoulli_mixture(torch.zeros(3, 4), 5)
