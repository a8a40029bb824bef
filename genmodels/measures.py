"""What the tour and `genmodels evaluate` measure: one function per figure, each beside its bar.

A measure takes a trained model, its data and a generator on the model's device, and returns one `Measured`. Where no
figure is published for a recipe's data, the bar is a baseline that the measure itself computes in the same run (a
well-fitted mixture, a bigram, real data against real data).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from genmodels.data import Data
from genmodels.model import GenerativeModel


@dataclass(frozen=True)
class Measured:
    """One figure. `must` and `aim` are baselines computed in the same run; None means that the recipe carries them."""

    value: float
    unit: str
    must: float | None = None
    aim: float | None = None
    higher_is_better: bool = False
    note: str = ""  # one line: what the figure means, what the baseline is
    extra: dict[str, float] = field(default_factory=dict)  # further figures worth a line


Measure = Callable[[GenerativeModel, Data, torch.Generator], Measured]
MEASURES: dict[str, Measure] = {}


def measure(name: str) -> Callable[[Measure], Measure]:
    """Register a function under the name by which recipes ask for it."""

    def register(function: Measure) -> Measure:
        MEASURES[name] = function
        return function

    return register
