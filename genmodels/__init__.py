"""genmodels: reference implementations of deep generative models, one model per module.

>>> import genmodels
>>> model = genmodels.load("runs/vae")  # doctest: +SKIP

Importing the package imports neither torch nor any model, so that the command line starts at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genmodels.runs import load as load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    if name == "load":
        from genmodels.runs import load

        return load
    raise AttributeError(f"module 'genmodels' has no attribute {name!r}")
