"""What may cross, and that nothing else does: round trips, and headers made by an enemy."""

import contextlib
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from autograder.values import MAX_DEPTH, BadValue, decode, encode

ARRAYS = hnp.arrays(
    st.sampled_from([np.bool_, np.uint8, np.int32, np.int64, np.float32, np.float64, np.complex64]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
LEAVES = st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats() | st.text(max_size=20) | ARRAYS
VALUES = st.recursive(
    LEAVES,
    lambda v: st.lists(v, max_size=3) | st.lists(v, max_size=3).map(tuple) | st.dictionaries(st.text(max_size=5), v),
    max_leaves=8,
)


def same(a, b):
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return type(a) is type(b) and a == b


@settings(max_examples=150, deadline=None)
@given(VALUES)
def test_what_is_encoded_comes_back_the_same(value):
    header, buffers = encode(value)
    header = json.loads(json.dumps(header, allow_nan=False))
    assert same(value, decode(header, buffers))


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["a", "f"]),
        lambda v: st.lists(v, max_size=4) | st.dictionaries(st.sampled_from(["a", "f", "l", "u", "d", "x"]), v),
        max_leaves=10,
    ),
    st.lists(st.binary(max_size=16), max_size=2),
)
def test_any_header_gives_a_value_or_is_refused(header, buffers):
    with contextlib.suppress(BadValue):
        decode(header, buffers)


@pytest.mark.parametrize(
    "header",
    [
        {"a": ["object", [1], 0]},
        {"a": ["float64", [1 << 62, 4], 0]},
        {"a": ["float64", [-1], 0]},
        {"a": ["float64", [True], 0]},
        {"a": ["float64", [2], 0]},
        {"a": ["float64", [0], 0]},
        {"a": ["float32", [1], 0]},
        {"a": ["float64", [1], 3]},
        {"a": ["float64", [1], -1]},
        {"a": ["bool", [8], 0]},
        {"a": ["float64", [1] * 9, 0]},
        {"f": "0x1p99999"},
        {"f": "1e5" * 30},
        {"l": {}},
        {"d": [["k"]]},
        {"d": [[1, 2]]},
        {"l": [], "u": []},
        10**30,
        1.5,
    ],
)
def test_a_header_that_lies_is_refused(header):
    with pytest.raises(BadValue):
        decode(header, [b"\x02" * 8])


def test_depth_is_capped_both_ways():
    deep = []
    for _ in range(MAX_DEPTH + 2):
        deep = [deep]
    with pytest.raises(BadValue):
        encode(deep)
    header = {"l": []}
    for _ in range(MAX_DEPTH + 2):
        header = {"l": [header]}
    with pytest.raises(BadValue):
        decode(header, [])


class LyingInt(int):
    def __eq__(self, other):
        return True

    __hash__ = int.__hash__


class LyingArray(np.ndarray):
    pass


@pytest.mark.parametrize(
    "value",
    [LyingInt(3), np.zeros(2).view(LyingArray), np.array([object()]), {1: 2}, {3}, b"bytes", 1j, 2**63, np.float64(1)],
    ids=lambda v: type(v).__name__,
)
def test_only_exact_plain_types_cross(value):
    with pytest.raises(BadValue):
        encode(value)
