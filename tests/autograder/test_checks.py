"""The comparisons: a right answer passes, zeros and near misses fail, and a test's false alarms are as rare as said."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autograder.checks import (
    AnswerError,
    CheckFailed,
    Draw,
    bands,
    compare,
    difference,
    expect,
    monotone,
    part,
    question,
    questions_of,
    run_question,
    same_distribution,
    sums_to_one,
    zero,
)


def run(check, points=4.0):
    """Run a body as the check of a question worth `points`."""

    @question("1a", points=points, names=["f"], title="t")
    def q(student, reference, draw):
        check()

    return run_question(q.question, None, None, Draw(0))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**60), st.floats(-12, 12))
def test_compare_is_relative_to_scale(seed, power):
    e = Draw(seed).normal(4, 3) * 10.0**power
    assert difference(e * (1 + 1e-9), e, "x") == []
    assert difference(e * (1 + 1e-4), e, "x")
    assert difference(np.zeros_like(e), e, "x")
    assert difference(-e, e, "x")
    assert difference(e.astype(np.float32), e, "x") == []


def test_single_precision_is_forgiven_a_thousandth_and_no_more():
    e = Draw(3).normal(50)
    assert difference((e * (1 + 5e-4)).astype(np.float32), e, "x") == []
    assert difference((e * (1 + 5e-3)).astype(np.float32), e, "x")
    assert difference(e * (1 + 5e-4), e, "x")


def test_compare_says_what_differs():
    e = np.arange(6.0).reshape(2, 3)
    assert "shape is (3, 2), and (2, 3)" in difference(e.T, e, "x")[0]
    assert "not finite" in difference(e / np.array([0.0, 1, 1]), e, "x")[0] if np.seterr(all="ignore") else ""
    assert "at [1, 2] it is 9, expected 5" in difference(e + 4 * (e == 5), e, "x")[0]
    assert "None (is a return missing?)" in difference(None, e, "x")[0]
    assert "2 values are expected, and there are 1" in difference((e,), (e, e), "x")[0]
    assert difference([1.0, 2.0], np.array([1.0, 2.0]), "x") == []
    assert difference(np.array(True), True, "x") == []
    assert difference(1, True, "x")
    assert difference(np.array([1, 2]), np.array([1, 3]), "x")
    assert difference(1e-12 * e, 0 * e, "x") == []
    assert difference(1e-3 * e, 0 * e, "x")


def test_infinities_that_are_meant_must_stand_in_their_places():
    e = np.array([-np.inf, 1.0, 2.0])
    assert difference(e.copy(), e, "x") == []
    assert difference(np.array([1.0, -np.inf, 2.0]), e, "x")
    assert difference(np.array([np.inf, 1.0, 2.0]), e, "x")


def test_zero_needs_the_scale_of_what_cancels():
    zero(np.full(3, 1e-8), 1.0)
    with pytest.raises(CheckFailed):
        zero(np.full(3, 1e-5), 1.0)
    with pytest.raises(CheckFailed):
        zero(np.array([np.nan]), 1.0)


def test_sums_to_one_and_monotone():
    sums_to_one(Draw(1).simplex(5, 3))
    for bad in (Draw(1).simplex(5, 3).T, np.array([1.5, -0.5]), np.array(1.0), np.zeros((2, 3))):
        with pytest.raises(CheckFailed):
            sums_to_one(bad)
    monotone([1.0, 1.0, 2.0])
    monotone([3.0, 2.0], "decreasing")
    for values, direction in (([1.0, 0.9], "increasing"), ([1.0, 1.1], "decreasing"), ([1.0], "increasing")):
        with pytest.raises(CheckFailed):
            monotone(values, direction)


def test_same_distribution_sees_shift_scale_and_correlation_and_passes_the_truth():
    x, y = Draw(1).normal(4000, 2), Draw(2).normal(4000, 2)
    same_distribution(x, y)
    same_distribution(x[:, 0], cdf=lambda t: 0.5 * (1 + np.vectorize(__import__("math").erf)(t / 2**0.5)))
    mixed = y @ np.array([[1.0, 0.6], [0.0, 0.8]])
    for wrong in (y + 0.3, y * 1.4, mixed, np.zeros_like(y), np.abs(y), y[:10]):
        with pytest.raises(CheckFailed):
            same_distribution(wrong, x)


def test_the_false_alarm_rate_is_as_said():
    alpha, alarms, n = 0.05, 0, 400
    for i in range(n):
        try:
            same_distribution(Draw(2 * i).normal(300, 2), Draw(2 * i + 1).normal(300, 2), alpha=alpha)
        except CheckFailed:
            alarms += 1
    assert alarms <= alpha * n + 3 * (alpha * n) ** 0.5


def test_draws_are_the_same_bits_everywhere():
    d = Draw(2026)
    pieces = [d.normal(7, 3), d.uniform(-1, 1, 5), d.integers(0, 10, 9), d.simplex(4, 3), d.spd(3, 2), d.permutation(6)]
    assert hashlib.sha256(b"".join(p.tobytes() for p in pieces)).hexdigest()[:16] == "f909ede750c27dcb"


def test_draws_have_their_laws():
    d = Draw(5)
    assert abs(d.normal(20_000).std() - 1) < 0.03
    assert abs(d.uniform(2, 4, 20_000).mean() - 3) < 0.02
    assert set(d.integers(3, 6, 500).tolist()) == {3, 4, 5}
    assert np.allclose(d.simplex(50, 4).sum(-1), 1, atol=1e-14)
    assert np.linalg.eigvalsh(d.spd(4, 100)).min() > 0.4
    assert sorted(d.permutation(8).tolist()) == list(range(8))
    assert abs(d.bernoulli(0.3, 20_000).mean() - 0.3) < 0.02


def test_parts_give_partial_credit_and_the_rest_goes_on():
    def check():
        compare(1.0, 1.0)
        with part("a", 1):
            compare(1.0, 2.0, "first")
        with part("b", 2):
            compare(2.0, 2.0)
        with part("c", 0.5):
            raise AnswerError("f raised ValueError: no")

    parts = {p.label: (p.points, p.possible) for p in run(check).parts}
    assert parts == {"": (0.5, 0.5), "a": (0, 1), "b": (2, 2), "c": (0, 0.5)}


def test_a_failure_outside_of_parts_costs_what_no_part_holds():
    def check():
        with part("a", 1):
            compare(1.0, 1.0)
        compare(1.0, 2.0)
        with part("b", 2):
            compare(1.0, 1.0)

    found = run(check)
    assert sum(p.points for p in found.parts) == 1
    assert sum(p.possible for p in found.parts) == 4


def test_bands_pay_the_best_that_is_reached():
    def points(value, **options):
        def check():
            with part("quality", 4):
                bands(value, [(1.0, 1), (2.0, 2.5), (3.0, 4)], **options)

        return sum(p.points for p in run(check).parts)

    assert [points(v) for v in (0.5, 1.0, 2.9, 3.0, 99.0, float("nan"))] == [0, 1, 2.5, 4, 4, 0]
    lower = {"higher_is_better": False}
    assert points(2.5, **lower) == 4
    assert points(float("-inf"), **lower) == 0


def test_expect_and_the_registry():
    with pytest.raises(CheckFailed, match="must hold"):
        expect(False, "it must hold")

    @question("1a", points=1, names=["f"], title="t")
    def one(student, reference, draw): ...

    @question("1a", points=1, names=["f"], title="t")
    def two(student, reference, draw): ...

    assert list(questions_of({"one": one})) == ["1a"]
    with pytest.raises(ValueError, match="two checks"):
        questions_of({"one": one, "two": two})
