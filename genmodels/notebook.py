"""What the lecture notebooks share: real source beside a formula, pictures with captions, and sizes that fit a machine.

>>> pick = Sizes(large=False)
>>> pick(2000, large=20_000, smoke=20)  # doctest: +SKIP
2000
"""

from __future__ import annotations

import inspect
import os
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from matplotlib.figure import Figure

from genmodels import plotting
from genmodels.errors import UserError

T = TypeVar("T")


def smoke_mode() -> bool:
    """Whether a notebook is only to be run through quickly: GENMODELS_SMOKE=1 in the environment."""
    return os.environ.get("GENMODELS_SMOKE", "") not in ("", "0")


@dataclass(frozen=True)
class Sizes:
    """A notebook's one switch: `large` settings where a GPU is there, the usual ones for two CPU cores otherwise."""

    large: bool

    def __call__(self, usual: T, *, large: T, smoke: T) -> T:
        """The value for this run. A smoke run takes the third whatever the switch says."""
        if smoke_mode():
            return smoke
        return large if self.large else usual


@dataclass(frozen=True)
class Source:
    """Lines of a module as they stand there; a notebook shows them as code, a terminal as text."""

    name: str
    file: str
    code: str

    def _repr_markdown_(self) -> str:
        link = f"[`{self.file}`]({address}/blob/main/{self.file})" if (address := repository()) else f"`{self.file}`"
        return f"`{self.name}` in {link}:\n\n```python\n{self.code}\n```"

    def __repr__(self) -> str:
        return f"{self.name} in {self.file}:\n{self.code}"


def source(thing: Callable[..., Any], first: str = "", last: str = "") -> Source:
    """The lines of a function or class from the one that holds `first` to the one that holds `last`.

    Without them, all of it. Nothing is copied: the code is read from the module that is installed.
    Errors: UserError if such a line is not there, so that a notebook can't show what a module no longer does.
    """
    thing = inspect.unwrap(thing)
    name = f"{thing.__qualname__}"
    lines = textwrap.dedent(inspect.getsource(thing)).rstrip().splitlines()
    start = _find(lines, first, 0, name) if first else 0
    stop = _find(lines, last, start, name) if last else len(lines) - 1
    path = Path(inspect.getfile(thing))
    package = thing.__module__.partition(".")[0]
    file = "/".join(path.parts[len(path.parts) - 1 - path.parts[::-1].index(package) :])
    return Source(name, file, textwrap.dedent("\n".join(lines[start : stop + 1])))


def _find(lines: list[str], text: str, start: int, name: str) -> int:
    for i in range(start, len(lines)):
        if text in lines[i]:
            return i
    raise UserError(f"{name} has no line with {text!r}" + (f" after its line {start + 1}" if start else ""))


def repository() -> str | None:
    """The address of the project's repository, as pyproject.toml has it; None where the package is not installed."""
    try:
        urls = metadata.metadata("genmodels").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        return None
    return next((url.split(",", 1)[1].strip() for url in urls if url.lower().startswith("repository,")), None)


def show(figure: Figure, caption: str) -> None:
    """Show a figure in a notebook, and below it the caption that says what to see."""
    from IPython.display import Image, Markdown, display

    if not caption.strip():
        raise UserError("a picture needs a caption that says what to see")
    display(Image(plotting.png(figure)))
    display(Markdown(f"**What to see.** {caption}"))
