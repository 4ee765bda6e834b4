"""Tokenizers read from GGUF files, against those that the files were written of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from whorl.data.corpus import load_tokenizer
from whorl.gguf_files import tokenizers
from whorl.runtimes.exporting import export

from ..runtimes.exports import llama, trained

gguf = pytest.importorskip("gguf", reason="the gguf package is an optional extra of whorl")

TEXTS = (
    "It's 1984 — the quick brown fox, 12345 times;  doesn't jump\n\nover the lazy dogs' naïve café 🦙!",
    "  def f(x):\n\treturn x**2 + 1_000   # half\n\n\n",
    "",
    " a",
    "½ ①②③ ٣٤٥ x²",
)
KINDS = ("gpt-2", "smollm", "llama-bpe", "sentencepiece")


def exported(tokenizer: Any, folder: Path, **config: Any) -> Path:
    model = llama(vocab_size=len(tokenizer))
    for name, value in config.items():
        setattr(model.config, name, value)
    return export(model, folder, runtime="gguf", tokenizer=tokenizer).path / "model.gguf"


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_comes_back_with_the_same_tokens(kind: str, tmp_path: Path) -> None:
    tokenizer = trained(kind, 800)
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    path = exported(tokenizer, tmp_path / "out")
    found = load_tokenizer(str(path))
    special = tokenizer.bos_token
    for text in (*TEXTS, f"one {special} two", f"{special}{special}"):
        ids = tokenizer(text)["input_ids"]
        assert found(text)["input_ids"] == ids
        assert found.decode(ids) == tokenizer.decode(ids)
    assert (found.bos_token, found.eos_token) == (tokenizer.bos_token, tokenizer.eos_token)
    assert found.chat_template == tokenizer.chat_template
    assert found.model_max_length == llama().config.max_position_embeddings
    found.save_pretrained(tmp_path / "saved")
    llama().config.save_pretrained(tmp_path / "saved")  # beside which stock code would pick a class by the family
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert all(again(text)["input_ids"] == found(text)["input_ids"] for text in TEXTS)


def test_digits_are_split_one_by_one_where_the_file_says_smollm(tmp_path: Path) -> None:
    path = exported(trained("smollm", 800), tmp_path / "out")
    content = path.read_bytes()
    split = load_tokenizer(str(path))
    path.write_bytes(content.replace(b"tokenizer.ggml.pre", b"tokenizer.ggml.prx"))
    with pytest.raises(ValueError, match=r"splits text by the rule 'default', which whorl does not know"):
        load_tokenizer(str(path))
    pieces = split.backend_tokenizer.pre_tokenizer.pre_tokenize_str("in  1984")
    assert [text for text, _ in pieces] == ["in", "ĠĠ", "1", "9", "8", "4"]


@pytest.mark.parametrize("kind", ["gpt-2", "sentencepiece"])
def test_a_text_begins_and_ends_as_the_file_says(kind: str, tmp_path: Path) -> None:
    from tokenizers import processors

    tokenizer = trained(kind)
    bos, eos = (tokenizer.bos_token, tokenizer.bos_token_id), (tokenizer.eos_token, tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=[bos[0], "$A", eos[0]], pair=None, special_tokens=[bos, eos]
    )
    found = load_tokenizer(str(exported(tokenizer, tmp_path / "out")))
    ids = tokenizer("one two")["input_ids"]
    assert ids[0] == bos[1]
    assert ids[-1] == eos[1]
    assert found("one two")["input_ids"] == ids


def test_a_file_without_a_tokenizer_says_why(tmp_path: Path) -> None:
    path = export(llama(), tmp_path / "out", runtime="gguf").path / "model.gguf"
    with pytest.raises(ValueError, match=r"has no tokenizer that can be read: none given"):
        load_tokenizer(str(path))


def test_a_piece_that_is_a_token_is_taken_whole_under_llama_3s_rule_alone() -> None:
    said = {"tokens": ["a", "b", "c", "abc"], "merges": []}
    for rule, tokens in (("llama-bpe", ["abc"]), ("gpt-2", ["a", "b", "c"])):
        assert tokenizers._byte_level(said, tokenizers.RULES[rule]).encode("abc").tokens == tokens


def test_the_pair_of_the_best_score_is_joined_first() -> None:
    said = {"tokens": ["a", "b", "c", "ab", "bc"], "scores": [0.0, 0.0, 0.0, -2.0, -1.0], "token_type": [1] * 5}
    assert tokenizers._merges(said) == [("b", "c"), ("a", "b")]


PRETRAINED = {  # ids that llama.cpp (xllamacpp 2026.10.11549) gives for the text
    "smollm2-135m-instruct": (
        *(1589, 506, 216, 33, 41, 40, 36, 1841, 15486, 46494, 37366, 15107, 116, 243, 17, 256, 33, 34, 35, 36, 37),
        *(216, 16738, 1792, 19133, 1116, 197, 1604, 275, 24, 104, 727, 216, 907, 827),
    ),
    "gemma-3-270m": (
        *(2, 1509, 236789, 236751, 236743, 236770, 236819, 236828, 236812, 2192, 120362, 33443, 236743, 478, 397, 404),
        *(
            391,
            236888,
            138,
            236770,
            236778,
            236800,
            236812,
            236810,
            47041,
            1123,
            238131,
            108,
            255968,
            2063,
            517,
            236769,
        ),
        *(236781, 1473, 138, 236865, 1156),
    ),
}


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_pretrained_tokenizer_gives_llama_cpps_tokens(name: str) -> None:
    folder = os.environ.get("WHORL_MODELS")
    if folder is None:
        pytest.skip("WHORL_MODELS names no folder with the pretrained models")
    if not (path := Path(folder) / f"{name}.gguf").is_file():
        pytest.skip(f"there is no {path}")
    text = "It's 1984 — naïve café 🦙!  12345 ½ x²\n\n\tdef f(x):  # two"
    assert tuple(load_tokenizer(str(path))(text)["input_ids"]) == PRETRAINED[name]
