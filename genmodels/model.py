"""The contract that every model keeps, so that one trainer, one command and one gallery serve them all.

A model is an `nn.Module` with a `loss` and a `sample`. What else it can do (an exact density, a bound, a code, a
score, a velocity) it shows by having the method: callers ask `isinstance(model, HasLogProb)`, never for a class.

Conventions: the batch comes first; images are float (B, C, H, W) in [0, 1]; tokens are int64 (B, L); labels y are
int64 (B,); log-likelihoods are in nats, one per example. Random draws inside `loss` have the batch as their first
axis, which lets data-parallel training split them as it splits the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from genmodels.errors import UserError


class GenerativeModel(nn.Module):
    """Base of all models. `shape` is the shape of one example, without the batch."""

    shape: tuple[int, ...]

    def loss(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Scalar to be minimised, averaged over the batch x (B, *shape)."""
        raise NotImplementedError(f"{type(self).__name__} defines no loss")

    def sample(self, n: int, y: Tensor | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw (n, *shape) in the data's range; `generator` lives on the model's device."""
        raise NotImplementedError(f"{type(self).__name__} defines no sample")

    def training_losses(self, x: Tensor, y: Tensor | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield (group, loss); the trainer steps that group's optimiser before it asks for the next."""
        yield "model", self.loss(x, y)

    def parameter_groups(self) -> dict[str, Iterable[nn.Parameter]]:
        """The parameters behind each name that `training_losses` yields."""
        return {"model": self.parameters()}

    @property
    def device(self) -> torch.device:
        """Where the model lives (its first parameter or buffer)."""
        tensors = chain(self.parameters(), self.buffers())
        return next((t.device for t in tensors), torch.device("cpu"))


@runtime_checkable
class HasLogProb(Protocol):
    """An exact log-density or log-probability, (B,) in nats."""

    def log_prob(self, x: Tensor) -> Tensor: ...


@runtime_checkable
class HasElbo(Protocol):
    """A lower bound on log p(x), (B,) in nats."""

    def elbo(self, x: Tensor) -> Tensor: ...


@runtime_checkable
class HasDecoder(Protocol):
    """A map from data to the mean and log-variance of its code, and one from codes z back to data."""

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]: ...

    def decode(self, z: Tensor) -> Tensor: ...


@runtime_checkable
class HasScore(Protocol):
    """The score of the noised data, grad_x log p_t(x), shaped like x."""

    def score(self, x: Tensor, t: Tensor) -> Tensor: ...


@runtime_checkable
class HasVelocity(Protocol):
    """The velocity of a flow at time t, shaped like x."""

    def velocity(self, x: Tensor, t: Tensor) -> Tensor: ...


@runtime_checkable
class HasInitialize(Protocol):
    """A start that depends on the data (k-means++, the data's mean): called once, before the first step."""

    def initialize(self, x: Tensor) -> None: ...


@runtime_checkable
class HasFitStep(Protocol):
    """An update that is not a gradient step (EM, coordinate ascent): one pass over x (N, *shape); returns the loss
    at the parameters that it started from."""

    def fit_step(self, x: Tensor) -> Tensor: ...


def check_batch(x: Tensor, shape: tuple[int, ...]) -> None:
    """Raise a one-line error unless x is a batch (B, *shape)."""
    if x.ndim != len(shape) + 1 or tuple(x.shape[1:]) != tuple(shape):
        expected = ", ".join(["B", *map(str, shape)])
        raise UserError(f"expected a batch of shape ({expected}), got {tuple(x.shape)}")


def bits_per_dim(log_prob: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Nats per example (B,) of the discrete data's density to bits per dimension (B,)."""
    return -log_prob / (math.log(2.0) * math.prod(shape))
