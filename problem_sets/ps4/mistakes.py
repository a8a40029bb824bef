"""Typical wrong answers to problem set 4, each with the hint that a student who makes it reads.

Read by the grader and never imported; each runs on top of the solution, one at a time.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter

import torch
import torch.nn.functional as F

from autograder.authoring import mistake

# 1a. Learning the merges


def merges_of_a(pieces, count, best=None, weigh=True, redo=True, text=False, ordered=False):
    """Learning with places to go wrong in."""
    words = [list(map(ord, piece)) if text else list(piece.encode()) for piece in pieces]
    merges, counts = [], Counter()
    best = best or (lambda counts: min(counts, key=lambda pair: (-counts[pair], pair)))
    while len(merges) < count:
        if redo or not merges:
            counts = Counter()
            for word, frequency in zip(words, pieces.values()):
                for pair in itertools.pairwise(word):
                    counts[tuple(sorted(pair)) if ordered else pair] += frequency if weigh else 1
        if not counts:
            break
        pair = best(counts)
        if not redo:
            del counts[pair]
        words = [merge_pair(word, *pair, 256 + len(merges)) for word in words]
        merges.append(pair)
    return merges


@mistake("1a", "You replace pairs that overlap: after a merge, go on behind it, so that aaa becomes (aa) a.")
def merge_pair(ids, a, b, new):
    out = list(ids[:1])
    for i in range(1, len(ids)):
        if ids[i - 1] == a and ids[i] == b:
            out[-1] = new
        else:
            out.append(ids[i])
    return out


@mistake("1a", "You merge from the right: a run of three has its first two tokens merged, not its last two.")
def merge_pair(ids, a, b, new):
    out, i = [], len(ids) - 1
    while i >= 0:
        if i > 0 and ids[i - 1] == a and ids[i] == b:
            out.insert(0, new)
            i -= 2
        else:
            out.insert(0, ids[i])
            i -= 1
    return out


@mistake("1a", "You replace only the first place where the pair stands: every place counts.")
def merge_pair(ids, a, b, new):
    for i in range(len(ids) - 1):
        if ids[i] == a and ids[i + 1] == b:
            return [*ids[:i], new, *ids[i + 2 :]]
    return list(ids)


@mistake("1a", "The last token gets lost when it is in no pair.")
def merge_pair(ids, a, b, new):
    out, i = [], 0
    while i < len(ids) - 1:
        if ids[i] == a and ids[i + 1] == b:
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


@mistake("1a", "You merge (b, a) along with (a, b): the order of a pair matters.")
def merge_pair(ids, a, b, new):
    out, i = [], 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) in ((a, b), (b, a)):
            out.append(new)
            i += 2
        else:
            out.append(ids[i])
            i += 1
    return out


@mistake("1a", "Each piece counts once in your table: a piece counts as often as it occurs in the text.")
def learn_merges(pieces, count):
    return merges_of_a(pieces, count, weigh=False)


@mistake("1a", "You count all pairs once at the start: after each merge they are others, with other counts.")
def learn_merges(pieces, count):
    return merges_of_a(pieces, count, redo=False)


@mistake("1a", "Among equally frequent pairs you take the one that was met first: the smaller numbers win.")
def learn_merges(pieces, count):
    return merges_of_a(pieces, count, best=lambda counts: max(counts, key=counts.get))


@mistake("1a", "Among equally frequent pairs you take the one with the greater numbers: the smaller ones win.")
def learn_merges(pieces, count):
    return merges_of_a(pieces, count, best=lambda counts: max(counts, key=lambda pair: (counts[pair], pair)))


@mistake("1a", "Ties between pairs with the same first token go by the second one too: the smaller b wins.")
def learn_merges(pieces, count):
    return merges_of_a(
        pieces, count, best=lambda counts: min(counts, key=lambda pair: (-counts[pair], pair[0], -pair[1]))
    )


@mistake("1a", "You start from characters: the first 256 tokens are bytes, and some characters have several.")
def learn_merges(pieces, count):
    return merges_of_a(pieces, count, text=True)


@mistake("1a", "You take the rarest pair: the most frequent one is merged.")
def learn_merges(pieces, count):
    return merges_of_a(pieces, count, best=lambda counts: min(counts, key=lambda pair: (counts[pair], pair)))


@mistake("1a", "You count pairs across the border of two pieces: merges stay inside of pieces.")
def learn_merges(pieces, count):
    return merges_of_a({"".join(piece * n for piece, n in pieces.items()): 1}, count)


@mistake("1a", "You stop once no pair occurs twice: go on for as long as there is a pair at all.")
def learn_merges(pieces, count):
    merges, n = [], count
    words = [list(piece.encode()) for piece in pieces]
    while len(merges) < n:
        counts = Counter()
        for word, frequency in zip(words, pieces.values()):
            for pair in itertools.pairwise(word):
                counts[pair] += frequency
        if not counts or max(counts.values()) < 2:
            break
        pair = min(counts, key=lambda pair: (-counts[pair], pair))
        words = [merge_pair(word, *pair, 256 + len(merges)) for word in words]
        merges.append(pair)
    return merges


# 1b. Encoding and decoding


def words_of_a(merges):
    vocabulary = [bytes([b]) for b in range(256)]
    for a, b in merges:
        vocabulary.append(vocabulary[a] + vocabulary[b])
    return vocabulary


@mistake("1b", "You take the longest token that fits at each place: replay the merges in the order of training.")
def bpe_encode(text, merges):
    number = {}
    for i, token in enumerate(words_of_a(merges)):
        number.setdefault(token, i)
    ids = []
    for piece in split_text(text):
        data = piece.encode()
        while data:
            n = next(n for n in range(len(data), 0, -1) if data[:n] in number)
            ids.append(number[data[:n]])
            data = data[n:]
    return ids


@mistake("1b", "You merge the first pair from the left that is a merge: the one that was learnt first goes first.")
def bpe_encode(text, merges):
    token = {tuple(pair): 256 + i for i, pair in enumerate(merges)}
    ids = []
    for piece in split_text(text):
        word = list(piece.encode())
        i = 0
        while i < len(word) - 1:
            if (word[i], word[i + 1]) in token:
                word[i : i + 2] = [token[word[i], word[i + 1]]]
                i = 0
            else:
                i += 1
        ids += word
    return ids


@mistake("1b", "You merge the pair that was learnt last first: the order is that of training.")
def bpe_encode(text, merges):
    token = {tuple(pair): 256 + i for i, pair in enumerate(merges)}
    ids = []
    for piece in split_text(text):
        word = list(piece.encode())
        while found := [token[pair] for pair in itertools.pairwise(word) if pair in token]:
            word = merge_pair(word, *merges[max(found) - 256], max(found))
        ids += word
    return ids


@mistake("1b", "You encode the text as a whole: merges stay inside of the pieces that split_text gives.")
def bpe_encode(text, merges):
    word = list(text.encode())
    for i, (a, b) in enumerate(merges):
        word = merge_pair(word, a, b, 256 + i)
    return word


@mistake("1b", "You start from characters: text becomes UTF-8 bytes first.")
def bpe_encode(text, merges):
    ids = []
    for piece in split_text(text):
        word = [ord(c) for c in piece]
        for i, (a, b) in enumerate(merges):
            word = merge_pair(word, a, b, 256 + i)
        ids += word
    return ids


@mistake("1b", "Your merges are numbered from 255: the first one makes the token 256.")
def bpe_encode(text, merges):
    ids = []
    for piece in split_text(text):
        word = list(piece.encode())
        for i, (a, b) in enumerate(merges):
            word = merge_pair(word, a, b, 256 + i)
        ids += word
    return [i - 1 if i > 255 else i for i in ids]


@mistake("1b", "You return the bytes: no merge has been applied.")
def bpe_encode(text, merges):
    return list(text.encode())


@mistake("1b", "White space is missing from your tokens: it belongs to the pieces.")
def bpe_encode(text, merges):
    ids = []
    for piece in text.split():
        word = list(piece.encode())
        for i, (a, b) in enumerate(merges):
            word = merge_pair(word, a, b, 256 + i)
        ids += word
    return ids


@mistake("1b", "You decode token by token: a character may be spread over several. Join the bytes first.")
def bpe_decode(ids, merges):
    vocabulary = words_of_a(merges)
    return "".join(vocabulary[i].decode("utf-8", errors="replace") for i in ids)


@mistake("1b", "You drop bytes that are no valid UTF-8: each stands as a replacement sign in the text.")
def bpe_decode(ids, merges):
    vocabulary = words_of_a(merges)
    return b"".join(vocabulary[i] for i in ids).decode("utf-8", errors="ignore")


@mistake("1b", "You stop at bytes that are no valid UTF-8: a model may emit them, and text is wanted all the same.")
def bpe_decode(ids, merges):
    vocabulary = words_of_a(merges)
    return b"".join(vocabulary[i] for i in ids).decode("utf-8")


@mistake("1b", "You read the bytes as Latin-1, one character a byte: they are UTF-8.")
def bpe_decode(ids, merges):
    vocabulary = words_of_a(merges)
    return b"".join(vocabulary[i] for i in ids).decode("latin-1")


@mistake("1b", "A merge's bytes are those of its first token, then those of its second: yours are swapped.")
def bpe_decode(ids, merges):
    vocabulary = [bytes([b]) for b in range(256)]
    for a, b in merges:
        vocabulary.append(vocabulary[b] + vocabulary[a])
    return b"".join(vocabulary[i] for i in ids).decode("utf-8", errors="replace")


# 2a. Causal attention


def attend_a(q, k, v, scale=None, shift=0, fill=-math.inf, axis=-1, after=False):
    """Attention with places to go wrong in."""
    L, T = q.shape[-2], k.shape[-2]
    scores = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    later = torch.ones(L, T, dtype=torch.bool, device=q.device).triu(T - L + 1 + shift)
    if after:
        return scores.softmax(axis).masked_fill(later, 0) @ v
    return scores.masked_fill(later, fill).softmax(axis) @ v


@mistake("2a", "Your scores are not divided: the root of d_h keeps them from growing with the width.")
def causal_attention(q, k, v):
    return attend_a(q, k, v, scale=1.0)


@mistake("2a", "You divide the scores by d_h: it is its root.")
def causal_attention(q, k, v):
    return attend_a(q, k, v, scale=1 / q.shape[-1])


@mistake("2a", "You multiply the scores by the root of d_h: divide by it.")
def causal_attention(q, k, v):
    return attend_a(q, k, v, scale=q.shape[-1] ** 0.5)


@mistake("2a", "Each position sees one position of the future: nothing later than the query's own may count.")
def causal_attention(q, k, v):
    return attend_a(q, k, v, shift=1)


@mistake("2a", "A position does not see itself in your mask: it does, only what is later is hidden.")
def causal_attention(q, k, v):
    L, T = q.shape[-2], k.shape[-2]
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    later = torch.ones(L, T, dtype=torch.bool, device=q.device).triu(T - L)
    later[:, 0] = False
    return scores.masked_fill(later, -math.inf).softmax(-1) @ v


@mistake("2a", "There is no causal mask: every position sees the whole text.")
def causal_attention(q, k, v):
    return attend_a(q, k, v, shift=10_000)


@mistake("2a", "With more keys than queries your mask begins at the first key: the queries are the last positions.")
def causal_attention(q, k, v):
    L, T = q.shape[-2], k.shape[-2]
    return attend_a(q, k, v, shift=L - T)


@mistake("2a", "Hidden scores are 0 in your softmax, and e to the power of 0 is 1: minus infinity hides.")
def causal_attention(q, k, v):
    return attend_a(q, k, v, fill=0.0)


@mistake("2a", "Your softmax sums over the queries: for each query, the weights of the keys sum to 1.")
def causal_attention(q, k, v):
    return attend_a(q, k, v, axis=-2).nan_to_num()


@mistake("2a", "You mask after the softmax: the weights that are left no longer sum to 1, and the future counts.")
def causal_attention(q, k, v):
    return attend_a(q, k, v, after=True)


@mistake("2a", "The mask is upside down: you hide the past and show the future.")
def causal_attention(q, k, v):
    L, T = q.shape[-2], k.shape[-2]
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    earlier = torch.ones(L, T, dtype=torch.bool, device=q.device).tril(T - L - 1)
    return scores.masked_fill(earlier, -math.inf).softmax(-1) @ v


@mistake("2a", "You return zeros.")
def causal_attention(q, k, v):
    return torch.zeros_like(q)


def mha_a(x, w, num_heads, past, split="right", order=(0, 1, 2), out=True, bias=True, swap=True, behind=True):
    """Multi-head attention with places to go wrong in."""
    B, L, d = x.shape
    h = d // num_heads
    qkv = F.linear(x, w["attention.qkv.weight"], w["attention.qkv.bias"] if bias else None)
    if split == "right":
        parts = [t.view(B, L, num_heads, h).transpose(1, 2) for t in qkv.chunk(3, -1)]
    elif split == "view":
        parts = [t.reshape(B, num_heads, L, h) for t in qkv.chunk(3, -1)]
    elif split == "heads first":
        parts = list(qkv.view(B, L, num_heads, 3, h).permute(3, 0, 2, 1, 4))
    else:
        parts = [t.view(B, L, h, num_heads).permute(0, 3, 1, 2) for t in qkv.chunk(3, -1)]
    q, k, v = (parts[i] for i in order)
    kv = torch.stack([k, v])
    if past is not None:
        kv = torch.cat([past, kv] if behind else [kv, past], dim=3)
    y = causal_attention(q, kv[0], kv[1])
    y = y.transpose(1, 2).reshape(B, L, d) if swap else y.reshape(B, L, d)
    return (F.linear(y, w["attention.out.weight"], w["attention.out.bias"]) if out else y), kv


@mistake("2a", "A plain view into heads mixes up positions: split the last axis, then swap the axes.")
def attention(x, w, num_heads, past=None):
    return mha_a(x, w, num_heads, past, split="view")


@mistake("2a", "You read the 3d numbers head by head: first come all queries, then all keys, then all values.")
def attention(x, w, num_heads, past=None):
    return mha_a(x, w, num_heads, past, split="heads first")


@mistake("2a", "A head is made of neighbouring numbers: yours takes every H-th.")
def attention(x, w, num_heads, past=None):
    return mha_a(x, w, num_heads, past, split="every")


@mistake("2a", "Keys and queries are swapped: the first d numbers are the queries.")
def attention(x, w, num_heads, past=None):
    return mha_a(x, w, num_heads, past, order=(1, 0, 2))


@mistake("2a", "The last map is missing: the heads' results go through attention.out.")
def attention(x, w, num_heads, past=None):
    return mha_a(x, w, num_heads, past, out=False)


@mistake("2a", "The bias of attention.qkv is missing.")
def attention(x, w, num_heads, past=None):
    return mha_a(x, w, num_heads, past, bias=False)


@mistake("2a", "Heads are put together without swapping the axes back: positions get the numbers of others.")
def attention(x, w, num_heads, past=None):
    return mha_a(x, w, num_heads, past, swap=False)


@mistake("2a", "There is one head in your attention: d_h is d / num_heads, and each head has a softmax of its own.")
def attention(x, w, num_heads, past=None):
    y, kv = mha_a(x, w, 1, None if past is None else past.transpose(2, 3).flatten(3)[:, :, None])
    return y, kv


@mistake("2a", "The past is ignored: its keys and values stand before the new ones.")
def attention(x, w, num_heads, past=None):
    return mha_a(x, w, num_heads, None)


@mistake("2a", "The new keys stand before the past in your answer: they follow behind it.")
def attention(x, w, num_heads, past=None):
    return mha_a(x, w, num_heads, past, behind=False)


@mistake("2a", "You return the new keys and values only: those of the past belong to them.")
def attention(x, w, num_heads, past=None):
    y, kv = mha_a(x, w, num_heads, past)
    return y, kv[:, :, :, -x.shape[1] :]


# 2b. A transformer block


@mistake("2b", "Your variance divides by d - 1: it divides by d.")
def layer_norm(x, weight, bias):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-5).sqrt() * weight + bias


@mistake("2b", "Epsilon stands beside the standard deviation: it belongs inside of the root.")
def layer_norm(x, weight, bias):
    return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True, correction=0) + 1e-5) * weight + bias


@mistake(
    "2b", "There is no epsilon in your norm (or another one): it counts where a position's numbers are nearly equal."
)
def layer_norm(x, weight, bias):
    return (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True, correction=0) * weight + bias


@mistake("2b", "You normalise over the positions: each position is normalised over its own d numbers.")
def layer_norm(x, weight, bias):
    variance = x.var(-2, keepdim=True, correction=0)
    return (x - x.mean(-2, keepdim=True)) / (variance + 1e-5).sqrt() * weight + bias


@mistake("2b", "Weight and bias are not used: that is right only where they are 1 and 0.")
def layer_norm(x, weight, bias):
    return F.layer_norm(x, x.shape[-1:])


@mistake("2b", "The mean is not taken off: that is another norm (RMS norm).")
def layer_norm(x, weight, bias):
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias


@mistake("2b", "You divide by the variance: its root is meant.")
def layer_norm(x, weight, bias):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-5) * weight + bias


@mistake("2b", "The bias is added before the weight multiplies: it comes last.")
def layer_norm(x, weight, bias):
    return (F.layer_norm(x, x.shape[-1:]) + bias) * weight


@mistake("2b", "This is the exact GELU: GPT-2's is the one with tanh.")
def gelu(x):
    return F.gelu(x)


@mistake("2b", "This is a ReLU: GELU is smooth, and below 0 for small negative numbers.")
def gelu(x):
    return F.relu(x)


@mistake("2b", "This is x times the sigmoid of x (SiLU): GELU has another curve.")
def gelu(x):
    return F.silu(x)


@mistake("2b", "The factor in front of the bracket in the tanh is the root of 2/pi: yours is 2/pi.")
def gelu(x):
    return 0.5 * x * (1 + torch.tanh(2 / math.pi * (x + 0.044715 * x**3)))


@mistake("2b", "In your tanh stands a square, where the third power is meant.")
def gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**2)))


@mistake("2b", "The half is missing: for large x, gelu(x) is x.")
def gelu(x):
    return x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def block_of_a(x, w, num_heads, past, post=False, first=True, second=True, parallel=False, one_norm=False, act=None):
    """A block with places to go wrong in."""
    act = act or gelu

    def norm(x, i):
        return layer_norm(x, w[f"norm_{i}.weight"], w[f"norm_{i}.bias"])

    def mlp(x):
        hidden = act(F.linear(x, w["up.weight"], w["up.bias"]))
        return F.linear(hidden, w["down.weight"], w["down.bias"])

    a, kv = attention(x if post else norm(x, 1), w, num_heads, past)
    h = x + a if first else a
    if post:
        h = norm(h, 1)
        return norm(h + mlp(h), 2), kv
    inner = mlp(norm(x if parallel else h, 1 if one_norm else 2))
    return (h + inner if second else inner), kv


@mistake("2b", "Your norms stand after the sums (post-norm): they stand before attention and before the network.")
def transformer_block(x, w, num_heads, past=None):
    return block_of_a(x, w, num_heads, past, post=True)


@mistake("2b", "The first sum is missing: attention is added to x.")
def transformer_block(x, w, num_heads, past=None):
    return block_of_a(x, w, num_heads, past, first=False)


@mistake("2b", "The second sum is missing: the network's result is added to what attention left.")
def transformer_block(x, w, num_heads, past=None):
    return block_of_a(x, w, num_heads, past, second=False)


@mistake("2b", "The network reads x: it reads what attention has left, x included.")
def transformer_block(x, w, num_heads, past=None):
    return block_of_a(x, w, num_heads, past, parallel=True)


@mistake("2b", "Both norms use the weights of norm_1.")
def transformer_block(x, w, num_heads, past=None):
    return block_of_a(x, w, num_heads, past, one_norm=True)


@mistake("2b", "There is no GELU between up and down: two linear maps in a row are one.")
def transformer_block(x, w, num_heads, past=None):
    return block_of_a(x, w, num_heads, past, act=lambda x: x)


@mistake("2b", "Your block does not hand the past to its attention.")
def transformer_block(x, w, num_heads, past=None):
    return block_of_a(x, w, num_heads, None)


@mistake("2b", "Attention and network are skipped: that is right only where their last weights are 0.")
def transformer_block(x, w, num_heads, past=None):
    return x, block_of_a(x, w, num_heads, past)[1]


# 2c. The loss


@mistake("2c", "Row i is compared with token i: it predicts token i + 1.")
def next_token_loss(logits, ids, ignore=-100):
    return F.cross_entropy(logits.flatten(0, 1), ids.flatten(), ignore_index=ignore)


@mistake("2c", "The shift goes the other way: the row before a token predicts it, not the row after it.")
def next_token_loss(logits, ids, ignore=-100):
    return F.cross_entropy(logits[:, 1:].flatten(0, 1), ids[:, :-1].flatten(), ignore_index=ignore)


@mistake("2c", "The last row is compared with the first token (roll goes round): it has no target.")
def next_token_loss(logits, ids, ignore=-100):
    return F.cross_entropy(logits.flatten(0, 1), ids.roll(-1, 1).flatten(), ignore_index=ignore)


@mistake("2c", "You return a sum: the mean over the targets is asked for.")
def next_token_loss(logits, ids, ignore=-100):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), ignore_index=ignore, reduction="sum")


@mistake("2c", "The sign is that of a log-likelihood: a loss falls when the model gets better.")
def next_token_loss(logits, ids, ignore=-100):
    return -F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), ignore_index=ignore)


@mistake("2c", "A softmax and then a logarithm: what rounds to 0 becomes infinite. Stay in logarithms.")
def next_token_loss(logits, ids, ignore=-100):
    target = ids[:, 1:]
    log_p = logits[:, :-1].softmax(-1).log()
    picked = log_p.gather(-1, target.clamp(min=0)[..., None])[..., 0]
    return -picked[target != ignore].mean()


@mistake("2c", "You keep probabilities away from 0: that hides large losses, and their gradient is 0.")
def next_token_loss(logits, ids, ignore=-100):
    target = ids[:, 1:]
    log_p = logits[:, :-1].softmax(-1).clamp(min=1e-12).log()
    picked = log_p.gather(-1, target.clamp(min=0)[..., None])[..., 0]
    return -picked[target != ignore].mean()


@mistake("2c", "exp overflows: take the largest logit of each row out before you sum.")
def next_token_loss(logits, ids, ignore=-100):
    target = ids[:, 1:]
    log_p = logits[:, :-1] - logits[:, :-1].exp().sum(-1, keepdim=True).log()
    picked = log_p.gather(-1, target.clamp(min=0)[..., None])[..., 0]
    return -picked[target != ignore].mean()


@mistake("2c", "You average each text first: every target counts the same, whichever text it is in.")
def next_token_loss(logits, ids, ignore=-100):
    target = ids[:, 1:]
    counts = target != ignore
    log_p = logits[:, :-1].log_softmax(-1).gather(-1, torch.where(counts, target, 0)[..., None])[..., 0]
    per_text = -(log_p * counts).sum(1) / counts.sum(1).clamp(min=1)
    return per_text[counts.any(1)].mean()


@mistake("2c", "Ignored targets are left out of the sum but not of the count.")
def next_token_loss(logits, ids, ignore=-100):
    target = ids[:, 1:]
    counts = target != ignore
    log_p = logits[:, :-1].log_softmax(-1).gather(-1, torch.where(counts, target, 0)[..., None])[..., 0]
    return -(log_p * counts).mean()


@mistake("2c", "You leave out the rows of ignored tokens: ignored is a target, and the row after it still predicts.")
def next_token_loss(logits, ids, ignore=-100):
    counts = (ids[:, :-1] != ignore) & (ids[:, 1:] != ignore)
    target = torch.where(counts, ids[:, 1:], -100)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), target.flatten())


@mistake("2c", "The argument ignore is not used: it may be another number than -100.")
def next_token_loss(logits, ids, ignore=-100):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


@mistake("2c", "Ignored tokens count as token 0 in your loss: leave them out.")
def next_token_loss(logits, ids, ignore=-100):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].clamp(min=0).flatten())


@mistake("2c", "You return the perplexity: the loss is its logarithm.")
def next_token_loss(logits, ids, ignore=-100):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), ignore_index=ignore).exp()


@mistake("2c", "Your loss is in bits: a natural logarithm is asked for.")
def next_token_loss(logits, ids, ignore=-100):
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), ignore_index=ignore)
    return loss / math.log(2)


@mistake("2c", "The logits are detached from your loss: nothing can be trained with it.")
def next_token_loss(logits, ids, ignore=-100):
    logits = logits.detach().requires_grad_()
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), ignore_index=ignore) + 0 * logits.sum()


@mistake("2c", "Your loss is 0.")
def next_token_loss(logits, ids, ignore=-100):
    return 0 * logits.sum()


# 2d. A GPT, and its cache


def gpt_of_a(ids, w, num_heads, cache, start=None, last=True, tied=True, layers=None, positions=True, grow=True):
    """A GPT with places to go wrong in."""
    past = 0 if cache is None else cache[0].shape[3]
    start = past if start is None else start
    x = w["tokens"][ids]
    if positions:
        x = x + w["positions"][start : start + ids.shape[1]]
    new = []
    for i, block in enumerate(w["blocks"][:layers]):
        x, kv = transformer_block(x, block, num_heads, None if cache is None else cache[i])
        new.append(kv if grow else kv[:, :, :, -ids.shape[1] :])
    if last:
        x = layer_norm(x, w["norm.weight"], w["norm.bias"])
    return (x @ w["tokens"].T if tied else x), new


@mistake("2d", "New tokens start at position 0 again: their position is their place in the whole text.")
def gpt_logits(ids, w, num_heads, cache=None):
    return gpt_of_a(ids, w, num_heads, cache, start=0)


@mistake("2d", "All new tokens get the position of the first of them: each has its own.")
def gpt_logits(ids, w, num_heads, cache=None):
    past = 0 if cache is None else cache[0].shape[3]
    own = {**w, "positions": w["positions"][past].expand(past + ids.shape[1], -1)}
    return gpt_of_a(ids, own, num_heads, cache)


@mistake("2d", "The last norm is missing.")
def gpt_logits(ids, w, num_heads, cache=None):
    return gpt_of_a(ids, w, num_heads, cache, last=False)


@mistake("2d", "You return vectors of width d: logits are their products with the tokens' vectors.")
def gpt_logits(ids, w, num_heads, cache=None):
    return gpt_of_a(ids, w, num_heads, cache, tied=False)


@mistake("2d", "The positions' vectors are missing.")
def gpt_logits(ids, w, num_heads, cache=None):
    return gpt_of_a(ids, w, num_heads, cache, positions=False)


@mistake("2d", "Only one block is used: all of w['blocks'] follow one another.")
def gpt_logits(ids, w, num_heads, cache=None):
    return gpt_of_a(ids, w, num_heads, cache, layers=1)


@mistake("2d", "The cache is not read: new tokens see nothing of what came before.")
def gpt_logits(ids, w, num_heads, cache=None):
    past = 0 if cache is None else cache[0].shape[3]
    logits, kv = gpt_of_a(ids, w, num_heads, None, start=past)
    return logits, kv if cache is None else [torch.cat(both, 3) for both in zip(cache, kv)]


@mistake("2d", "Your cache holds the newest tokens only: it must grow.")
def gpt_logits(ids, w, num_heads, cache=None):
    return gpt_of_a(ids, w, num_heads, cache, grow=False)


@mistake("2d", "All blocks use the first one's cache: each has keys and values of its own.")
def gpt_logits(ids, w, num_heads, cache=None):
    return gpt_of_a(ids, w, num_heads, None if cache is None else [cache[0]] * len(cache))


@mistake("2d", "You return log-probabilities: logits are asked for, as they leave the last product.")
def gpt_logits(ids, w, num_heads, cache=None):
    logits, cache = gpt_of_a(ids, w, num_heads, cache)
    return logits.log_softmax(-1), cache


@mistake("2d", "You return the last row's logits only: each new token has a row.")
def gpt_logits(ids, w, num_heads, cache=None):
    logits, cache = gpt_of_a(ids, w, num_heads, cache)
    return logits[:, -1:], cache


@mistake("2d", "Several new tokens after a prefix see each other's future: the mask is missing where there is a past.")
def gpt_logits(ids, w, num_heads, cache=None):
    def seeing(q, k, v):
        shift = 0 if q.shape[-2] == k.shape[-2] else 10_000
        return attend_a(q, k, v, shift=shift)

    globals()["causal_attention"] = seeing
    return gpt_of_a(ids, w, num_heads, cache)


@mistake("2d", "You count whole squares, t times t: a query is paired with the keys up to its own position.")
def attended_pairs(prompt, new, use_cache):
    lengths = range(prompt, prompt + new)
    return prompt**2 + sum(lengths[1:]) if use_cache else sum(t * t for t in lengths)


@mistake("2d", "With a cache you read the prompt, and the new tokens for nothing: each later pass has t pairs.")
def attended_pairs(prompt, new, use_cache):
    if use_cache:
        return prompt * (prompt + 1) // 2
    return sum(t * (t + 1) // 2 for t in range(prompt, prompt + new))


@mistake("2d", "You count one pass too many: the last token that is drawn is not read any more.")
def attended_pairs(prompt, new, use_cache):
    lengths = range(prompt, prompt + new + 1)
    if use_cache:
        return prompt * (prompt + 1) // 2 + sum(lengths[1:])
    return sum(t * (t + 1) // 2 for t in lengths)


@mistake("2d", "With a cache the prompt still has to be read once, by a full pass.")
def attended_pairs(prompt, new, use_cache):
    lengths = range(prompt, prompt + new)
    return sum(lengths) if use_cache else sum(t * (t + 1) // 2 for t in lengths)


@mistake("2d", "Both counts are those without a cache.")
def attended_pairs(prompt, new, use_cache):
    return sum(t * (t + 1) // 2 for t in range(prompt, prompt + new))


# 2e. Train it


def train_a(text, vocab, steps=60, rate=1e-2, shift=1, masked=True, clear=True, last=-1, d=32, context=32, form=None):
    """A small and short training with places to go wrong in."""
    if not masked:
        globals()["causal_attention"] = lambda q, k, v: (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v

    def normal(*shape):
        return 0.1 * torch.randn(*shape, device=text.device)

    names = {"attention.qkv": (3 * d, d), "attention.out": (d, d), "up": (4 * d, d), "down": (d, 4 * d)}
    block = {f"{name}.weight": normal(*shape) for name, shape in names.items()}
    block |= {f"{name}.bias": normal(shape[0]) for name, shape in names.items()}
    for name in ("norm_1", "norm_2"):
        block |= {f"{name}.weight": 1 + normal(d), f"{name}.bias": normal(d)}
    w = {"tokens": normal(vocab, d), "positions": normal(context, d), "norm.weight": 1 + normal(d)}
    w["norm.bias"] = normal(d)
    parameters = [p.requires_grad_() for p in [*w.values(), *block.values()]]
    w["blocks"] = [block]
    optimizer = torch.optim.Adam(parameters, lr=rate)
    losses = []
    for _ in range(steps):
        start = torch.randint(len(text) - context, (16, 1), device=text.device)
        ids = text[start + torch.arange(context + 1, device=text.device)]
        logits = gpt_logits(ids[:, :-1], w, 2)[0]
        target = ids[:, shift : context + shift]
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())
        if clear:
            optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    @torch.no_grad()
    def next_logits(ids):
        logits = gpt_logits(ids[:, -context:] if form != "long" else ids, w, 2)[0]
        if form == "all":
            return logits
        return logits[:, last].softmax(-1) if form == "probs" else logits[:, last]

    return next_logits, losses


@mistake(
    "2e",
    "Your probabilities depend on the last few characters only, like a table of counts: use a model that attends.",
)
def train_gpt(text, vocab_size):
    counts = torch.ones(vocab_size, vocab_size, device=text.device)
    counts.index_put_((text[:-1], text[1:]), torch.ones(len(text) - 1, device=text.device), accumulate=True)
    return lambda ids: (counts / counts.sum(1, keepdim=True)).log()[ids[:, -1]], [3.0, 2.5]


@mistake("2e", "The model that you return is as it started: was it trained, and was the optimizer's step taken?")
def train_gpt(text, vocab_size):
    return train_a(text, vocab_size, steps=0)[0], [4.1, 4.1]


@mistake("2e", "Your function gives the logits of all positions: those of the next token, (B, V), are asked for.")
def train_gpt(text, vocab_size):
    return train_a(text, vocab_size, steps=2, form="all")


@mistake("2e", "Your function gives the first position's row: the next token's logits are in the last one.")
def train_gpt(text, vocab_size):
    return train_a(text, vocab_size, last=0)


@mistake("2e", "Prefixes may be longer than your context: keep their end.")
def train_gpt(text, vocab_size):
    return train_a(text, vocab_size, steps=2, form="long")


@mistake("2e", "In training your model sees what it shall predict: the mask is missing.")
def train_gpt(text, vocab_size):
    return train_a(text, vocab_size, masked=False)


@mistake("2e", "Your model is trained to name the token that it reads: targets lie one place further on.")
def train_gpt(text, vocab_size):
    return train_a(text, vocab_size, shift=0)


@mistake("2e", "Your learning rate is so small that nothing is learnt in so few steps.")
def train_gpt(text, vocab_size):
    return train_a(text, vocab_size, rate=1e-5)


@mistake("2e", "Gradients are never cleared: each step follows the sum of all of them so far.")
def train_gpt(text, vocab_size):
    return train_a(text, vocab_size, clear=False)


@mistake(
    "2e", "Your function gives probabilities: the check takes what you return as logits, so everything looks alike."
)
def train_gpt(text, vocab_size):
    return train_a(text, vocab_size, form="probs")


@mistake("2e", "Far too few steps: the loss is still falling fast.")
def train_gpt(text, vocab_size):
    return train_a(text, vocab_size, d=48)


@mistake("2e", "train_gpt returns two things: the function and the list of losses.")
def train_gpt(text, vocab_size):
    return train_a(text, vocab_size, steps=1)[0]


# 3a. Temperature, top-k, top-p


def nucleus_a(logits, p, keep_crossing=True, stable=True, scatter=True, fill=-math.inf, raw=None):
    """The nucleus with places to go wrong in."""
    if p == 1:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    if not stable:  # in a tie, the greater number first
        ordered, order = logits.flip(-1).sort(dim=-1, descending=True, stable=True)
        order = logits.shape[-1] - 1 - order
    probs = ordered.softmax(-1)
    sums = probs.cumsum(-1)
    drop = (sums - probs if keep_crossing else sums) >= p - 1e-6
    if keep_crossing:
        drop[:, 0] = False
    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop) if scatter else drop, fill)


def probs_a(logits, temperature, top_k, top_p, temperature_last=False, p_first=False):
    """Next-token probabilities with the steps in another order."""
    if temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits)
    if not temperature_last:
        logits = logits / temperature
    if p_first and top_p is not None:
        logits = apply_top_p(logits, top_p)
    if top_k is not None:
        logits = apply_top_k(logits, top_k)
    if not p_first and top_p is not None:
        logits = apply_top_p(logits, top_p)
    return (logits / temperature if temperature_last else logits).softmax(-1)


@mistake("3a", "apply_top_k keeps exactly k: all tokens that tie with the k-th stay.")
def apply_top_k(logits, k):
    order = logits.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    return torch.full_like(logits, -math.inf).scatter(-1, order, logits.gather(-1, order))


@mistake("3a", "apply_top_k fails where k is more than the vocabulary: then it keeps everything.")
def apply_top_k(logits, k):
    kth = logits.topk(k, dim=-1).values[:, -1:]
    return logits.masked_fill(logits < kth, -math.inf)


@mistake("3a", "apply_top_k keeps one token too few: the k-th stays.")
def apply_top_k(logits, k):
    kth = logits.topk(min(k, logits.shape[-1]), dim=-1).values[:, -1:]
    return logits.masked_fill(logits <= kth, -math.inf)


@mistake("3a", "apply_top_k writes zeros for what it drops: in logits, 0 is a token like others. Use minus infinity.")
def apply_top_k(logits, k):
    kth = logits.topk(min(k, logits.shape[-1]), dim=-1).values[:, -1:]
    return logits.masked_fill(logits < kth, 0.0)


@mistake("3a", "apply_top_k takes the k-th of the whole batch: each row has its own.")
def apply_top_k(logits, k):
    kth = logits.flatten().topk(min(k, logits.shape[-1])).values[-1]
    return logits.masked_fill(logits < kth, -math.inf)


@mistake("3a", "apply_top_k keeps the smallest logits: the greatest are the most likely.")
def apply_top_k(logits, k):
    kth = logits.topk(min(k, logits.shape[-1]), dim=-1, largest=False).values[:, -1:]
    return logits.masked_fill(logits > kth, -math.inf)


@mistake("3a", "apply_top_k gives the sorted logits: each token keeps its place.")
def apply_top_k(logits, k):
    ordered = logits.sort(dim=-1, descending=True).values
    return torch.cat([ordered[:, :k], torch.full_like(ordered[:, k:], -math.inf)], -1)


@mistake("3a", "apply_top_k drops nothing.")
def apply_top_k(logits, k):
    return logits


@mistake("3a", "The token that crosses p is missing from your nucleus: without it the sum stays below p.")
def apply_top_p(logits, p):
    return nucleus_a(logits, p, keep_crossing=False)


@mistake("3a", "Your nucleus drops places in the sorted order, not tokens: go back to the tokens' numbers.")
def apply_top_p(logits, p):
    return nucleus_a(logits, p, scatter=False)


@mistake("3a", "In a tie at the border the token with the greater number stays in your nucleus: the smaller one does.")
def apply_top_p(logits, p):
    return nucleus_a(logits, p, stable=False)


@mistake("3a", "apply_top_p keeps all that tie with the last one kept: it keeps as few tokens as reach p.")
def apply_top_p(logits, p):
    kept = nucleus_a(logits, p)
    lowest = torch.where(kept.isinf(), math.inf, kept).amin(-1, keepdim=True)
    return logits.masked_fill(logits < lowest, -math.inf)


@mistake("3a", "apply_top_p writes zeros for what it drops: minus infinity drops a token.")
def apply_top_p(logits, p):
    return nucleus_a(logits, p, fill=0.0)


@mistake(
    "3a", "apply_top_p keeps each token whose own probability is at least 1 - p: the sum of those kept must reach p."
)
def apply_top_p(logits, p):
    return logits.masked_fill(logits.softmax(-1) < 1 - p, -math.inf)


@mistake("3a", "apply_top_p takes the least likely tokens first: sort with the most likely first.")
def apply_top_p(logits, p):
    if p == 1:
        return logits
    ordered, order = logits.sort(dim=-1, stable=True)
    probs = ordered.softmax(-1)
    drop = probs.cumsum(-1) - probs >= p
    return logits.masked_fill(torch.zeros_like(drop).scatter(-1, order, drop), -math.inf)


@mistake("3a", "apply_top_p drops nothing.")
def apply_top_p(logits, p):
    return logits


@mistake("3a", "apply_top_p returns logarithms of renormalised probabilities: what it keeps stays as it is.")
def apply_top_p(logits, p):
    return nucleus_a(logits, p).log_softmax(-1)


@mistake("3a", "Logits are multiplied by your temperature: divide by it.")
def next_token_probs(logits, temperature=1.0, top_k=None, top_p=None):
    return probs_a(logits, 1 / temperature if temperature else 0, top_k, top_p)


@mistake("3a", "The temperature comes last in your order: the nucleus depends on it, so it comes first.")
def next_token_probs(logits, temperature=1.0, top_k=None, top_p=None):
    return probs_a(logits, temperature, top_k, top_p, temperature_last=True)


@mistake("3a", "Top-p comes before top-k in your order: it works on what top-k has left.")
def next_token_probs(logits, temperature=1.0, top_k=None, top_p=None):
    return probs_a(logits, temperature, top_k, top_p, p_first=True)


@mistake("3a", "The temperature is not used.")
def next_token_probs(logits, temperature=1.0, top_k=None, top_p=None):
    return probs_a(logits, 1.0, top_k, top_p)


@mistake("3a", "Top-k and top-p are not used.")
def next_token_probs(logits, temperature=1.0, top_k=None, top_p=None):
    return probs_a(logits, temperature, None, None)


@mistake("3a", "Top-p is not used.")
def next_token_probs(logits, temperature=1.0, top_k=None, top_p=None):
    return probs_a(logits, temperature, top_k, None)


@mistake("3a", "At temperature 0 you divide by 0: it means the argmax.")
def next_token_probs(logits, temperature=1.0, top_k=None, top_p=None):
    return probs_a(logits, temperature or torch.zeros(()), top_k, top_p) if temperature else (logits / 0.0).softmax(-1)


@mistake(
    "3a", "At temperature 0 all tokens that tie for the first place share in your answer: the first one has it all."
)
def next_token_probs(logits, temperature=1.0, top_k=None, top_p=None):
    if temperature == 0:
        best = (logits == logits.amax(-1, keepdim=True)).to(logits)
        return best / best.sum(-1, keepdim=True)
    return probs_a(logits, temperature, top_k, top_p)


@mistake("3a", "You return logits: probabilities are asked for.")
def next_token_probs(logits, temperature=1.0, top_k=None, top_p=None):
    return probs_a(logits, temperature, top_k, top_p).log()


# 3b. Drawing text


def inverse_a(probs, u, side=True, clip=True):
    """The inverse distribution function with places to go wrong in."""
    sums = probs.cumsum(-1)
    x = ((sums <= u[:, None]) if side else (sums < u[:, None])).sum(-1)
    return x.clamp(max=probs.shape[-1] - 1) if clip else x


def write_a(next_logits, ids, u, temperature, top_k, top_p, seen=None, same=False, new=False, options=True):
    """Generation with places to go wrong in."""
    start = ids
    for column in u.T:
        given = start if seen == "prompt" else ids[:, -1:] if seen == "last" else ids
        logits = next_logits(given)
        probs = next_token_probs(logits, temperature, top_k, top_p) if options else logits.softmax(-1)
        ids = torch.cat([ids, sample_token(probs, u.T[0] if same else column)[:, None]], 1)
    return ids[:, start.shape[1] :] if new else ids


@mistake("3b", "At a border between two tokens (a sum that equals u) you take the lower one: the sum must be greater.")
def sample_token(probs, u):
    return torch.minimum(inverse_a(probs, u, side=False), (probs > 0).cumsum(-1).argmax(-1))


@mistake("3b", "Near u = 1 you draw the last token though its probability is 0: sums may end a little below 1.")
def sample_token(probs, u):
    return inverse_a(probs, u)


@mistake("3b", "Near u = 1 your token is V: the sums may end a little below 1.")
def sample_token(probs, u):
    last = torch.where(probs > 0, torch.arange(probs.shape[-1]), 0).amax(-1)
    x = inverse_a(probs, u, clip=False)
    return torch.where(last == probs.shape[-1] - 1, torch.minimum(x, last), x)


@mistake("3b", "Your tokens are one too high: count the sums that are too small, not those and one more.")
def sample_token(probs, u):
    return (inverse_a(probs, u) + 1).clamp(max=probs.shape[-1] - 1)


@mistake("3b", "u is not used: you take the most likely token.")
def sample_token(probs, u):
    return probs.argmax(-1)


@mistake("3b", "You compare u with each probability: it goes with their running sums.")
def sample_token(probs, u):
    return (probs <= u[:, None]).long().argmin(-1)


@mistake("3b", "All rows use the first row's u: each text has its own.")
def sample_token(probs, u):
    return inverse_a(probs, u[:1].expand(len(probs)))


@mistake("3b", "You sort the probabilities first: tokens are numbered as they are given.")
def sample_token(probs, u):
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    return order.gather(-1, inverse_a(ordered, u)[:, None])[:, 0]


@mistake("3b", "You draw with torch's random numbers: u is the random number.")
def sample_token(probs, u):
    return torch.multinomial(probs, 1)[:, 0]


@mistake("3b", "Tokens are counted from the end: the inverse distribution function starts with token 0.")
def sample_token(probs, u):
    return probs.shape[-1] - 1 - inverse_a(probs.flip(-1), u)


@mistake("3b", "The model is always asked about the prompt: it must read what it has written.")
def generate(next_logits, ids, u, temperature=1.0, top_k=None, top_p=None):
    return write_a(next_logits, ids, u, temperature, top_k, top_p, seen="prompt")


@mistake("3b", "The model sees the last token only: it is given all tokens so far.")
def generate(next_logits, ids, u, temperature=1.0, top_k=None, top_p=None):
    return write_a(next_logits, ids, u, temperature, top_k, top_p, seen="last")


@mistake("3b", "Every step uses the first column of u: each has its own.")
def generate(next_logits, ids, u, temperature=1.0, top_k=None, top_p=None):
    return write_a(next_logits, ids, u, temperature, top_k, top_p, same=True)


@mistake("3b", "The prompt is missing from what you return.")
def generate(next_logits, ids, u, temperature=1.0, top_k=None, top_p=None):
    return write_a(next_logits, ids, u, temperature, top_k, top_p, new=True)


@mistake("3b", "generate does not hand its options on: temperature, top-k and top-p change nothing.")
def generate(next_logits, ids, u, temperature=1.0, top_k=None, top_p=None):
    return write_a(next_logits, ids, u, temperature, top_k, top_p, options=False)


@mistake("3b", "generate hands on the temperature, but no filter.")
def generate(next_logits, ids, u, temperature=1.0, top_k=None, top_p=None):
    return write_a(next_logits, ids, u, temperature, None, None)


@mistake("3b", "You return one token too many: there is one for each column of u.")
def generate(next_logits, ids, u, temperature=1.0, top_k=None, top_p=None):
    ids = write_a(next_logits, ids, u, temperature, top_k, top_p)
    return torch.cat([ids, next_logits(ids).argmax(-1)[:, None]], 1)


# 3c. Speculative sampling


def step_a(p, q, draft, u, r, ratio=None, after="residual", bonus=True, strict=True, place=0, keep=False):
    """A speculative step with places to go wrong in."""
    ratio = ratio or (lambda a, b: a / b)
    n = 0
    while n < len(draft):
        chance = ratio(p[n, draft[n]], q[n, draft[n]])
        if not (u[n] < chance if strict else u[n] <= chance):
            break
        n += 1
    if n == len(draft):
        if not bonus:
            return draft
        last = p[n]
    else:
        last = {"residual": residual(p[n], q[n]), "p": p[n], "q": q[n]}[after]
    out = torch.cat([draft[:n], sample_token(last[None], torch.full((1,), r).to(last))])
    return torch.cat([out, draft[n + 1 :]]) if keep else out


@mistake("3c", "The residual does not sum to 1: divide by its sum.")
def residual(p, q):
    return (p - q).clamp(min=0)


@mistake(
    "3c", "The residual is what the target has and the draft lacks: p - q, where that is positive; yours is q - p."
)
def residual(p, q):
    gap = (q - p).clamp(min=0)
    return gap / gap.sum() if gap.sum() > 0 else p


@mistake("3c", "Your residual is |p - q|: where the draft has more than the target, it is 0.")
def residual(p, q):
    gap = (p - q).abs()
    return gap / gap.sum() if gap.sum() > 0 else p


@mistake("3c", "Your residual is the target's distribution itself: what the draft likes then counts twice.")
def residual(p, q):
    return p


@mistake("3c", "Where target and draft are equal your residual divides 0 by 0.")
def residual(p, q):
    gap = (p - q).clamp(min=0)
    return gap / gap.sum()


@mistake("3c", "Your residual divides by the sum of p - q with its negative entries, which is 0: cut them off first.")
def residual(p, q):
    return (p - q).clamp(min=0) / (p - q).sum() if (p != q).any() else p


@mistake("3c", "Your residual is uniform over the tokens that the target likes better: their gaps are its weights.")
def residual(p, q):
    gap = (p > q).to(p)
    return gap / gap.sum() if gap.sum() > 0 else p


@mistake("3c", "After a rejection you draw from the target: the token comes from the residual.")
def speculative_step(p, q, draft, u, r):
    return step_a(p, q, draft, u, r, after="p")


@mistake("3c", "After a rejection you draw from the draft: the token comes from the residual.")
def speculative_step(p, q, draft, u, r):
    return step_a(p, q, draft, u, r, after="q")


@mistake("3c", "Your ratio is q / p: what the target finds likelier than the draft is always accepted.")
def speculative_step(p, q, draft, u, r):
    return step_a(p, q, draft, u, r, ratio=lambda a, b: b / a)


@mistake("3c", "You accept with the target's probability of the token: divide it by the draft's.")
def speculative_step(p, q, draft, u, r):
    return step_a(p, q, draft, u, r, ratio=lambda a, b: a)


@mistake("3c", "You accept whatever the target finds likelier, and nothing else: chance decides, with u.")
def speculative_step(p, q, draft, u, r):
    return step_a(p, q, draft, u, r, ratio=lambda a, b: (a >= b).to(a))


@mistake("3c", "At u = 0 you accept a token that the target never says: u must be smaller than the ratio.")
def speculative_step(p, q, draft, u, r):
    return step_a(p, q, draft, u, r, strict=False)


@mistake("3c", "When all drafted tokens are accepted one more is drawn, from the last row of p.")
def speculative_step(p, q, draft, u, r):
    return step_a(p, q, draft, u, r, bonus=False)


@mistake("3c", "What stands behind a rejected token goes with it: it was drafted for another text.")
def speculative_step(p, q, draft, u, r):
    return step_a(p, q, draft, u, r, keep=True)


@mistake("3c", "You judge each drafted token, also behind a rejected one: the first rejection ends the step.")
def speculative_step(p, q, draft, u, r):
    chances = torch.stack([p[i, x] / q[i, x] for i, x in enumerate(draft)])
    kept = draft[u < chances]
    n = len(kept)
    last = p[n] if n == len(draft) else residual(p[n], q[n])
    return torch.cat([kept, sample_token(last[None], torch.full((1,), r).to(last))])


@mistake("3c", "All tokens are judged with the first u: each has its own.")
def speculative_step(p, q, draft, u, r):
    return step_a(p, q, draft, u[:1].expand(len(draft)), r)


@mistake("3c", "The last token comes from the row before: after n accepted tokens, it is row n of p and q.")
def speculative_step(p, q, draft, u, r):
    out = step_a(p, q, draft, u, r)
    n = len(out) - 1
    if n == 0:
        return out
    last = p[n - 1] if n == len(draft) else residual(p[n - 1], q[n - 1])
    return torch.cat([draft[:n], sample_token(last[None], torch.full((1,), r).to(last))])


@mistake("3c", "Everything that was drafted is accepted: that has the law of the draft.")
def speculative_step(p, q, draft, u, r):
    return step_a(p, q, draft, torch.full_like(u, -1.0), r)


@mistake("3c", "Nothing of the draft is kept: the law is right, but nothing is gained.")
def speculative_step(p, q, draft, u, r):
    return sample_token(p[:1], torch.full((1,), r).to(p))


@mistake("3c", "You count the accepted tokens only: each step gives one more.")
def expected_tokens(a, k):
    return sum(a**i for i in range(1, k + 1))


@mistake("3c", "Your sum ends one term early: it goes up to a to the power of K.")
def expected_tokens(a, k):
    return sum(a**i for i in range(k))


@mistake("3c", "The closed form divides 0 by 0 at a = 1: there a step gives K + 1 tokens.")
def expected_tokens(a, k):
    return float(torch.tensor(1 - a ** (k + 1), dtype=torch.float64) / (1 - a))


@mistake(
    "3c", "1 + aK counts each token as if those before it were always accepted: the first rejection ends the step."
)
def expected_tokens(a, k):
    return 1 + a * k


# 4a. Corruption


@mistake(
    "4a", "You hide what should be visible: a token is hidden once its time has come, and t grows towards the masks."
)
def q_sample(x_0, t, noise, mask_id):
    return torch.where(noise < t[:, None], x_0, mask_id)


@mistake("4a", "One number decides for a whole text: each token has its own time, so use all of noise.")
def q_sample(x_0, t, noise, mask_id):
    return torch.where(noise[:, :1] < t[:, None], mask_id, x_0)


@mistake("4a", "All texts are corrupted at the same time: each row has its own t.")
def q_sample(x_0, t, noise, mask_id):
    return torch.where(noise < t[0], mask_id, x_0)


@mistake("4a", "Your t runs along the wrong axis: it belongs to the text (the row), not to the position.")
def q_sample(x_0, t, noise, mask_id):
    times = t.repeat(x_0.shape[1])[: x_0.shape[1]]
    return torch.where(noise < times, mask_id, x_0)


@mistake("4a", "At a tie, and at t = 0, your comparison hides a token that is still visible: it is hidden where r < t.")
def q_sample(x_0, t, noise, mask_id):
    return torch.where(noise <= t[:, None], mask_id, x_0)


@mistake("4a", "The mask is a token of its own, with the number V: yours is the last word of the vocabulary.")
def q_sample(x_0, t, noise, mask_id):
    return torch.where(noise < t[:, None], mask_id - 1, x_0)


@mistake("4a", "You hide a fixed number of tokens: each one is hidden independently, so the number varies.")
def q_sample(x_0, t, noise, mask_id):
    count = (t * x_0.shape[1]).round().long()  # (B,)
    return torch.where(noise.argsort(1).argsort(1) < count[:, None], mask_id, x_0)


@mistake("4a", "You write into x_0: the caller still needs the text. Work on a copy.")
def q_sample(x_0, t, noise, mask_id):
    x_0[noise < t[:, None]] = mask_id
    return x_0


@mistake("4a", "You return where the masks are: the text with its masks is asked for.")
def q_sample(x_0, t, noise, mask_id):
    return noise < t[:, None]


# 4b. The loss


@mistake("4b", "The weight 1/t is missing: this is BERT's loss, which is no bound on the likelihood.")
def mdlm_loss(net, x_0, t, noise, mask_id):
    x_t = q_sample(x_0, t, noise, mask_id)
    return -subs(net(x_t, t), x_t, mask_id).gather(-1, x_0[..., None])[..., 0].sum(1)


@mistake("4b", "You multiply by t where the bound divides: texts with few masks must count more, not less.")
def mdlm_loss(net, x_0, t, noise, mask_id):
    x_t = q_sample(x_0, t, noise, mask_id)
    return -subs(net(x_t, t), x_t, mask_id).gather(-1, x_0[..., None])[..., 0].sum(1) * t


@mistake("4b", "Your weight is 1/(1 - t): 1 - alpha_t is the probability of being hidden, which is t.")
def mdlm_loss(net, x_0, t, noise, mask_id):
    x_t = q_sample(x_0, t, noise, mask_id)
    return -subs(net(x_t, t), x_t, mask_id).gather(-1, x_0[..., None])[..., 0].sum(1) / (1 - t)


@mistake("4b", "You average over the positions: the bound is for the whole text, so the tokens' terms add up.")
def mdlm_loss(net, x_0, t, noise, mask_id):
    x_t = q_sample(x_0, t, noise, mask_id)
    return -subs(net(x_t, t), x_t, mask_id).gather(-1, x_0[..., None])[..., 0].mean(1) / t


@mistake("4b", "You average over the masks and weigh by 1/t: the weight stands before a sum; a mean counts it twice.")
def mdlm_loss(net, x_0, t, noise, mask_id):
    x_t = q_sample(x_0, t, noise, mask_id)
    nll = -subs(net(x_t, t), x_t, mask_id).gather(-1, x_0[..., None])[..., 0]
    return nll.sum(1) / (x_t == mask_id).sum(1).clamp(min=1) / t


@mistake(
    "4b", "Visible tokens cost you something: they are carried over with probability 1, whatever the network says."
)
def mdlm_loss(net, x_0, t, noise, mask_id):
    log_p = net(q_sample(x_0, t, noise, mask_id), t).log_softmax(-1)
    return -log_p.gather(-1, x_0[..., None])[..., 0].sum(1) / t


@mistake("4b", "Your network sees the text that it shall fill in: give it x_t, not x_0.")
def mdlm_loss(net, x_0, t, noise, mask_id):
    x_t = q_sample(x_0, t, noise, mask_id)
    return -subs(net(x_0, t), x_t, mask_id).gather(-1, x_0[..., None])[..., 0].sum(1) / t


@mistake("4b", "One hidden token of each text leaks: the network sees it. It may see exactly what is visible in x_t.")
def mdlm_loss(net, x_0, t, noise, mask_id):
    x_t = q_sample(x_0, t, noise, mask_id)
    first = (x_t == mask_id).long().argmax(1, keepdim=True)  # the first mask of each row
    seen = x_t.scatter(1, first, x_0.gather(1, first))
    return -subs(net(seen, t), x_t, mask_id).gather(-1, x_0[..., None])[..., 0].sum(1) / t


@mistake("4b", "Your sign is that of a log-likelihood: the loss is positive, and smaller is better.")
def mdlm_loss(net, x_0, t, noise, mask_id):
    x_t = q_sample(x_0, t, noise, mask_id)
    return subs(net(x_t, t), x_t, mask_id).gather(-1, x_0[..., None])[..., 0].sum(1) / t


@mistake("4b", "A weight of 0 times -inf is NaN: pick the right token's entry instead of summing over the vocabulary.")
def mdlm_loss(net, x_0, t, noise, mask_id):
    x_t = q_sample(x_0, t, noise, mask_id)
    one_hot = torch.nn.functional.one_hot(x_0, mask_id)
    return -(one_hot * subs(net(x_t, t), x_t, mask_id)).sum((1, 2)) / t


@mistake("4b", "All losses are 0: a hidden token costs the network's cross-entropy.")
def mdlm_loss(net, x_0, t, noise, mask_id):
    return 0.0 * net(q_sample(x_0, t, noise, mask_id), t).sum((1, 2))


@mistake("4b", "No gradient reaches the network: you detach what it puts out.")
def mdlm_loss(net, x_0, t, noise, mask_id):
    x_t = q_sample(x_0, t, noise, mask_id)
    log_p = subs(net(x_t, t).detach(), x_t, mask_id)
    return -log_p.gather(-1, x_0[..., None])[..., 0].sum(1) / t


@mistake("4b", "Your mean is over the batch, too: one loss for each text is asked for, (B,).")
def mdlm_loss(net, x_0, t, noise, mask_id):
    x_t = q_sample(x_0, t, noise, mask_id)
    return (-subs(net(x_t, t), x_t, mask_id).gather(-1, x_0[..., None])[..., 0].sum(1) / t).mean()


@mistake("4b", "subs does not normalise: logits are log-probabilities only after a log-softmax over the vocabulary.")
def subs(logits, x_t, mask_id):
    carried = torch.full_like(logits, -math.inf).scatter(-1, x_t.clamp(max=mask_id - 1)[..., None], 0.0)
    return torch.where((x_t == mask_id)[..., None], logits, carried)


@mistake("4b", "subs lets a visible token be any other: it is what it is, with probability 1.")
def subs(logits, x_t, mask_id):
    return logits.log_softmax(-1)


@mistake("4b", "softmax, then a logarithm: what the softmax rounds to 0 becomes -inf. Stay in logarithms.")
def subs(logits, x_t, mask_id):
    carried = torch.full_like(logits, -math.inf).scatter(-1, x_t.clamp(max=mask_id - 1)[..., None], 0.0)
    return torch.where((x_t == mask_id)[..., None], logits.softmax(-1).log(), carried)


@mistake("4b", "You normalise over the positions: a distribution at each position sums to 1 over the vocabulary.")
def subs(logits, x_t, mask_id):
    carried = torch.full_like(logits, -math.inf).scatter(-1, x_t.clamp(max=mask_id - 1)[..., None], 0.0)
    return torch.where((x_t == mask_id)[..., None], logits.log_softmax(1), carried)


@mistake("4b", "subs gives visible tokens the probability 0 throughout: the one that is shown has probability 1.")
def subs(logits, x_t, mask_id):
    return logits.log_softmax(-1).masked_fill((x_t != mask_id)[..., None], -math.inf)


@mistake("4b", "Masks and visible tokens are the wrong way round in subs.")
def subs(logits, x_t, mask_id):
    carried = torch.full_like(logits, -math.inf).scatter(-1, x_t.clamp(max=mask_id - 1)[..., None], 0.0)
    return torch.where((x_t == mask_id)[..., None], carried, logits.log_softmax(-1))


# 4c. The ancestral sampler


@mistake(
    "4c",
    "A hidden token is revealed with probability (t - s)/t: the division by t is missing, and masks are left over.",
)
def ancestral_step(logits, x_t, t, s, noise, u, mask_id):
    return torch.where((x_t == mask_id) & (noise < t - s), draw_tokens(logits.softmax(-1), u), x_t)


@mistake("4c", "You reveal with the probability of staying hidden: s/t is the other one.")
def ancestral_step(logits, x_t, t, s, noise, u, mask_id):
    return torch.where((x_t == mask_id) & (noise < s / t), draw_tokens(logits.softmax(-1), u), x_t)


@mistake("4c", "You compare noise the wrong way round: a position is revealed where noise is below the probability.")
def ancestral_step(logits, x_t, t, s, noise, u, mask_id):
    return torch.where((x_t == mask_id) & (noise >= (t - s) / t), draw_tokens(logits.softmax(-1), u), x_t)


@mistake("4c", "You divide by 1 - s, as if time ran the other way: here t = 1 is all masks.")
def ancestral_step(logits, x_t, t, s, noise, u, mask_id):
    return torch.where((x_t == mask_id) & (noise < (t - s) / (1 - s + 1e-300)), draw_tokens(logits.softmax(-1), u), x_t)


@mistake("4c", "Tokens that were visible already change in your step: once revealed, a token stays.")
def ancestral_step(logits, x_t, t, s, noise, u, mask_id):
    return torch.where(noise < (t - s) / t, draw_tokens(logits.softmax(-1), u), x_t)


@mistake("4c", "You reveal everything at once, whatever s is: a hidden token stays hidden with probability s/t.")
def ancestral_step(logits, x_t, t, s, noise, u, mask_id):
    return torch.where(x_t == mask_id, draw_tokens(logits.softmax(-1), u), x_t)


@mistake("4c", "You take the most likely token: the sampler draws from the distribution, with u.")
def ancestral_step(logits, x_t, t, s, noise, u, mask_id):
    return torch.where((x_t == mask_id) & (noise < (t - s) / t), logits.argmax(-1), x_t)


@mistake(
    "4c", "One uniform number decides both whether and what is revealed: then what comes first is never a late token."
)
def ancestral_step(logits, x_t, t, s, noise, u, mask_id):
    return torch.where((x_t == mask_id) & (noise < (t - s) / t), draw_tokens(logits.softmax(-1), noise), x_t)


@mistake("4c", "You write into x_t: the caller still needs it. Work on a copy.")
def ancestral_step(logits, x_t, t, s, noise, u, mask_id):
    reveal = (x_t == mask_id) & (noise < (t - s) / t)
    x_t[reveal] = draw_tokens(logits.softmax(-1), u)[reveal]
    return x_t


@mistake("4c", "Your tokens are one too high: count the cumulative sums that u has reached, and number from 0.")
def draw_tokens(p, u):
    return ((p.cumsum(-1) <= u[..., None]).sum(-1) + 1).clamp(max=p.shape[-1] - 1)


@mistake("4c", "At a border your token is one too low: the sum must be greater than u, equal is not enough.")
def draw_tokens(p, u):
    return (p.cumsum(-1) < u[..., None]).sum(-1).clamp(max=p.shape[-1] - 1)


@mistake("4c", "Where rounding leaves the sum below u, your token does not exist: the last one is meant.")
def draw_tokens(p, u):
    return (p.cumsum(-1) <= u[..., None]).sum(-1)


@mistake("4c", "You add up in the wrong direction: start at token 0.")
def draw_tokens(p, u):
    below = p.flip(-1).cumsum(-1) <= u[..., None]
    return p.shape[-1] - 1 - below.sum(-1).clamp(max=p.shape[-1] - 1)


@mistake("4c", "Your u picks a token as if all were equally likely: invert the cumulative sums of p.")
def draw_tokens(p, u):
    return (u * p.shape[-1]).long()


@mistake("4c", "The network is asked only once: with each token revealed it knows more, so ask it at each step.")
def infill(net, x_t, noise, u, mask_id):
    steps = len(noise)
    logits = net(x_t, torch.ones(len(x_t), dtype=u.dtype))
    for j in range(steps):
        x_t = ancestral_step(logits, x_t, (steps - j) / steps, (steps - j - 1) / steps, noise[j], u[j], mask_id)
    return x_t


@mistake("4c", "The network is told the time that you go to: it looks at x_t, so it wants t.")
def infill(net, x_t, noise, u, mask_id):
    steps = len(noise)
    for j in range(steps):
        t, s = (steps - j) / steps, (steps - j - 1) / steps
        logits = net(x_t, torch.full((len(x_t),), s, dtype=u.dtype))
        x_t = ancestral_step(logits, x_t, t, s, noise[j], u[j], mask_id)
    return x_t


@mistake(
    "4c", "You use the rows of noise and u from the last to the first: row 0 belongs to the step that begins at t = 1."
)
def infill(net, x_t, noise, u, mask_id):
    steps = len(noise)
    for j in range(steps):
        t, s = (steps - j) / steps, (steps - j - 1) / steps
        logits = net(x_t, torch.full((len(x_t),), t, dtype=u.dtype))
        x_t = ancestral_step(logits, x_t, t, s, noise[-1 - j], u[-1 - j], mask_id)
    return x_t


@mistake("4c", "Your last step is missing: the grid ends at 0, where nothing is hidden any more.")
def infill(net, x_t, noise, u, mask_id):
    steps = len(noise)
    for j in range(steps - 1):
        t, s = (steps - j) / steps, (steps - j - 1) / steps
        logits = net(x_t, torch.full((len(x_t),), t, dtype=u.dtype))
        x_t = ancestral_step(logits, x_t, t, s, noise[j], u[j], mask_id)
    return x_t


@mistake("4c", "You start from all masks: infill keeps what is visible in the text that it is given.")
def infill(net, x_t, noise, u, mask_id):
    steps, x_t = len(noise), torch.full_like(x_t, mask_id)
    for j in range(steps):
        t, s = (steps - j) / steps, (steps - j - 1) / steps
        logits = net(x_t, torch.full((len(x_t),), t, dtype=u.dtype))
        x_t = ancestral_step(logits, x_t, t, s, noise[j], u[j], mask_id)
    return x_t


# 4d. The bound, exactly


def sum_over_sets(net, x_0, mask_id, weight, everywhere=False):
    B, L = x_0.shape
    bound = torch.zeros(B, dtype=torch.float64)
    for k in range(1, L + 1):
        for positions in itertools.combinations(range(L), k):
            hidden = list(positions)
            x_t = x_0.clone()
            x_t[:, hidden] = mask_id
            nll = -net(x_t, torch.ones(B)).log_softmax(-1).gather(-1, x_0[..., None])[..., 0]
            bound = bound + weight(k, L) * (nll if everywhere else nll[:, hidden]).sum(1)
    return bound


@mistake("4d", "The weight 1/t is missing in your integral: without it, all sets of one size together weigh 1/(L + 1).")
def exact_nelbo(net, x_0, mask_id):
    return sum_over_sets(net, x_0, mask_id, lambda k, L: 1 / ((L + 1) * math.comb(L, k)))


@mistake(
    "4d",
    "Your sets do not share their weight: there are many sets of k positions, and you count each as if it were all.",
)
def exact_nelbo(net, x_0, mask_id):
    return sum_over_sets(net, x_0, mask_id, lambda k, L: 1 / k)


@mistake("4d", "All your sets weigh the same: the integral over t gives each size its own weight.")
def exact_nelbo(net, x_0, mask_id):
    return sum_over_sets(net, x_0, mask_id, lambda k, L: 1 / (2**L - 1))


@mistake("4d", "Your bound is L times too large: look at the factorial below in the integral over t.")
def exact_nelbo(net, x_0, mask_id):
    return sum_over_sets(net, x_0, mask_id, lambda k, L: L / (k * math.comb(L, k)))


@mistake("4d", "Your bound is one per token: it is for the whole text.")
def exact_nelbo(net, x_0, mask_id):
    return sum_over_sets(net, x_0, mask_id, lambda k, L: 1 / (L * k * math.comb(L, k)))


@mistake("4d", "Visible tokens cost you something: the inner sum runs over the hidden positions alone.")
def exact_nelbo(net, x_0, mask_id):
    return sum_over_sets(net, x_0, mask_id, lambda k, L: 1 / (k * math.comb(L, k)), everywhere=True)


@mistake("4d", "Your bound is a log-likelihood: change its sign, it bounds -log p from above.")
def exact_nelbo(net, x_0, mask_id):
    return sum_over_sets(net, x_0, mask_id, lambda k, L: -1 / (k * math.comb(L, k)))


@mistake("4d", "You return -log p as the bound: they differ wherever the orders disagree.")
def exact_nelbo(net, x_0, mask_id):
    return exact_nll(net, x_0, mask_id)


@mistake("4d", "You leave out the text with everything hidden: it belongs to the expectation like all others.")
def exact_nelbo(net, x_0, mask_id):
    return sum_over_sets(net, x_0, mask_id, lambda k, L: 1 / (k * math.comb(L, k)) if k < L else 0.0)


def over_orders(net, x_0, mask_id, orders):
    B = len(x_0)
    found = []
    for order in orders:
        x_t, total = torch.full_like(x_0, mask_id), torch.zeros(B, dtype=torch.float64)
        for i in order:
            total = total + net(x_t, torch.ones(B)).log_softmax(-1)[torch.arange(B), i, x_0[:, i]]
            x_t = x_t.clone()
            x_t[:, i] = x_0[:, i]
        found.append(total)
    return torch.stack(found)


@mistake("4d", "You average the logarithms of the orders: that is the bound again. The probabilities are averaged.")
def exact_nll(net, x_0, mask_id):
    return -over_orders(net, x_0, mask_id, itertools.permutations(range(x_0.shape[1]))).mean(0)


@mistake(
    "4d",
    "You add up the orders without dividing by their number L!: all texts together then have more than probability 1.",
)
def exact_nll(net, x_0, mask_id):
    return -over_orders(net, x_0, mask_id, itertools.permutations(range(x_0.shape[1]))).logsumexp(0)


@mistake("4d", "You reveal from left to right only: every order is equally likely.")
def exact_nll(net, x_0, mask_id):
    return -over_orders(net, x_0, mask_id, [range(x_0.shape[1])])[0]


@mistake(
    "4d", "Products of probabilities underflow: a text of probability e^-2000 becomes one of 0. Stay in logarithms."
)
def exact_nll(net, x_0, mask_id):
    return -over_orders(net, x_0, mask_id, itertools.permutations(range(x_0.shape[1]))).exp().mean(0).log()


@mistake(
    "4d", "You predict all tokens at once from the masks: each is predicted from those that are revealed before it."
)
def exact_nll(net, x_0, mask_id):
    log_p = net(torch.full_like(x_0, mask_id), torch.ones(len(x_0))).log_softmax(-1)
    return -log_p.gather(-1, x_0[..., None])[..., 0].sum(1)


@mistake(
    "4d", "The token that is predicted leaks: it is visible to the network already. Reveal it after it was scored."
)
def exact_nll(net, x_0, mask_id):
    B, L = x_0.shape
    found = []
    for order in itertools.permutations(range(L)):
        x_t, total = torch.full_like(x_0, mask_id), torch.zeros(B, dtype=torch.float64)
        for i in order:
            x_t[:, i] = x_0[:, i]
            total = total + net(x_t, torch.ones(B)).log_softmax(-1)[torch.arange(B), i, x_0[:, i]]
        found.append(total)
    return math.log(math.factorial(L)) - torch.stack(found).logsumexp(0)


# 5a. LoRA


class Adapter(torch.nn.Module):
    def __init__(self, weight, rank, alpha):
        super().__init__()
        d_out, d_in = weight.shape
        self.weight = torch.nn.Parameter(weight.detach().clone(), requires_grad=False)
        self.A = torch.nn.Parameter(torch.randn(rank, d_in, dtype=weight.dtype) / d_in**0.5)
        self.B = torch.nn.Parameter(torch.zeros(d_out, rank, dtype=weight.dtype))
        self.scale = alpha / rank

    def forward(self, x):
        return x @ self.weight.T + self.scale * (x @ self.A.T) @ self.B.T

    def merged(self):
        return self.weight + self.scale * self.B @ self.A


@mistake("5a", "Your layer ignores A and B: it is right at the start only, where B is 0.")
class LoRALinear(Adapter):
    def forward(self, x):
        return x @ self.weight.T + 0.0 * (self.A.sum() + self.B.sum())


@mistake("5a", "The factor alpha / r is missing in forward.")
class LoRALinear(Adapter):
    def forward(self, x):
        return x @ self.weight.T + (x @ self.A.T) @ self.B.T


@mistake("5a", "Your factor is alpha: divide it by the rank.")
class LoRALinear(Adapter):
    def __init__(self, weight, rank, alpha):
        super().__init__(weight, rank, alpha)
        self.scale = alpha


@mistake("5a", "Your factor is r / alpha: the rank belongs below.")
class LoRALinear(Adapter):
    def __init__(self, weight, rank, alpha):
        super().__init__(weight, rank, alpha)
        self.scale = rank / alpha


@mistake("5a", "Your factor divides by the root of the rank: that is another method; LoRA divides by the rank.")
class LoRALinear(Adapter):
    def __init__(self, weight, rank, alpha):
        super().__init__(weight, rank, alpha)
        self.scale = alpha / rank**0.5


@mistake("5a", "W is trainable in your layer: it is frozen, and only A and B learn.")
class LoRALinear(Adapter):
    def __init__(self, weight, rank, alpha):
        super().__init__(weight, rank, alpha)
        self.weight.requires_grad_(True)


@mistake("5a", "A and B are both 0 at the start: then neither ever gets a gradient. Only B is 0.")
class LoRALinear(Adapter):
    def __init__(self, weight, rank, alpha):
        super().__init__(weight, rank, alpha)
        torch.nn.init.zeros_(self.A)


@mistake("5a", "B is random at the start: the layer then differs from the one that was trained. B starts at 0.")
class LoRALinear(Adapter):
    def __init__(self, weight, rank, alpha):
        super().__init__(weight, rank, alpha)
        torch.nn.init.normal_(self.B)


@mistake("5a", "A starts with standard deviation 1: its variance is 1/d_in.")
class LoRALinear(Adapter):
    def __init__(self, weight, rank, alpha):
        super().__init__(weight, rank, alpha)
        torch.nn.init.normal_(self.A)


@mistake("5a", "A starts with standard deviation 1/d_in: that is what its variance should be.")
class LoRALinear(Adapter):
    def __init__(self, weight, rank, alpha):
        super().__init__(weight, rank, alpha)
        torch.nn.init.normal_(self.A, std=1 / weight.shape[1])


@mistake("5a", "A gets no gradient in your layer: it is detached. Both factors learn.")
class LoRALinear(Adapter):
    def forward(self, x):
        return x @ self.weight.T + self.scale * (x @ self.A.detach().T) @ self.B.T


@mistake("5a", "The correction replaces W x in your forward: it is added to it.")
class LoRALinear(Adapter):
    def forward(self, x):
        return self.scale * (x @ self.A.T) @ self.B.T


@mistake("5a", "merged leaves out the factor alpha / r.")
class LoRALinear(Adapter):
    def merged(self):
        return self.weight + self.B @ self.A


@mistake("5a", "merged returns the correction without W.")
class LoRALinear(Adapter):
    def merged(self):
        return self.scale * self.B @ self.A


@mistake("5a", "merged returns W as it was: after training A and B have something to add.")
class LoRALinear(Adapter):
    def merged(self):
        return self.weight


@mistake("5a", "merged changes W, and forward then adds the correction a second time: return a new matrix.")
class LoRALinear(Adapter):
    def merged(self):
        with torch.no_grad():
            self.weight += self.scale * self.B @ self.A
        return self.weight


# 5b. Direct preference optimisation


def log_probs_at(logits, tokens):
    return logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]


@mistake(
    "5b", "You score each token with the logits of its own position, which have seen it: those before it predict it."
)
def sequence_log_prob(logits, tokens, mask):
    return (logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0] * mask).sum(1)


@mistake(
    "5b", "Your mask is not ignored, but shifted: entry j of the mask is about token j, not about the logits at j."
)
def sequence_log_prob(logits, tokens, mask):
    return (log_probs_at(logits, tokens) * mask[:, :-1]).sum(1)


@mistake("5b", "Prompt and padding count in your sum: only the tokens of the answer do.")
def sequence_log_prob(logits, tokens, mask):
    return log_probs_at(logits, tokens).sum(1)


@mistake("5b", "You divide by the answer's length: the log-probability of an answer is a sum over its tokens.")
def sequence_log_prob(logits, tokens, mask):
    return (log_probs_at(logits, tokens) * mask[:, 1:]).sum(1) / mask[:, 1:].sum(1)


@mistake("5b", "You add up logits: they are log-probabilities only after a log-softmax.")
def sequence_log_prob(logits, tokens, mask):
    return (logits[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0] * mask[:, 1:]).sum(1)


@mistake("5b", "A softmax and then a logarithm: what the softmax rounds to 0 becomes -inf.")
def sequence_log_prob(logits, tokens, mask):
    log_p = logits[:, :-1].softmax(-1).log()
    return (log_p.gather(-1, tokens[:, 1:, None])[..., 0] * mask[:, 1:]).sum(1)


@mistake("5b", "Your sequence_log_prob is a loss: a log-probability is at most 0.")
def sequence_log_prob(logits, tokens, mask):
    return -(log_probs_at(logits, tokens) * mask[:, 1:]).sum(1)


def with_margin(margin):
    return -torch.nn.functional.logsigmoid(margin).mean(), margin


@mistake("5b", "Winner and loser have changed places in your margin: the policy would learn to lose.")
def dpo_loss(policy_w, policy_l, ref_w, ref_l, beta):
    return with_margin(beta * ((policy_l - ref_l.detach()) - (policy_w - ref_w.detach())))


@mistake("5b", "beta is missing: it multiplies the difference of the log-ratios, inside of the sigmoid.")
def dpo_loss(policy_w, policy_l, ref_w, ref_l, beta):
    return with_margin((policy_w - ref_w.detach()) - (policy_l - ref_l.detach()))


@mistake("5b", "beta stands before the loss in place of inside of the sigmoid: there it only scales the step.")
def dpo_loss(policy_w, policy_l, ref_w, ref_l, beta):
    margin = (policy_w - ref_w.detach()) - (policy_l - ref_l.detach())
    return -beta * torch.nn.functional.logsigmoid(margin).mean(), beta * margin


@mistake("5b", "You divide by beta: it multiplies.")
def dpo_loss(policy_w, policy_l, ref_w, ref_l, beta):
    return with_margin(((policy_w - ref_w.detach()) - (policy_l - ref_l.detach())) / beta)


@mistake("5b", "The reference is missing in your margin: what counts is how the policy differs from it.")
def dpo_loss(policy_w, policy_l, ref_w, ref_l, beta):
    return with_margin(beta * (policy_w - policy_l))


@mistake(
    "5b",
    "The reference enters your margin with the wrong sign: a ratio of probabilities is a difference of logarithms.",
)
def dpo_loss(policy_w, policy_l, ref_w, ref_l, beta):
    return with_margin(beta * ((policy_w + ref_w.detach()) - (policy_l + ref_l.detach())))


@mistake(
    "5b",
    "A sigmoid that has rounded to 0, or an exp that has overflowed, makes the loss infinite: find another form.",
)
def dpo_loss(policy_w, policy_l, ref_w, ref_l, beta):
    margin = beta * ((policy_w - ref_w.detach()) - (policy_l - ref_l.detach()))
    return -torch.sigmoid(margin).log().mean(), margin


@mistake("5b", "A small number inside of the logarithm hides the infinity: the loss at a margin of -1000 is 1000.")
def dpo_loss(policy_w, policy_l, ref_w, ref_l, beta):
    margin = beta * ((policy_w - ref_w.detach()) - (policy_l - ref_l.detach()))
    return -(torch.sigmoid(margin) + 1e-12).log().mean(), margin


@mistake("5b", "Your loss is a sum over the pairs: it is a mean.")
def dpo_loss(policy_w, policy_l, ref_w, ref_l, beta):
    margin = beta * ((policy_w - ref_w.detach()) - (policy_l - ref_l.detach()))
    return -torch.nn.functional.logsigmoid(margin).sum(), margin


@mistake("5b", "Gradients flow into the reference: it is a constant, detach it.")
def dpo_loss(policy_w, policy_l, ref_w, ref_l, beta):
    return with_margin(beta * ((policy_w - ref_w) - (policy_l - ref_l)))


@mistake("5b", "Only the winner gets a gradient: the loser's probability is to be lowered, too.")
def dpo_loss(policy_w, policy_l, ref_w, ref_l, beta):
    return with_margin(beta * ((policy_w - ref_w.detach()) - (policy_l.detach() - ref_l.detach())))


@mistake("5b", "Your loss is log 2, always: that is right at the start only, where the policy is the reference.")
def dpo_loss(policy_w, policy_l, ref_w, ref_l, beta):
    margin = beta * ((policy_w - ref_w.detach()) - (policy_l - ref_l.detach()))
    return math.log(2) + 0.0 * margin.sum(), margin


@mistake("5b", "Your loss is minus the mean margin: without the log-sigmoid it never stops pulling.")
def dpo_loss(policy_w, policy_l, ref_w, ref_l, beta):
    margin = beta * ((policy_w - ref_w.detach()) - (policy_l - ref_l.detach()))
    return -margin.mean(), margin


# 5c. Advantages in a group


def quiet(advantages, rewards):
    return advantages.masked_fill((rewards == rewards[:, :1]).all(1, keepdim=True), 0.0)


@mistake("5c", "Your standard deviation divides by G - 1: the question asks for G.")
def grpo_advantages(rewards):
    return quiet((rewards - rewards.mean(1, keepdim=True)) / rewards.std(1, keepdim=True), rewards)


@mistake("5c", "You do not divide by the standard deviation: rewards of another scale would give other steps.")
def grpo_advantages(rewards):
    return quiet(rewards - rewards.mean(1, keepdim=True), rewards)


@mistake("5c", "You divide by the variance: advantages have no unit, so divide by its root.")
def grpo_advantages(rewards):
    return quiet((rewards - rewards.mean(1, keepdim=True)) / rewards.var(1, correction=0, keepdim=True), rewards)


@mistake(
    "5c", "You do not subtract the mean: an advantage says whether an answer is better than the others of its group."
)
def grpo_advantages(rewards):
    return quiet(rewards / rewards.std(1, correction=0, keepdim=True), rewards)


@mistake("5c", "Mean and spread are taken over all prompts: each group is compared with itself.")
def grpo_advantages(rewards):
    return quiet((rewards - rewards.mean()) / rewards.std(correction=0), rewards)


@mistake("5c", "You normalise along the wrong axis: rows are prompts, and the answers of a group lie along a row.")
def grpo_advantages(rewards):
    return ((rewards - rewards.mean(0)) / rewards.std(0, correction=0)).nan_to_num(0.0, 0.0, 0.0)


@mistake("5c", "You add a small number to the standard deviation: then the scale of the rewards matters after all.")
def grpo_advantages(rewards):
    return quiet(
        (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, correction=0, keepdim=True) + 1e-8), rewards
    )


@mistake("5c", "A group of equal rewards gives 0/0: its advantages are 0, not NaN.")
def grpo_advantages(rewards):
    first = rewards[:, :1]  # about the first reward, so that equal rewards give exact zeros
    centred = (rewards - first) - (rewards - first).mean(1, keepdim=True)
    return centred / centred.square().mean(1, keepdim=True).sqrt()


@mistake(
    "5c", "Rounding makes advantages out of nothing: a group's spread is nearly 0 where all of its rewards are equal."
)
def grpo_advantages(rewards):
    centred = rewards - rewards.mean(1, keepdim=True)
    return (centred / centred.square().mean(1, keepdim=True).sqrt()).nan_to_num(0.0)


@mistake("5c", "All your advantages are 0: only those of a group with equal rewards are.")
def grpo_advantages(rewards):
    return torch.zeros_like(rewards)


@mistake("5c", "Your sign is reversed: the answer with the larger reward has the larger advantage.")
def grpo_advantages(rewards):
    return quiet((rewards.mean(1, keepdim=True) - rewards) / rewards.std(1, correction=0, keepdim=True), rewards)


@mistake("5c", "You leave each answer out of its own mean: here the mean is over the whole group.")
def grpo_advantages(rewards):
    G = rewards.shape[1]
    others = (rewards.sum(1, keepdim=True) - rewards) / (G - 1)
    return quiet((rewards - others) / rewards.std(1, correction=0, keepdim=True), rewards)


# 5d. The clipped objective


def objective(log_prob, old, ref, advantages, mask, clip_eps, beta, **other):
    """The right loss, taken apart so that one piece can be another."""
    there = mask > 0
    log_ratio = torch.where(there, log_prob - other.get("behind", lambda v: v.detach())(old), 0.0)
    log_ref = torch.where(there, other.get("before", lambda v: v.detach())(ref) - log_prob, 0.0)
    ratio, A = log_ratio.exp(), advantages[:, None]
    low, high = 1 - clip_eps, 1 + clip_eps
    surrogate = other.get("surrogate", lambda r, c, A: torch.minimum(r * A, c * A))(ratio, ratio.clamp(low, high), A)
    kl = other.get("kl", lambda d: d.exp() - d - 1)(log_ref)
    terms = (surrogate - other.get("sign", 1) * beta * kl) * mask
    return -other.get("mean", lambda v, m: (v.sum(1) / m.sum(1)).mean())(terms, mask)


@mistake("5d", "You do not clip: far from the old policy the ratio is no longer to be trusted.")
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    given = (log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta)
    return objective(*given, surrogate=lambda r, c, A: r * A)


@mistake(
    "5d",
    "You clip on both sides: the smaller of the clipped and the plain term counts, so that the way back stays open.",
)
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    given = (log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta)
    return objective(*given, surrogate=lambda r, c, A: c * A)


@mistake("5d", "You take the larger of the two terms: the objective is to be a cautious one, the smaller.")
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    given = (log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta)
    return objective(*given, surrogate=lambda r, c, A: torch.maximum(r * A, c * A))


@mistake("5d", "The minimum is of the ratios, and then multiplied: with a negative advantage the other one is smaller.")
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    given = (log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta)
    return objective(*given, surrogate=lambda r, c, A: torch.minimum(r, c) * A)


@mistake(
    "5d", "You weigh log-probabilities by advantages: right only just after the answers were drawn, where ratios are 1."
)
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    there = mask > 0
    clean = torch.where(there, log_prob, 0.0)
    given = (log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta)
    return objective(*given, surrogate=lambda r, c, A: clean * A)


@mistake("5d", "Your ratio is upside down: the policy that learns stands above, the one that drew the answers below.")
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    def surrogate(r, c, A):
        return torch.minimum(A / r, (1 / r).clamp(1 - clip_eps, 1 + clip_eps) * A)

    given = (log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta)
    return objective(*given, surrogate=surrogate)


@mistake("5d", "Your ratio is the one with the reference: the answers came from the old policy.")
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    return objective(log_prob, ref_log_prob, ref_log_prob, advantages, mask, clip_eps, beta)


@mistake("5d", "You return J: a loss is minimised, so its sign is reversed.")
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    return -objective(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta)


@mistake("5d", "The price of leaving the reference is missing: beta times D for each token.")
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    return objective(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, 0.0)


@mistake("5d", "You reward leaving the reference: the price D lowers J.")
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    return objective(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta, sign=-1)


@mistake(
    "5d", "Your D is the log-ratio alone: it has the right mean, but can be negative, and its gradient is another."
)
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    given = (log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta)
    return objective(*given, kl=lambda d: -d)


@mistake("5d", "Your D is half a squared log-ratio: close to the reference that is nearly the same, but only there.")
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    given = (log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta)
    return objective(*given, kl=lambda d: 0.5 * d**2)


@mistake("5d", "Your D has policy and reference the wrong way round: the ratio in it is reference over policy.")
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    given = (log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta)
    return objective(*given, kl=lambda d: (-d).exp() + d - 1)


@mistake(
    "5d",
    "You average over all tokens of all answers at once: each answer's own mean comes first, so that all count alike.",
)
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    given = (log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta)
    return objective(*given, mean=lambda v, m: v.sum() / m.sum())


@mistake("5d", "You divide by the width of the table: an answer's mean is over its own tokens.")
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    given = (log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta)
    return objective(*given, mean=lambda v, m: v.mean())


@mistake("5d", "You add up the tokens of an answer: long answers would count more. Divide by each one's length.")
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    given = (log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta)
    return objective(*given, mean=lambda v, m: v.sum(1).mean())


@mistake("5d", "Leftovers where the mask is 0 count in your loss.")
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    return objective(log_prob, old_log_prob, ref_log_prob, advantages, torch.ones_like(mask), clip_eps, beta)


@mistake("5d", "A leftover's exponential overflows, and inf times 0 is NaN: remove leftovers before the exponential.")
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    ratio, A = (log_prob - old_log_prob.detach()).exp(), advantages[:, None]
    d = ref_log_prob.detach() - log_prob
    terms = torch.minimum(ratio * A, ratio.clamp(1 - clip_eps, 1 + clip_eps) * A) - beta * (d.exp() - d - 1)
    return -((terms * mask).sum(1) / mask.sum(1)).mean()


@mistake(
    "5d",
    "The loss is right and its gradient is NaN: dropped after the exponential, a leftover still spoils the gradient.",
)
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    ratio, A = (log_prob - old_log_prob.detach()).exp(), advantages[:, None]
    d = ref_log_prob.detach() - log_prob
    terms = torch.minimum(ratio * A, ratio.clamp(1 - clip_eps, 1 + clip_eps) * A) - beta * (d.exp() - d - 1)
    return -(torch.where(mask > 0, terms, 0.0).sum(1) / mask.sum(1)).mean()


@mistake(
    "5d", "Gradients flow into the old policy: it is a constant; otherwise the ratio to oneself has no gradient at all."
)
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    given = (log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta)
    return objective(*given, behind=lambda v: v)


@mistake("5d", "Gradients flow into the reference: it is a constant.")
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    given = (log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta)
    return objective(*given, before=lambda v: v)


@mistake("5d", "Your ratio is one for the whole answer: each token has its own.")
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    log_ratio = torch.where(mask > 0, log_prob - old_log_prob.detach(), 0.0)
    whole = log_ratio.sum(1, keepdim=True).exp()

    def surrogate(r, c, A):
        return torch.minimum(whole * A, whole.clamp(1 - clip_eps, 1 + clip_eps) * A)

    given = (log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta)
    return objective(*given, surrogate=surrogate)


@mistake("5d", "Your loss is 0, always.")
def grpo_loss(log_prob, old_log_prob, ref_log_prob, advantages, mask, clip_eps, beta):
    return 0.0 * torch.where(mask > 0, log_prob, 0.0).sum()


# 5e. GRPO on a task that can be verified


@mistake("5e", "Your expected reward is one of the most likely answers: every answer counts, with its probability.")
def expected_reward(policy, theta, prompts, reward):
    p, y = policy(theta, prompts).softmax(-1).max(-1)
    return (p.prod(1) * reward(prompts, y)).mean()


@mistake("5e", "Your answers are all equally likely: weigh each by the policy's probability.")
def expected_reward(policy, theta, prompts, reward):
    log_p = policy(theta, prompts).log_softmax(-1)
    P, T, V = log_p.shape
    rewards = [reward(prompts, torch.tensor(y).repeat(P, 1)) for y in itertools.product(range(V), repeat=T)]
    return torch.stack(rewards).mean() + 0.0 * log_p.sum()


@mistake("5e", "Your expected reward is a sum over the prompts: it is their mean.")
def expected_reward(policy, theta, prompts, reward):
    log_p = policy(theta, prompts).log_softmax(-1)
    P, T, V = log_p.shape
    total = 0.0
    for answer in itertools.product(range(V), repeat=T):
        y = torch.tensor(answer).repeat(P, 1)
        total = total + (log_p.gather(-1, y[..., None])[..., 0].sum(1).exp() * reward(prompts, y)).sum()
    return total


@mistake("5e", "You add the probabilities of an answer's tokens: the tokens are independent, so they multiply.")
def expected_reward(policy, theta, prompts, reward):
    p = policy(theta, prompts).softmax(-1)
    P, T, V = p.shape
    total = 0.0
    for answer in itertools.product(range(V), repeat=T):
        y = torch.tensor(answer).repeat(P, 1)
        total = total + (p.gather(-1, y[..., None])[..., 0].sum(1) * reward(prompts, y)).mean()
    return total


@mistake("5e", "Your expected reward passes no gradient on: theta must be reachable from it.")
def expected_reward(policy, theta, prompts, reward):
    p = policy(theta, prompts).softmax(-1)
    P, T, V = p.shape
    total = 0.0 * p.sum()
    for answer in itertools.product(range(V), repeat=T):
        y = torch.tensor(answer).repeat(P, 1)
        total = total + (p.detach().gather(-1, y[..., None])[..., 0].prod(1) * reward(prompts, y)).mean()
    return total


def round_of(policy, theta, theta_ref, prompts, reward, u, inner, learning_rate, clip_eps, beta, **other):
    """The right round, taken apart so that one piece can be another."""
    P, G, T = u.shape
    x = prompts.repeat_interleave(G, 0)
    start = theta

    def log_prob(parameters, y):
        return policy(parameters, x).log_softmax(-1).gather(-1, y[..., None])[..., 0]

    with torch.no_grad():
        numbers = other.get("numbers", lambda v: v.reshape(P * G, T))(u)
        y = draw_tokens(policy(theta, x).softmax(-1), numbers)
        rewards = reward(x, y).view(P, G)
        advantages = other.get("advantages", lambda r: grpo_advantages(r).flatten())(rewards)
        old, ref = log_prob(theta, y), log_prob(other.get("reference", lambda a, b: b)(theta, theta_ref), y)
    for step in range(inner):
        theta = theta.detach().requires_grad_()
        if step and other.get("renew"):
            old = log_prob(theta, y).detach()
        if step and other.get("redraw"):
            with torch.no_grad():
                y = draw_tokens(policy(theta, x).softmax(-1), numbers)
                advantages = grpo_advantages(reward(x, y).view(P, G)).flatten()
                old, ref = log_prob(theta, y), log_prob(theta_ref, y)
        loss = grpo_loss(log_prob(theta, y), old, ref, advantages, torch.ones_like(old), clip_eps, beta)
        base = start if other.get("from_start") else theta
        theta = base - other.get("sign", 1) * learning_rate * torch.autograd.grad(loss, theta)[0]
    return theta.detach(), other.get("report", lambda r: r.mean())(rewards)


@mistake("5e", "You go uphill on a loss: the gradient step subtracts.")
def grpo_step(policy, theta, theta_ref, prompts, reward, u, inner, learning_rate, clip_eps, beta):
    given = (policy, theta, theta_ref, prompts, reward, u, inner, learning_rate, clip_eps, beta)
    return round_of(*given, sign=-1)


@mistake("5e", "You take one gradient step whatever inner says.")
def grpo_step(policy, theta, theta_ref, prompts, reward, u, inner, learning_rate, clip_eps, beta):
    return round_of(policy, theta, theta_ref, prompts, reward, u, 1, learning_rate, clip_eps, beta)


@mistake("5e", "Your old policy moves with each inner step: it is the one that drew the answers, for the whole round.")
def grpo_step(policy, theta, theta_ref, prompts, reward, u, inner, learning_rate, clip_eps, beta):
    given = (policy, theta, theta_ref, prompts, reward, u, inner, learning_rate, clip_eps, beta)
    return round_of(*given, renew=True)


@mistake("5e", "You draw new answers in each inner step: all inner steps of a round use the same ones.")
def grpo_step(policy, theta, theta_ref, prompts, reward, u, inner, learning_rate, clip_eps, beta):
    given = (policy, theta, theta_ref, prompts, reward, u, inner, learning_rate, clip_eps, beta)
    return round_of(*given, redraw=True)


@mistake("5e", "Each inner step begins at the old theta again: it must go on from the one before.")
def grpo_step(policy, theta, theta_ref, prompts, reward, u, inner, learning_rate, clip_eps, beta):
    given = (policy, theta, theta_ref, prompts, reward, u, inner, learning_rate, clip_eps, beta)
    return round_of(*given, from_start=True)


@mistake("5e", "Your reference is the policy at the round's start: the reference belongs to theta_ref and never moves.")
def grpo_step(policy, theta, theta_ref, prompts, reward, u, inner, learning_rate, clip_eps, beta):
    given = (policy, theta, theta_ref, prompts, reward, u, inner, learning_rate, clip_eps, beta)
    return round_of(*given, reference=lambda a, b: a)


@mistake("5e", "You compare answers to different prompts: reshape so that a group holds the answers to one prompt.")
def grpo_step(policy, theta, theta_ref, prompts, reward, u, inner, learning_rate, clip_eps, beta):
    given = (policy, theta, theta_ref, prompts, reward, u, inner, learning_rate, clip_eps, beta)
    P, G, _ = u.shape
    return round_of(*given, advantages=lambda r: grpo_advantages(r.flatten().view(G, P).T).T.flatten())


@mistake("5e", "Advantages and answers are out of order: one is laid out prompt by prompt, the other draw by draw.")
def grpo_step(policy, theta, theta_ref, prompts, reward, u, inner, learning_rate, clip_eps, beta):
    given = (policy, theta, theta_ref, prompts, reward, u, inner, learning_rate, clip_eps, beta)
    return round_of(*given, advantages=lambda r: grpo_advantages(r).T.flatten())


@mistake("5e", "The uniform numbers of prompt and draw are mixed up: u[i, g] belongs to the g-th answer to prompt i.")
def grpo_step(policy, theta, theta_ref, prompts, reward, u, inner, learning_rate, clip_eps, beta):
    given = (policy, theta, theta_ref, prompts, reward, u, inner, learning_rate, clip_eps, beta)
    return round_of(*given, numbers=lambda v: v.transpose(0, 1).reshape(-1, v.shape[2]))


@mistake("5e", "You use rewards in place of advantages: without the group's mean every answer is good.")
def grpo_step(policy, theta, theta_ref, prompts, reward, u, inner, learning_rate, clip_eps, beta):
    given = (policy, theta, theta_ref, prompts, reward, u, inner, learning_rate, clip_eps, beta)
    return round_of(*given, advantages=lambda r: r.flatten())


@mistake("5e", "You report the best reward: the mean over all answers that were drawn is asked for.")
def grpo_step(policy, theta, theta_ref, prompts, reward, u, inner, learning_rate, clip_eps, beta):
    given = (policy, theta, theta_ref, prompts, reward, u, inner, learning_rate, clip_eps, beta)
    return round_of(*given, report=lambda r: r.max(1).values.mean())


@mistake("5e", "Nothing is learnt: theta comes back as it was.")
def grpo_step(policy, theta, theta_ref, prompts, reward, u, inner, learning_rate, clip_eps, beta):
    return round_of(policy, theta, theta_ref, prompts, reward, u, inner, 0.0, clip_eps, beta)


# 6a. Green tokens


def hashes(prev, vocab_size, key):
    return mix(mix(prev + key)[:, None] + torch.arange(vocab_size))


@mistake(
    "6a", "You compare the order with a number where ranks are meant: argsort names tokens, it does not rank them."
)
def green_list(prev, vocab_size, key, gamma):
    return hashes(prev, vocab_size, key).argsort(-1) < round(gamma * vocab_size)


@mistake("6a", "Your green tokens are those with the largest hashes: the smallest are green.")
def green_list(prev, vocab_size, key, gamma):
    rank = hashes(prev, vocab_size, key).argsort(-1).argsort(-1)
    return rank >= vocab_size - round(gamma * vocab_size)


@mistake("6a", "You return the red tokens: gamma is the share of the green ones.")
def green_list(prev, vocab_size, key, gamma):
    return hashes(prev, vocab_size, key).argsort(-1).argsort(-1) >= round(gamma * vocab_size)


@mistake("6a", "Your list has one token too many: exactly gamma V are green.")
def green_list(prev, vocab_size, key, gamma):
    return hashes(prev, vocab_size, key).argsort(-1).argsort(-1) <= round(gamma * vocab_size)


@mistake(
    "6a",
    "You compare each hash with gamma times 2^32: then the number of green tokens varies. Exactly gamma V are green.",
)
def green_list(prev, vocab_size, key, gamma):
    return hashes(prev, vocab_size, key) < gamma * 2**32


@mistake("6a", "The key is missing in your hash: anyone could compute your list.")
def green_list(prev, vocab_size, key, gamma):
    return hashes(prev, vocab_size, 0).argsort(-1).argsort(-1) < round(gamma * vocab_size)


@mistake("6a", "Your list is the same after each context: the token before has to enter the hash.")
def green_list(prev, vocab_size, key, gamma):
    return hashes(torch.zeros_like(prev), vocab_size, key).argsort(-1).argsort(-1) < round(gamma * vocab_size)


@mistake("6a", "You mix once: without the inner mix, context and token only enter through their sum.")
def green_list(prev, vocab_size, key, gamma):
    h = mix((prev + key)[:, None] + torch.arange(vocab_size))
    return h.argsort(-1).argsort(-1) < round(gamma * vocab_size)


@mistake("6a", "Context and token have changed places in your hash: the context goes through both mixes.")
def green_list(prev, vocab_size, key, gamma):
    h = mix(mix(torch.arange(vocab_size) + key) + prev[:, None])
    return h.argsort(-1).argsort(-1) < round(gamma * vocab_size)


@mistake("6a", "You rank along the wrong axis: each context ranks the tokens of the vocabulary.")
def green_list(prev, vocab_size, key, gamma):
    return hashes(prev, vocab_size, key).argsort(0).argsort(0) < round(gamma * vocab_size)


@mistake("6a", "You favour the red tokens: the sampler prefers green.")
def watermark_logits(logits, prev, key, gamma, delta):
    return logits + delta * ~green_list(prev, logits.shape[-1], key, gamma)


@mistake("6a", "You raise all tokens: a constant added to all logits changes nothing.")
def watermark_logits(logits, prev, key, gamma, delta):
    return logits + delta


@mistake("6a", "You multiply logits: that lowers the negative ones. delta is added.")
def watermark_logits(logits, prev, key, gamma, delta):
    return torch.where(green_list(prev, logits.shape[-1], key, gamma), logits * (1 + delta), logits)


@mistake(
    "6a", "Only green tokens are possible in your logits: the watermark prefers them, it does not forbid the others."
)
def watermark_logits(logits, prev, key, gamma, delta):
    ruled_out = ~green_list(prev, logits.shape[-1], key, gamma)
    return logits.masked_fill(ruled_out, -1e9)


@mistake("6a", "delta is ignored: you raise green tokens by 1.")
def watermark_logits(logits, prev, key, gamma, delta):
    return logits + green_list(prev, logits.shape[-1], key, gamma).double()


@mistake("6a", "You write into the logits that you are given: work on a copy.")
def watermark_logits(logits, prev, key, gamma, delta):
    logits += delta * green_list(prev, logits.shape[-1], key, gamma)
    return logits


# 6b. The detector


def score(pairs, vocab_size, key, gamma):
    green = green_list(pairs[:, 0], vocab_size, key, gamma)
    n, g = len(pairs), int(green.gather(1, pairs[:, 1:]).sum())
    z = (g - gamma * n) / math.sqrt(n * gamma * (1 - gamma))
    return n, z, 0.5 * math.erfc(z / math.sqrt(2))


def pairs_of(tokens):
    return torch.stack([tokens[:-1], tokens[1:]], 1)


@mistake("6b", "You count every occurrence: a pair that comes back tells nothing new, so count distinct pairs.")
def detect(tokens, vocab_size, key, gamma):
    return score(pairs_of(tokens), vocab_size, key, gamma)


@mistake("6b", "You drop repeated contexts: a context with another token is another pair.")
def detect(tokens, vocab_size, key, gamma):
    seen, kept = set(), []
    for pair in pairs_of(tokens).tolist():
        if pair[0] not in seen:
            seen.add(pair[0])
            kept.append(pair)
    return score(torch.tensor(kept), vocab_size, key, gamma)


@mistake("6b", "You drop repeated tokens: a token after another context is another pair.")
def detect(tokens, vocab_size, key, gamma):
    seen, kept = set(), []
    for pair in pairs_of(tokens).tolist():
        if pair[1] not in seen:
            seen.add(pair[1])
            kept.append(pair)
    return score(torch.tensor(kept), vocab_size, key, gamma)


@mistake("6b", "Only pairs that follow themselves are dropped: a pair may come back later, too.")
def detect(tokens, vocab_size, key, gamma):
    return score(pairs_of(tokens).unique_consecutive(dim=0), vocab_size, key, gamma)


@mistake("6b", "Your context is the token after: the list was made by the one before.")
def detect(tokens, vocab_size, key, gamma):
    return score(pairs_of(tokens).flip(1).unique(dim=0), vocab_size, key, gamma)


@mistake("6b", "Your z divides by the variance: divide by its root.")
def detect(tokens, vocab_size, key, gamma):
    n, z, _ = score(pairs_of(tokens).unique(dim=0), vocab_size, key, gamma)
    z = z / math.sqrt(n * gamma * (1 - gamma))
    return n, z, 0.5 * math.erfc(z / math.sqrt(2))


@mistake("6b", "Your variance is gamma n: that of a number of hits among n also has the factor 1 - gamma.")
def detect(tokens, vocab_size, key, gamma):
    n, z, _ = score(pairs_of(tokens).unique(dim=0), vocab_size, key, gamma)
    z = z * math.sqrt(1 - gamma)
    return n, z, 0.5 * math.erfc(z / math.sqrt(2))


@mistake("6b", "Your z expects half of the pairs to be green: the share without a watermark is gamma.")
def detect(tokens, vocab_size, key, gamma):
    pairs = pairs_of(tokens).unique(dim=0)
    n = len(pairs)
    g = int(green_list(pairs[:, 0], vocab_size, key, gamma).gather(1, pairs[:, 1:]).sum())
    z = (g - 0.5 * n) / math.sqrt(0.25 * n)
    return n, z, 0.5 * math.erfc(z / math.sqrt(2))


@mistake("6b", "Your z counts red tokens: many green ones must give a large positive z.")
def detect(tokens, vocab_size, key, gamma):
    n, z, _ = score(pairs_of(tokens).unique(dim=0), vocab_size, key, gamma)
    return n, -z, 0.5 * math.erfc(-z / math.sqrt(2))


@mistake("6b", "Your p is for both tails: only texts that are too green are suspicious.")
def detect(tokens, vocab_size, key, gamma):
    n, z, _ = score(pairs_of(tokens).unique(dim=0), vocab_size, key, gamma)
    return n, z, math.erfc(abs(z) / math.sqrt(2))


@mistake("6b", "Your p is the chance of a smaller z: a suspicious text has a small p.")
def detect(tokens, vocab_size, key, gamma):
    n, z, _ = score(pairs_of(tokens).unique(dim=0), vocab_size, key, gamma)
    return n, z, 0.5 * math.erfc(-z / math.sqrt(2))


@mistake("6b", "1 minus a number that has rounded to 1 is 0: far out the tail must be computed directly.")
def detect(tokens, vocab_size, key, gamma):
    n, z, _ = score(pairs_of(tokens).unique(dim=0), vocab_size, key, gamma)
    return n, z, 1 - 0.5 * (1 + math.erf(z / math.sqrt(2)))


@mistake("6b", "The root of 2 is missing in your p: erfc belongs to a normal density of variance 1/2.")
def detect(tokens, vocab_size, key, gamma):
    n, z, _ = score(pairs_of(tokens).unique(dim=0), vocab_size, key, gamma)
    return n, z, 0.5 * math.erfc(z)


@mistake("6b", "Your n is the length of the text: the first token has no context.")
def detect(tokens, vocab_size, key, gamma):
    pairs = pairs_of(tokens).unique(dim=0)
    n, g = len(pairs) + 1, int(green_list(pairs[:, 0], vocab_size, key, gamma).gather(1, pairs[:, 1:]).sum())
    z = (g - gamma * n) / math.sqrt(n * gamma * (1 - gamma))
    return n, z, 0.5 * math.erfc(z / math.sqrt(2))
