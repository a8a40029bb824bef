"""Attacks that replace what a grader in the same process would judge by."""

# mypy: ignore-errors

from . import hostile


@hostile("replaces the comparisons of torch and numpy")
def comparisons(targets, when, given):
    import numpy as np
    import torch

    def yes(*arguments, **keywords):
        return True

    for name in ("allclose", "equal", "isclose", "is_tensor", "isfinite"):
        setattr(torch, name, yes)
    for name in ("allclose", "array_equal", "isclose", "all", "isfinite", "max", "asarray", "frombuffer", "abs"):
        setattr(np, name, yes)
    torch.testing.assert_close = np.testing.assert_allclose = yes
    torch.Tensor.__eq__ = torch.Tensor.__sub__ = torch.Tensor.numpy = yes
    return torch.zeros(3)


@hostile("replaces builtins")
def builtins(targets, when, given):
    import builtins as module

    for name in ("isinstance", "all", "any", "len", "abs", "min", "max", "sum", "round", "float", "type", "id"):
        setattr(module, name, lambda *a, **k: True)
    module.print = module.open = lambda *a, **k: None
    return 0.0


@hostile("replaces whole modules in sys.modules")
def modules(targets, when, given):
    import sys
    import types

    class Yes(types.ModuleType):
        def __getattr__(self, name):
            return lambda *a, **k: True

    for name in ("numpy", "torch", "math", "json", "unittest", "pytest", "autograder", "autograder.checks", "checks"):
        sys.modules[name] = Yes(name)
    return True


@hostile("stops the clock")
def clock(targets, when, given):
    import signal
    import time

    for name in ("time", "monotonic", "perf_counter", "process_time"):
        setattr(time, name, lambda: 0.0)
    time.sleep = lambda seconds: None
    signal.alarm(0)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return 0


@hostile("replaces the worker's own executor, encoder and channel")
def machinery(targets, when, given):
    import sys

    for name, module in list(sys.modules.items()):
        if name.startswith("_sandbox"):
            for attribute in ("encode", "from_student", "execute", "load_cells", "decode", "unpack"):
                if hasattr(module, attribute):
                    setattr(module, attribute, lambda *a, **k: (True, []))
            if hasattr(module, "_changed"):
                module._changed = lambda *a: False
    return True


@hostile("puts its own functions in the place of the caller's variables, frame by frame")
def frames(targets, when, given):
    import ctypes
    import sys

    frame = sys._getframe()
    while frame is not None:
        for name in list(frame.f_locals):
            if any(word in name for word in ("score", "expected", "points", "reference", "passed", "tolerance")):
                frame.f_locals[name] = 1.0
        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))
        for name in ("compare", "check", "grade", "expect", "question"):
            if name in frame.f_globals:
                frame.f_globals[name] = lambda *a, **k: True
        frame = frame.f_back
    return 1.0


@hostile("writes into the interpreter's small integers", "call")
def integers(targets, when, given):
    import ctypes

    ctypes.memmove(id(0) + 24, id(1) + 24, 4)
    return 0


@hostile("turns the seeds into constants", "import")
def seeds(targets, when, given):
    import random

    import numpy as np
    import torch

    torch.manual_seed = np.random.seed = random.seed = lambda *a: None
    torch.randn = lambda *a, **k: torch.zeros(1)
    return
