"""The one error that a user's mistake raises, and the words that go with it.

Everything that a user can get wrong (a name, a shape, a file) raises `UserError` with a single line that says
what was wrong and what would be right; the command line prints that line and exits with status 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input, explained in one line."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that is not in `known`, with the nearest name that is."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
    return UserError(f"unknown {kind} {name!r}; {hint}")


def one_line(error: BaseException) -> str:
    """An exception's message without its line breaks, or its name where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
