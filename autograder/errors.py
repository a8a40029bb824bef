"""The one error that a user of the autograder sees: a single clear line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GraderError(Exception):
    """Something that the user can mend, said in one line. The command prints it and ends with status 2."""


def unknown(kind: str, name: str, known: Iterable[str]) -> GraderError:
    """An error for a name that does not exist, with the nearest one that does."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(names)
    return GraderError(f"unknown {kind} {name!r}; {hint}")
