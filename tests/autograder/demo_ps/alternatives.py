"""Other right answers to the tiny problem set."""

import torch

from autograder.authoring import alternative


@alternative("1a", "torch's own variance")
def gaussian_mle(x):
    return x.mean(dim=0), x.var(dim=0, unbiased=False)


@alternative("1a", "E[x^2] - E[x]^2")
def gaussian_mle(x):
    first = x.sum(0) / len(x)
    return first, (x * x).mean(0) - first**2


@alternative("1b", "torch's own")
def logsumexp(a):
    return torch.logsumexp(a, dim=-1)


@alternative("1c", "with a bias of zero")
class Layer(torch.nn.Module):
    def __init__(self, d, k):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(d, k))
        torch.nn.init.normal_(self.weight, std=d**-0.5)
        self.bias = torch.zeros(k)

    def forward(self, x):
        return x.to(self.weight.dtype) @ self.weight + self.bias
