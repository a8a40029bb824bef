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
# # Problem set 0: a tiny one
# Three questions, one of them written. It shows how a problem set is made, and the tests build, take and grade it.

# %% tags=["setup"]
import math

import torch
from torch import Tensor

# %% [markdown]
# ## 1a. A Gaussian's maximum likelihood (4 points)
# Return the mean and the variance that maximise $\sum_n \log \mathcal{N}(x_n; \mu, \sigma^2)$, for each column of `x`.


# %% tags=["answer:1a"]
def gaussian_mle(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance, each (D,), of the Gaussian that fits x (N, D) best."""
    # The variance is the one of maximum likelihood, not the unbiased one.
    # BEGIN SOLUTION
    centre = x.mean(0)
    spread = ((x - centre) ** 2).mean(0)
    return centre, spread
    # END SOLUTION


# %% tags=["check"]
check("1a")

# %% [markdown]
# ## 1b. Log-sum-exp (3 points)
# Return $\log \sum_k e^{a_{nk}}$ for each row of `a`. Values of $\pm 10^4$ must do no harm.


# %% tags=["answer:1b"]
def logsumexp(a: Tensor) -> Tensor:
    """Row-wise log-sum-exp of a (N, K): (N,)."""
    # BEGIN SOLUTION
    largest = a.max(1).values
    return largest + (a - largest[:, None]).exp().sum(1).log()
    # END SOLUTION


# %% tags=["check"]
check("1b")

# %% [markdown]
# ## 1c. A layer (3 points)
# A linear layer that keeps its weights in `self.weight` (D, K), drawn from a normal distribution with variance $1/D$.


# %% tags=["answer:1c"]
class Layer(torch.nn.Module):
    """x (N, D) -> x @ weight (N, K)."""

    def __init__(self, d: int, k: int):
        super().__init__()
        # BEGIN SOLUTION
        self.weight = torch.nn.Parameter(torch.randn(d, k) / math.sqrt(d))
        # END SOLUTION

    def forward(self, x: Tensor) -> Tensor:
        # BEGIN SOLUTION
        return x @ self.weight.to(x.dtype)
        # END SOLUTION


# %% tags=["check"]
check("1c")

# %% [markdown]
# ## 1d. Why the mean? (5 points)
# Show that the mean of the points maximises the likelihood.

# %% [markdown] tags=["written:1d", "points:5"]
# <!-- BEGIN SOLUTION -->
# The derivative by $\mu$ is $\sum_n (x_n - \mu) / \sigma^2$. It is zero at the mean only, and the second derivative,
# $-N / \sigma^2$, is negative.
#
# Rubric:
# - 3 points: the derivative, set to zero
# - 2 points: that it is a maximum
# <!-- END SOLUTION -->

# %% [markdown]
# ## A look
# This cell needs 1a.

# %%
points = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
print(gaussian_mle(points))

# %% [markdown]
# ## Submit

# %% tags=["submit"]
submit()
