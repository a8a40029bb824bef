"""Faults for the transformer, the tokenizer, GPT and sampling."""

from __future__ import annotations

from tests.mutations import Mutation

TRANSFORMER, TRANSFORMER_TESTS = "genmodels/nets/transformer.py", "tests/nets/test_transformer.py"
TOKENIZER, TOKENIZER_TESTS = "genmodels/language/tokenizer.py", "tests/language/test_tokenizer.py"
GPT, GPT_TESTS = "genmodels/language/gpt.py", "tests/language/test_gpt.py"
SAMPLING, SAMPLING_TESTS = "genmodels/language/sampling.py", "tests/language/test_sampling.py"

MUTATIONS: list[Mutation] = [
    Mutation(
        TRANSFORMER,
        "is_causal=self.causal and not past and L > 1",
        "is_causal=False",
        f"{TRANSFORMER_TESTS}::test_jacobian_shows_who_sees_whom",
        "no causal mask: the future leaks",
    ),
    Mutation(
        TRANSFORMER,
        ".tril(past)",
        ".tril(past + 1)",
        f"{TRANSFORMER_TESTS}::test_cache_equals_full_pass",
        "a chunk behind the cache sees one token ahead",
    ),
    Mutation(
        TRANSFORMER,
        "self.cos[past : past + L], self.sin[past : past + L]",
        "self.cos[:L], self.sin[:L]",
        f"{TRANSFORMER_TESTS}::test_cache_equals_full_pass",
        "cached tokens are rotated as if at position 0",
    ),
    Mutation(
        TRANSFORMER,
        "a * cos - b * sin, a * sin + b * cos",
        "a * cos + b * sin, a * sin + b * cos",
        f"{TRANSFORMER_TESTS}::test_rotary_turns_by_position_times_frequency",
        "a sign in the rotation",
    ),
    Mutation(
        TRANSFORMER,
        "F.gelu(self.up(self.norm_2(x)), approximate=",
        "F.gelu(self.up(x), approximate=",
        f"{TRANSFORMER_TESTS}::test_block_adds_attention_then_perceptron",
        "the perceptron's norm is left out",
    ),
    Mutation(
        TRANSFORMER,
        "0.02 / math.sqrt(2 * num_layers)",
        "0.02 / math.sqrt(num_layers)",
        f"{TRANSFORMER_TESTS}::test_start_scales_the_residual_layers",
        "two residual layers a block, one counted",
    ),
    Mutation(
        TRANSFORMER,
        "-fast * torch.sin(omega * d)",
        "fast * torch.sin(omega * d)",
        f"{TRANSFORMER_TESTS}::test_offsets_say_where_each_head_looks_first",
        "heads look to the wrong side",
    ),
    Mutation(
        TOKENIZER,
        "change[p] -= n",
        "change[p] -= 1",
        f"{TOKENIZER_TESTS}::test_merges_equal_the_naive_reference",
        "the piece's frequency is forgotten",
    ),
    Mutation(
        TOKENIZER,
        "pair = min(pairwise",
        "pair = max(pairwise",
        f"{TOKENIZER_TESTS}::test_merges_and_ids_equal_the_naive_reference_on_any_text",
        "merges not applied by rank",
    ),
    Mutation(
        TOKENIZER,
        "            if 0 < counts[pair] < -stale:\n                heapq.heappush(heap, (-counts[pair], pair))\n",
        "",
        f"{TOKENIZER_TESTS}::test_merges_equal_the_naive_reference",
        "a pair whose count fell is lost",
    ),
    Mutation(
        TOKENIZER,
        "            i += 2\n",
        "            i += 1\n",
        f"{TOKENIZER_TESTS}::test_merges_and_ids_equal_the_naive_reference_on_any_text",
        "merged pairs overlap",
    ),
    Mutation(
        TOKENIZER,
        r"|\s+(?!\S)|\s+",
        r"|\s+",
        f"{TOKENIZER_TESTS}::test_text_round_trip_and_naive_ids",
        "white space swallows the next word's space",
    ),
    Mutation(
        TOKENIZER,
        "key=len, reverse=True",
        "key=len",
        f"{TOKENIZER_TESTS}::test_special_tokens_only_if_allowed",
        "a special token's prefix wins over it",
    ),
    Mutation(
        GPT,
        "self(x[:, :-1]).transpose(1, 2)",
        "self(x[:, 1:]).transpose(1, 2)",
        f"{GPT_TESTS}::test_log_prob_multiplies_the_conditionals",
        "each token predicted from itself",
    ),
    Mutation(
        GPT,
        'reduction="none").sum(dim=1)',
        'reduction="none").mean(dim=1)',
        f"{GPT_TESTS}::test_probabilities_of_all_texts_sum_to_one",
        "a mean over tokens for a sum",
    ),
    Mutation(
        GPT,
        "self.positions.weight[past : past + idx.shape[1]]",
        "self.positions.weight[: idx.shape[1]]",
        f"{GPT_TESTS}::test_cached_logits_equal_the_full_pass",
        "cached tokens get position 0",
    ),
    Mutation(
        GPT,
        "max(0, i - self.context) : i",
        "max(0, i - self.context + 1) : i",
        f"{GPT_TESTS}::test_generation_equals_the_plain_loop_also_beyond_the_context",
        "the sliding window is one token short",
    ),
    Mutation(
        GPT,
        '("attn.c_proj", "attention.out", True)',
        '("attn.c_proj", "attention.out", False)',
        f"{GPT_TESTS}::test_logits_equal_those_of_transformers",
        "a Conv1D weight is not transposed",
    ),
    Mutation(
        SAMPLING,
        "q.cumsum(dim=-1) - q",
        "q.cumsum(dim=-1)",
        f"{SAMPLING_TESTS}::test_top_p_by_hand",
        "the nucleus loses the token that crosses p",
    ),
    Mutation(
        SAMPLING,
        "return logits / temperature",
        "return logits * temperature",
        f"{SAMPLING_TESTS}::test_filters_compose_on_the_renormalised_rest",
        "the temperature upside down",
    ),
    Mutation(
        SAMPLING,
        "best + math.log(m)",
        "math.log(m)",
        f"{SAMPLING_TESTS}::test_min_p_is_relative_to_the_best",
        "min-p as an absolute threshold",
    ),
    Mutation(
        SAMPLING,
        "logits < kth",
        "logits <= kth",
        f"{SAMPLING_TESTS}::test_top_k_keeps_the_k_best",
        "the k-th token is dropped",
    ),
    Mutation(
        SAMPLING,
        "total[:, None] + next_log_prob(idx)",
        "next_log_prob(idx)",
        f"{SAMPLING_TESTS}::test_beam_search_finds_the_best_of_all_sequences",
        "beams ranked by their last token alone",
    ),
]
