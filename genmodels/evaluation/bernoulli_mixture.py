r"""A mixture of Bernoulli images: the baseline that a latent variable model of binary images should beat.

$p(x) = \sum_k \pi_k \prod_d p_{kd}^{x_d} (1 - p_{kd})^{1 - x_d}$, fitted by EM (Bishop 2006, PRML, section 9.3.3). Its
likelihood is exact, so it stands beside a bound without favour; K = 1 is the model of independent pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genmodels.errors import UserError


class BernoulliMixture:
    """K binary images' pixel probabilities, with weights; `fit` it, then ask for `log_prob`."""

    def __init__(self, log_weights: Tensor, logits: Tensor) -> None:
        self.log_weights, self.logits = log_weights, logits  # (K,), (K, D)

    def log_joint(self, x: Tensor) -> Tensor:
        """log pi_k + log p(x | k) in nats: (N, K) for x (N, D)."""
        off = torch.nn.functional.logsigmoid(-self.logits).sum(1)  # (K,), an image that is black all over
        return self.log_weights + off + x @ self.logits.T

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) in nats, (N,), for binary x (N, ...)."""
        return self.log_joint(x.flatten(1).to(self.logits)).logsumexp(1)


def fit_bernoulli_mixture(
    x: Tensor, k: int, *, steps: int = 50, pseudo_count: float = 0.5, generator: torch.Generator | None = None
) -> BernoulliMixture:
    """EM from K random training images, x (N, ...) binary.

    `pseudo_count` white and as many black pixels are added to each component's, lest a pixel that was never white in
    training make a test image impossible.
    """
    flat = x.flatten(1).double()  # (N, D)
    if k < 1 or len(flat) < k:
        raise UserError(f"a mixture of {k} components can't start from {len(flat)} images")
    start = flat[torch.randperm(len(flat), generator=generator)[:k]]
    model = BernoulliMixture(torch.full((k,), 1.0 / k).double().log(), torch.logit(0.25 + 0.5 * start))
    for _ in range(steps):
        r = model.log_joint(flat).softmax(1)  # (N, K)
        count = r.sum(0)  # (K,)
        p = (r.T @ flat + pseudo_count) / (count + 2 * pseudo_count)[:, None]  # (K, D)
        model = BernoulliMixture(((count + pseudo_count) / (count + pseudo_count).sum()).log(), torch.logit(p))
    return model
