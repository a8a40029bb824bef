"""Attacks by what is returned: objects that lie, and answers that were never computed."""

# mypy: ignore-errors

from . import hostile


@hostile("returns an object that equals everything", "call")
def equal_to_all(targets, when, given):
    class Liar:
        shape, dtype, ndim = (), "float64", 0

        def __eq__(self, other):
            return True

        def __array__(self, *a, **k):
            raise SystemExit

        def __getattr__(self, name):
            return lambda *a, **k: self

        __ne__ = lambda self, other: False  # noqa: E731
        __lt__ = __le__ = __gt__ = __ge__ = __eq__
        __sub__ = __rsub__ = __abs__ = __float__ = lambda self, *a: 0.0
        __hash__ = lambda self: 0  # noqa: E731
        __class__ = float

    return Liar()


@hostile("returns a tensor subclass whose __torch_function__ lies", "call")
def tensor_subclass(targets, when, given):
    import torch

    class Liar(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            return torch.tensor(True)

    return torch.zeros(3).as_subclass(Liar)


@hostile("returns an array subclass whose __array_ufunc__ lies", "call")
def array_subclass(targets, when, given):
    import numpy as np

    class Liar(np.ndarray):
        def __array_ufunc__(self, *a, **k):
            return np.bool_(True)

        def __array_function__(self, *a, **k):
            return True

    return np.zeros(3).view(Liar)


@hostile("returns subclasses of float, int, str, tuple and dict that lie", "call")
def plain_subclasses(targets, when, given):
    class Float(float):
        __eq__ = lambda self, other: True  # noqa: E731
        __sub__ = __rsub__ = lambda self, other: 0.0
        __hash__ = float.__hash__

    class Pair(tuple):
        _fields = ("a", "b")
        __len__ = lambda self: 2  # noqa: E731
        __iter__ = lambda self: iter(given)  # noqa: E731

    class Names(dict):
        __getitem__ = lambda self, key: 0.0  # noqa: E731

    return Pair((Float(0), Names(a=Float(1))))


@hostile("returns not-a-number everywhere", "call")
def nan(targets, when, given):
    return given[0] * float("nan") if given else float("nan")


@hostile("returns infinity everywhere", "call")
def infinity(targets, when, given):
    return given[0] * 0 + float("inf") if given else float("inf")


@hostile("returns zeros in the input's shape", "call")
def zeros(targets, when, given):
    return given[0] * 0 if given else 0.0


@hostile("returns an empty tensor, which any comparison of all elements passes", "call")
def empty(targets, when, given):
    import torch

    return torch.zeros(0)


@hostile("returns a sparse tensor", "call")
def sparse(targets, when, given):
    import torch

    return torch.eye(3).to_sparse()


@hostile("returns a tensor without storage", "call")
def meta(targets, when, given):
    import torch

    return torch.zeros(10**12, device="meta")


@hostile("returns a tensor that is small in memory and huge in shape", "call")
def expanded(targets, when, given):
    import torch

    return torch.zeros(1).expand(1 << 40)


@hostile("returns more than may cross", "call")
def too_large(targets, when, given):
    import torch

    return torch.zeros(100 << 20, dtype=torch.uint8)


@hostile("returns a list of a million items", "call")
def million(targets, when, given):
    return [0.0] * 1_000_000


@hostile("returns a list that holds itself", "call")
def endless_list(targets, when, given):
    items = []
    items.append(items)
    return items


@hostile("returns an integer of a million digits", "call")
def huge_integer(targets, when, given):
    return 1 << 3_000_000


@hostile("writes into its inputs, hoping that the expected answer is computed from them", "call")
def mutate(targets, when, given):
    for x in given:
        if hasattr(x, "zero_"):
            x.zero_()
    return given[0].sum() if given and hasattr(given[0], "sum") else 0.0


@hostile("returns its input's own storage", "call")
def own_storage(targets, when, given):
    return tuple(given) if len(given) > 1 else given[0] if given else None


@hostile("answers with what it saw in the calls before", "call")
def cache(targets, when, given):
    import builtins

    seen = builtins.__dict__.setdefault("_seen", [])
    seen.append(given)
    return seen[0][0] if seen[0] else None


@hostile("knows the public answers by heart", "call")
def by_heart(targets, when, given):
    import builtins
    import sys

    import torch

    name = sys._getframe(2).f_code.co_name
    counts = builtins.__dict__.setdefault("_counts", {})
    counts[name] = counts.get(name, -1) + 1
    answers = targets["public"].get(name) or [0.0]

    def tensors(v):
        try:
            return torch.tensor(v, dtype=torch.float64)
        except (ValueError, TypeError):  # several arrays
            return tuple(map(tensors, v))

    return tensors(answers[counts[name] % len(answers)])


@hostile("raises an exception whose own methods raise, print and lie", "call")
def exception(targets, when, given):
    class Wrong(Exception):
        def __str__(self):
            raise KeyboardInterrupt

        __repr__ = __str__

    raise Wrong


@hostile("raises an exception with a message of 100 MB and markup inside", "call")
def long_message(targets, when, given):
    raise ValueError("<script>alert(1)</script>\x1b[2J" + "x" * (100 << 20))
