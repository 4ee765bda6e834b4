"""Tokenizers in a GGUF, against what they are in Python."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from whorl.runtimes.exporting import export
from whorl.runtimes.gguf import GGUF_FILE

from .exports import llama, trained

gguf = pytest.importorskip("gguf", reason="the gguf package is an optional extra of whorl")


TEXT = "It's 1984 — the quick brown fox, 12345 times;  doesn't jump\n\nover the lazy dogs' naïve café 🦙! <s>"


@pytest.mark.parametrize("kind", ["gpt-2", "smollm", "llama-bpe", "qwen2"])
def test_a_byte_level_tokenizer_goes_along(kind: str, tmp_path: Path) -> None:
    tokenizer = trained(kind)
    size = len(tokenizer) + 3
    done = export(llama(vocab_size=size), tmp_path / "out", runtime="gguf", tokenizer=tokenizer)
    composed = ", without its NFC: llama.cpp takes text as it comes" if kind == "qwen2" else ""
    assert done.tokenizer == f"byte-level BPE, pre-tokenizer {kind}{composed}"
    said = {k: f.contents() for k, f in gguf.GGUFReader(done.path / GGUF_FILE).fields.items()}
    assert said["tokenizer.ggml.model"] == "gpt2"
    assert said["tokenizer.ggml.pre"] == kind
    tokens, kinds = said["tokenizer.ggml.tokens"], said["tokenizer.ggml.token_type"]
    assert tokens[:-3] == tokenizer.convert_ids_to_tokens(list(range(size - 3)))
    assert tokens[-1] == f"[PAD{size - 1}]"
    assert kinds == [gguf.TokenType.CONTROL] + [gguf.TokenType.NORMAL] * (size - 4) + [gguf.TokenType.UNUSED] * 3
    assert said["tokenizer.ggml.bos_token_id"] == said["tokenizer.ggml.eos_token_id"] == 0
    assert said["tokenizer.ggml.add_bos_token"] is False
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    assert said["tokenizer.ggml.merges"] == [" ".join(m) for m in merges]
    assert "whorl.no_tokenizer" not in said


def test_a_sentencepiece_tokenizer_goes_along_with_scores_that_give_its_merges(tmp_path: Path) -> None:
    """Against llama.cpp's way: neighbours whose joined token scores best are joined first, the leftmost of equals."""
    tokenizer = trained("sentencepiece", 800)
    done = export(llama(vocab_size=len(tokenizer)), tmp_path / "out", runtime="gguf", tokenizer=tokenizer)
    assert done.tokenizer == "SentencePiece's BPE"
    said = {k: f.contents() for k, f in gguf.GGUFReader(done.path / GGUF_FILE).fields.items()}
    assert said["tokenizer.ggml.model"] == "llama"
    assert said["tokenizer.ggml.add_space_prefix"] is True
    kinds = said["tokenizer.ggml.token_type"]
    assert kinds[:4] == [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.BYTE]
    ids = {t: i for i, t in enumerate(said["tokenizer.ggml.tokens"])}
    scores = said["tokenizer.ggml.scores"]

    pieces = list("▁" + TEXT.replace(" <s>", "").replace(" ", "▁"))
    while True:
        joined = [(-scores[ids[a + b]], i) for i, (a, b) in enumerate(itertools.pairwise(pieces)) if a + b in ids]
        if not joined:
            break
        _, i = min(joined)
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    found = [j for p in pieces for j in ([ids[p]] if p in ids else [ids[f"<0x{b:02X}>"] for b in p.encode()])]
    assert found == tokenizer(TEXT.replace(" <s>", ""), add_special_tokens=False)["input_ids"]
    assert len(found) < len(TEXT)


def test_a_tokenizer_that_llama_cpp_cannot_run_is_left_out_and_said(tmp_path, caplog, shared) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    normalizing, spaced, large = trained("gpt-2"), trained("gpt-2"), trained("gpt-2")
    normalizing.backend_tokenizer.normalizer = normalizers.NFKC()
    spaced.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    merging = trained("llama-bpe")
    merging.backend_tokenizer.pre_tokenizer = trained("gpt-2").backend_tokenizer.pre_tokenizer
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
    cases = {
        "its model is WordLevel": words,
        "normalizes text (NFKC)": normalizing,
        "puts a space before": spaced,
        "no llama.cpp name for its pre-tokenizer (ByteLevel)": merging,
        "characters without byte fallback": AutoTokenizer.from_pretrained(shared / "fixtures" / "babyllama-tok105"),
        "it has the token id 399, and the model 300 embeddings": large,
    }
    for why, tokenizer in cases.items():
        caplog.clear()
        size = 300 if tokenizer is large else 400
        done = export(llama(vocab_size=size), tmp_path / "out", runtime="gguf", tokenizer=tokenizer, force=True)
        assert done.tokenizer.startswith("not written: ")
        assert why in done.tokenizer
        assert why in caplog.text
        said = {k: f.contents() for k, f in gguf.GGUFReader(done.path / GGUF_FILE).fields.items()}
        assert said["tokenizer.ggml.model"] == "none"
        assert why in said["whorl.no_tokenizer"]
        assert not any(k.startswith("tokenizer.") and k != "tokenizer.ggml.model" for k in said)
