"""Hostile submissions, to be graded like any other: each must gain 0 points and change nothing outside of its worker.

    with Canary(read=[problem_set / "checks.py"]) as canary:
        for attack in all_attacks(canary):
            path = attack.make(["m_step", "e_step"], folder)   # defines both names, hostile at import or when called
            ... grade it ...
            assert score == 0 and canary.effects(everything_that_grading_said) == []

An attack on code is a function in one of the modules here; its source is copied into the submission, it never runs in
this process. `when` says what started it: "import", while the answer's definitions run, or "call", by the grader. Some
attack by the file itself (`archives`). The canary puts up what an attack could reach (files that anyone may read and
write, listeners, a process that anyone of the same user may kill) and lists what was reached.
"""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .canary import Canary

__all__ = ["Attack", "Canary", "all_attacks"]

HEAD = """# %%
# A hostile submission: {what}.
TARGETS = {targets}


{body}

def _at_import():
    if {at_import}:
        try:
            return _attack(TARGETS, "import", ())
        except Exception as error:
            print("not at import:", type(error).__name__, error)


def _at_call(given):
    if {at_call}:
        return _attack(TARGETS, "call", given)
    return given[0] if given else None

"""
DEFINITION = """
def {name}(*given, _now=_at_import(), **more):
    return _at_call([*given, *more.values()])

"""


@dataclass(frozen=True)
class Attack:
    """A hostile submission: `make(names, folder)` writes it, with all `names` defined, and gives its path."""

    name: str
    what: str
    make: Callable[[Sequence[str], Path], Path]


def hostile(what: str, when: str = "both") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a function `(targets, when, given)` as an attack. `when`: "import", "call" or "both"."""

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        function.attack = (what, when)  # type: ignore[attr-defined]
        return function

    return mark


def body_of(function: Callable[..., Any]) -> str:
    """The function's source, named `_attack`, without its decorator."""
    text = textwrap.dedent(inspect.getsource(function))
    text = text[text.index("def ") :]
    return "def _attack" + text[text.index("(") :]


def source(function: Callable[..., Any], names: Sequence[str], when: str, targets: dict[str, Any]) -> str:
    """The whole submission, as a percent-format script."""
    fields = {"at_import": when == "import", "at_call": when == "call", "body": body_of(function)}
    literal = f"__import__('json').loads({json.dumps(targets)!r})"
    head = HEAD.format(what=function.attack[0], targets=literal, **fields)  # type: ignore[attr-defined]
    return head + "".join(DEFINITION.format(name=name) for name in names)


def _submission(function: Callable[..., Any], when: str, targets: dict[str, Any]) -> Attack:
    name = f"{function.__name__}@{when}"

    def make(names: Sequence[str], directory: Path) -> Path:
        path = Path(directory) / f"{function.__name__}_{when}.py"
        path.write_text(source(function, names, when, targets))
        return path

    return Attack(name, function.attack[0], make)  # type: ignore[attr-defined]


def all_attacks(canary: Canary | None = None, public: dict[str, list[Any]] | None = None) -> list[Attack]:
    """Every attack. Without a canary they aim at what does not exist; `public` holds answers to hard-code, by name."""
    from . import archives, channels, files, network, patches, processes, reading, values

    targets = {**(canary.targets if canary else Canary.nowhere()), "public": public or {}}
    attacks = []
    for module in (patches, values, reading, files, processes, channels, network):
        for function in vars(module).values():
            if hasattr(function, "attack"):
                when = function.attack[1]
                attacks += [_submission(function, w, targets) for w in ("import", "call") if when in (w, "both")]
    return attacks + archives.attacks(targets)
