"""Tokenizers in a GGUF: byte-level BPE that llama.cpp can split by name, and SentencePiece's BPE.

Any other is left out, and the file says why: a tokenizer that splits otherwise would feed the model other tokens.
"""

from __future__ import annotations

import json
import logging
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from whorl.gguf_files.tokenizers import RULES, SPACE, Rule

log = logging.getLogger(__name__)

BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # of SentencePiece
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
    ranks = _merge_ranks(described) if model.get("byte_fallback") else None
    pre = _pre_tokenizer(described) if ranks is None else None
    names, scores, kinds = zip(*_rows(tokenizer, vocab_size, ranks), strict=True)
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
    splits = described.get("pre_tokenizer") or {"type": "none at all"}
    steps = splits["pretokenizers"] if splits["type"] == "Sequence" else [splits]
    kinds = [step["type"] for step in steps]
    if kinds[-1] != "ByteLevel":
        raise ValueError(f"it is a BPE of characters without byte fallback (pre-tokenizer: {', '.join(kinds)})")
    normalizer = described.get("normalizer")
    if normalizer is not None and normalizer["type"] != "NFC":  # which leaves text alone that is composed, as most is
        raise ValueError(f"it normalizes text ({normalizer['type']}), and llama.cpp's BPE does not")
    if steps[-1]["add_prefix_space"]:
        raise ValueError("it puts a space before the text, and llama.cpp's BPE does not")
    regex, whole, first = steps[-1].get("use_regex", True), bool(described["model"].get("ignore_merges")), steps[0]
    found = None
    if kinds == ["ByteLevel"] and regex:
        found = Rule(whole=whole)
    elif kinds == ["Digits", "ByteLevel"] and first["individual_digits"] and regex:
        found = Rule(digits=True, whole=whole)
    elif kinds == ["Split", "ByteLevel"] and not regex and (first["behavior"], first["invert"]) == ("Isolated", False):
        found = Rule(first["pattern"].get("Regex", ""), whole=whole)
    for name, rule in RULES.items():
        if found == rule._replace(bos=False):
            return name
    raise ValueError(f"whorl has no llama.cpp name for its pre-tokenizer ({', '.join(kinds)})")


def _merge_ranks(described: dict[str, Any]) -> dict[str, int]:
    """Of each token of SentencePiece's BPE that merges make, the number of its first merge."""
    decoder = described.get("decoder") or {}
    steps = decoder.get("decoders", [decoder])
    if not any(step.get("type") == "Replace" and step["pattern"].get("String") == SPACE for step in steps):
        raise ValueError(f"it falls back to bytes as SentencePiece does, and has no {SPACE} for a space")
    ranks: dict[str, int] = {}
    for i, merge in enumerate(described["model"]["merges"]):
        ranks.setdefault("".join(merge.split(" ") if isinstance(merge, str) else merge), i)
    return ranks


def _rows(tokenizer: Any, vocab_size: int, ranks: dict[str, int] | None) -> Iterator[tuple[bytes, float, int]]:
    """Text, score and kind of every id of the model, as convert_hf_to_gguf's vocabularies have them.

    ranks: of SentencePiece's BPE. llama.cpp merges the pair of the best score first, so a token's score is minus the
    rank of its merge.
    """
    from gguf import TokenType as kinds

    added, by_id = tokenizer.added_tokens_decoder, {i: text for text, i in tokenizer.get_vocab().items()}
    for i in range(vocab_size):
        text, kind = by_id.get(i, f"[PAD{i}]"), kinds.NORMAL
        if i not in by_id:
            kind = kinds.UNUSED
        elif i in added:
            control = added[i].special or (ranks is None and text.startswith("<|") and text.endswith("|>"))
            kind = kinds.CONTROL if control else kinds.USER_DEFINED
        elif ranks is not None and BYTE.fullmatch(text):
            kind = kinds.BYTE
        yield text.encode(), -float(ranks[text]) if ranks and text in ranks else NO_MERGE, kind
