"""Text as one stream of character ids: the first 90 % trains, the rest is held out."""

from __future__ import annotations

from pathlib import Path

import torch

from genmodels.data import Data
from genmodels.data.roots import data_root, missing
from genmodels.errors import UserError

TRAIN_SHARE = 0.9


def from_text(name: str, text: str, *, split: int | None = None) -> Data:
    """Character data: the vocabulary is the sorted set of characters; `split` is where the held-out part begins."""
    if not text:
        raise UserError(f"{name} is empty")
    vocab = tuple(sorted(set(text)))
    index = {c: i for i, c in enumerate(vocab)}
    ids = torch.tensor([index[c] for c in text], dtype=torch.long)
    n = int(TRAIN_SHARE * len(ids)) if split is None else split
    return Data(name, "text", (), ids[:n], ids[n:], vocab=vocab)


def read(path: Path) -> str:
    """A UTF-8 file's text; one line says what is wrong with it otherwise."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{str(path)!r} is not UTF-8 text: byte {error.start} is no character") from error
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}") from error


def from_file(path: str) -> Data:
    """A text file of the user's."""
    return from_text(f"text:{path}", read(Path(path)))


def shakespeare(root: str | None) -> Data:
    """Tiny Shakespeare, 1,115,394 characters: `tinyshakespeare.txt` or `shakespeare.txt` in the root."""
    folder = data_root(root)
    for file in ("tinyshakespeare.txt", "shakespeare.txt"):
        if (folder / file).is_file():
            return from_text("shakespeare", read(folder / file))
    raise missing("shakespeare", "tinyshakespeare.txt", folder, can_download=False)


def prose() -> Data:
    """English prose that every Python has: the help topics of its language reference."""
    from pydoc_data.topics import topics

    text = "\n".join(topics[k].strip() + "\n" for k in sorted(topics))
    # Rare signs would each cost an embedding row and teach nothing; the stream stays plain ASCII.
    return from_text("text", "".join(c for c in text if c == "\n" or 32 <= ord(c) < 127))


def arithmetic(n_train: int = 20_000, n_test: int = 2_000) -> Data:
    """Lines such as "27+58=85": sums and products of numbers below 100; no problem of the test part is trained on."""
    g = torch.Generator().manual_seed(0)
    problems = torch.cartesian_prod(torch.arange(100), torch.arange(100), torch.arange(2))
    problems = problems[torch.randperm(len(problems), generator=g)]
    held_out = len(problems) // 10
    lines = [f"{a}{'+*'[op]}{b}={a * b if op else a + b}\n" for a, b, op in problems.tolist()]

    def stream(pool: list[str], n: int) -> str:
        return "".join(pool[i] for i in torch.randint(len(pool), (n,), generator=g).tolist())

    train, test = stream(lines[held_out:], n_train), stream(lines[:held_out], n_test)
    return from_text("arithmetic", train + test, split=len(train))
