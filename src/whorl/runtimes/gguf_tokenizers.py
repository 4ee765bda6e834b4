"""Tokenizers in a GGUF: byte-level BPE that llama.cpp can split by name, and SentencePiece's BPE.

Any other is left out, and the file says why: a tokenizer that splits otherwise would feed the model other tokens.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN_2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
SPACE, BYTE = "▁", re.compile(r"<0x[0-9A-F]{2}>")  # of SentencePiece
NO_MERGE = -1e9  # the score of a token that no merge makes


def add_tokenizer(writer: Any, tokenizer: Any, config: Any) -> str:
    """Writes the tokenizer, or the kind "none" and the reason. Returns words for a person."""
    if tokenizer is None:
        why = "none given"
    else:
        with tempfile.TemporaryDirectory(prefix="whorl-tokenizer-") as folder:
            tokenizer.save_pretrained(folder)
            ids = {f"{t}_token_id": getattr(config, f"{t}_token_id", None) for t in ("bos", "eos", "pad")}
            first = {k: v[0] if isinstance(v, list) else v for k, v in ids.items()}
            (Path(folder) / "config.json").write_text(json.dumps(first))
            try:
                return _write_tokenizer(writer, tokenizer, Path(folder), config.vocab_size)
            except ValueError as error:
                why = str(error)
        log.warning("the GGUF has no tokenizer: %s", why)
    writer.add_tokenizer_model("none")
    writer.add_string("whorl.no_tokenizer", why)
    return f"not written: {why}" if tokenizer is not None else why


def _write_tokenizer(writer: Any, tokenizer: Any, folder: Path, vocab_size: int) -> str:
    """Byte-level BPE whose pre-tokenizer llama.cpp has by name, or SentencePiece's BPE; ValueError for others.

    All that may fail comes before the first key is written.
    """
    import gguf

    path = folder / "tokenizer.json"
    if not path.exists():
        raise ValueError(f"{type(tokenizer).__name__} writes no tokenizer.json")
    described = json.loads(path.read_text(encoding="utf-8"))
    model = described["model"]
    if model["type"] != "BPE":
        raise ValueError(f"its model is {model['type']}, and whorl writes BPE alone")
    largest = max(tokenizer.get_vocab().values())
    if largest >= vocab_size:
        raise ValueError(f"it has the token id {largest}, and the model {vocab_size} embeddings")
    if model.get("byte_fallback"):
        pre, rows = None, _sentencepiece_rows(tokenizer, described)
    else:
        pre, rows = _pre_tokenizer(described), _byte_level_rows(tokenizer)
    names, scores, kinds = (list(column) for column in zip(*rows, strict=True))
    for i in range(len(names), vocab_size):
        names.append(f"[PAD{i}]".encode())
        scores.append(NO_MERGE)
        kinds.append(gguf.TokenType.UNUSED)
    special = gguf.SpecialVocab(folder, load_merges=pre is not None, n_vocab=vocab_size)
    probe = tokenizer("a")["input_ids"]
    special.add_special_token = {
        "bos": bool(probe) and probe[0] == tokenizer.bos_token_id,
        "eos": bool(probe) and probe[-1] == tokenizer.eos_token_id,
    }
    writer.add_tokenizer_model("gpt2" if pre else "llama")
    writer.add_tokenizer_pre(pre or "default")
    writer.add_token_list(names)
    if pre is None:
        writer.add_token_scores(scores)
        first = tokenizer.convert_ids_to_tokens(tokenizer("a", add_special_tokens=False)["input_ids"])[0]
        writer.add_add_space_prefix(first.startswith(SPACE))
    writer.add_token_types(kinds)
    special.add_to_gguf(writer, quiet=True)
    if pre is None:
        return "SentencePiece's BPE"
    composed = "" if described.get("normalizer") is None else ", without its NFC: llama.cpp takes text as it comes"
    return f"byte-level BPE, pre-tokenizer {pre}{composed}"


def _pre_tokenizer(described: dict[str, Any]) -> str:
    """llama.cpp's name for how text is split before the merges. Raises ValueError for what it does otherwise."""
    whole = described.get("pre_tokenizer") or {"type": "none at all"}
    steps = whole["pretokenizers"] if whole["type"] == "Sequence" else [whole]
    kinds = [step["type"] for step in steps]
    if kinds[-1] != "ByteLevel":
        raise ValueError(f"it is a BPE of characters without byte fallback (pre-tokenizer: {', '.join(kinds)})")
    normalizer = described.get("normalizer")
    if normalizer is not None and normalizer["type"] != "NFC":  # which leaves text alone that is composed, as most is
        raise ValueError(f"it normalizes text ({normalizer['type']}), and llama.cpp's BPE does not")
    if steps[-1]["add_prefix_space"]:
        raise ValueError("it puts a space before the text, and llama.cpp's BPE does not")
    regex, whole_words = steps[-1].get("use_regex", True), bool(described["model"].get("ignore_merges"))
    if kinds == ["ByteLevel"] and regex and not whole_words:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"] and regex and not whole_words:
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not regex:
        split = steps[0]
        said = (split["pattern"].get("Regex"), split["behavior"], split["invert"], whole_words)
        for name, pattern, merges_none in (("llama-bpe", LLAMA_3, True), ("qwen2", QWEN_2, False)):
            if said == (pattern, "Isolated", False, merges_none):
                return name
    raise ValueError(f"whorl has no llama.cpp name for its pre-tokenizer ({', '.join(kinds)})")


def _byte_level_rows(tokenizer: Any) -> list[tuple[bytes, float, int]]:
    """Text, score and kind of every id up to the largest, as convert_hf_to_gguf's gpt2 vocabularies have them."""
    from gguf import TokenType as kinds

    added = tokenizer.added_tokens_decoder
    by_id = {i: text for text, i in tokenizer.get_vocab().items()}
    rows: list[tuple[bytes, float, int]] = []
    for i in range(max(by_id) + 1):
        kind = kinds.NORMAL
        if i not in by_id:
            kind = kinds.UNUSED
        elif i in added:
            text = by_id[i]
            control = added[i].special or (text.startswith("<|") and text.endswith("|>"))
            kind = kinds.CONTROL if control else kinds.USER_DEFINED
        rows.append((by_id.get(i, f"[PAD{i}]").encode(), 0.0, kind))
    return rows


def _sentencepiece_rows(tokenizer: Any, described: dict[str, Any]) -> list[tuple[bytes, float, int]]:
    """Text, score and kind of every id up to the largest.

    llama.cpp merges the pair of the best score first, so a token's score is minus the rank of its merge.
    """
    from gguf import TokenType as kinds

    decoder = described.get("decoder") or {}
    steps = decoder.get("decoders", [decoder])
    if not any(step.get("type") == "Replace" and step["pattern"].get("String") == SPACE for step in steps):
        raise ValueError(f"it falls back to bytes as SentencePiece does, and has no {SPACE} for a space")
    rank: dict[str, int] = {}
    for i, merge in enumerate(described["model"]["merges"]):
        rank.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), i)
    added = tokenizer.added_tokens_decoder
    by_id = {i: text for text, i in tokenizer.get_vocab().items()}
    rows: list[tuple[bytes, float, int]] = []
    for i in range(max(by_id) + 1):
        text = by_id.get(i, f"[PAD{i}]")
        kind = kinds.NORMAL
        if i not in by_id:
            kind = kinds.UNUSED
        elif i in added:
            kind = kinds.CONTROL if added[i].special else kinds.USER_DEFINED
        elif BYTE.fullmatch(text):
            kind = kinds.BYTE
        rows.append((text.encode(), -float(rank[text]) if text in rank else NO_MERGE, kind))
    return rows
