"""The table of recipes: for each model, the data, sizes and steps with which it reaches its bar on a CPU.

Importing this table imports no model and no torch; `build` resolves the dotted path only when it is asked to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """How one model is built and trained by default.

    `model` is "module:Class". `options` are the constructor's keyword arguments (its `shape`, `num_classes` and
    `vocab_size`, where it takes them, come from the data); `train` holds fields of `training.TrainSettings`. `on`
    changes both for another data set or kind of data ("mnist", "image", "text"), the data set's name going first.
    `measure` names the function in `measures.py` whose figure the tour shows; `must` and `aim` are its bars, or None
    where the measure computes its own baseline in the same run; `bar_source` says where the bar comes from.
    """

    model: str
    data: str
    options: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    on: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    measure: str = ""
    must: float | None = None
    aim: float | None = None
    bar_source: str = ""


RECIPES: dict[str, Recipe] = {
    # maximum_likelihood, mixtures
    # latent
    # flows
    # gans
    # energy
    # diffusion
    # flow_matching
    # language
    # discrete_diffusion
}
