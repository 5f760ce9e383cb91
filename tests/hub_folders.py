"""Tiny models and data sets in folders laid out as the published ones of five families are, for tests that load the real thing.

Templates and tokenizers are written for these tests; what is kept is what loading depends on: the marks and their kinds, what
a template refuses, who adds the first token, several ends of a turn, tied and untied heads, shards, one tensor for each expert,
where the template stands, old and new names in config.json, vocabularies padded beyond the tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM

TEXTS = ["What is 345 + 278?", "Tom has 3 bags of 4 apples; he eats 2.", "3*4=12, 12-2=10", "#### 10", "café ½ 数"] * 4
SIZE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128}

CHATML_THINKING = """
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- set text = m.content.split('</think>')[-1].lstrip('\\n') %}
        {%- set thought = m.reasoning_content if m.reasoning_content is string else '' %}
        {%- if loop.last or thought %}
            {%- set text = '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + text %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' + text + '<|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
""".strip()
HEADERS = """
{{- bos_token }}
{%- set known = namespace(system='') %}
{%- if messages[0]['role'] == 'system' %}
    {%- set known.system = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nKnowledge until: 2023\\n\\n' + known.system + '<|eot_id|>' }}
{%- for m in messages %}
    {{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
""".strip()
TURNS = """
{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('no system role here') }}{%- endif %}
{%- for m in messages %}
    {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('user and model must take turns') }}{%- endif %}
    {%- set role = 'model' if m['role'] == 'assistant' else m['role'] %}
    {{- '<start_of_turn>' + role + '\\n' + m['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}
""".strip()
INST = """
{{- bos_token }}
{%- for m in messages %}
    {%- if m['role'] == 'user' %}{{- ' [INST] ' + m['content'] + ' [/INST]' }}
    {%- elif m['role'] == 'assistant' %}{{- ' ' + m['content'] + eos_token }}
    {%- else %}{{- raise_exception('only user and assistant here') }}{%- endif %}
{%- endfor %}
""".strip()


@dataclass(frozen=True)
class Family:
    """How one family's folders look. Token names are resolved to ids when the folder is written."""

    config: Mapping[str, Any]  # of config.json, in the words that the published one uses
    template: str
    specials: Sequence[str]
    eos: str
    turn_ends: Sequence[str]  # eos_token_id of generation_config.json
    tokenizer_class: str
    bos: str | None = None
    pad: str | None = None
    plain_tokens: Sequence[str] = ()  # added, but not special
    template_file: bool = False  # a file of its own; else inside tokenizer_config.json
    byte_level: bool = True  # else spaces as "▁" and unknown characters as bytes
    padded_vocab: int = 0  # rows of the embedding beyond the tokenizer
    sampling: Mapping[str, Any] = field(default_factory=dict)  # of generation_config.json


CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
QWEN: dict[str, Any] = {
    "template": CHATML_THINKING,
    "specials": CHATML_TOKENS,
    "plain_tokens": ("<tool_call>", "</tool_call>", "<think>", "</think>"),
    "pad": "<|endoftext|>",
    "tokenizer_class": "Qwen2Tokenizer",
    "padded_vocab": 37,
}
SAMPLED = {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95}
FAMILIES = {
    "qwen3": Family(
        config={
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            **SIZE,
            "head_dim": 16,
            "hidden_act": "silu",
            "max_position_embeddings": 4096,
            "max_window_layers": 2,
            "rms_norm_eps": 1e-06,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "sliding_window": None,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
        },
        eos="<|im_end|>",
        turn_ends=("<|im_end|>", "<|endoftext|>"),
        sampling=SAMPLED,
        **QWEN,
    ),
    "qwen3_base": Family(  # its tokenizer has a template, but its folder names no end of a turn
        config={
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            **SIZE,
            "head_dim": 16,
            "rope_theta": 1000000,
            "tie_word_embeddings": True,
            "torch_dtype": "bfloat16",
        },
        eos="<|endoftext|>",
        turn_ends=("<|endoftext|>",),
        sampling={"do_sample": False, "max_new_tokens": 2048},
        **QWEN,
    ),
    "qwen3_moe": Family(
        config={
            "architectures": ["Qwen3MoeForCausalLM"],
            "model_type": "qwen3_moe",
            **SIZE,
            "head_dim": 16,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "output_router_logits": False,
            "rope_theta": 1000000.0,
            "router_aux_loss_coef": 0.001,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        },
        eos="<|im_end|>",
        turn_ends=("<|im_end|>", "<|endoftext|>"),
        template_file=True,
        sampling=SAMPLED,
        **QWEN,
    ),
    "llama3": Family(
        config={
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **SIZE,
            "attention_bias": False,
            "rms_norm_eps": 1e-05,
            "rope_scaling": {
                "factor": 8.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 512,
                "rope_type": "llama3",
            },
            "rope_theta": 500000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        },
        template=HEADERS,
        specials=(
            "<|begin_of_text|>",
            "<|end_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
            "<|eom_id|>",
            "<|eot_id|>",
        ),
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        turn_ends=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        tokenizer_class="PreTrainedTokenizerFast",
        sampling={"do_sample": True, "temperature": 0.6, "top_p": 0.9},
    ),
    "gemma3": Family(
        config={
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            **SIZE,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "final_logit_softcapping": None,
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 16,
            "rope_local_base_freq": 10000,
            "rope_theta": 1000000,
            "sliding_window": 16,
            "sliding_window_pattern": 2,
            "dtype": "bfloat16",
        },
        template=TURNS,
        specials=("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"),
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        turn_ends=("<eos>", "<end_of_turn>"),
        tokenizer_class="GemmaTokenizer",
        template_file=True,
        byte_level=False,
        padded_vocab=10,
        sampling={"do_sample": True, "top_k": 64, "top_p": 0.95},
    ),
    "mixtral": Family(
        config={
            "architectures": ["MixtralForCausalLM"],
            "model_type": "mixtral",
            **SIZE,
            "num_experts_per_tok": 2,
            "num_local_experts": 4,
            "output_router_logits": False,
            "rope_theta": 1000000.0,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
        },
        template=INST,
        specials=("<unk>", "<s>", "</s>"),
        bos="<s>",
        eos="</s>",
        turn_ends=("</s>",),
        tokenizer_class="LlamaTokenizer",
        byte_level=False,
    ),
}


def write_model(folder: Path, family: Family) -> Path:
    """The family's folder: tokenizer, config, generation config and weights in bfloat16 over several shards."""
    folder.mkdir(parents=True)
    tokenizer = _write_tokenizer(folder, family)
    marks = {f"{name}_token_id": tokenizer.token_to_id(token) for name, token in _marks(family).items() if token}
    config = {**family.config, **marks, "vocab_size": tokenizer.get_vocab_size() + family.padded_vocab}
    _write(folder / "config.json", config)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="120KB")
    _write(folder / "config.json", config)  # as published, not as this version of transformers rewrites it
    ends = [tokenizer.token_to_id(token) for token in family.turn_ends]
    eos = ends if len(ends) > 1 else ends[0]
    _write(folder / "generation_config.json", {"eos_token_id": eos, **family.sampling, "transformers_version": "4.51.0"})
    return folder


def write_data(folder: Path, kind: str = "parquet", num_rows: int = 60) -> Path:
    """A data set's folder like GSM8K's: questions, worked solutions that end in `#### ANSWER`, a train and a test split."""
    (folder / "main").mkdir(parents=True)
    for split, first in (("train", 0), ("test", num_rows)):
        rows = [
            {
                "question": f"Tom has {i} apples and eats {i % 7}. How many?",
                "answer": f"{i}-{i % 7}={i - i % 7}\n#### {i - i % 7}",
            }
            for i in range(first, first + num_rows)
        ]
        table, path = datasets.Dataset.from_list(rows), folder / "main" / f"{split}-00000-of-00001.{kind}"
        table.to_parquet(path) if kind == "parquet" else table.to_json(path)
    _write_card(folder, "main")
    return folder


def write_problems(folder: Path, num_rows: int = 30) -> Path:
    """A data set's folder like MBPP's: what a function does in words, a program, tests as asserts, and what these need."""
    (folder / "full").mkdir(parents=True)
    for split, first in (("train", 0), ("test", num_rows)):
        rows = [
            {
                "task_id": i,
                "text": f"Write a function to find the numbers of a list that are above {i}.",
                "code": f"def above_{i}(numbers):\r\n  return tuple(x for x in numbers if x > {i})",
                "test_list": [
                    f"assert above_{i}([]) == ()",
                    f"assert set(above_{i}([{i}, {i + 1}, {i + 2}])) == {{{i + 1}, {i + 2}}}",
                    f"assert isclose(sum(above_{i}([0.5, {i}.5])), {i}.5 + 0.5 * ({i} == 0))",
                ],
                "test_setup_code": "from math import isclose",
                "challenge_test_list": [],
            }
            for i in range(first, first + num_rows)
        ]
        datasets.Dataset.from_list(rows).to_parquet(folder / "full" / f"{split}-00000-of-00001.parquet")
    _write_card(folder, "full")
    return folder


def _write_card(folder: Path, name: str) -> None:
    files = "\n".join(f"  - split: {split}\n    path: {name}/{split}-*" for split in ("train", "test"))
    (folder / "README.md").write_text(
        f"---\nlicense: mit\nconfigs:\n- config_name: {name}\n  data_files:\n{files}\n---\n# Problems\n"
    )


def _marks(family: Family) -> dict[str, str | None]:
    return {"bos": family.bos, "eos": family.eos, "pad": family.pad}


def _write_tokenizer(folder: Path, family: Family) -> Tokenizer:
    tokenizer = _byte_level(family) if family.byte_level else _with_byte_fallback(family)
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in family.plain_tokens])
    if family.bos is not None:
        begin = (family.bos, tokenizer.token_to_id(family.bos))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A", pair=f"{family.bos} $A {family.bos} $B", special_tokens=[begin]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {
        str(tokenizer.token_to_id(token)): {
            "content": token, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": special,
        }
        for tokens, special in ((family.specials, True), (family.plain_tokens, False))
        for token in tokens
    }  # fmt: skip
    config: dict[str, Any] = {
        "added_tokens_decoder": added,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 131072,
        "tokenizer_class": family.tokenizer_class,
        **{f"{name}_token": token for name, token in _marks(family).items()},
    }
    if family.template_file:
        (folder / "chat_template.jinja").write_text(family.template)
    else:
        config["chat_template"] = family.template
    _write(folder / "tokenizer_config.json", config)
    return tokenizer


def _byte_level(family: Family) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    words = Regex(r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(words, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in family.specials])
    return tokenizer


def _with_byte_fallback(family: Family) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    first = [*family.specials, *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=len(first) + 80, special_tokens=first, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] in family.specials]  # the bytes are no marks
    return Tokenizer.from_str(json.dumps(spec))


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False))
