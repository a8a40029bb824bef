"""What the checks of a problem set are written with: questions, random inputs, comparisons, partial credit.

A check is one function a question. It draws inputs, asks `student` and `reference` the same things and compares. The
same function runs on the student's machine, at public seeds against recorded answers, and in the grader, at hidden
seeds against the solution in its own process. numpy only: the grader never imports torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np

RTOL = {8: 1e-6, 4: 1e-3}  # by the bytes of a real number, relative to the largest magnitude that is expected


@dataclass(frozen=True)
class Question:
    """What a check function is registered with."""

    id: str
    points: float
    names: tuple[str, ...]  # what the answer's cells must define
    title: str
    seconds: float  # wall clock for all seeds together
    seeds: int  # hidden seeds; a part must pass at each
    run: Callable[[Any, Any, Draw], None]
    quality: bool = False  # the trained-quality question, whose figure goes to the leaderboard


def question(
    id: str,
    *,
    points: float,
    names: Sequence[str],
    title: str,
    seconds: float = 20.0,
    seeds: int = 2,
    quality: bool = False,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a check function `(student, reference, draw)` for a question."""

    def register(run: Callable[..., None]) -> Callable[..., None]:
        run.question = Question(id, points, tuple(names), title, seconds, seeds, run, quality)  # type: ignore[attr-defined]
        return run

    return register


def questions_of(namespace: dict[str, Any]) -> dict[str, Question]:
    """The questions of a checks module, in the order in which they are written."""
    found = [value.question for value in namespace.values() if isinstance(getattr(value, "question", None), Question)]
    ids = [q.id for q in found]
    if len(set(ids)) < len(ids):
        raise ValueError(f"a question has two checks: {sorted({i for i in ids if ids.count(i) > 1})}")
    return {q.id: q for q in found}


# -- what a run of a check leaves behind


@dataclass
class Compared:
    """One comparison: where it stands in the check, what the student gave, and whether it held."""

    key: str
    value: Any
    passed: bool
    alike: str = "exact"  # how a mistake's value is matched: "exact", or "samples" of one distribution


@dataclass
class Part:
    """Partial credit: points that are won if everything inside passes."""

    label: str
    possible: float
    passed: bool = True
    earned: float | None = None  # for bands; otherwise all or nothing
    lines: list[str] = field(default_factory=list)

    @property
    def points(self) -> float:
        return (self.possible if self.earned is None else self.earned) if self.passed else 0.0


@dataclass
class Run:
    """One run of a check function at one seed."""

    question: Question
    parts: list[Part] = field(default_factory=list)
    compared: list[Compared] = field(default_factory=list)
    figure: float | None = None  # of the trained-quality question
    lower_is_better: bool = False  # how that figure is to be read
    current: Part | None = None
    counts: dict[str, int] = field(default_factory=dict)

    def key(self, what: str) -> str:
        place = f"{self.current.label if self.current else ''}/{what}"
        self.counts[place] = self.counts.get(place, 0) + 1
        return f"{place}/{self.counts[place]}"


class CheckFailed(Exception):
    """A comparison that does not hold; its lines are for the student."""

    def __init__(self, *lines: str) -> None:
        super().__init__(lines[0])
        self.lines = list(lines)


class AnswerError(Exception):
    """The student's code raised, hung, or gave something that may not come back; its lines are for the student."""

    def __init__(self, *lines: str) -> None:
        super().__init__(lines[0])
        self.lines = list(lines)


_RUN: ContextVar[Run | None] = ContextVar("run", default=None)


def run_question(q: Question, student: Any, reference: Any, draw: Draw) -> Run:
    """Run a check at one seed. What the student's code does wrong ends in the run's parts, never in an exception."""
    run = Run(q)
    body = Part("", 0.0)
    token = _RUN.set(run)
    try:
        with _catching(run, body):
            q.run(student, reference, draw)
    finally:
        _RUN.reset(token)
    body.possible = max(q.points - sum(p.possible for p in run.parts), 0.0)
    if body.passed:
        seen = sum(p.possible for p in run.parts)
        if seen > q.points + 1e-9:
            raise ValueError(f"question {q.id}: its parts hold {seen:g} points of {q.points:g}")
    if body.possible or not body.passed:
        run.parts.insert(0, body)
    return run


MISFITS = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError)


@contextlib.contextmanager
def _catching(run: Run, part: Part) -> Iterator[None]:
    try:
        yield
    except (CheckFailed, AnswerError) as error:
        part.passed = False
        part.lines.extend(error.lines)
        if isinstance(error, AnswerError):
            run.compared.append(Compared(run.key("error"), error.lines[0], False))
    except MISFITS as error:  # the check took apart an answer of another form; the audit sees bugs of the check
        line = f"the answer has not the form that the question asks for ({type(error).__name__}: {error})"
        part.passed = False
        part.lines.append(" ".join(line.split())[:400])
        run.compared.append(Compared(run.key("error"), part.lines[-1], False))


@contextlib.contextmanager
def part(label: str, points: float) -> Iterator[None]:
    """Partial credit: if something inside fails, its points are lost and the check goes on after the block."""
    run = _RUN.get()
    if run is None or run.current is not None:
        raise RuntimeError("part() belongs inside a question's check, not inside another part")
    one = Part(label, points)
    run.parts.append(one)
    run.current = one
    try:
        with _catching(run, one):
            yield
    finally:
        run.current = None


def _judge(what: str, value: Any, lines: list[str], alike: str = "exact") -> None:
    """Record a comparison, and fail where there are lines to say."""
    run = _RUN.get()
    if run is not None:
        run.compared.append(Compared(run.key(what), value, not lines, alike))
    if lines:
        raise CheckFailed(*lines)


# -- random inputs


class Draw:
    """Random inputs from a seed, the same bits on every machine.

    Only the raw 64-bit stream of a PCG64 is used, which numpy promises not to change; what passes through a
    mathematical library is rounded, so that its last bits do not matter.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._bits = np.random.PCG64(seed)

    def _raw(self, n: int) -> np.ndarray:
        return np.atleast_1d(np.asarray(self._bits.random_raw(n), dtype=np.uint64))

    def uniform(self, low: float = 0.0, high: float = 1.0, *shape: int) -> np.ndarray:
        """Uniform numbers in [low, high), float64 of `shape`."""
        u = (self._raw(math.prod(shape)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return (low + (high - low) * u).reshape(shape)

    def normal(self, *shape: int, scale: float = 1.0) -> np.ndarray:
        """Normal numbers of mean 0, float64 of `shape`."""
        n = math.prod(shape)
        u, v = 1.0 - self.uniform(0, 1, n), self.uniform(0, 1, n)
        return _rounded(scale * np.sqrt(-2 * np.log(u)) * np.cos(2 * np.pi * v)).reshape(shape)

    def integers(self, low: int, high: int, *shape: int) -> np.ndarray:
        """Whole numbers in [low, high), int64 of `shape`."""
        return np.floor(self.uniform(low, high, *shape)).astype(np.int64)

    def bernoulli(self, p: Any, *shape: int) -> np.ndarray:
        """Zeros and ones, float64 of `shape`; `p` broadcasts."""
        return (self.uniform(0, 1, *shape) < p).astype(np.float64)

    def simplex(self, *shape: int) -> np.ndarray:
        """Positive numbers that sum to 1 along the last axis."""
        weights = np.ceil(-(2.0**20) * np.log(1.0 - self.uniform(0, 1, *shape) * (1 - 1e-9))) + 1
        return weights / weights.sum(-1, keepdims=True)

    def spd(self, d: int, *batch: int) -> np.ndarray:
        """Well-conditioned covariance matrices (*batch, d, d)."""
        a = self.normal(*batch, d, d)
        return _rounded(np.einsum("...ij,...kj->...ik", a, a) / d + 0.5 * np.eye(d))

    def permutation(self, n: int) -> np.ndarray:
        """The numbers 0..n-1 in random order, int64."""
        return np.argsort(self._raw(n), kind="stable").astype(np.int64)

    def choice(self, options: Sequence[Any]) -> Any:
        """One of the options."""
        return options[int(self.integers(0, len(options), 1)[0])]


def _rounded(x: np.ndarray) -> np.ndarray:
    return np.round(x * 2.0**24) / 2.0**24


def seed_of(*parts: object) -> int:
    """A 63-bit seed from names and numbers."""
    return int.from_bytes(hashlib.sha256("\0".join(map(str, parts)).encode()).digest()[:8], "big") >> 1


# -- comparisons


def gradient_of(function: Any, *arguments: Any, wrt: int = 0, **keywords: Any) -> np.ndarray:
    """Autograd's gradient of the sum of `student.f(...)` with respect to the positional argument `wrt`."""
    return function.gradient(*arguments, wrt=wrt, **keywords)


def compare(actual: Any, expected: Any, what: str = "answer", rtol: float | None = None) -> None:
    """The student's value equals the expected one: structure, shape, kind, and numbers to a tolerance.

    The tolerance is relative to the largest magnitude expected in the array, 1e-6 where both are of 64 bits and 1e-3
    where the answer is of 32, so a zero answer fails wherever the expected one is not zero throughout.
    """
    _judge(what, actual, difference(actual, expected, what, rtol))


def difference(actual: Any, expected: Any, what: str, rtol: float | None = None) -> list[str]:
    """Lines that say how a value differs from the expected one; none if it does not."""
    if isinstance(expected, (tuple, list)):
        if not isinstance(actual, (tuple, list)):
            return [f"{what}: {len(expected)} values are expected, and there is {_kind(actual)}"]
        if len(actual) != len(expected):
            return [f"{what}: {len(expected)} values are expected, and there are {len(actual)}"]
        for i, (a, e) in enumerate(zip(actual, expected, strict=True), 1):
            lines = difference(a, e, f"{what}, value {i} of {len(expected)}", rtol)
            if lines:
                return lines
        return []
    if isinstance(expected, dict):
        if not isinstance(actual, dict) or actual.keys() != expected.keys():
            return [f"{what}: a dict with the keys {', '.join(expected)} is expected, and there is {_kind(actual)}"]
        for key, e in expected.items():
            lines = difference(actual[key], e, f"{what}[{key!r}]", rtol)
            if lines:
                return lines
        return []
    if expected is None or isinstance(expected, str):
        same = type(actual) is type(expected) and actual == expected
        return [] if same else [f"{what}: {expected!r} is expected, and there is {_kind(actual)}"]
    if isinstance(expected, bool):
        value = actual.item() if isinstance(actual, np.ndarray) and actual.shape == () else actual
        return [] if value is expected else [f"{what}: {expected} is expected, and there is {_kind(actual)}"]
    try:
        e = np.asarray(expected)
        a = _numbers(actual, what)
    except CheckFailed as error:
        return error.lines
    if a.shape != e.shape:
        return [f"{what}: the shape is {_shape(a)}, and {_shape(e)} is expected"]
    if e.size == 0:
        return []
    if e.dtype.kind in "biu" and a.dtype.kind in "biu":
        wrong = a != e
        if not wrong.any():
            return []
        return [f"{what}: {int(wrong.sum()):,} of {a.size:,} entries differ; {_at(a, e, int(np.argmax(wrong)))}"]
    special = ~np.isfinite(e)
    if special.any():  # infinities that are meant: they must stand in the same places
        if not np.array_equal(a[special], e[special], equal_nan=True):
            return [f"{what}: infinities are expected in {int(special.sum())} places, and not all are there"]
        a, e = np.where(special, 0, a), np.where(special, 0, e)
    if not np.isfinite(a).all():
        bad = int((~np.isfinite(a)).sum())
        return [f"{what}: {bad:,} of {a.size:,} entries are not finite (NaN or infinite)"]
    bits = a.dtype.itemsize // (2 if a.dtype.kind == "c" else 1) if a.dtype.kind in "fc" else 8
    tolerance = (RTOL.get(bits, 1e-3) if rtol is None else max(rtol, 0.0 if bits == 8 else 1e-3)) * _scale(e)
    gap = np.abs(a.astype(complex) - e) if "c" in (a.dtype.kind, e.dtype.kind) else np.abs(a.astype(np.float64) - e)
    if gap.max() <= tolerance:
        return []
    worst = int(np.argmax(gap))
    wrong_entries = int((gap > tolerance).sum())
    return [
        f"{what}: {wrong_entries:,} of {a.size:,} entries differ; the largest error is {gap.max():.3g} "
        f"(allowed {tolerance:.1g}); {_at(a, e, worst)}"
    ]


def _scale(e: np.ndarray) -> float:
    """The magnitude that errors are judged by; an expected array of zeros is judged absolutely."""
    largest = float(np.abs(e).max())
    return largest if largest > 0 else 1e-3


def _numbers(actual: Any, what: str) -> np.ndarray:
    if isinstance(actual, np.ndarray):
        return actual
    if isinstance(actual, (bool, int, float)):
        return np.asarray(actual)
    if isinstance(actual, (list, tuple)) and all(isinstance(v, (bool, int, float, np.ndarray)) for v in actual):
        try:
            return np.asarray(actual, dtype=np.float64)
        except (ValueError, TypeError):
            pass
    raise CheckFailed(f"{what}: numbers are expected, and there is {_kind(actual)}")


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {_shape(value)}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return "None (is a return missing?)" if value is None else f"{value!r}"[:80]


def _shape(a: np.ndarray) -> str:
    return "(" + ", ".join(map(str, a.shape)) + ("," if a.ndim == 1 else "") + ")"


def _at(a: np.ndarray, e: np.ndarray, flat: int) -> str:
    if a.ndim == 0:
        return f"it is {a[()]:.6g}, expected {e[()]:.6g}"
    index = np.unravel_index(flat, a.shape)
    place = ", ".join(str(int(i)) for i in index)
    return f"at [{place}] it is {a[index]:.6g}, expected {e[index]:.6g}"


def zero(actual: Any, scale: float, what: str = "answer", rtol: float = 1e-6) -> None:
    """All entries are 0, relative to `scale`: the size that the terms have before they cancel."""
    a = np.asarray(_finite(actual, what), dtype=np.float64)
    worst = float(np.abs(a).max()) if a.size else 0.0
    lines = [] if worst <= rtol * scale else [f"{what}: 0 is expected, and the largest entry is {worst:.3g}"]
    _judge(what, a, lines)


def sums_to_one(actual: Any, axis: int = -1, what: str = "probabilities", rtol: float = 1e-6) -> None:
    """Non-negative entries that sum to 1 along an axis."""
    a = np.asarray(_finite(actual, what), dtype=np.float64)
    lines = []
    if a.ndim == 0:
        lines = [f"{what}: probabilities along an axis are expected, and there is one number"]
    elif a.min() < -rtol:
        lines = [f"{what}: there is a negative probability, {a.min():.3g}"]
    else:
        sums = a.sum(axis)
        worst = sums.flat[int(np.argmax(np.abs(sums - 1)))]
        if abs(worst - 1) > rtol:
            lines = [f"{what}: the sum along axis {axis} must be 1, and one is {worst:.6g}"]
    _judge(what, a, lines)


def monotone(values: Any, direction: str = "increasing", slack: float = 0.0, what: str = "values") -> None:
    """A sequence that never falls ("increasing") or never rises ("decreasing"), up to `slack`."""
    a = np.asarray(_finite(values, what), dtype=np.float64)
    if a.ndim != 1 or len(a) < 2:
        _judge(what, a, [f"{what}: a sequence of two numbers or more is expected, and there is {_kind(a)}"])
    steps = np.diff(a) if direction == "increasing" else -np.diff(a)
    i = int(np.argmin(steps))
    verb = "falls" if direction == "increasing" else "rises"
    bad = steps[i] < -slack
    lines = [f"{what}: it {verb} from {a[i]:.6g} to {a[i + 1]:.6g} at step {i + 1}, and it must not"] if bad else []
    _judge(what, a, lines)


def expect(condition: bool, line: str, value: Any = None) -> None:
    """A statement that must hold; `value` is what a mistake is recognised by."""
    _judge(f"expect {line[:40]}", value, [] if bool(condition) else [line])


def same_distribution(
    samples: Any,
    expected: Any = None,
    *,
    alpha: float = 1e-7,
    cdf: Callable[[np.ndarray], np.ndarray] | None = None,
    what: str = "samples",
) -> None:
    """Samples (N,) or (N, D) come from the distribution of `expected` samples, or of a 1-D distribution function.

    Kolmogorov-Smirnov on each coordinate and on random directions, at a level that is shared by Bonferroni: a right
    answer fails with a probability of at most `alpha` (the test's own bound is exact or conservative).
    """
    x = _columns(_finite(samples, what), what)
    if len(x) < 20:
        _judge(what, x, [f"{what}: {len(x)} samples are too few to judge"], "samples")
    lines = []
    if cdf is not None:
        tests: list[tuple[np.ndarray, np.ndarray | None]] = [(np.sort(x[:, 0]), None)]
    else:
        y = _columns(np.asarray(expected, dtype=np.float64), "expected samples")
        if x.shape[1] != y.shape[1]:
            line = f"{what}: the samples have {x.shape[1]} coordinates, and {y.shape[1]} are expected"
            _judge(what, x, [line], "samples")
        tests = [(np.sort(x @ w), np.sort(y @ w)) for w in _directions(x.shape[1])]
    for i, (a, b) in enumerate(tests):
        d, n = _ks_distance(a, b, cdf)
        # the tail bound 2 exp(-2 n d²): Massart 1990 for one sample; Wei and Dudley 2012 for two of some hundreds each
        p = min(1.0, 2 * math.exp(-2 * n * d * d))
        if p * len(tests) < alpha:
            axis = f"coordinate {i + 1}" if i < x.shape[1] else "a random direction"
            hint = (
                ""
                if b is None
                else f"; means {a.mean():.3g} and {b.mean():.3g}, spreads {a.std():.3g} and {b.std():.3g}"
            )
            lines = [f"{what}: not the distribution that is expected: along {axis} the distribution functions are "
                     f"{d:.3f} apart (chance of this by luck {p:.0e}){hint}"]  # fmt: skip
            break
    _judge(what, x, lines, "samples")


def two_sample_p(x: np.ndarray, y: np.ndarray) -> float:
    """A bound on the chance that samples (N, D) and (M, D) of one distribution differ as much as these."""
    worst = 1.0
    for w in (directions := _directions(x.shape[1])):
        d, n = _ks_distance(np.sort(x @ w), np.sort(y @ w), None)
        worst = min(worst, 2 * math.exp(-2 * n * d * d) * len(directions))
    return worst


def _ks_distance(a: np.ndarray, b: np.ndarray | None, cdf: Any) -> tuple[float, float]:
    """Kolmogorov-Smirnov distance of sorted samples, and the number that its tail is reckoned with."""
    n = len(a)
    if b is None:
        f = np.asarray(cdf(a))
        return float(max((np.arange(1, n + 1) / n - f).max(), (f - np.arange(n) / n).max())), float(n)
    both = np.concatenate([a, b])
    gap = np.searchsorted(a, both, "right") / n - np.searchsorted(b, both, "right") / len(b)
    return float(np.abs(gap).max()), n * len(b) / (n + len(b))


def _directions(d: int) -> np.ndarray:
    """Unit vectors (M, D): the axes, and what sees dependence that no axis shows: diagonals of pairs, some oblique."""
    if d == 1:
        return np.ones((1, 1))
    pairs = [(i, j) for i in range(min(d, 5)) for j in range(i)]
    diagonals = [(np.eye(d)[i] + sign * np.eye(d)[j]) / math.sqrt(2) for i, j in pairs for sign in (1, -1)]
    oblique = Draw(seed_of("directions", d)).normal(4, d)
    return np.concatenate([np.eye(d)[:32], diagonals, oblique / np.linalg.norm(oblique, axis=1, keepdims=True)])


def _columns(x: Any, what: str) -> np.ndarray:
    a = np.asarray(x, dtype=np.float64)
    if a.ndim == 0:
        raise CheckFailed(f"{what}: samples are expected, and there is one number")
    return a.reshape(len(a), -1)


def _finite(actual: Any, what: str) -> np.ndarray:
    a = _numbers(actual, what)
    if a.dtype.kind == "c":
        raise CheckFailed(f"{what}: real numbers are expected, and there are complex ones")
    if not np.isfinite(a).all():
        _judge(what, a, [f"{what}: {int((~np.isfinite(a)).sum()):,} of {a.size:,} entries are not finite"])
    return a


def bands(
    value: float,
    table: Sequence[tuple[float, float]],
    *,
    higher_is_better: bool = True,
    what: str = "the measured figure",
    unit: str = "",
) -> None:
    """Points by published bands [(threshold, points), ...] in the current part; the best that is reached counts."""
    run = _RUN.get()
    if run is None or run.current is None:
        raise RuntimeError("bands() belongs inside a part")
    value = float(value)
    run.figure, run.lower_is_better = value, not higher_is_better
    reached = [p for t, p in table if math.isfinite(value) and (value >= t if higher_is_better else value <= t)]
    earned = max(reached, default=0.0)
    best = max(p for _, p in table)
    sign = "≥" if higher_is_better else "≤"
    ladder = ", ".join(f"{sign} {t:g} gives {p:g}" for t, p in table)
    line = f"{what}: {value:.4g} {unit}".rstrip() + f" earns {earned:g} of {best:g} points ({ladder})"
    run.current.lines.append(line)
    run.current.earned = earned
    run.compared.append(Compared(run.key(what), value, earned >= best))
    if earned == 0:
        run.current.passed = False
