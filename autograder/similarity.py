"""Which submissions share code: winnowed fingerprints of normalised tokens, for a person to look at.

Method: S. Schleimer, D. Wilkerson and A. Aiken, "Winnowing: Local Algorithms for Document Fingerprinting" (2003), after
a normalisation for Python notebooks:

1. Cells are cut into tokens by a scanner of our own that is linear in the text and never fails. Student code is not
   run, parsed or compiled here. Comments, layout and docstrings are dropped; strings, numbers and names become one
   token each, so that renaming hides nothing. Keywords stay, and so do names after a dot (`torch.logsumexp`, `x.sum`):
   a library's names cannot be renamed, and they tell apart solutions that otherwise have the same shape.
2. Every run of K tokens inside of a cell is hashed. Hashes of the starter notebook are taken out, and so are those in
   more than COMMON of a large class: what nearly everyone writes is idiom, not copying.
3. Of each WINDOW hashes in a row the smallest is kept (the rightmost of equals). So any shared run of
   K + WINDOW - 1 = 17 tokens is seen, and none below K = 12 is. The order of cells and functions does not matter.
4. Two submissions are as similar as the share of the smaller one's fingerprints that the other has as well.

A high figure is a reason to read both, never a verdict: short right answers are alike by nature.
"""

from __future__ import annotations

import csv
import hashlib
import keyword
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import GraderError
from .gradebook import cell as safe_cell
from .problem_set import ProblemSet
from .submission import read_submission

K = 12  # tokens of a fingerprint
WINDOW = 6  # hashes of which one is kept
COMMON, COMMON_AT_LEAST = 0.25, 8  # a hash in more of the class than this share, and this number, is idiom
MAX_TOKENS = 60_000  # of one submission; 20 times what a problem set takes
MIN_FINGERPRINTS = 12  # a submission with fewer (about 5 lines of its own) is not judged
THRESHOLD = 0.5
MAX_PARTS = 12  # shared parts shown for a pair

_WORD = re.compile(r"[^\W\d]\w*")
_NUMBER = re.compile(r"\d[\w.]*|\.\d[\w.]*")
_OPERATOR = re.compile(r"\*\*=|//=|>>=|<<=|->|:=|[-+*/%@&|^<>=!]=|\*\*|//|<<|>>|\.\.\.|.", re.S)
_REST = {quote: re.compile(rf"(?:[^{quote}\\\n]|\\.)*", re.S) for quote in ("'", '"')}  # of a string of one line
_PREFIXES = {"r", "u", "b", "f", "t", "br", "rb", "fr", "rf", "tr", "rt"}


@dataclass(frozen=True)
class Prints:
    """Fingerprints of one submission: where each hash stands, as (cell, first line, last line)."""

    places: Mapping[int, tuple[tuple[str, int, int], ...]]

    def __len__(self) -> int:
        return len(self.places)


@dataclass(frozen=True)
class Pair:
    """Two submissions that share code."""

    a: str
    b: str
    similarity: float
    shared: int
    size_a: int
    size_b: int
    parts: tuple[str, ...]  # "cell lines ~ cell lines"


def tokens(source: str, limit: int = MAX_TOKENS) -> list[tuple[str, int]]:
    """Normalised tokens with their line numbers; any text gives some, in time linear in its length."""
    found: list[tuple[str, int]] = []
    i, line, depth = 0, 1, 0
    fresh = True  # at the start of a statement, where a string is a docstring
    previous = before = ""
    n = len(source)
    while i < n and len(found) < limit:
        c = source[i]
        if c == "\n":
            line, i, fresh = line + 1, i + 1, fresh or depth == 0
            continue
        if c in " \t\r\f" or c == "\\":
            i += 1
            continue
        if c == "#":
            end = source.find("\n", i)
            i = n if end < 0 else end
            continue
        match = _WORD.match(source, i)
        start = line
        if match and not (match[0].lower() in _PREFIXES and source[match.end() : match.end() + 1] in ("'", '"')):
            token, i = match[0], match.end()
            attribute = previous == "." and before != "self"
            if not (keyword.iskeyword(token) or attribute):
                token = "self" if token == "self" else "name"
        elif c in "'\"" or match:
            at = match.end() if match else i
            i = _string_end(source, at)
            line += source.count("\n", at, i)
            if fresh and depth == 0:
                continue
            token = "string"
        elif number := _NUMBER.match(source, i):
            token, i = "number", number.end()
        else:
            operator = _OPERATOR.match(source, i)
            assert operator is not None
            token, i = operator[0], operator.end()
            depth = depth + 1 if token in "([{" else max(0, depth - 1) if token in ")]}" else depth
        found.append((token, start))
        before, previous, fresh = previous, token, False
    return found


def _string_end(source: str, start: int) -> int:
    """Where a string ends that opens at `start`; one that never closes ends with its line, or with the text."""
    quote = source[start]
    if not source.startswith(quote * 3, start):
        match = _REST[quote].match(source, start + 1)
        assert match is not None
        return min(match.end() + (source[match.end() : match.end() + 1] == quote), len(source))
    i = start + 3
    close = source.find(quote * 3, i)
    while close >= 0:
        slash = source.find("\\", i, close)
        if slash < 0:
            return close + 3
        i = slash + 2
        if close < i:  # looked for once only, so that many backslashes cost no more than one pass
            close = source.find(quote * 3, i)
    return len(source)


def grams(source: str, limit: int = MAX_TOKENS) -> list[tuple[int, int, int]]:
    """Hashes of every run of K tokens, with the lines that it covers."""
    found = tokens(source, limit)
    texts = [t for t, _ in found]
    out = []
    for i in range(len(found) - K + 1):
        digest = hashlib.blake2b("\0".join(texts[i : i + K]).encode("utf-8", "replace"), digest_size=8).digest()
        out.append((int.from_bytes(digest, "big"), found[i][1], found[i + K - 1][1]))
    return out


Cells = Sequence[tuple[str, str]]  # (label, source)


def _all_grams(cells: Cells) -> list[tuple[str, list[tuple[int, int, int]]]]:
    left = MAX_TOKENS
    out = []
    for label, source in cells:
        found = grams(source, left)
        left -= len(found) + K - 1 if found else 0
        out.append((label, found))
        if left <= 0:
            break
    return out


def winnow(hashes: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Of each WINDOW hashes in a row the smallest, the rightmost of equals; each kept once."""
    kept = []
    last = -1
    for i in range(max(1, len(hashes) - WINDOW + 1)):
        window = hashes[i : i + WINDOW]
        if not window:
            break
        j = min(range(len(window)), key=lambda j: (window[j][0], -j)) + i
        if j != last:
            kept.append(hashes[j])
            last = j
    return kept


def fingerprints(students: Mapping[str, Cells], starter: Iterable[str] = ()) -> dict[str, Prints]:
    """Winnowed fingerprints of each submission, less the starter's and what the class has in common."""
    ignored = {h for source in starter for h, _, _ in grams(source)}
    hashed = {name: _all_grams(cells) for name, cells in students.items()}
    count: dict[int, int] = defaultdict(int)
    for cells in hashed.values():
        for h in {h for _, found in cells for h, _, _ in found}:
            count[h] += 1
    most = max(COMMON_AT_LEAST, COMMON * len(hashed))
    ignored |= {h for h, c in count.items() if c > most}
    out = {}
    for name, cells in hashed.items():
        places: dict[int, list[tuple[str, int, int]]] = defaultdict(list)
        for label, found in cells:
            run: list[tuple[int, int, int]] = []
            for gram in [*found, None]:  # windows do not reach across what was taken out
                if gram is not None and gram[0] not in ignored:
                    run.append(gram)
                    continue
                for h, first, last in winnow(run):
                    places[h].append((label, first, last))
                run = []
        out[name] = Prints({h: tuple(p) for h, p in places.items()})
    return out


def pairs(prints: Mapping[str, Prints], threshold: float = THRESHOLD) -> list[Pair]:
    """Pairs at or above the threshold, the most similar first."""
    where: dict[int, list[str]] = defaultdict(list)
    for name in sorted(prints):
        for h in prints[name].places:
            where[h].append(name)
    shared: dict[tuple[str, str], int] = defaultdict(int)
    for names in where.values():
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                shared[a, b] += 1
    found = []
    for (a, b), count in shared.items():
        smaller = min(len(prints[a]), len(prints[b]))
        if smaller >= MIN_FINGERPRINTS and count / smaller >= threshold:
            parts = _parts(prints[a], prints[b], sorted(prints[a].places.keys() & prints[b].places.keys()))
            found.append(Pair(a, b, count / smaller, count, len(prints[a]), len(prints[b]), parts))
    return sorted(found, key=lambda p: (-p.similarity, p.a, p.b))


def _parts(a: Prints, b: Prints, hashes: Sequence[int]) -> tuple[str, ...]:
    """Shared stretches of two submissions, neighbours merged: lines of each cell of `a` beside those of `b`."""
    stretches: dict[tuple[str, str], list[list[int]]] = defaultdict(list)
    for h in hashes:
        label_a, a0, a1 = a.places[h][0]
        # a hash that stands in several places is matched with the cell of the same name where there is one
        label_b, b0, b1 = next((p for p in b.places[h] if p[0] == label_a), b.places[h][0])
        stretches[label_a, label_b].append([a0, a1, b0, b1])
    parts = []
    for (label_a, label_b), ranges in sorted(stretches.items()):
        merged: list[list[int]] = []
        for r in sorted(ranges):
            near = merged and r[0] <= merged[-1][1] + 1 and merged[-1][2] - 3 <= r[3] and r[2] <= merged[-1][3] + 3
            if near:
                top = merged[-1]
                top[1], top[2], top[3] = max(top[1], r[1]), min(top[2], r[2]), max(top[3], r[3])
            else:
                merged.append(list(r))
        parts += [f"{label_a} {a0}-{a1} ~ {label_b} {b0}-{b1}" for a0, a1, b0, b1 in merged]
    more = [f"and {len(parts) - MAX_PARTS} more"] if len(parts) > MAX_PARTS else []
    return tuple(parts[:MAX_PARTS] + more)


def read_cells(path: Path, questions: Mapping[str, Sequence[str]] | None = None) -> list[tuple[str, str]]:
    """Code cells of a submission as (label, source); none where it cannot be read."""
    try:
        cells = read_submission(path, questions).cells
    except GraderError:
        return []
    return [(str(c.get("label") or f"cell {i}"), str(c["source"])) for i, c in enumerate(cells, 1)]


def report(
    submissions: Mapping[str, Path], problem_set: ProblemSet, out: Path, threshold: float = THRESHOLD
) -> list[Pair]:
    """Compare submissions (student -> file) and write the pairs above the threshold as CSV."""
    questions = {q.id: q.names for q in problem_set.questions.values()}
    cells = {name: read_cells(path, questions) for name, path in submissions.items()}
    starter = [str(c["source"]) for c in problem_set.starter_cells()]
    found = pairs(fingerprints(cells, starter), threshold)
    write(found, out)
    return found


def write(found: Sequence[Pair], out: Path) -> None:
    """The pairs as CSV."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["student a", "student b", "similarity", "shared", "size a", "size b", "shared parts (lines)"])
        for p in found:
            names = [safe_cell(p.a), safe_cell(p.b)]
            parts = safe_cell("; ".join(p.parts))
            writer.writerow([*names, f"{p.similarity:.3f}", p.shared, p.size_a, p.size_b, parts])
