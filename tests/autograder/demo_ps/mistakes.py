"""Typical wrong answers of the tiny problem set."""

import torch

from autograder.authoring import mistake


@mistake("1a", "Your variance is the unbiased one: the likelihood is maximal when the sum is divided by N, not N - 1.")
def gaussian_mle(x):
    return x.mean(0), x.var(0)


@mistake("1a", "Your variance is a standard deviation: return its square.")
def gaussian_mle(x):
    return x.mean(0), x.std(0, correction=0)


@mistake("1b", "The exponential of a large number is infinite: take the row's largest value out of the sum first.")
def logsumexp(a):
    return a.exp().sum(1).log()


@mistake("1b", "You take the sum over the points (axis 0): it belongs over the components, axis 1.")
def logsumexp(a):
    return torch.logsumexp(a, 0)


@mistake("1c", "The weights' variance should be 1/D: divide by the square root of D, not by D.")
class Layer(torch.nn.Module):
    def __init__(self, d, k):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(d, k) / d)

    def forward(self, x):
        return x @ self.weight.to(x.dtype)
