"""GPT beside transformers' GPT-2 at equal parameters; byte-pair encoding beside Hugging Face's tokenizers (Rust).

Both models use PyTorch's scaled-dot-product attention, no dropout, the same fused AdamW; generation is greedy with
each library's own loop and cache. Tokenizers are timed on the text of `$GENMODELS_DATA` (or ../shared/data) if tiny
Shakespeare lies there, else on as much of Python's help topics; encoding starts from an empty cache of pieces.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from benchmarks.speed import Case, Contender
from genmodels.language.gpt import GPT
from genmodels.language.tokenizer import BytePairTokenizer

VOCAB_SIZE, LAYERS, HEADS, WIDTH = 65, 4, 4, 128


def models(context: int) -> tuple[GPT, Any, dict[str, int]]:
    """Ours and the peer's at the same sizes, and their numbers of parameters."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    ours = GPT(VOCAB_SIZE, context, LAYERS, HEADS, WIDTH)
    config = GPT2Config(
        vocab_size=VOCAB_SIZE,
        n_positions=context,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=None,
        attn_implementation="sdpa",
    )
    theirs = GPT2LMHeadModel(config)
    counts = {"ours": _count(ours), "transformers": _count(theirs)}
    return ours, theirs, counts


def _count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def train_step() -> dict[str, Contender]:
    """Forward, backward and AdamW on a batch of 16 x 128 predicted tokens."""
    ours, theirs, counts = models(129)
    x = torch.randint(VOCAB_SIZE, (16, 129), generator=torch.Generator().manual_seed(0))
    optimizers = {
        "ours": torch.optim.AdamW(ours.parameters(), lr=1e-3, fused=True),
        "transformers": torch.optim.AdamW(theirs.parameters(), lr=1e-3, fused=True),
    }
    theirs.train()

    def step(name: str) -> None:
        loss = ours.loss(x) if name == "ours" else theirs(x[:, :128], labels=x[:, :128], use_cache=False).loss
        optimizers[name].zero_grad(set_to_none=True)
        loss.backward()
        optimizers[name].step()

    return {name: Contender(lambda name=name: step(name), counts[name]) for name in counts}  # type: ignore[misc]


def generation() -> dict[str, Contender]:
    """256 tokens behind a prompt of 16, greedy, with the cache, one text."""
    ours, theirs, counts = models(272)
    ours.eval()
    theirs.eval()
    prompt = torch.randint(VOCAB_SIZE, (1, 16), generator=torch.Generator().manual_seed(0))
    options = {"max_new_tokens": 256, "min_new_tokens": 256, "do_sample": False, "use_cache": True, "pad_token_id": 0}
    return {
        "ours": Contender(lambda: ours.generate(prompt, 256, temperature=0.0), counts["ours"]),
        "transformers": Contender(lambda: theirs.generate(prompt, **options), counts["transformers"]),
    }


def text() -> str:
    """Tiny Shakespeare, or 1.1 MB of help topics."""
    for folder in (os.environ.get("GENMODELS_DATA"), "../shared/data"):
        if folder and (file := Path(folder) / "tinyshakespeare.txt").is_file():
            return file.read_text(encoding="utf-8")
    from pydoc_data.topics import topics

    prose = "\n".join(topics.values())
    return (prose * (1 + 1_115_394 // len(prose)))[:1_115_394]


def peer_tokenizer() -> tuple[Any, Any]:
    """An untrained `tokenizers` model with GPT-2's cut, and its trainer; one thread."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    peer = Tokenizer(models.BPE())
    peer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return peer, trainers.BpeTrainer(vocab_size=1024, initial_alphabet=alphabet, show_progress=False)


def bpe_train() -> dict[str, Contender]:
    corpus = text()

    def theirs() -> None:
        peer, trainer = peer_tokenizer()
        peer.train_from_iterator([corpus], trainer)

    theirs()
    return {"ours": Contender(lambda: BytePairTokenizer.train(corpus, 1024)), "tokenizers": Contender(theirs)}


def bpe_encode() -> dict[str, Contender]:
    corpus = text()
    trained = BytePairTokenizer.train(corpus, 1024)
    merges = list(trained.merges)
    peer, trainer = peer_tokenizer()
    peer.train_from_iterator([corpus], trainer)
    return {
        "ours": Contender(lambda: BytePairTokenizer(merges).encode(corpus)),
        "tokenizers": Contender(lambda: peer.encode(corpus).ids),
    }


CASES: list[Case] = [
    Case("GPT 4x128, train step, 16 x 128 tokens", train_step, must=1.0, aim=0.9, rounds=15),
    Case("GPT 4x128, 256 tokens with the cache", generation, must=0.6, aim=0.35),
    Case("BPE to 1,024 tokens, train", bpe_train, must=5.0, aim=2.0, absolute="s", threads=1),
    Case("BPE, encode", bpe_encode, must=1.0, aim=3.0, absolute="MB/s", units_per_run=1.115394, threads=1),
]
