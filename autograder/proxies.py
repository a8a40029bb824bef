"""The two objects that a check talks to: the student's answer and the reference, each behind a backend.

A backend runs one request of `executor.execute`: in this process (a notebook), or in a sandboxed worker (the grader).
The reference remembers what it was asked, so that in a class it computes once, and in a student's zip only the
recorded answers remain.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

from .checks import AnswerError, seed_of
from .errors import GraderError
from .values import BadValue, encode

Backend = Callable[[dict[str, Any]], dict[str, Any]]


class NotRecorded(Exception):
    """A recorded reference was asked something that it was not asked when it was recorded."""


def digest(request: dict[str, Any]) -> str:
    """A name for a request: the same for the same function, inputs and seed."""
    header, buffers = encode(request)
    h = hashlib.sha256(json.dumps(header, separators=(",", ":"), sort_keys=True).encode())
    for buffer in buffers:
        h.update(buffer)
    return h.hexdigest()[:32]


class Called:
    """A function on the other side: call it, or ask for a gradient of the sum of its answer."""

    def __init__(self, side: Side, name: str) -> None:
        self._side, self._name = side, name

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._side._ask({"op": "call", "name": self._name, "args": list(arguments), "kwargs": keywords})

    def gradient(self, *arguments: Any, wrt: int = 0, **keywords: Any) -> Any:
        request = {"op": "call", "name": self._name, "args": list(arguments), "kwargs": keywords, "wrt": wrt}
        return self._side._ask(request)


class Side:
    """What student and reference share: `side.f(...)` calls f, `side.script(source, **inputs)` runs a few lines."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._calls = 0

    def __getattr__(self, name: str) -> Called:
        if name.startswith("_"):
            raise AttributeError(name)
        return Called(self, name)

    def script(self, source: str, **inputs: Any) -> Any:
        """Run the body of a function in the answer's namespace and give what it returns."""
        return self._ask({"op": "script", "source": source, "inputs": inputs})

    def _ask(self, request: dict[str, Any]) -> Any:
        # student and reference draw the same numbers in their k-th request, where they draw in the same order
        self._calls += 1
        return self._answer({**request, "seed": seed_of(self._seed, self._calls) % 2**31})

    def _answer(self, request: dict[str, Any]) -> Any:
        raise NotImplementedError


class Student(Side):
    """The student's answer. What goes wrong in it is an AnswerError, with lines for the student."""

    def __init__(self, backend: Backend, seed: int, *, forbid_mutation: bool = True) -> None:
        super().__init__(seed)
        self._backend = backend
        self._forbid_mutation = forbid_mutation

    def _answer(self, request: dict[str, Any]) -> Any:
        name = request.get("name", "the answer")
        try:
            reply = self._backend(request)
        except BadValue as error:
            raise AnswerError(f"{name}: what came back is no plain value: {error}") from None
        if "error" in reply:
            raise AnswerError(*error_lines(str(name), reply["error"]))
        if reply.get("mutated") and self._forbid_mutation:
            places = ", ".join(_argument(request, str(m)) for m in reply["mutated"])
            raise AnswerError(
                f"{name} changes its input in place ({places}): work on a copy, the caller still needs it"
            )
        return reply["ok"]


def error_lines(name: str, error: dict[str, Any]) -> list[str]:
    """The lines that a student reads when the answer raised."""
    kind, message, where = (str(error.get(k, "")) for k in ("type", "message", "where"))
    first = (message.splitlines() or [""])[0]
    if kind == "NotImplementedError":
        return [f"{name}: not written yet" + (f" ({first})" if first else "")]
    if kind in ("MissingName", "NoGradient"):
        return [first if kind == "MissingName" else f"{name}: {first}"]
    if kind == "BadValue":
        return [f"{name}: {first}"]
    return [f"{name} raised {kind}: {first}", *([where] if where else [])]


def _argument(request: dict[str, Any], place: str) -> str:
    return f"argument {int(place) + 1}" if place.isdigit() else f"argument {place}"


class Reference(Side):
    """The solution: from memory where the same was asked before, else by its backend, else not at all."""

    def __init__(self, memory: dict[str, Any], backend: Backend | None, seed: int) -> None:
        super().__init__(seed)
        self._memory, self._backend = memory, backend

    def _answer(self, request: dict[str, Any]) -> Any:
        key = digest(request)
        if key not in self._memory:
            if self._backend is None:
                raise NotRecorded(f"no recorded answer for {request.get('name', 'a script')}")
            reply = self._backend(request)
            if "error" in reply:
                error = reply["error"]
                place = f" at {error['where']}" if error["where"] else ""
                raise GraderError(f"the solution raised {error['type']}: {error['message']}{place}")
            self._memory[key] = reply["ok"]
        return self._memory[key]
