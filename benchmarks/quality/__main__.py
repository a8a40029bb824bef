"""`python -m benchmarks.quality NAME ...`: train to the published figure and print ours beside it, seed by seed."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import statistics
import sys
import time

import torch

from benchmarks import quality
from benchmarks.quality import Figure, Quality
from genmodels.errors import UserError, unknown


def known() -> dict[str, Quality]:
    """Every name of every family's file."""
    found: dict[str, Quality] = {}
    for info in pkgutil.iter_modules(quality.__path__):
        if not info.name.startswith("_"):
            found |= importlib.import_module(f"benchmarks.quality.{info.name}").QUALITY
    return found


def reached(figure: Figure, value: float) -> str:
    """'aim', 'must' or 'MISSED'."""

    def meets(bar: float | None) -> bool:
        return bar is not None and (value >= bar if figure.higher_is_better else value <= bar)

    return "" if figure.must is None else "aim" if meets(figure.aim) else "must" if meets(figure.must) else "MISSED"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("names", nargs="*", help="names (default: list them)")
    parser.add_argument("--data-root", default=os.environ.get("GENMODELS_DATA"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    table = known()
    if not arguments.names:
        for name, entry in table.items():
            print(f"{name:16s} {entry.protocol}")
        return 0
    torch.set_num_threads(arguments.threads)
    missed, results = [], []
    try:
        for name in arguments.names:
            if name not in table:
                raise unknown("quality benchmark", name, table)
            print(f"{name}: {table[name].protocol}")
            by_name: dict[str, list[Figure]] = {}
            for seed in arguments.seeds:
                start = time.monotonic()
                figures, parameters = table[name].measure(arguments.data_root, seed)
                seconds = time.monotonic() - start
                for figure in figures:
                    by_name.setdefault(figure.name, []).append(figure)
                    sign = "≥" if figure.higher_is_better else "≤"
                    bars = f"must {sign} {figure.must}, aim {sign} {figure.aim}" if figure.must is not None else ""
                    print(
                        f"  seed {seed}: {figure.name} {figure.value:.4g} {figure.unit}  {bars} "
                        f"{reached(figure, figure.value)}",
                        flush=True,
                    )
                    results.append({"name": name, "seed": seed, "figure": figure.__dict__, "seconds": seconds})
                print(f"  seed {seed}: {parameters:,} parameters, {seconds:.0f} s in all, {arguments.threads} threads")
            for label, figures in by_name.items():
                values = [f.value for f in figures]
                if len(values) > 1:
                    spread = f"{min(values):.4g} to {max(values):.4g}"
                    print(f"  {label}: mean {statistics.mean(values):.4g}, {spread} over {len(values)} seeds")
                missed += [f"{name}: {label}" for f in figures if reached(f, f.value) == "MISSED"]
    except UserError as error:
        print(f"benchmarks.quality: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("benchmarks.quality: interrupted: a training that was not finished has no figure", file=sys.stderr)
        return 130
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as handle:
            json.dump(results, handle, indent=2)
    print("missed: " + ", ".join(missed) if missed else "every must is reached")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
