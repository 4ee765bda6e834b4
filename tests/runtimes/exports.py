"""What the tests of runtimes share: a small Llama, the names in a folder, and small tokenizers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

import whorl
from whorl.gguf_files.tokenizers import RULES
from whorl.testing import tiny_model

TOKENS = torch.arange(2 * 44).reshape(2, 44) * 31 % 97


def llama(encoding: str | None = None, **sizes: Any) -> Any:
    model = tiny_model("llama", **sizes)
    return model if encoding is None else whorl.attach(model, encoding)


def names(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def trained(kind: str, vocab_size: int = 400) -> Any:
    """A small BPE over bytes, split as its name says, or with byte fallback, as SentencePiece's."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    text = [(Path(__file__).parents[2] / "LICENSE").read_text(encoding="utf-8")]  # which stays as it is
    special = ["<|endoftext|>"]
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind not in ("llama-bpe", "qwen2"))
    if kind == "sentencepiece":
        special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        text = "\n".join(text).split("\n")
    else:
        tokenizer = Tokenizer(models.BPE(ignore_merges=kind == "llama-bpe"))
        tokenizer.decoder = decoders.ByteLevel()
        before = {
            "gpt-2": [],
            "smollm": [pre_tokenizers.Digits(individual_digits=True)],
            "llama-bpe": [pre_tokenizers.Split(Regex(RULES["llama-bpe"].pattern), "isolated")],
            "qwen2": [pre_tokenizers.Split(Regex(RULES["qwen2"].pattern), "isolated")],
        }[kind]
        tokenizer.normalizer = normalizers.NFC() if kind == "qwen2" else None
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, byte_level]) if before else byte_level
    alphabet = pre_tokenizers.ByteLevel.alphabet() if kind != "sentencepiece" else []
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(text, trainer)
    if kind == "sentencepiece":  # bytes are pieces of the vocabulary, and not special
        described = json.loads(tokenizer.to_str())
        described["added_tokens"] = described["added_tokens"][:3]
        tokenizer = Tokenizer.from_str(json.dumps(described))
    first, last = (special[0], special[0]) if len(special) == 1 else ("<s>", "</s>")
    unknown = {} if len(special) == 1 else {"unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=first, eos_token=last, **unknown)
