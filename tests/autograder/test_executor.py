"""The executor: what student code gets, what comes back of it, and how its failures are told."""

import random

import numpy as np
import pytest

from autograder.executor import execute


def loaded(source, whole=True):
    namespace = {}
    reply = execute(namespace, {"op": "load", "cells": [{"source": source, "whole": whole, "label": "of 1a"}]})
    return namespace, reply["ok"]["problems"]


def call(namespace, name, *args, wrt=None, **kwargs):
    request = {"op": "call", "name": name, "args": list(args), "kwargs": kwargs, "seed": 7, "wrt": wrt}
    return execute(namespace, request)


def test_arrays_arrive_as_tensors_and_leave_as_arrays():
    namespace, _ = loaded(
        "def f(x, y):\n    assert isinstance(x, torch.Tensor)\n    return x @ y, {'n': [len(x), True, 's']}"
    )
    x = np.arange(6.0).reshape(2, 3)
    product, rest = call(namespace, "f", x, y=x.T)["ok"]
    assert np.array_equal(product, x @ x.T)
    assert rest == {"n": [2, True, "s"]}


def test_the_gradient_is_autograds():
    namespace, _ = loaded("def f(a, x):\n    return a * x**3")
    x = np.array([1.0, -2.0, 0.5])
    assert np.allclose(call(namespace, "f", 2.0, x, wrt=1)["ok"], 6 * x**2)


def test_a_gradient_through_detached_code_is_told():
    namespace, _ = loaded("def f(x):\n    return x.detach() ** 2")
    assert call(namespace, "f", np.ones(2), wrt=0)["error"]["type"] == "NoGradient"


def test_every_call_is_seeded_and_leaves_the_callers_generators_alone():
    import torch

    namespace, _ = loaded("import random\ndef f():\n    return torch.randn(3), np.random.rand(), random.random()")
    before = torch.get_rng_state()
    others = np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    first, second = call(namespace, "f")["ok"], call(namespace, "f")["ok"]
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert bool((torch.get_rng_state() == before).all())
    assert (np.random.get_state()[1].tolist(), random.getstate()) == others  # noqa: NPY002


@pytest.mark.parametrize("body", ["x += 1", "x.zero_()", "x.resize_(1)", "x[0] = 3"])
def test_inputs_changed_in_place_are_reported(body):
    namespace, _ = loaded(f"def f(x):\n    {body}\n    return 0.0")
    assert call(namespace, "f", np.arange(1.0, 4.0))["mutated"] == ["0"]
    assert execute(namespace, {"op": "call", "name": "f", "args": [], "kwargs": {"x": np.arange(1.0, 4.0)}, "seed": 1})[
        "mutated"
    ] == ["x"]
    namespace, _ = loaded(f"def f(x):\n    x = x.clone()\n    {body}\n    return 0.0")
    assert call(namespace, "f", np.arange(1.0, 4.0))["mutated"] == []


@pytest.mark.parametrize(
    "answer",
    [
        "torch.zeros(2).to_sparse()",
        "torch.zeros(2, device='meta')",
        "T(torch.zeros(2))",
        "I(1)",
        "object()",
        "(lambda: 0)",
        "{1, 2}",
        "{1: 2}",
        "[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]",
    ],
)
def test_an_answer_of_another_kind_is_refused(answer):
    source = "class T(torch.Tensor):\n    @staticmethod\n    def __new__(cls, x): return x.as_subclass(cls)\n"
    source += f"class I(int):\n    pass\ndef f():\n    return {answer}"
    namespace, _ = loaded(source)
    assert call(namespace, "f")["error"]["type"] == "BadValue"


def test_half_precision_comes_back_as_float32():
    namespace, _ = loaded("def f():\n    return torch.ones(2, dtype=torch.bfloat16), torch.ones(2).half()")
    assert [a.dtype.name for a in call(namespace, "f")["ok"]] == ["float32", "float32"]


@pytest.mark.parametrize(
    "raised", ["SystemExit(0)", "KeyboardInterrupt()", "ValueError('no')", "Odd()", "RecursionError()"]
)
def test_whatever_is_raised_becomes_a_reply_with_the_students_line(raised):
    source = "class Odd(Exception):\n    def __str__(self):\n        raise RuntimeError\n"
    namespace, _ = loaded(f"{source}def f():\n    raise {raised}")
    error = call(namespace, "f")["error"]
    assert "line 5 of answer cell of 1a: raise " in error["where"] or "Odd" in raised


def test_cells_run_in_any_order_and_only_definitions_outside_of_answers():
    namespace = {}
    cells = [
        {"source": "def f():\n    return M * N\nM = N + 1", "whole": True, "label": "of 1a"},
        {"source": "N = 2 * K\nprint('training')\nlosses = [train() for _ in range(9)]", "whole": False, "label": None},
        {"source": "K = 2\nimport no_such_module\nfrom math import pi\n%%%", "whole": False, "label": None},
        {"source": "K = 2\nimport no_such_module\nfrom math import pi", "whole": False, "label": None},
    ]
    reply = execute(namespace, {"op": "load", "cells": cells})
    assert reply["ok"]["problems"] == []
    assert call(namespace, "f")["ok"] == 20
    assert "losses" not in namespace
    assert "pi" in namespace


def test_a_cell_that_fails_keeps_what_stands_above_and_is_told():
    namespace, problems = loaded("def f():\n    return 1\nplot(f)\n")
    assert call(namespace, "f")["ok"] == 1
    assert len(problems) == 1
    assert "plot" in problems[0]
    _, problems = loaded("def f(:\n")
    assert "SyntaxError" in problems[0]


def test_a_script_runs_in_the_answers_namespace():
    namespace, _ = loaded(
        "class A:\n    def __init__(self, w):\n        self.w = w\n    def f(self, x):\n        return self.w * x"
    )
    request = {
        "op": "script",
        "source": "a = A(w)\nreturn [a.f(x), a.f(2.0)]",
        "inputs": {"w": np.ones(2), "x": 3.0},
        "seed": 1,
    }
    first, second = execute(namespace, request)["ok"]
    assert first.tolist() == [3, 3]
    assert second.tolist() == [2, 2]
    assert "a" not in namespace


def test_a_missing_name_is_one_helpful_line():
    namespace, _ = loaded("x = 1")
    error = call(namespace, "m_step")["error"]
    assert error["type"] == "MissingName"
    assert "m_step is not defined" in error["message"]
