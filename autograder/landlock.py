"""Landlock: a process gives up all files but those on a list, for good. Linux 5.13 and later; needs no rights.

Whatever is not below a listed path can be neither read, listed, written nor run. From ABI 4 on TCP goes as well, from
ABI 6 on abstract Unix sockets and signals that would leave the worker.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import sys
from collections.abc import Iterable

CREATE, ADD, RESTRICT = 444, 445, 446  # the numbers are the same on every architecture
READ_FILE, READ_DIR, WRITE_FILE = 1 << 2, 1 << 3, 1 << 1
ALL_FILES = (1 << 13) - 1  # ABI 1: execute, write, read, list, remove, make
BY_ABI = {2: 1 << 13, 3: 1 << 14, 5: 1 << 15}  # refer, truncate, ioctl on devices
ON_FILES = 1 | READ_FILE | WRITE_FILE | 1 << 14 | 1 << 15  # the only rights that a rule about a file may name


class _Ruleset(ctypes.Structure):
    _fields_ = [("files", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scoped", ctypes.c_uint64)]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


def abi() -> int:
    """The version that this kernel offers; 0 where there is none."""
    if sys.platform != "linux":
        return 0
    try:
        return _call(CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    except OSError:
        return 0


def ruleset(read: Iterable[str], write: Iterable[str] = ()) -> int:
    """A descriptor that `restrict` takes; paths that are not there are left out. Errors: OSError."""
    version = abi()
    files = ALL_FILES | sum(bit for since, bit in BY_ABI.items() if version >= since)
    attributes = _Ruleset(files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    descriptor = _call(CREATE, ctypes.byref(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0))
    execute = 1
    for paths, rights in ((read, READ_FILE | READ_DIR), (write, files & ~execute)):
        for path in paths:
            with contextlib.suppress(FileNotFoundError, PermissionError, NotADirectoryError):
                at = os.open(path, os.O_PATH | os.O_CLOEXEC)
                try:
                    allowed = rights if stat.S_ISDIR(os.fstat(at).st_mode) else rights & ON_FILES
                    rule = _Beneath(allowed & files, at)
                    _call(ADD, descriptor, ctypes.c_int(1), ctypes.byref(rule), ctypes.c_uint32(0))
                finally:
                    os.close(at)
    return descriptor


def restrict(descriptor: int) -> None:
    """Give up the rest, now and for all that this process starts. Needs no_new_privs. Errors: OSError."""
    _call(RESTRICT, descriptor, ctypes.c_uint32(0))
    os.close(descriptor)
