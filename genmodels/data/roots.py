"""Where real data lies: `--data-root`, else $GENMODELS_DATA, else the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

from genmodels.errors import UserError


def data_root(root: str | None) -> Path:
    """The folder in which real data is looked up; it need not exist yet unless it was named."""
    named = root or os.environ.get("GENMODELS_DATA")
    if named:
        folder = Path(named).expanduser()
        if not folder.is_dir():
            source = "--data-root" if root else "$GENMODELS_DATA"
            raise UserError(f"{source} names {named!r}, which is not a folder")
        return folder
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "genmodels"


def missing(name: str, needs: str, folder: Path, *, can_download: bool) -> UserError:
    """The one line for data that is not there, with what would bring it."""
    download = f"run `genmodels train ... --data {name} --download`, or " if can_download else ""
    named = "point --data-root or $GENMODELS_DATA at a folder with it"
    return UserError(f"{name} is not in {str(folder)!r} ({needs}): {download}{named}")
