"""Quality beside published figures: `python -m benchmarks.quality NAME [--data-root D] [--seeds 0 1 2]`.

Each family's file holds `QUALITY`, a mapping from a name to a `Quality`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from genmodels import runs


@dataclass(frozen=True)
class Figure:
    """One measured number beside its bars."""

    name: str
    value: float
    must: float | None
    aim: float | None = None
    unit: str = ""
    higher_is_better: bool = False


@dataclass(frozen=True)
class Quality:
    """`measure(data_root, seed)` trains and returns the figures of one seed and the number of parameters."""

    measure: Callable[[str | None, int], tuple[list[Figure], int]]
    protocol: str  # one line: what is measured, on what, and which figure is published


def train(name: str, **settings: Any) -> runs.Run:
    """`genmodels.runs.train`; a training that was interrupted has no figure, so it ends the benchmark."""
    run = runs.train(name, **settings)
    if run.interrupted:
        raise KeyboardInterrupt
    return run
