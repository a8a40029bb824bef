"""Checks of problem set 4.

Uniform numbers are handed in, models are small functions or weights of the check's own, random and nowhere 0, so each
answer has one right value; laws are enumerated where a vocabulary is small. Only the figure of 2e is statistical, and
it is asked for with the prefix alone. The reference is always asked before the student.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from autograder.checks import bands, compare, expect, part, question, sums_to_one

Array = np.ndarray[Any, Any]


def several_a(answer: Any, count: int, line: str) -> Any:
    """The answer, if it is a tuple or list of `count` values; otherwise the line that says what is expected."""
    expect(isinstance(answer, (tuple, list)) and len(answer) == count, line)
    return answer


def text_a() -> str:
    """The text that travels with the notebook."""
    here = Path(__file__).resolve().parent
    found = [f for f in (here / "data" / "prose.txt", here.parent / "data" / "prose.txt") if f.is_file()]
    expect(bool(found), "data/prose.txt is missing: put the folder data from the zip beside the notebook")
    return found[0].read_text("ascii")


# 1. Text into tokens

# Whole numbers stand for letters in what students read: the merges of few letters, with many ties and runs.
LETTERS_A = "aabbcé"


def pieces_a(draw: Any, count: int, length: int, letters: str = LETTERS_A) -> dict[str, int]:
    """Random pieces with frequencies: repeated letters, so that runs and ties are common."""
    pieces: dict[str, int] = {}
    for _ in range(count):
        n = int(draw.integers(2, length, 1)[0])
        pieces["".join(letters[i] for i in draw.integers(0, len(letters), n))] = int(draw.integers(1, 6, 1)[0])
    return pieces


@question("1a", points=5, names=["merge_pair", "learn_merges"], title="Learning the merges", seconds=10)
def check_learn_merges(student: Any, reference: Any, draw: Any) -> None:
    with part("merge_pair", 1):
        ids = [int(i) for i in draw.integers(0, 3, 40)] + [1, 1, 1, 2, 0, 0, 0, 0, 2, 2, 1, 2]
        right = [reference.merge_pair(ids, a, b, 300) for a, b in ((1, 2), (0, 0), (2, 2))]
        for (a, b), best in zip(((1, 2), (0, 0), (2, 2)), right, strict=True):
            compare(student.merge_pair(ids, a, b, 300), best, f"({a}, {b}) merged into 300")
    with part("the first merge", 1):
        often, seldom = (int(n) for n in draw.integers(4, 9, 2))
        pieces = {"no": often, "nonono": 1, "yes": often + 5, " ye": 1, "s": seldom}
        right = reference.learn_merges(pieces, 1)
        compare(student.learn_merges(pieces, 1), right, "the first merge")
    with part("ties", 1):
        bytes_ = [chr(97 + int(i)) for i in draw.permutation(8)]
        pieces = {bytes_[0] + bytes_[1]: 3, bytes_[2] + bytes_[3]: 3, bytes_[0] + bytes_[4]: 3, bytes_[5] * 2: 3}
        pieces |= {bytes_[4] + bytes_[0]: 3, bytes_[6] + bytes_[7]: 2}
        right = reference.learn_merges(pieces, 5)
        compare(student.learn_merges(pieces, 5), right, "merges among equally frequent pairs")
    with part("many merges", 1):
        pieces = pieces_a(draw, 25, 12)
        right = reference.learn_merges(pieces, 20)
        compare(student.learn_merges(pieces, 20), right, "20 merges")
    with part("until no pair is left", 1):
        pieces = {"x": 4, "wxyz": 1, **pieces_a(draw, 3, 6)}
        right = reference.learn_merges(pieces, 1000)
        compare(student.learn_merges(pieces, 1000), right, "all merges that there are")


WORDS_A = ["banana", "bandana", "cabana", "naïve", "aaaa", "na", "Ünsal", "été", "12021", "a_b", "ab", "abc"]


def sample_text_a(draw: Any, count: int) -> str:
    """Words of few letters, some of them with bytes above 127."""
    return "".join(draw.choice([" ", " ", "  ", "\n", ", "]) + draw.choice(WORDS_A) for _ in range(count))


def merges_a(reference: Any, draw: Any) -> list[tuple[int, int]]:
    """Merges that the reference learns from words."""
    pieces = {" " * int(i % 2) + word: int(n) for i, (word, n) in enumerate(zip(WORDS_A, draw.integers(1, 9, 12)))}
    return [(int(a), int(b)) for a, b in reference.learn_merges({**pieces, **pieces_a(draw, 10, 8, "aabn")}, 40)]


# b c is learnt before a b, and (a b) c' exists too: the longest token that fits, and the first pair from the left, err.
ORDER_A = [(98, 99), (97, 98), (257, 99), (100, 100), (259, 259), (99, 100), (260, 100)]


@question("1b", points=4, names=["bpe_encode", "bpe_decode"], title="Encoding and decoding", seconds=10)
def check_encode(student: Any, reference: Any, draw: Any) -> None:
    with part("the order of the merges", 1):
        letters = "".join("abcd"[i] for i in draw.integers(0, 4, 60)) + "abcabcdddddddcddab"
        right = reference.bpe_encode(letters, ORDER_A)
        compare(student.bpe_encode(letters, ORDER_A), right, "tokens of one piece")
    merges = merges_a(reference, draw)
    text = sample_text_a(draw, 30)
    with part("any text", 1):
        text += " 🦁 naïve\tété?!  ana"
        right = reference.bpe_encode(text, merges)
        compare(student.bpe_encode(text, merges), right, "tokens of a text")
        compare(student.bpe_encode("", merges), [], "tokens of the empty text")
    with part("decoding", 1):
        ids = [int(i) for i in draw.integers(97, 123, 20)] + [256 + i for i in range(len(merges))]
        # characters of two and four bytes, one byte a token
        ids = [*"é🦁".encode(), *[ids[i] for i in draw.permutation(len(ids))], *"ü".encode(), 256]
        right = reference.bpe_decode(ids, merges)
        compare(student.bpe_decode(ids, merges), right, "the text")
    with part("bytes that are no text", 1):
        ids = [104, 195, 105, 240, 159, 166, 97, 255, *[int(i) for i in draw.integers(128, 256, 12)], 195]
        right = reference.bpe_decode(ids, merges)
        compare(student.bpe_decode(ids, merges), right, "the text of broken bytes")


# 2. A transformer


def block_a(draw: Any, d: int, scale: float = 0.6) -> dict[str, Array]:
    """Random weights of a block: nothing is 0 or 1."""
    w: dict[str, Array] = {}
    linear = [("attention.qkv", d, 3 * d), ("attention.out", d, d), ("up", d, 4 * d), ("down", 4 * d, d)]
    for name, inp, out in linear:
        w[f"{name}.weight"] = draw.normal(out, inp, scale=scale * (2 / inp) ** 0.5)
        w[f"{name}.bias"] = draw.normal(out, scale=0.3)
    for i in (1, 2):
        w[f"norm_{i}.weight"] = draw.uniform(0.5, 1.5, d)
        w[f"norm_{i}.bias"] = draw.normal(d, scale=0.3)
    return w


# The Jacobian of each row's sum, for every query position, in q, k and v: what is not allowed must be exactly 0.
LOOK_A = """
q, k, v = (t.requires_grad_() for t in (q, k, v))
y = causal_attention(q, k, v)
seen = []
for i in range(y.shape[2]):
    gradients = torch.autograd.grad((y[:, :, i] * mix).sum(), (k, v), retain_graph=True)
    seen.append(torch.stack([g.abs().sum((0, 1, 3)) for g in gradients]))
return torch.stack(seen)
"""
# The first rows of a pass over L positions, before and after everything later was exchanged.
FUTURE_A = """
one = attention(x, w, num_heads)[0]
other = x.clone()
other[:, cut:] = later
two = attention(other, w, num_heads)[0]
return one[:, :cut], two[:, :cut]
"""


@question("2a", points=5, names=["causal_attention", "attention"], title="Causal attention", seconds=10)
def check_attention(student: Any, reference: Any, draw: Any) -> None:
    with part("as many keys as queries", 1):
        q, k, v = (draw.normal(2, 3, 5, 4, scale=2.0) for _ in range(3))
        right = reference.causal_attention(q, k, v)
        compare(student.causal_attention(q, k, v), right, "attention")
    with part("more keys than queries", 1):
        q, k, v = draw.normal(1, 2, 3, 2, scale=2.0), draw.normal(1, 2, 7, 2), draw.normal(1, 2, 7, 2)
        one = (draw.normal(2, 1, 1, 3), draw.normal(2, 1, 4, 3), draw.normal(2, 1, 4, 3))
        right = reference.causal_attention(q, k, v), reference.causal_attention(*one)
        compare(student.causal_attention(q, k, v), right[0], "attention of the last 3 of 7 positions")
        compare(student.causal_attention(*one), right[1], "attention of the last of 4 positions")
    with part("nothing is seen of what comes later", 1):
        inputs = {"q": draw.normal(1, 2, 4, 3), "k": draw.normal(1, 2, 6, 3), "v": draw.normal(1, 2, 6, 3)}
        seen = student.script(LOOK_A, mix=draw.uniform(0.5, 1.5, 3), **inputs)
        later = np.arange(6)[None] > np.arange(4)[:, None] + 2
        line = "a query depends on a key or a value of a later position"
        expect(isinstance(seen, np.ndarray) and seen.shape == (4, 2, 6), "the gradients cannot be computed")
        expect(np.abs(seen.transpose(1, 0, 2)[:, later]).max() < 1e-12, line, seen)
        expect(seen[:, 1][~later].min() > 1e-9, "a query does not depend on all positions up to its own", seen)
    w, x, later = block_a(draw, 6), draw.normal(2, 5, 6), draw.normal(2, 3, 6, scale=3.0)
    w = {name: value for name, value in w.items() if name.startswith("attention")}
    line = "attention returns two tensors: the result and the keys and values"
    with part("heads", 1):
        inputs = {"x": x, "w": w, "num_heads": 2, "cut": 2, "later": later}
        right, right_kv = reference.attention(x, w, 3)
        right_rows = reference.script(FUTURE_A, **inputs)
        answer, kv = several_a(student.attention(x, w, 3), 2, line)
        compare(answer, right, "attention with three heads")
        compare(kv, right_kv, "keys and values")
        compare(student.script(FUTURE_A, **inputs), right_rows, "the first rows, for two futures")
    with part("with a past", 1):
        past = draw.normal(2, 2, 2, 4, 3)
        right, right_kv = reference.attention(x, w, 2, past)
        answer, kv = several_a(student.attention(x, w, 2, past), 2, line)
        compare(answer, right, "attention with a past")
        compare(kv, right_kv, "keys and values with those of the past")


@question("2b", points=4, names=["layer_norm", "gelu", "transformer_block"], title="A transformer block", seconds=10)
def check_block(student: Any, reference: Any, draw: Any) -> None:
    with part("layer_norm", 1):
        x = draw.normal(3, 4, 5, scale=2.0) + 3
        x[0] *= 2e-3  # where epsilon counts
        weight, bias = draw.uniform(0.5, 1.5, 5), draw.normal(5)
        right = reference.layer_norm(x, weight, bias)
        compare(student.layer_norm(x, weight, bias), right, "layer norm")
    with part("gelu", 1):
        x = np.concatenate([np.linspace(-4, 4, 41), draw.normal(9, scale=3.0), [-30.0, 30.0]])
        right = reference.gelu(x)
        compare(student.gelu(x), right, "gelu", rtol=1e-8)
    with part("the block", 1):
        w, x = block_a(draw, 6), draw.normal(2, 5, 6, scale=2.0) + 1
        right, right_kv = reference.transformer_block(x, w, 2)
        line = "transformer_block returns two tensors: y and the keys and values"
        answer, kv = several_a(student.transformer_block(x, w, 2), 2, line)
        compare(answer, right, "the block's output")
        compare(kv, right_kv, "keys and values")
    with part("the block with a past", 1):
        past = draw.normal(2, 1, 3, 4, 2)
        one = draw.normal(1, 1, 6)
        right, right_kv = reference.transformer_block(one, w, 3, past)
        answer, kv = several_a(student.transformer_block(one, w, 3, past), 2, line)
        compare(answer, right, "the block's output for one token after four")
        compare(kv, right_kv, "keys and values of five tokens")


@question("2c", points=4, names=["next_token_loss"], title="The loss", seconds=10)
def check_loss(student: Any, reference: Any, draw: Any) -> None:
    logits, ids = draw.normal(3, 6, 5, scale=1.5), draw.integers(0, 5, 3, 6)
    one = (draw.normal(1, 2, 7), draw.integers(0, 7, 1, 2))
    with part("the mean over texts and positions", 1):
        right = reference.next_token_loss(logits, ids), reference.next_token_loss(*one)
        compare(student.next_token_loss(logits, ids), right[0], "the loss")
        compare(student.next_token_loss(*one), right[1], "the loss of one text of two tokens")
    with part("logits of 1e3 and -1e3", 1):
        wild = draw.normal(3, 6, 5, scale=1.5) + 1e3 * (draw.integers(0, 3, 3, 6, 5) - 1)
        wild[0, 0, :] = 1e3 * np.array([1, -1, -1, -1, -1])
        ids_wild = ids.copy()
        ids_wild[0, 1] = 2  # a target whose probability rounds to 0
        right = reference.next_token_loss(logits + 1e3, ids), reference.next_token_loss(wild, ids_wild)
        compare(student.next_token_loss(logits + 1e3, ids), right[0], "the loss at logits around 1e3")
        compare(student.next_token_loss(wild, ids_wild), right[1], "the loss at logits of 1e3, 0 and -1e3")
    with part("ignored tokens", 1):
        padded = ids.copy()
        padded[0, 4:] = padded[1, :3] = padded[2, 2] = -100
        zero = np.where(ids == 0, 1, ids)
        zero[1, 1:] = 0  # another number to be ignored, which is also a token's
        right = reference.next_token_loss(logits, padded), reference.next_token_loss(logits, zero, ignore=0)
        compare(student.next_token_loss(logits, padded), right[0], "the loss with ignored tokens")
        compare(student.next_token_loss(logits, zero, ignore=0), right[1], "the loss with ignore=0")
    with part("its gradient", 1):
        right = reference.next_token_loss.gradient(logits, padded)
        compare(student.next_token_loss.gradient(logits, padded), right, "the gradient in the logits")


def gpt_a(draw: Any, vocab: int, d: int, layers: int, context: int) -> dict[str, Any]:
    """Random weights of a GPT."""
    return {
        "tokens": draw.normal(vocab, d),
        "positions": draw.normal(context, d),
        "blocks": [block_a(draw, d) for _ in range(layers)],
        "norm.weight": draw.uniform(0.5, 1.5, d),
        "norm.bias": draw.normal(d, scale=0.3),
    }


# Read a text in chunks of the given lengths; the logits of all chunks, and the cache at the end.
CHUNKS_A = """
cache, rows, start = None, [], 0
for n in chunks:
    logits, cache = gpt_logits(ids[:, start : start + n], w, num_heads, cache)
    rows.append(logits)
    start += n
return torch.cat(rows, 1), [kv for kv in cache]
"""


@question("2d", points=5, names=["gpt_logits", "attended_pairs"], title="A GPT, and its cache", seconds=10)
def check_gpt(student: Any, reference: Any, draw: Any) -> None:
    w, ids = gpt_a(draw, 7, 6, 2, 10), draw.integers(0, 7, 2, 8)
    line = "gpt_logits returns two values: the logits and the cache"
    full, full_cache = reference.gpt_logits(ids, w, 2)
    with part("a full pass", 1):
        logits, _ = several_a(student.gpt_logits(ids, w, 2), 2, line)
        compare(logits, full, "logits of a full pass")
    inputs = {"ids": ids, "w": w, "num_heads": 2}
    with part("one token at a time", 1):
        rows, _ = student.script(CHUNKS_A, chunks=[1] * 8, **inputs)
        compare(rows, full, "logits of one token at a time, against the full pass")
    with part("several tokens after a prefix", 1):
        rows, _ = student.script(CHUNKS_A, chunks=[3, 4, 1], **inputs)
        compare(rows, full, "logits of chunks of 3, 4 and 1 tokens, against the full pass")
    with part("what the cache holds", 1):
        _, cache = student.script(CHUNKS_A, chunks=[5, 3], **inputs)
        compare(cache, full_cache, "the cache of each block after 5 and 3 tokens")
    with part("how much it saves", 1):
        prompt, new = int(draw.integers(4, 30, 1)[0]), int(draw.integers(5, 30, 1)[0])
        cases = [(prompt, new, False), (1, 1, False), (prompt, new, True), (prompt, 1, True)]
        right = [reference.attended_pairs(*case) for case in cases]
        for case, best in zip(cases, right, strict=True):
            compare(student.attended_pairs(*case), best, f"pairs for prompt, new, use_cache = {case}")


# 2e. A figure that is measured

TRAIN_A = """
global _next_logits_a
_next_logits_a, losses = train_gpt(text, vocab_size)
return [float(loss) for loss in losses][-5000:]
"""
ASK_A = "return _next_logits_a(ids)"
LENGTHS_A = range(16, 65, 4)  # growing prefixes: what one asks for is not shown before the next
BANDS_A = [(2.55, 2), (2.35, 4), (2.20, 6), (2.05, 8)]


def log_softmax_a(logits: Array) -> Array:
    """Normalised log-probabilities: whatever comes back is made a distribution here."""
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def answer_a(student: Any, ids: Array, vocab: int) -> Array:
    """The student's next-token logits for ids (B, L), (B, V), in float64."""
    logits = student.script(ASK_A, ids=ids)
    shape = logits.shape if isinstance(logits, np.ndarray) else None
    line = f"the function gives logits of the next token, {(len(ids), vocab)} for ids {ids.shape}, and it gave {shape}"
    expect(shape == (len(ids), vocab), line, [] if shape is None else list(shape))
    logits = logits.astype(np.float64)
    expect(not np.isnan(logits).any() and np.isfinite(logits.max(-1)).all(), "the logits hold NaN or infinity")
    return logits


@question("2e", points=8, names=["train_gpt"], title="Train it", seconds=120, seeds=1, quality=True)
def check_training(student: Any, reference: Any, draw: Any) -> None:
    text = text_a()
    alphabet = sorted(set(text))
    ids = np.searchsorted(alphabet, list(text)).astype(np.int64)
    blocks = ids[: len(ids) // 1000 * 1000].reshape(-1, 1000)[draw.permutation(len(ids) // 1000)]
    held_out = blocks[: len(blocks) // 10]
    train = blocks[len(blocks) // 10 :]
    windows = held_out[:, : 65 * 15].reshape(-1, 65)  # disjoint
    swapped = windows[draw.permutation(len(windows))]
    with part("nats per character of text that was held out", 8):
        student.script(TRAIN_A, text=train.reshape(-1), vocab_size=len(alphabet))
        nats = []
        for n in LENGTHS_A:
            log_p = log_softmax_a(answer_a(student, windows[:, :n], len(alphabet)))
            nats.append(-np.take_along_axis(log_p, windows[:, n : n + 1], 1)[:, 0])
        probs = np.exp(log_p)
        other = np.concatenate([swapped[:, : n - 5], windows[:, n - 5 : n]], 1)
        moved = 0.5 * np.abs(np.exp(log_softmax_a(answer_a(student, other, len(alphabet)))) - probs).sum(-1).mean()
        expect(
            moved > 0.005,
            "the probabilities do not depend on what lies more than five characters back: does the model attend to it?",
            round(float(moved), 6),
        )
        bands(float(np.mean(nats)), BANDS_A, higher_is_better=False, what="held-out text", unit="nats per character")


# 3. Decoding


def logits_a(draw: Any, rows: int, vocab: int, scale: float = 1.5) -> Array:
    """Logits without ties: a spread of levels, shuffled in each row."""
    levels = np.sort(draw.normal(rows, vocab, scale=scale), -1) + 0.05 * np.arange(vocab)
    return np.stack([row[draw.permutation(vocab)] for row in levels])


def between_a(probs: Array, draw: Any, margin: float = 0.005) -> float:
    """A p that lies well between the sums of the most likely tokens, in every row."""
    sums = np.cumsum(-np.sort(-probs, -1), -1)
    for _ in range(1000):
        p = float(draw.uniform(0.35, 0.9))
        if np.abs(sums - p).min() > margin:
            return p
    return 0.5


def softmax_a(logits: Array) -> Array:
    return np.exp(log_softmax_a(logits))


@question(
    "3a",
    points=5,
    names=["apply_top_k", "apply_top_p", "next_token_probs"],
    title="Temperature, top-k, top-p",
    seconds=10,
)
def check_filters(student: Any, reference: Any, draw: Any) -> None:
    with part("top-k", 1):
        logits = logits_a(draw, 3, 7)
        ties = np.array([[2.0, 1.0, 2.0, -1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]]) + draw.normal(2, 1)
        cases = [(logits, k) for k in (3, 1, 7, 50)] + [(ties, 3)]
        filtered_a(student, reference, "apply_top_k", cases, ["V = 7", "V = 7", "V = 7", "V = 7", "with ties"])
    with part("top-p", 1):
        logits, sharp = logits_a(draw, 2, 7), logits_a(draw, 2, 5)
        sharp[:, 2] = sharp.max(-1) + 5  # one token has nearly everything
        cases = [(logits, between_a(softmax_a(logits), draw)), (sharp, 0.5), (sharp, 1.0)]
        filtered_a(student, reference, "apply_top_p", cases, ["V = 7", *["a sharp distribution"] * 2])
    with part("top-p with ties and -inf", 1):
        ties = np.log(np.array([[0.1, 0.2, 0.2, 0.2, 0.3], [0.2, 0.2, 0.2, 0.2, 0.2]])) + draw.normal(2, 1)
        logits = logits_a(draw, 2, 6)
        logits[0, :3] = logits[1, 2:5] = -np.inf
        cases = [(ties, 0.45), (logits, between_a(softmax_a(logits), draw))]
        filtered_a(student, reference, "apply_top_p", cases, ["with ties", "some of them -inf already"])
    with part("temperature", 1):
        logits, big = logits_a(draw, 3, 6, 3.0), 1e4 * draw.normal(2, 6)
        logits[0, 1] = logits[0, 4] = logits[0].max() + 1  # the argmax is one token, also in a tie
        cases = [(logits, 0.4), (logits, 2.5), (big, 0.5), (logits, 0.0), (logits, 0.0, 3, 0.4)]
        filtered_a(
            student, reference, "next_token_probs", cases, ["", "", "large logits", "with a tie", "with filters"]
        )
    with part("all together", 1):
        logits, cases = logits_a(draw, 2, 8), []
        for temperature, k in ((0.5, 5), (2.0, 5), (1.0, 8)):
            lowest = -np.sort(-logits, -1)[:, k - 1 : k]
            probs = softmax_a(np.where(logits >= lowest, logits / temperature, -1e9))
            cases.append((logits, temperature, k, between_a(probs, draw)))
        cases[2] = (logits, 1.0, None, cases[2][3])
        filtered_a(student, reference, "next_token_probs", cases, ["", "", "top-p alone"])


def filtered_a(student: Any, reference: Any, name: str, cases: list[tuple[Any, ...]], notes: list[str]) -> None:
    """Compare a function at several inputs; the reference is asked first."""
    right = [getattr(reference, name)(*case) for case in cases]
    for case, best, note in zip(cases, right, notes, strict=True):
        options = ", ".join(f"{value:.3g}" if isinstance(value, float) else str(value) for value in case[1:])
        what = f"{name}(logits, {options})" + (f", {note}" if note else "")
        compare(getattr(student, name)(*case), best, what)


# A model whose logits depend on the last three tokens and on how many there are: (B, L) -> (B, V).
MODEL_A = """
def model(ids):
    back = [ids[:, -i] if ids.shape[1] >= i else torch.zeros_like(ids[:, 0]) for i in (1, 2, 3)]
    near, far = table[back[0]] + 0.7 * table[back[1]].roll(1, -1), 0.4 * table[back[2]].flip(-1)
    return near + far + 0.1 * ids.shape[1] * slope
"""
GENERATE_A = MODEL_A + "return generate(model, ids, u, **options)"


@question("3b", points=4, names=["sample_token", "generate"], title="Drawing text", seconds=10)
def check_generate(student: Any, reference: Any, draw: Any) -> None:
    with part("sample_token", 1):
        probs, u = draw.simplex(30, 5), draw.uniform(0, 0.999, 30)
        every = np.array([[0.125, 0.5, 0.25, 0.125]] * 8)  # sums that are exact
        right = reference.sample_token(probs, u), reference.sample_token(every, np.arange(8) / 8)
        compare(student.sample_token(probs, u), right[0], "tokens")
        compare(student.sample_token(every, np.arange(8) / 8), right[1], "tokens at the borders of the intervals")
    with part("tokens of probability 0", 1):
        probs = draw.simplex(6, 7)
        probs[:, [0, 1, 4, 6]] = 0
        probs = probs / probs.sum(-1, keepdims=True) * (1 - 1e-9)  # as rounding leaves it
        u = np.array([0.0, 1 - 1e-12, 0.0, 0.5, 1 - 1e-12, 0.9])
        right = reference.sample_token(probs, u)
        compare(student.sample_token(probs, u), right, "tokens at u = 0 and u near 1, some of probability 0")
    inputs = {"table": draw.normal(6, 6, scale=1.5), "slope": draw.normal(6), "ids": draw.integers(0, 6, 3, 4)}
    with part("generate", 1):
        inputs |= {"u": draw.uniform(0, 0.999, 3, 9)}
        right = reference.script(GENERATE_A, options={}, **inputs)
        compare(student.script(GENERATE_A, options={}, **inputs), right, "three texts of 4 + 9 tokens")
    with part("generate with options", 1):
        ways = [{"temperature": 0.6, "top_k": 3}, {"top_p": 0.7}, {"temperature": 0.0}]
        right = [reference.script(GENERATE_A, options=options, **inputs) for options in ways]
        for options, best in zip(ways, right, strict=True):
            compare(student.script(GENERATE_A, options=options, **inputs), best, f"texts with {options}")


STEPS_A = """
out = torch.full((len(draft), draft.shape[1] + 1), -1)
for i in range(len(draft)):
    tokens = torch.as_tensor(speculative_step(p[i], q[i], draft[i], u[i], float(r[i])))
    out[i, : len(tokens)] = tokens.cpu()
return out
"""
EIGHTHS_A = (np.arange(8) + 0.5) / 8
QUARTERS_A = (np.arange(4) + 0.5) / 4


# Over three tokens, in eighths, with drafts of (4, 2, 2): chances of acceptance are quarters, residuals eighths.
SPREAD_A = [[2.0, 3.0, 3.0], [0.0, 5.0, 3.0], [0.0, 3.0, 5.0]]
TARGETS_A = [*SPREAD_A, [3.0, 1.0, 4.0], [2.0, 5.0, 1.0], [6.0, 1.0, 1.0]]


def eighths_a(draw: Any, targets: list[list[float]]) -> tuple[Array, Array]:
    """One of the targets and its draft, in a random order of the tokens."""
    order = draw.permutation(3)
    return np.array(draw.choice(targets))[order] / 8, np.array([4.0, 2.0, 2.0])[order] / 8


@question(
    "3c", points=5, names=["residual", "speculative_step", "expected_tokens"], title="Speculative sampling", seconds=15
)
def check_speculative(student: Any, reference: Any, draw: Any) -> None:
    with part("the residual", 1):
        p, q = draw.simplex(6), draw.simplex(6)
        p[2] = 0
        p = p / p.sum()
        right = reference.residual(p, q)
        compare(student.residual(p, q), right, "the residual")
        compare(student.residual(q, q), q, "the residual where target and draft are equal")
    with part("single steps", 1.5):
        n, k, vocab = 40, 3, 5
        p, q = draw.simplex(n, k + 1, vocab), draw.simplex(n, k, vocab)
        p[: n // 2, :k] = 0.3 * p[: n // 2, :k] + 0.7 * q[: n // 2]  # half of them good drafts
        draft = draw.integers(0, vocab, n, k)
        u, r = draw.uniform(0, 1, n, k), draw.uniform(0, 0.999, n)
        p[0, 0, draft[0, 0]] = 0  # what the target never says is rejected at u = 0 too
        p[0, 0] /= p[0, 0].sum()
        u[0, 0] = 0
        u[1:3] *= 0.01  # all accepted, mostly
        q[3, 0] = p[3, 0]
        right = reference.script(STEPS_A, p=p, q=q, draft=draft, u=u, r=r)
        answer = student.script(STEPS_A, p=p, q=q, draft=draft, u=u, r=r)
        compare(answer, right, "tokens of 40 steps with 3 drafted tokens each (-1: none)")
    with part("the law of what comes out", 1.5):
        # two drafted tokens over three; every table in eighths, so that grids of uniform numbers give exact chances
        first = eighths_a(draw, SPREAD_A)
        after = [eighths_a(draw, TARGETS_A) for _ in range(3)]
        bonus = np.array([[1.0, 2.0, 5.0], [4.0, 3.0, 1.0], [2.0, 2.0, 4.0]])[draw.permutation(3)] / 8
        cases = list(itertools.product(range(3), range(3), QUARTERS_A, QUARTERS_A, EIGHTHS_A))
        a, b = (np.array([c[i] for c in cases]) for i in (0, 1))
        u, r = np.array([[c[2], c[3]] for c in cases]), np.array([c[4] for c in cases])
        p = np.stack([np.broadcast_to(first[0], (len(a), 3)), np.array([after[i][0] for i in a]), bonus[b]], 1)
        q = np.stack([np.broadcast_to(first[1], (len(a), 3)), np.array([after[i][1] for i in a])], 1)
        weight = first[1][a] * q[np.arange(len(a)), 1, b]
        out = student.script(STEPS_A, p=p, q=q, draft=np.stack([a, b], 1), u=u, r=r)
        line = "a step returns 1 to 3 tokens here, each of them 0, 1 or 2"
        expect(
            isinstance(out, np.ndarray) and out.shape == (len(a), 3) and out.max() < 3 and out[:, 0].min() >= 0, line
        )
        weight = weight / weight.sum()
        law = np.array([weight[out[:, 0] == t].sum() for t in range(3)])
        compare(law, first[0], "the law of the first token, over all drafts and uniform numbers")
        for t in np.flatnonzero(first[0]):
            here = (out[:, 0] == t) & (out[:, 1] >= 0)
            law = np.array([weight[here & (out[:, 1] == s)].sum() for s in range(3)]) / max(weight[here].sum(), 1e-12)
            compare(law, after[t][0], f"the law of the second token after the token {t}")
        accepted = weight[out[:, 1] >= 0].sum()
        compare(accepted, np.minimum(*first).sum(), "the chance that the first drafted token is accepted")
    with part("tokens per step", 1):
        a = float(draw.uniform(0.3, 0.95))
        cases = [(a, 4), (a, 1), (1.0, 5), (0.0, 3)]
        right = [reference.expected_tokens(*case) for case in cases]
        for case, best in zip(cases, right, strict=True):
            compare(student.expected_tokens(*case), float(best), f"expected tokens at a, k = {case}")


def several_b(answer: Any, count: int, line: str) -> Any:
    """The answer, if it is a tuple or list of `count` values; otherwise the line that says what is expected."""
    expect(isinstance(answer, (tuple, list)) and len(answer) == count, line)
    return answer


# 4. Masked diffusion


@question("4a", points=2, names=["q_sample"], title="Corruption")
def check_corruption_b(student: Any, reference: Any, draw: Any) -> None:
    cases = []
    for B, L, V in ((5, 8, 7), (6, 6, 4), (1, 9, 5)):
        cases.append((draw.integers(0, V, B, L), draw.uniform(0.2, 0.8, B), draw.uniform(0, 1, B, L), V))
    x_0, noise = draw.integers(0, 5, 3, 8), draw.uniform(0.01, 0.99, 3, 8)
    noise[0, :2], noise[2, :3] = 0.0, 0.25
    ends = (x_0, np.array([0.0, 1.0, 0.25]), noise, 5)
    with part("random times", 1):
        rights = [reference.q_sample(*case) for case in cases]
        for case, right in zip(cases, rights, strict=True):
            compare(student.q_sample(*case), right, "x_t")
    with part("the ends, and a tie", 1):
        right = reference.q_sample(*ends)
        compare(student.q_sample(*ends), right, "x_t")


# A network that sees all positions and the time, with random weights: logits (B, L, V).
NET_B = """
def net(x_t, t):
    h = torch.nn.functional.one_hot(x_t, V + 1).double().flatten(1) @ w_in + t.double()[:, None] * w_t
    return (torch.tanh(h) @ w_out).reshape(len(x_t), -1, V)
"""
LOSS_B = "return mdlm_loss(net, x_0, t, noise, V)"
LOSS_GRADIENT_B = """
w_in, w_out = w_in.clone().requires_grad_(), w_out.clone().requires_grad_()
loss = mdlm_loss(net, x_0, t, noise, V)
return torch.autograd.grad(loss.sum(), [w_in, w_out])
"""
# logits that do not depend on x_t, as a leaf: where may they matter?
LOGIT_GRADIENT_B = """
logits = logits.clone().requires_grad_()
loss = mdlm_loss(lambda x_t, t: logits, x_0, t, noise, V)
return torch.autograd.grad(loss.sum(), logits)[0]
"""


def net_weights_b(draw: Any, L: int, V: int, scale: float = 2.0, hidden: int = 9) -> dict[str, Any]:
    """Weights of NET_B."""
    w_in, w_out = draw.normal(L * (V + 1), hidden, scale=0.7), draw.normal(hidden, L * V, scale=scale)
    return {"w_in": w_in, "w_t": draw.normal(hidden), "w_out": w_out}


@question("4b", points=4, names=["subs", "mdlm_loss"], title="The loss of masked diffusion")
def check_mdlm_loss_b(student: Any, reference: Any, draw: Any) -> None:
    B, L, V = 4, 7, 5
    x_t = draw.integers(0, V, B, L)
    x_t[draw.uniform(0, 1, B, L) < 0.5] = V
    x_t[:, 0], x_t[0, 1:3], x_t[1, 1:3] = V, V, [V - 1, 0]
    logits = draw.normal(B, L, V, scale=2.0)
    logits[2] *= 500
    cases = []
    for B, L, V in ((5, 6, 4), (1, 8, 6), (7, 3, 3)):
        case = {**net_weights_b(draw, L, V), "V": V, "x_0": draw.integers(0, V, B, L), "t": draw.uniform(0.25, 0.9, B)}
        case["noise"] = draw.uniform(0, 1, B, L)
        case["noise"][0, 1] = 0.1  # hidden
        case["noise"][-1, 2], case["noise"][-1, 0] = 0.95, 0.15  # visible, hidden
        cases.append(case)
    all_visible = {**cases[-1], "noise": draw.uniform(0.95, 1, 7, 3)}
    B, L, V = 3, 5, 4
    given = {
        "x_0": draw.integers(0, V, B, L),
        "t": draw.uniform(0.3, 0.9, B),
        "noise": draw.uniform(0, 1, B, L),
        "V": V,
    }
    given["noise"][:, 0], given["noise"][:, 1] = 0.05, 0.95
    weights, leaf = net_weights_b(draw, L, V), draw.normal(B, L, V, scale=3.0)
    with part("subs", 1):
        right = reference.subs(logits, x_t, 5)
        compare(student.subs(logits, x_t, 5), right, "log-probabilities")
    with part("the loss", 2):
        rights = [reference.script(NET_B + LOSS_B, **case) for case in cases]
        for case, right in zip(cases, rights, strict=True):
            compare(student.script(NET_B + LOSS_B, **case), right, "the loss of each text")
        compare(student.script(NET_B + LOSS_B, **all_visible), np.zeros(7), "the loss of texts without a mask")
    with part("its gradient", 1):
        right = reference.script(NET_B + LOSS_GRADIENT_B, **given, **weights)
        gradient = student.script(LOGIT_GRADIENT_B, logits=leaf, **given)
        hidden = given["noise"] < given["t"][:, None]
        p = np.exp(leaf - leaf.max(-1, keepdims=True))
        wanted = p / p.sum(-1, keepdims=True) - np.eye(V)[given["x_0"]]  # softmax minus one-hot
        wanted = wanted * (hidden / given["t"][:, None])[..., None]
        compare(gradient, wanted, "the gradient in the network's output")
        compare(student.script(NET_B + LOSS_GRADIENT_B, **given, **weights), right, "the gradient in the weights")


INFILL_B = "return infill(net, x_t, noise, u, V)"


@question("4c", points=3, names=["draw_tokens", "ancestral_step", "infill"], title="The ancestral sampler")
def check_sampler_b(student: Any, reference: Any, draw: Any) -> None:
    p, u = draw.simplex(4, 6, 5), draw.uniform(0, 0.999, 4, 6)
    border = np.array([[0.0, 0.5, 0.25, 0.25], [0.25, 0.25, 0.5, 0.0], [0.5, 0.0, 0.0, 0.5], [0.125, 0.25, 0.0, 0.5]])
    steps, runs = [], []
    for B, L, V, t, s in ((6, 9, 5, 0.75, 0.375), (8, 8, 3, 0.3, 0.25), (1, 12, 4, 1.0, 0.625), (5, 6, 6, 0.25, 0.0)):
        x_t = draw.integers(0, V, B, L)
        x_t[draw.uniform(0, 1, B, L) < 0.7] = V
        logits = draw.normal(B, L, V, scale=2.0)
        steps.append((logits, x_t, t, s, draw.uniform(0, 1, B, L), draw.uniform(0, 0.999, B, L), V))
    for B, L, V, count in ((4, 7, 5, 6), (1, 12, 3, 11), (3, 6, 4, 1)):
        run = {**net_weights_b(draw, L, V), "V": V, "x_t": np.full((B, L), V)}
        run["x_t"][0, :2] = draw.integers(0, V, 2)
        runs.append({**run, "noise": draw.uniform(0, 1, count, B, L), "u": draw.uniform(0, 0.999, count, B, L)})
    with part("draw_tokens", 1):
        right = reference.draw_tokens(p, u)
        compare(student.draw_tokens(p, u), right, "tokens")
        u = np.array([0.0, 0.5, 0.5, 0.99])  # borders, tokens without mass, and a sum that ends below u
        compare(student.draw_tokens(border, u), np.array([1, 2, 3, 3]), "tokens at the borders")
    with part("one step", 1):
        rights = [reference.ancestral_step(*step) for step in steps]
        for step, right in zip(steps, rights, strict=True):
            compare(student.ancestral_step(*step), right, "x_s")
    with part("all steps", 1):
        rights = [reference.script(NET_B + INFILL_B, **run) for run in runs]
        for run, right in zip(runs, rights, strict=True):
            compare(student.script(NET_B + INFILL_B, **run), right, f"the text after {len(run['u'])} steps")


# The same kind of network, which does not look at the time
TIMELESS_B = """
def net(x_t, t):
    h = torch.nn.functional.one_hot(x_t, V + 1).double().flatten(1) @ w_in
    return (torch.tanh(h) @ w_out).reshape(len(x_t), -1, V)
"""
NELBO_B = "return exact_nelbo(net, x_0, V)"
NLL_B = "return exact_nll(net, x_0, V)"


def texts_b(L: int, V: int) -> Array:
    """All texts (V^L, L)."""
    return np.array(list(itertools.product(range(V), repeat=L)), dtype=np.int64)


@question("4d", points=3, names=["exact_nelbo", "exact_nll"], title="The bound, exactly", seconds=30)
def check_bound_b(student: Any, reference: Any, draw: Any) -> None:
    cases = [{**net_weights_b(draw, 3, 3, scale=s), "V": 3, "x_0": texts_b(3, 3)} for s in (0.7, 1.5)]
    cases.append({**net_weights_b(draw, 4, 2), "V": 2, "x_0": draw.integers(0, 2, 5, 4)})
    cases.append({**net_weights_b(draw, 2, 4), "V": 4, "x_0": draw.integers(0, 4, 1, 2)})
    for case in cases:
        del case["w_t"]
    cases.append({**cases[1], "w_out": 300 * cases[1]["w_out"]})
    with part("the bound", 1):
        rights = [reference.script(TIMELESS_B + NELBO_B, **case) for case in cases]
        for case, right in zip(cases, rights, strict=True):
            compare(student.script(TIMELESS_B + NELBO_B, **case), right, "the bound")
    with part("the likelihood", 1):
        rights = [reference.script(TIMELESS_B + NLL_B, **case) for case in cases]
        for case, right in zip(cases, rights, strict=True):
            compare(student.script(TIMELESS_B + NLL_B, **case), right, "-log p")
    with part("all 27 texts", 1):
        for case in cases[:2]:
            nll = np.asarray(student.script(TIMELESS_B + NLL_B, **case))
            sums_to_one(np.exp(-np.clip(nll, -5.0, None)), what="p(x_0), summed over all texts,")
            bound = np.asarray(student.script(TIMELESS_B + NELBO_B, **case))
            gap = float((bound - nll).min())
            expect(gap > -1e-9, f"the bound must not fall below -log p, and falls below it by {-gap:.3g}", bound)
            # the mean of the bound over texts that are drawn from the model is above its entropy, and not by much
            mean = float((np.exp(-np.clip(nll, -5.0, None)) * (bound - nll)).sum())
            expect(mean > 1e-6, "the bound equals -log p, and this network's orders do not agree", bound)


# 5. Post-training

NEW_LORA_B = """
torch.manual_seed(seed)
layer = LoRALinear(weight, rank, alpha)
start = layer(x).detach()
trained = sorted(name for name, p in layer.named_parameters() if p.requires_grad)
return trained, list(layer.A.shape), list(layer.B.shape), layer.B, start, bool(layer.A.dtype == weight.dtype)
"""
SPREAD_LORA_B = """
torch.manual_seed(seed)
A = LoRALinear(weight, 24, 3.0).A.detach()
return [float(A.mean() * d_in**0.5), float(A.std() * d_in**0.5), float(A.abs().max() > 0)]
"""
USED_LORA_B = """
layer = LoRALinear(weight, rank, alpha)
with torch.no_grad():
    layer.A.copy_(A)
    layer.B.copy_(B)
h = layer(x)
merged = layer.merged().detach().clone()
again = layer(x).detach()
h_A, h_B = torch.autograd.grad((h * direction).sum(), [layer.A, layer.B], allow_unused=True)
zero = torch.zeros(())
return h, merged, again, zero if h_A is None else h_A, zero if h_B is None else h_B
"""


@question("5a", points=3, names=["LoRALinear"], title="LoRA")
def check_lora_b(student: Any, reference: Any, draw: Any) -> None:
    new = [(draw.normal(5, 7), draw.normal(3, 7), 3), (draw.normal(6, 4), draw.normal(3, 4), 1)]
    used, wide = [], draw.normal(2, 300)
    for shape, d_out, d_in, rank, alpha in (((4,), 6, 5, 3, 8.0), ((2, 3), 4, 7, 2, 1.5), ((), 3, 5, 4, 10.0)):
        given = {"weight": draw.normal(d_out, d_in), "x": draw.normal(*shape, d_in), "rank": rank, "alpha": alpha}
        given |= {"A": draw.normal(rank, d_in), "B": draw.normal(d_out, rank)}
        used.append({**given, "direction": draw.normal(*shape, d_out)})
    rights = [reference.script(USED_LORA_B, **given) for given in used]
    with part("at the start", 1):
        for weight, x, rank in new:
            rows, columns = weight.shape
            given = {"weight": weight, "x": x, "rank": rank, "alpha": 4.0, "seed": 1}
            answer = student.script(NEW_LORA_B, **given)
            compare(answer[0], ["A", "B"], "names of the trainable parameters")
            compare(answer[1], [rank, columns], "shape of A")
            compare(answer[2], [rows, rank], "shape of B")
            compare(answer[3], np.zeros((rows, rank)), "B at the start")
            compare(answer[4], x @ weight.T, "the layer at the start")
            compare(answer[5], True, "whether A has the dtype of weight")
        spread = student.script(SPREAD_LORA_B, weight=wide, d_in=300, seed=2)
        fits = abs(spread[0]) < 0.1 and abs(spread[1] - 1) < 0.1  # of 7200 numbers: eight standard errors and more
        expect(fits, "A must have mean 0 and variance 1/d_in; its mean and spread, times the root of d_in, are "
               f"{spread[0]:.2f} and {spread[1]:.2f}", spread)  # fmt: skip
    with part("after training", 1):
        for given, right in zip(used, rights, strict=True):
            answer = student.script(USED_LORA_B, **given)
            compare(answer[0], right[0], "the layer with random A and B")
            compare(answer[3:], right[3:], "the gradients in A and B")
    with part("merged", 1):
        for given, right in zip(used, rights, strict=True):
            answer = student.script(USED_LORA_B, **given)
            compare(answer[1], right[1], "merged")
            compare(answer[2], right[2], "the layer after merged was called")


DPO_B = "return dpo_loss(policy_w, policy_l, ref_w, ref_l, beta)"
DPO_GRADIENT_B = """
inputs = [v.clone().requires_grad_() for v in (policy_w, policy_l, ref_w, ref_l)]
loss, _ = dpo_loss(*inputs, beta)
found = torch.autograd.grad(loss, inputs, allow_unused=True)
return [torch.zeros_like(v) if g is None else g for v, g in zip(inputs, found)]
"""


def pairs_b(draw: Any, n: int, spread: float) -> dict[str, Any]:
    """Log-probabilities of n pairs, the policy away from the reference by `spread`."""
    ref_w, ref_l = -draw.uniform(5, 30, n), -draw.uniform(5, 30, n)
    policy_w, policy_l = ref_w + spread * draw.normal(n), ref_l + spread * draw.normal(n)
    return {"policy_w": policy_w, "policy_l": policy_l, "ref_w": ref_w, "ref_l": ref_l}


@question("5b", points=4, names=["sequence_log_prob", "dpo_loss"], title="Direct preference optimisation")
def check_dpo_b(student: Any, reference: Any, draw: Any) -> None:
    rows = []
    for B, T, V in ((4, 9, 6), (1, 5, 3), (6, 6, 6)):
        logits, tokens, mask = draw.normal(B, T, V, scale=2.0), draw.integers(0, V, B, T), np.zeros((B, T))
        for row, begin in zip(mask, draw.integers(1, 3, B), strict=True):
            row[begin : begin + int(draw.integers(2, T - 2, 1)[0])] = 1
        rows.append((logits, tokens, mask))
    rows.append((400 * logits, tokens, mask))
    cases = []
    for n, spread, beta in ((7, 2.0, 0.5), (1, 4.0, 0.3), (12, 1.0, 2.0)):
        cases.append({**pairs_b(draw, n, spread), "beta": beta})
    far = [{**pairs_b(draw, 4, 1.0), "beta": 0.7} for _ in range(2)]
    for sign, case in zip((1, -1), far, strict=True):
        case["policy_w"][:2] += sign * np.array([3e3, 8e3])
    beta, given = 0.4, pairs_b(draw, 6, 3.0)
    with part("log-probability of an answer", 1):
        rights = [reference.sequence_log_prob(*row) for row in rows]
        for row, right in zip(rows, rights, strict=True):
            compare(student.sequence_log_prob(*row), right, "log-probabilities")
    line = "dpo_loss returns two tensors: the loss and the margins"
    with part("loss and margins", 1):
        rights = [reference.script(DPO_B, **case) for case in cases]
        for case, right in zip(cases, rights, strict=True):
            loss, margin = several_b(student.script(DPO_B, **case), 2, line)
            compare(loss, right[0], "the loss")
            compare(margin, right[1], "the margins")
    with part("margins in the thousands", 1):
        rights = [reference.script(DPO_B, **case)[0] for case in far]
        gradients = [reference.script(DPO_GRADIENT_B, **case) for case in far]
        for case, right in zip(far, rights, strict=True):
            compare(several_b(student.script(DPO_B, **case), 2, line)[0], right, "the loss")
        for case, right in zip(far, gradients, strict=True):
            compare(student.script(DPO_GRADIENT_B, **case), right, "the gradients")
    with part("gradients", 1):
        margin = beta * (given["policy_w"] - given["ref_w"] - given["policy_l"] + given["ref_l"])
        pull = beta / (1 + np.exp(margin)) / 6
        answer = student.script(DPO_GRADIENT_B, **given, beta=beta)
        compare(answer[:2], [-pull, pull], "the gradients in policy_w and policy_l")
        compare(answer[2:], [np.zeros(6)] * 2, "the gradients in ref_w and ref_l")


@question("5c", points=2, names=["grpo_advantages"], title="Advantages in a group")
def check_advantages_b(student: Any, reference: Any, draw: Any) -> None:
    cases = [scale * draw.uniform(-1, 2, P, G) for P, G, scale in ((5, 4, 1.0), (1, 6, 100.0), (4, 4, 1e-6))]
    cases.append(draw.bernoulli(0.5, 6, 5))
    equal = draw.bernoulli(0.5, 8, 7)
    for rewards in (cases[-1], equal):
        rewards[:, 0], rewards[:, 1] = 0, 1
    equal[:6] = np.array([[0.0], [1.0], [0.1], [0.7], [-3.3], [1e-3]])
    with part("advantages", 1):
        rights = [reference.grpo_advantages(rewards) for rewards in cases]
        for rewards, right in zip(cases, rights, strict=True):
            compare(student.grpo_advantages(rewards), right, "advantages")
    with part("groups of equal rewards", 1):
        right = reference.grpo_advantages(equal)
        compare(student.grpo_advantages(equal), right, "advantages")


GRPO_B = "return grpo_loss(log_prob, old, ref, advantages, mask, clip_eps, beta)"
GRPO_GRADIENT_B = """
log_prob, old, ref = (v.clone().requires_grad_() for v in (log_prob, old, ref))
loss = grpo_loss(log_prob, old, ref, advantages, mask, clip_eps, beta)
found = torch.autograd.grad(loss, [log_prob, old, ref], allow_unused=True)
return [torch.zeros_like(log_prob) if g is None else g for g in found]
"""
ON_POLICY_B = """
log_prob = log_prob.clone().requires_grad_()
loss = grpo_loss(log_prob, log_prob, ref, advantages, mask, clip_eps, beta)
return torch.autograd.grad(loss, log_prob)[0]
"""


def answers_b(draw: Any, N: int, T: int) -> dict[str, Any]:
    """Answers of 1 to T tokens, far enough from the old policy that many ratios are clipped, to both sides."""
    log_prob = -draw.uniform(0.2, 3, N, T)
    old, ref = log_prob + draw.uniform(-0.7, 0.7, N, T), log_prob + draw.uniform(-1, 1, N, T)
    mask = (np.arange(T) < draw.integers(1, T + 1, N)[:, None]).astype(np.float64)
    mask[0], mask[-1] = (np.arange(T) < T - 1), 1
    advantages = draw.uniform(0.3, 2, N) * np.where(np.arange(N) % 2 == 0, 1, -1)
    return {"log_prob": log_prob, "old": old, "ref": ref, "advantages": advantages, "mask": mask, "clip_eps": 0.2}


@question("5d", points=4, names=["grpo_loss"], title="The clipped objective")
def check_grpo_loss_b(student: Any, reference: Any, draw: Any) -> None:
    clipped, priced = [], []
    for N, T, clip_eps in ((6, 5, 0.2), (4, 4, 0.35), (1, 7, 0.1)):
        clipped.append({**answers_b(draw, N, T), "clip_eps": clip_eps, "beta": 0.0})
    for N, T, beta in ((6, 5, 0.4), (3, 6, 2.0)):
        priced.append({**answers_b(draw, N, T), "beta": beta})
    given = {**answers_b(draw, 6, 5), "beta": 0.3}
    own = {k: v for k, v in given.items() if k != "old"}
    small, large = [{**answers_b(draw, 5, 6), "beta": 0.3} for _ in range(2)]
    gone = small["mask"] == 0
    small["log_prob"][gone] = draw.normal(5, 6, scale=5.0)[gone]
    large["log_prob"][0, -1], large["old"][0, -1], large["ref"][0, -1] = 900.0, -900.0, 5e3
    with part("ratios and clipping", 1):
        rights = [reference.script(GRPO_B, **case) for case in clipped]
        for case, right in zip(clipped, rights, strict=True):
            compare(student.script(GRPO_B, **case), right, "the loss with beta = 0")
    with part("the price of leaving the reference", 1):
        rights = [reference.script(GRPO_B, **case) for case in priced]
        for case, right in zip(priced, rights, strict=True):
            compare(student.script(GRPO_B, **case), right, "the loss")
    with part("gradients", 1):
        right, on_policy = reference.script(GRPO_GRADIENT_B, **given), reference.script(ON_POLICY_B, **own)
        compare(student.script(GRPO_GRADIENT_B, **given), right, "the gradients in log_prob, old and ref")
        answer = student.script(ON_POLICY_B, **own)
        compare(answer, on_policy, "the gradient where the old policy is the policy itself")
    with part("leftovers", 1):
        rights = [reference.script(GRPO_B, **case) for case in (small, large)]
        right_gradients = reference.script(GRPO_GRADIENT_B, **large)
        compare(student.script(GRPO_B, **small), rights[0], "the loss")
        compare(student.script(GRPO_B, **large), rights[1], "the loss with large leftovers")
        compare(student.script(GRPO_GRADIENT_B, **large), right_gradients, "the gradients with large leftovers")


# A policy with one hidden layer on (N, 2) prompts, and a reward with many values
POLICY_B = """
def policy(theta, prompts):
    h = torch.tanh(prompts.double() @ theta[:2] + theta[2])
    return (h @ theta[3:].T).reshape(len(prompts), T, V)
def reward(prompts, answers):
    goal = (prompts.sum(1, keepdim=True) + torch.arange(T, device=prompts.device)) % V
    return (answers == goal).double().mean(1) + 0.3 * (answers[:, 0] > answers[:, -1]).double()
"""
EXPECTED_B = """
theta = theta.clone().requires_grad_()
value = expected_reward(policy, theta, prompts, reward)
return value, torch.autograd.grad(value, theta)[0]
"""
STEP_B = "return grpo_step(policy, theta, theta_ref, prompts, reward, u, inner, rate, 0.2, beta)"
# Sums modulo V, a table of logits for each prompt: the answer is the sum, and the sum plus one
RUN_B = """
def policy(theta, prompts):
    return theta[prompts[:, 0], prompts[:, 1]]
def reward(prompts, answers):
    total = prompts.sum(1)
    return ((answers[:, 0] == total % 4) & (answers[:, 1] == (total + 1) % 4)).double()
start, rewards = theta, []
for j in range(len(u)):
    theta, mean = grpo_step(policy, theta, start, prompts, reward, u[j], 2, 6.0, 0.2, 0.0)
    rewards.append(float(mean))
return theta, rewards
"""


def policy_case_b(draw: Any, P: int, T: int, V: int) -> dict[str, Any]:
    """Inputs of POLICY_B."""
    return {"theta": draw.normal(3 + T * V, 5), "prompts": draw.integers(0, 4, P, 2), "T": T, "V": V}


@question("5e", points=4, names=["expected_reward", "grpo_step"], title="GRPO on a verifiable task", seconds=30)
def check_grpo_b(student: Any, reference: Any, draw: Any) -> None:
    counted = [policy_case_b(draw, P, T, V) for P, T, V in ((5, 3, 3), (1, 2, 4), (4, 2, 5))]
    steps = []
    for P, G, T, V, inner in ((4, 6, 2, 3, 1), (5, 5, 3, 4, 1), (1, 7, 2, 4, 1), (4, 6, 2, 3, 4), (3, 4, 3, 4, 4)):
        case = {**policy_case_b(draw, P, T, V), "u": draw.uniform(0, 0.999, P, G, T), "inner": inner}
        case |= {"theta_ref": case["theta"] + 0.4 * draw.normal(3 + T * V, 5), "beta": 0.3}
        steps.append({**case, "rate": 0.7 if inner == 1 else 1.5})
    prompts = np.array(list(itertools.product(range(4), repeat=2)))
    given = {
        "theta": draw.normal(4, 4, 2, 4, scale=0.3),
        "prompts": prompts,
        "u": draw.uniform(0, 0.999, 40, 16, 12, 2),
    }
    with part("expected reward", 1):
        rights = [reference.script(POLICY_B + EXPECTED_B, **case) for case in counted]
        for case, right in zip(counted, rights, strict=True):
            compare(student.script(POLICY_B + EXPECTED_B, **case), right, "the expected reward and its gradient")
    line = "grpo_step returns two tensors: the new theta and the mean reward"
    rights = [reference.script(POLICY_B + STEP_B, **case) for case in steps]
    with part("one gradient step", 1):
        for case, right in zip(steps[:3], rights[:3], strict=True):
            theta, mean = several_b(student.script(POLICY_B + STEP_B, **case), 2, line)
            compare(mean, right[1], "the mean reward")
            compare(theta, right[0], "theta")
    with part("four gradient steps on the same answers", 1):
        for case, right in zip(steps[3:], rights[3:], strict=True):
            compare(several_b(student.script(POLICY_B + STEP_B, **case), 2, line)[0], right[0], "theta")
    with part("a run", 1):
        theta, rewards = several_b(student.script(RUN_B, **given), 2, line)
        expect(isinstance(theta, np.ndarray) and theta.shape == (4, 4, 2, 4), "theta has another shape than before")
        p = np.exp(theta - theta.max(-1, keepdims=True))
        p = p / p.sum(-1, keepdims=True)
        total = prompts.sum(1)
        chance = p[prompts[:, 0], prompts[:, 1], 0, total % 4] * p[prompts[:, 0], prompts[:, 1], 1, (total + 1) % 4]
        reached = float(chance.mean())
        line = f"after 40 rounds the expected reward must be above 0.7 (it was 0.06), and it is {reached:.3g}"
        expect(reached > 0.7, line, theta)
        early, late = float(np.mean(rewards[:5])), float(np.mean(rewards[-5:]))
        expect(late > early + 0.3, f"the mean reward of the answers goes from {early:.3g} to {late:.3g} only", rewards)


# 6. Provenance

CHANCES_B = "return watermark_logits(logits, prev, key, gamma, delta).softmax(-1)"


@question("6a", points=3, names=["green_list", "watermark_logits"], title="Green tokens")
def check_green_b(student: Any, reference: Any, draw: Any) -> None:
    lists, cases = [], []
    for B, V, gamma in ((6, 40, 0.25), (1, 10, 0.5), (12, 12, 0.75), (50, 16, 0.5)):
        lists.append((draw.integers(0, V, B), V, int(draw.integers(0, 2**31, 1)[0]), gamma))
    for B, V, gamma, delta in ((5, 20, 0.25, 1.5), (1, 8, 0.5, 3.0), (12, 12, 0.25, 0.7)):
        case = {"logits": draw.normal(B, V, scale=2.0), "prev": draw.integers(0, V, B), "gamma": gamma, "delta": delta}
        case["logits"][0, :3] = -math.inf
        cases.append({**case, "key": int(draw.integers(0, 2**31, 1)[0])})
    with part("green_list", 2):
        rights = [reference.green_list(*one) for one in lists]
        for one, right in zip(lists, rights, strict=True):
            compare(student.green_list(*one), right, "which tokens are green")
    with part("watermark_logits", 1):
        rights = [reference.script(CHANCES_B, **case) for case in cases]
        for case, right in zip(cases, rights, strict=True):
            compare(student.script(CHANCES_B, **case), right, "probabilities of the next token")


@question("6b", points=3, names=["detect"], title="The detector")
def check_detect_b(student: Any, reference: Any, draw: Any) -> None:
    V, gamma, key = 200, 0.25, int(draw.integers(0, 2**31, 1)[0])
    plain, pick = draw.permutation(V)[:60], draw.uniform(0, 1, 260)
    texts = [
        np.append(draw.integers(0, 6, 80), 17),
        np.tile(draw.permutation(V)[:9], 7),
        np.full(30, 3),
        draw.integers(0, V, 2),
    ]
    green = reference.green_list(np.arange(V), V, key, gamma)
    walk = [3]
    for share in pick:
        options = np.flatnonzero(green[walk[-1]])
        walk.append(int(options[int(share * len(options))]))
    line = "detect returns three numbers: n, z and p"
    names = ("the number of pairs", "the z-score", "the p-value")
    with part("a text without repetition", 1):
        right = reference.detect(plain, V, key, gamma)
        answer = several_b(student.detect(plain, V, key, gamma), 3, line)
        for value, best, name in zip(answer, right, names, strict=True):
            compare(value, best, name)
    with part("repetitions", 1):
        rights = [reference.detect(text, V, key, 0.5) for text in texts]
        for text, right in zip(texts, rights, strict=True):
            answer = several_b(student.detect(text, V, key, 0.5), 3, line)
            for value, best, name in zip(answer, right, names, strict=True):
                compare(value, best, name)
    with part("a text that is all green", 1):
        right = reference.detect(np.array(walk), V, key, gamma)
        answer = several_b(student.detect(np.array(walk), V, key, gamma), 3, line)
        compare(answer[1], right[1], "the z-score")
        compare(answer[2], right[2], "the p-value")
