"""Recognises a wrong answer: which of a question's mistakes gives the same values at the same inputs.

numpy only, and a copy of it lies in every student zip: the notebook gives the same hints as the grader.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .checks import Compared, Question, difference, seed_of, two_sample_p


def public_seeds(name: str, q: Question) -> list[int]:
    """The seeds of a question's public check."""
    return [seed_of(name, q.id, "public")]


def unwritten(line: str) -> bool:
    """Whether an answer's failure says that there is no answer yet."""
    return "not written yet" in line or "is not defined: its cell" in line


def likeness(student: list[Compared], mistake: list[Compared]) -> float:
    """How well a mistake explains what the student gave: 0 if not at all.

    Counted over the comparisons that failed for the student: the mistake must fail there too, with the same value. What
    it explains counts for it, what it does not explain, and where it alone fails, against it.
    """
    trace = {c.key: c for c in mistake}
    explained = missed = 0.0
    for c in student:
        other = trace.get(c.key)
        if c.passed:
            missed += 0.25 if other is not None and not other.passed else 0.0
        elif other is not None and not other.passed and same_value(c, other):
            explained += 0.1 if c.value is None else 1.0
        else:
            missed += 1.0
    return explained / (explained + missed) if explained else 0.0


def same_value(a: Compared, b: Compared) -> bool:
    """Whether two answers to the same comparison are the same wrong answer."""
    if a.alike == "samples" and b.alike == "samples":
        x, y = a.value, b.value
        return x.shape[1:] == y.shape[1:] and len(x) >= 20 and len(y) >= 20 and two_sample_p(x, y) > 1e-3
    return equal(a.value, b.value)


def equal(a: Any, b: Any) -> bool:
    """Equal values to 1e-6 of their scale, NaN and infinities in the same places."""
    if isinstance(a, (tuple, list)) or isinstance(b, (tuple, list)):
        both = isinstance(a, (tuple, list)) and isinstance(b, (tuple, list))
        return both and len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, dict) or isinstance(b, dict):
        return (
            isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
        )
    if any(v is None or isinstance(v, (str, dict)) for v in (a, b)):
        return type(a) is type(b) and a == b
    x, y = np.asarray(a), np.asarray(b)
    if x.shape != y.shape or x.dtype.kind not in "biufc" or y.dtype.kind not in "biufc":
        return False
    odd = ~np.isfinite(y)
    if not np.array_equal(x[odd], y[odd], equal_nan=True) or not np.isfinite(x[~odd]).all():
        return False
    scale = float(np.abs(y[~odd]).max()) if (~odd).any() else 0.0
    return (scale == 0.0 and not x[~odd].any()) or not difference(np.where(odd, 0, x), np.where(odd, 0, y), "", 1e-6)
