"""Frames: what goes in comes out, and whatever is not a frame is a ChannelError, never anything else."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
from typing import Any

import numpy as np
import pytest

from autograder import channel
from autograder.channel import ChannelError, FrameReader, nonce_of, pack, unpack

VALUES: list[Any] = [
    None,
    {"ok": (1, [2.5, float("inf")], "text ∇"), "mutated": []},
    np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
    [np.zeros((0, 3)), np.array(5, dtype=np.int64), np.array([True, False])],
    np.array([1 + 2j, np.nan]),
]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b


def frame(nonce: Any = "n", value: Any = None, sizes: Any = (), body: bytes = b"", **more: Any) -> bytes:
    text = json.dumps({"nonce": nonce, "value": value, "sizes": list(sizes) if sizes == () else sizes, **more}).encode()
    return struct.pack("!4sIQ", b"GMF1", len(text), len(body)) + text + body


@pytest.mark.parametrize("value", VALUES)
def test_round_trip(value: Any) -> None:
    data = pack("nonce", value)
    assert same(unpack(data, "nonce"), value)
    assert nonce_of(data) == "nonce"


def test_arrives_in_any_pieces_and_stops_at_its_end() -> None:
    read, write = os.pipe()
    os.set_blocking(read, False)
    data, reader = pack("n", VALUES[3]), FrameReader()
    for at in range(0, len(data), 7):
        assert not reader.read(read)
        os.write(write, data[at : at + 7])
    os.write(write, b"next")
    assert reader.read(read)
    assert same(unpack(reader.data, "n"), VALUES[3])
    assert os.read(read, 10) == b"next"
    os.close(write)
    with pytest.raises(EOFError):
        FrameReader().read(read)
    os.close(read)


HOSTILE = {
    "another nonce": frame(nonce="m"),
    "a nonce that is no text": frame(nonce=5),
    "a nonce of surrogates": frame(nonce="\udcff"),
    "other fields": frame(extra=1),
    "sizes that do not add up": frame(sizes=[3], body=b"12345678"),
    "negative sizes": frame(sizes=[-8, 16], body=b"12345678"),
    "sizes that are true": frame(sizes=[True], body=b"1"),
    "sizes that are no list": frame(sizes="8", body=b"12345678"),
    "an array without bytes": frame(value={"a": ["float64", [1], 0]}),
    "an array of objects": frame(value={"a": ["object", [1], 0]}, sizes=[8], body=b"12345678"),
    "an array larger than its bytes": frame(value={"a": ["float64", [2**40, 2**40], 0]}, sizes=[8], body=b"12345678"),
    "an unknown tag": frame(value={"x": []}),
    "no JSON": struct.pack("!4sIQ", b"GMF1", 4, 0) + b"nope",
    "deep JSON": struct.pack("!4sIQ", b"GMF1", 10**6, 0) + b"[" * 10**6,
    "deep values": frame(value=eval("[" * 60 + "]" * 60)),
    "JSON with a huge integer": struct.pack("!4sIQ", b"GMF1", 10**5, 0) + b"9" * 10**5,
    "a list": struct.pack("!4sIQ", b"GMF1", 2, 0) + b"[]",
    "a pickle": pickle.dumps({"nonce": "n"}).ljust(16),
    "a short frame": frame()[:-1],
    "a long frame": frame() + b"x",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_refuses(what: str) -> None:
    with pytest.raises(ChannelError) as refusal:
        unpack(HOSTILE[what], "n")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("header", "body"), [(channel.MAX_HEADER + 1, 0), (0, channel.MAX_BODY + 1), (2**32 - 1, 2**63)]
)
def test_announced_lengths_are_capped_before_anything_is_read(header: int, body: int) -> None:
    read, write = os.pipe()
    os.write(write, struct.pack("!4sIQ", b"GMF1", header, body) + b"x" * 100)
    os.close(write)
    reader = FrameReader()
    with pytest.raises(ChannelError, match="more than"):
        reader.read(read)
    assert len(reader.data) == 16
    os.close(read)


def test_any_changed_byte_is_a_channel_error_or_a_plain_value() -> None:
    """Whatever bytes come: no exception but ChannelError, and no types but plain ones."""
    data = pack("n", {"ok": [1, 2.5, "x", np.arange(3.0)], "mutated": []})
    rng = random.Random(0)
    refused = 0
    for _ in range(4000):
        broken = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        try:
            value = unpack(broken, "n")
        except ChannelError:
            refused += 1
            continue
        assert type(value) in (dict, list, tuple, str, int, float, bool, type(None), np.ndarray)
    assert refused > 2000


def test_too_large_to_send() -> None:
    with pytest.raises((ChannelError, Exception), match=r"more than"):
        pack("n", [np.zeros(channel.MAX_BODY // 2, dtype=np.uint8)] * 3)
