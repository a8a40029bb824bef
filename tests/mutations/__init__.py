"""Seeded faults: each entry breaks a module on purpose, and the module's tests must turn red.

Run `python -m tests.mutations` (all) or `python -m tests.mutations realnvp gpt` (some modules).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """Replace `find` (which stands exactly once in the file `module`) by `replace`; `tests` must then fail.

    `module` and `tests` are paths relative to the repository; `why` says which mistake this is, in a few words.
    `tests` may name one test (`tests/flows/test_maf.py::test_inverse`) to be quick.
    """

    module: str
    find: str
    replace: str
    tests: str
    why: str
