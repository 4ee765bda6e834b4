"""Sources, splits and tokenizers: what comes out of each, and what is said when nothing can."""

import gzip
import json
import os
import sysconfig
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from whorl.data import corpus

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "über", "naïve", "日本語", "def f(x):\n    return x"]


def prose(seed: int, words: int = 200) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, words).tolist())


TWO = ["one document", "another one"]


# Reading


def test_stdlib_is_the_source_without_its_tests():
    documents = corpus.read_documents("stdlib")
    root = Path(sysconfig.get_paths()["stdlib"])

    def text_of(name):
        return (root / name).read_text(encoding="utf-8", errors="replace")

    assert text_of("argparse.py") in documents
    assert text_of("json/decoder.py") in documents
    assert text_of("unittest/case.py") in documents  # a module about tests, not a test
    assert all(documents.count(text_of(name)) == 1 for name in ("argparse.py", "json/decoder.py"))
    for left_out in ("test/*.py", "*/test/*.py", "*/tests/*.py", "*/idle_test/*.py", "site-packages/*/*.py"):
        for path in sorted(root.glob(left_out))[:20]:
            text = path.read_text(encoding="utf-8", errors="replace")
            assert len(text) < 200 or text not in documents, path
    assert documents == corpus.read_documents("stdlib")


def write_records(path: Path, key: str = "text") -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.table({"id": [1, 2], key: TWO}), path)
    else:
        lines = "\n".join(json.dumps({"id": i, key: text}) for i, text in enumerate(TWO)) + "\n\n"
        path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_records(tmp_path, name):
    assert corpus.read_documents(str(write_records(tmp_path / name))) == TWO


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_records_of_another_key(tmp_path, name):
    path = write_records(tmp_path / name, key="content")
    with pytest.raises(ValueError, match=r"no .*'text'; found the (key|column)s 'id', 'content'; try renaming"):
        corpus.read_documents(str(path))


def test_folder_reads_every_kind_by_path_and_leaves_out_hidden_and_binary_files(tmp_path):
    for name, content in {
        "b.txt": b"in b",
        "a/z.md": b"in a/z \xff",
        ".hidden": b"no",
        ".git/config": b"no",
        "__pycache__/x.py": b"no",
        "model.bin": b"\0\1no",
        "empty.txt": b" \n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    write_records(tmp_path / "c.jsonl")
    write_records(tmp_path / "d.parquet")
    write_records(tmp_path / "e.JSONL")
    assert corpus.read_documents(str(tmp_path)) == ["in b", *TWO, *TWO, *TWO, "in a/z \ufffd"]


def test_folder_leaves_out_what_is_no_file_and_names_what_is_in_utf_16(tmp_path, caplog):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "c.txt").symlink_to(tmp_path / "c.txt")
    os.mkfifo(tmp_path / "d.txt")
    (tmp_path / "e.txt").write_text("two")
    assert corpus.read_documents(str(tmp_path)) == ["one", "two"]
    assert not caplog.text
    (tmp_path / "f.txt").write_text("three", encoding="utf-16")
    assert corpus.read_documents(str(tmp_path)) == ["one", "two"]
    assert f"must be UTF-8: {tmp_path / 'f.txt'}" in caplog.text
    with pytest.raises(ValueError, match="is no file that can be read twice"):
        corpus.read_documents(str(tmp_path / "d.txt"))


def test_a_file_that_is_a_link_to_nothing_or_in_utf_16_is_called_so(tmp_path):
    (tmp_path / "a.txt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "b.txt").write_text("three", encoding="utf-16")
    for asked in (corpus.read_documents, corpus.check_path_of_text):
        with pytest.raises(ValueError, match=r"it is a link to '.*nowhere', which is not there; try \(stdlib"):
            asked(str(tmp_path / "a.txt"))
    with pytest.raises(ValueError, match=r"b.txt' is UTF-16, and texts must be UTF-8; write it as UTF-8"):
        corpus.read_documents(str(tmp_path / "b.txt"))


def test_a_file_that_may_not_be_read_is_one_error(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("one")

    def locked(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(corpus, "_is_binary", locked)
    with pytest.raises(ValueError, match=r"cannot read '.*' \(.*Permission denied.*a.txt.*\); try another text"):
        corpus.read_documents(str(tmp_path))


def test_half_a_surrogate_pair_is_replaced(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b \\ud83d\\ude00"}\n{"text": "c"}\n')
    assert corpus.read_documents(str(tmp_path / "a.jsonl")) == ["a\ufffdb \U0001f600", "c"]


def test_end_of_text_separates_documents_of_a_text_file(tmp_path):
    (tmp_path / "stories.txt").write_text("one\n<|endoftext|>\ntwo\n<|endoftext|>\n")
    assert corpus.read_documents(str(tmp_path / "stories.txt")) == ["one\n", "\ntwo\n"]


@pytest.mark.parametrize("gap", ["\n\n", "\n \n", "\r\n\r\n", "\n"])
def test_one_book_is_cut_into_pieces_that_lose_nothing(tmp_path, gap):
    book = gap.join(prose(seed, 30 + seed % 7).replace("\n", " ") for seed in range(300))
    (tmp_path / "book.txt").write_bytes(book.encode())
    pieces = corpus.read_documents(str(tmp_path / "book.txt"))
    assert 15 <= len(pieces) <= 20
    assert "".join(pieces) == book.replace("\r\n", "\n")
    assert all(piece.endswith("\n") for piece in pieces[:-1])
    assert max(map(len, pieces)) < 1.2 * len(book) / 20


def test_hub_dataset(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    write_records(folder / "train.jsonl")
    (folder / "test.jsonl").write_text('{"text": "held", "id": 0}\n{"text": "out", "id": 1}\n')
    assert corpus.read_documents(f"hf:{folder}") == TWO
    assert corpus.read_documents(f"hf:{folder}::test") == ["held", "out"]
    assert corpus.read_documents(f"hf:{folder}:default:test") == ["held", "out"]
    with pytest.raises(ValueError, match=r"cannot load 'hf:.*:dev' \(.*dev.*\); try hf:DATASET"):
        corpus.read_documents(f"hf:{folder}::dev")
    with pytest.raises(ValueError, match=r"cannot read 'hf:a:b:c:d'; write hf:"):
        corpus.read_documents("hf:a:b:c:d")


def test_hub_dataset_of_another_column(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write_records(tmp_path / "train.jsonl", key="content")
    with pytest.raises(ValueError, match=r"has no column 'text'; found the columns 'id', 'content'"):
        corpus.read_documents(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b" \n\n", "no text in .*empty.txt.*all that was found is empty"),
        ("weights.bin", b"\0\1\2", "is not text: it holds zero bytes"),
        ("bad.jsonl", b'{"text": "a"}\nnot json\n', "line 2 of .*bad.jsonl.* is not JSON"),
        ("list.jsonl", b"[1]\n", "line 1 of .* no string under the key 'text'; found no keys"),
        ("number.jsonl", b'{"text": 3}\n', "no string under the key 'text'; found the keys 'text'"),
        ("deep.jsonl", b"[" * 100_000, "line 1 of .*deep.jsonl.* nests too deep"),
        ("bad.parquet", b"PAR", "cannot be read as Parquet"),
        (
            "cut.jsonl.gz",
            gzip.compress(b'{"text": "a"}' * 99, mtime=0)[:-9],
            r"cannot read .*cut.jsonl.gz.*try another",
        ),
    ],
)
def test_files_without_text(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        corpus.read_documents(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_a_path_that_is_not_there(tmp_path):
    (tmp_path / "shakespeare.txt").write_text("to be")
    with pytest.raises(ValueError, match=r"no text at .*shakespere.txt'.*did you mean '.*/shakespeare.txt'\?"):
        corpus.read_documents(str(tmp_path / "shakespere.txt"))
    with pytest.raises(ValueError, match=r"did you mean 'stdlib'\?"):
        corpus.read_documents("stdlb")
    with pytest.raises(ValueError, match=r"there is no folder '.*nowhere'; try \(stdlib, a text"):
        corpus.read_documents(str(tmp_path / "nowhere" / "a.txt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no text, .jsonl or .parquet file below the folder"):
        corpus.read_documents(str(tmp_path / "empty"))


# Splitting


def test_split_is_by_document_disjoint_and_complete():
    documents = [f"document {i}" for i in range(50)]
    train, heldout = corpus.split_documents([*documents, *documents[:20]], holdout=0.2)
    assert len(heldout) == 10
    assert not set(train) & set(heldout)
    assert sorted(train + heldout) == sorted(documents)
    assert train == sorted(train, key=documents.index)
    assert corpus.split_documents(documents, 0.2, seed=0) == (train, heldout)
    assert corpus.split_documents(documents, 0.2, seed=1) != (train, heldout)


def test_split_holds_out_at_least_one():
    train, heldout = corpus.split_documents(["a", "b"], holdout=0.01)
    assert (len(train), len(heldout)) == (1, 1)


@pytest.mark.parametrize(
    ("documents", "holdout", "message"),
    [
        (["a"], 0.1, "at least 2 different documents.* has 1"),
        (["a", "a"], 0.1, "at least 2 different documents.* has 1"),
        (["a", "b"], 0.9, "leaves none to train on"),
        (["a", "b"], 0.0, "between 0 and 1, got 0.0"),
        (["a", "b"], 1.0, "between 0 and 1, got 1.0"),
    ],
)
def test_split_refuses(documents, holdout, message):
    with pytest.raises(ValueError, match=message):
        corpus.split_documents(documents, holdout)


# Tokens


@pytest.fixture(scope="module")
def tokenizer():
    return corpus.train_tokenizer([prose(seed) for seed in range(20)], 300)


def test_tokenizer_encodes_and_decodes_any_text(tokenizer):
    assert len(tokenizer) == 300
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == 0
    texts = [prose(99), "\x00\x01 ~ \t\n  Ωé𝔘 no word that was seen", " leading"]
    for text, ids in zip(texts, corpus.encode(tokenizer, texts), strict=True):
        assert ids.dtype == np.int32
        assert ids[0] == 0
        assert 0 not in ids[1:]
        assert tokenizer.decode(ids[1:]) == text
    assert len(corpus.encode(tokenizer, [prose(99)])[0]) < 0.7 * len(prose(99).encode())  # it learnt merges


def test_tokenizer_training_is_deterministic(tokenizer):
    again = corpus.train_tokenizer([prose(seed) for seed in range(20)], 300)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert tokenizer.get_vocab() != corpus.train_tokenizer([prose(50)], 300).get_vocab()


def test_encode_takes_no_notice_of_how_many_there_are(tokenizer):
    texts = [prose(seed, 20) for seed in range(600)]
    together = corpus.encode(tokenizer, texts)
    assert len(together) == 600
    for i in (0, 255, 256, 599):
        np.testing.assert_array_equal(together[i], corpus.encode(tokenizer, [texts[i]])[0])


def test_a_saved_tokenizer_loads_and_agrees(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = corpus.load_tokenizer(str(tmp_path))
    np.testing.assert_array_equal(*(corpus.encode(t, [prose(7)])[0] for t in (tokenizer, loaded)))


def test_truncation_of_a_loaded_tokenizer_does_not_shorten_documents(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = corpus.load_tokenizer(str(tmp_path))
    loaded.backend_tokenizer.enable_truncation(5)
    loaded.backend_tokenizer.enable_padding(length=1000)
    np.testing.assert_array_equal(*(corpus.encode(t, [prose(7)])[0] for t in (tokenizer, loaded)))


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_a_tokenizer_made_up_for_a_model_without_its_files_is_none(kind, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ValueError, match="no tokenizer at .* no tokens but special ones"):
        corpus.load_tokenizer(str(tmp_path))


def test_tokenizers_that_cannot_be(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="at least 257 tokens, got 256"):
        corpus.train_tokenizer(["a"], 256)
    with pytest.raises(ValueError, match=r"no tokenizer at .*; try a folder that holds tokenizer.json") as caught:
        corpus.load_tokenizer(str(tmp_path / "nothing"))
    assert "\n" not in str(caught.value)
    assert "train one" not in str(caught.value), "which only a comparison does"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match=r"no tokenizer at .* \(the folder has no tokenizer's files\); try a folder"):
        corpus.load_tokenizer(str(tmp_path / "model"))
    bare = type(tokenizer)(tokenizer_object=tokenizer.backend_tokenizer)
    with pytest.raises(ValueError, match="neither a bos nor an eos token, nor a cls token"):
        corpus.encode(bare, ["a"])
    bare.add_special_tokens({"cls_token": "[CLS]"})
    assert corpus.encode(bare, ["a"])[0][0] == bare.cls_token_id, "as an encoder's tokenizer has it"


def test_a_tokenizer_that_is_damaged_is_told_from_none(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"no tokenizer at .* \(KeyError: 'added_tokens'\); try a folder"):
        corpus.load_tokenizer(str(tmp_path))
