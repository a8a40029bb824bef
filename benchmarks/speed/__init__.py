"""Speed beside the peers: `python -m benchmarks.speed [family ...] [--json FILE]`.

Each family's file holds `CASES`. A case builds its contenders (ours and the peers') with the same sizes, then all of
them are run in alternation in one process, after a warm-up, and the median of at least 7 rounds is printed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Contender:
    """One implementation of the work: `run()` does it once; `parameters` is printed, so that sizes can be compared."""

    run: Callable[[], Any]
    parameters: int | None = None


@dataclass(frozen=True)
class Case:
    """One line of the table.

    `build()` returns contenders by name, of which one is "ours"; a peer that is not installed raises ImportError.
    The ratio is ours over the fastest peer's; with `absolute` the bars are in that unit instead, of our time alone
    (`units_per_run` units of work a run: the figure is then units a second, and higher is better).
    """

    name: str
    build: Callable[[], dict[str, Contender]]
    must: float | None = None
    aim: float | None = None
    rounds: int = 7
    absolute: str | None = None  # "s" or, with units_per_run, e.g. "MB/s"
    units_per_run: float | None = None
    threads: int = 2
