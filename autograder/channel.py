"""Frames between the grader and a worker: a length-capped JSON header and raw array bytes, over a file descriptor.

    magic (4 bytes) | header length (u32) | body length (u64) | header | body
    header = {"nonce": text, "value": header of `values.encode`, "sizes": [bytes of each buffer]}

The grader trusts no byte that it reads: both lengths are capped before anything is allocated, the sizes must add up to
the body, the nonce must be that of the request it has just sent, and `values.decode` is the only parser of what is
inside. Nothing is pickled. A frame that breaks a rule is a ChannelError, and the worker that wrote it is done for.
"""

from __future__ import annotations

import hmac
import json
import os
import struct
from typing import Any

from .values import BadValue, decode, encode

MAGIC = b"GMF1"
PREFIX = struct.Struct("!4sIQ")
MAX_HEADER = 8 << 20
MAX_BODY = 64 << 20
CHUNK = 1 << 20


class ChannelError(Exception):
    """What came over the channel is no frame, or not the one that was asked for; one line."""


def pack(nonce: str, value: Any) -> bytes:
    """The frame of a value. Errors: BadValue where it may not cross, ChannelError where it is too large."""
    header, buffers = encode(value)
    text = json.dumps({"nonce": nonce, "value": header, "sizes": [len(b) for b in buffers]}).encode()
    body = sum(len(b) for b in buffers)
    if len(text) > MAX_HEADER or body > MAX_BODY:
        raise ChannelError(f"a message of more than {MAX_HEADER >> 20} MB of text or {MAX_BODY >> 20} MB of arrays")
    return b"".join([PREFIX.pack(MAGIC, len(text), body), text, *buffers])


def lengths(prefix: bytes) -> tuple[int, int]:
    """Header and body length that a prefix announces. Errors: ChannelError for any but an honest one."""
    magic, header, body = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise ChannelError("sent a malformed frame: it does not begin as one")
    if header > MAX_HEADER or body > MAX_BODY:
        raise ChannelError("sent a malformed frame: it announces more than a message may have")
    return header, body


def unpack(frame: bytes | bytearray, nonce: str) -> Any:
    """The value of a whole frame with that nonce. Errors: ChannelError."""
    length, body = lengths(bytes(frame[: PREFIX.size]))
    if len(frame) != PREFIX.size + length + body:
        raise ChannelError("sent a malformed frame: its length is not the announced one")
    try:
        head = json.loads(bytes(frame[PREFIX.size : PREFIX.size + length]))
    except (ValueError, RecursionError, MemoryError):
        raise ChannelError("sent a malformed frame: its header is not JSON") from None
    if type(head) is not dict or head.keys() != {"nonce", "value", "sizes"}:
        raise ChannelError("sent a malformed frame: its header has other fields")
    got, sizes = head["nonce"], head["sizes"]
    if type(got) is not str or not hmac.compare_digest(got.encode("utf-8", "replace"), nonce.encode()):
        raise ChannelError("answered out of turn: the nonce is not that of the request")
    if type(sizes) is not list or not all(type(n) is int and 0 <= n <= body for n in sizes) or sum(sizes) != body:
        raise ChannelError("sent a malformed frame: its sizes do not add up")
    buffers, at = [], PREFIX.size + length
    for size in sizes:
        buffers.append(bytes(memoryview(frame)[at : at + size]))
        at += size
    try:
        return decode(head["value"], buffers)
    except BadValue as error:
        raise ChannelError(f"sent what may not cross: {error}") from None


class FrameReader:
    """Collects one frame from a descriptor that may give it in any pieces."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.need = PREFIX.size
        self.sized = False

    def read(self, descriptor: int) -> bool:
        """Read what is there, never past this frame; True when it is whole. Errors: EOFError, ChannelError."""
        while len(self.data) < self.need:
            try:
                piece = os.read(descriptor, min(CHUNK, self.need - len(self.data)))
            except BlockingIOError:
                return False
            if not piece:
                raise EOFError
            self.data += piece
            if len(self.data) == self.need and not self.sized:
                self.need += sum(lengths(bytes(self.data)))
                self.sized = True
        return True


def receive(descriptor: int) -> bytearray:
    """One frame, waiting for it. Errors: EOFError at its end, ChannelError."""
    reader = FrameReader()
    while not reader.read(descriptor):
        pass
    return reader.data


def send(descriptor: int, data: bytes) -> None:
    """Write all of it, waiting."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest[:CHUNK]) :]


def nonce_of(frame: bytes | bytearray) -> str:
    """The nonce of a request that came from the grader, for the answer. For the worker's side, which trusts it."""
    length, _ = lengths(bytes(frame[: PREFIX.size]))
    return str(json.loads(bytes(frame[PREFIX.size : PREFIX.size + length]))["nonce"])
