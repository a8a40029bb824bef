"""What may pass between the grader and student code, and its only encoding: plain values and plain arrays.

A value is None, a bool, an int, a float, a str, a list, a tuple, a dict with str keys, or a numpy array of a
whitelisted dtype. `encode` turns it into a JSON-able header and raw buffers; `decode` is the only parser of what comes
back from student code, so it trusts nothing: every cap and type is checked, nothing is executed, nothing is unpickled.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

DTYPES = {name: np.dtype(name) for name in ("bool", "uint8", "int8", "int16", "int32", "int64", "float32", "float64")}
DTYPES |= {name: np.dtype(name) for name in ("complex64", "complex128")}
MAX_RANK = 8
MAX_DEPTH = 16
MAX_ITEMS = 20_000
MAX_STRING = 200_000
MAX_BYTES = 64 << 20


class BadValue(Exception):
    """A value that may not cross, or a header that does not describe one; one line."""


def encode(value: Any) -> tuple[Any, list[bytes]]:
    """The header and the buffers of a value. Only exact types pass: a subclass could lie about what it is.

    Errors: BadValue where something else is inside.
    """
    buffers: list[bytes] = []
    count = 0

    def walk(v: Any, depth: int) -> Any:
        nonlocal count
        count += 1
        if depth > MAX_DEPTH or count > MAX_ITEMS:
            raise BadValue(f"nested deeper than {MAX_DEPTH} levels, or of more than {MAX_ITEMS:,} items")
        kind = type(v)
        if v is None or kind is bool:
            return v
        if kind is int:
            if abs(v) >= 2**63:
                raise BadValue("an integer of more than 64 bits")
            return v
        if kind is float:
            return {"f": v.hex() if math.isfinite(v) else str(v)}
        if kind is str:
            if len(v) > MAX_STRING:
                raise BadValue(f"a string of more than {MAX_STRING:,} characters")
            return v.encode("utf-8", "replace").decode()
        if kind is list or kind is tuple:
            return {"l" if kind is list else "u": [walk(item, depth + 1) for item in v]}
        if kind is dict:
            if not all(type(key) is str for key in v):
                raise BadValue("a dict whose keys are not all strings")
            return {"d": [[walk(key, depth + 1), walk(item, depth + 1)] for key, item in v.items()]}
        if kind is np.ndarray:
            if v.dtype.name not in DTYPES:
                raise BadValue(f"an array of dtype {v.dtype.name}")
            if v.ndim > MAX_RANK:
                raise BadValue(f"an array of {v.ndim} dimensions")
            buffers.append(np.ascontiguousarray(v).tobytes())
            if sum(map(len, buffers)) > MAX_BYTES:
                raise BadValue(f"more than {MAX_BYTES >> 20} MB")
            return {"a": [v.dtype.name, list(v.shape), len(buffers) - 1]}
        raise BadValue(f"a {kind.__name__}")

    return walk(value, 0), buffers


def decode(header: Any, buffers: list[bytes]) -> Any:
    """The value that a header and its buffers describe, arrays as fresh copies.

    Errors: BadValue for anything that `encode` would not have written.
    """
    count = 0

    def walk(h: Any, depth: int) -> Any:
        nonlocal count
        count += 1
        if depth > MAX_DEPTH or count > MAX_ITEMS:
            raise BadValue("nested too deep, or too many items")
        if h is None or type(h) is bool:
            return h
        if type(h) is int:
            if abs(h) >= 2**63:
                raise BadValue("an integer of more than 64 bits")
            return h
        if type(h) is str:
            if len(h) > MAX_STRING:
                raise BadValue("a string that is too long")
            return h
        if type(h) is not dict or len(h) != 1:
            raise BadValue("a malformed header")
        (tag, body), *_ = h.items()
        if tag == "f" and type(body) is str and len(body) <= 40:
            try:
                return float(body) if body in ("inf", "-inf", "nan") else float.fromhex(body)
            except (ValueError, OverflowError):
                raise BadValue("a malformed number") from None
        if type(body) is not list:
            raise BadValue("a malformed header")
        if tag == "l":
            return [walk(item, depth + 1) for item in body]
        if tag == "u":
            return tuple(walk(item, depth + 1) for item in body)
        if tag == "d":
            if not all(type(pair) is list and len(pair) == 2 and type(pair[0]) is str for pair in body):
                raise BadValue("a malformed dict")
            return {walk(key, depth + 1): walk(item, depth + 1) for key, item in body}
        if tag == "a" and len(body) == 3:
            return array(*body)
        raise BadValue("a malformed header")

    def array(dtype: Any, shape: Any, index: Any) -> np.ndarray:
        if type(dtype) is not str or dtype not in DTYPES:
            raise BadValue("an array of a dtype that may not cross")
        if type(shape) is not list or len(shape) > MAX_RANK:
            raise BadValue("an array with a malformed shape")
        if not all(type(n) is int and 0 <= n <= MAX_BYTES for n in shape):
            raise BadValue("an array with a malformed shape")
        if type(index) is not int or not 0 <= index < len(buffers):
            raise BadValue("an array without its bytes")
        raw = buffers[index]
        if math.prod(shape) * DTYPES[dtype].itemsize != len(raw):
            raise BadValue("an array whose bytes do not fill its shape")
        if dtype == "bool" and raw.translate(None, b"\x00\x01"):
            raise BadValue("a bool that is neither 0 nor 1")
        return np.frombuffer(raw, DTYPES[dtype]).reshape(shape).copy()

    return walk(header, 0)
