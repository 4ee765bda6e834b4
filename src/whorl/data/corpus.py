"""Text, for every command: read it, split it by document, train or load a tokenizer, turn it into token ids.

Everything here is deterministic: the same source and settings give the same ids, on every machine.
"""

from __future__ import annotations

import codecs
import difflib
import gzip
import hashlib
import io
import json
import logging
import os
import re
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from whorl.checking import check_path, few
from whorl.extras import require
from whorl.gguf_files.header import gguf_at
from whorl.gguf_files.tokenizers import tokenizer_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

log = logging.getLogger(__name__)

END_OF_TEXT = "<|endoftext|>"
SOURCES = "stdlib, a text, .jsonl or .parquet file, a folder, or hf:DATASET"
NOT_TEXT_FOLDERS = {"__pycache__", "node_modules"}
NOT_STDLIB = NOT_TEXT_FOLDERS | {"test", "tests", "idle_test", "site-packages", "dist-packages"}
PIECES = 20  # that a source of one document is cut into: enough to hold some out, few enough to stay long
TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "*.tiktoken", "tekken.json")
HALF_A_PAIR = re.compile("[\ud800-\udfff]")
BYTES = 256  # the alphabet of a byte-level tokenizer


def read_documents(source: str) -> list[str]:
    """The documents of a source, in a fixed order, without empty ones.

    - `stdlib`: the running interpreter's standard library, one document per *.py file, tests left out.
    - a `.jsonl` or `.jsonl.gz` file: one document per line, under the key "text".
    - a `.parquet` file: one document per row, from the column "text".
    - any other file: text. `<|endoftext|>`, where it occurs, ends a document.
    - a folder: all files below it, by path. Hidden and binary files are left out, and what is no file (a link to
      nothing, a pipe); links to folders are not followed. UTF-16 is binary here, and a warning names such files.
    - `hf:DATASET[:CONFIG][:SPLIT]`: a dataset for `datasets.load_dataset`, from the column "text"; the split is
      `train` unless given, and `hf:DATASET::SPLIT` names a split of the default config.

    A source of one document (a book) is cut at blank lines, or else at line ends, into about twenty pieces, which
    are then its documents, so that a part can be held out. Bytes that are not UTF-8 become U+FFFD.
    Raises ValueError for a source that is not there, is of another form, or is empty.
    """
    source = check_path("text", source, SOURCES)
    try:
        if source == "stdlib":
            found = _read_stdlib()
        elif source.startswith("hf:"):
            found = _read_hub(source)
        else:
            found = _read_path(source)
        documents = [text for text in found if text.strip()]
    except (OSError, EOFError) as error:  # no permission, or an archive that ends early
        raise ValueError(f"cannot read {source!r} ({_first_line(error)}); try another text ({SOURCES})") from error
    if not documents:
        raise ValueError(f"no text in {source!r}: all that was found is empty; try another text ({SOURCES})")
    return documents if len(documents) > 1 else _cut(documents[0])


def digest(documents: Iterable[str]) -> str:
    """sha256, hex, of documents in their order: whether a text is still the one that a model was trained on."""
    found = hashlib.sha256()
    for text in documents:
        encoded = text.encode("utf-8", "surrogatepass")
        found.update(len(encoded).to_bytes(8, "little") + encoded)
    return found.hexdigest()


def split_documents(documents: Sequence[str], holdout: float = 0.1, seed: int = 0) -> tuple[list[str], list[str]]:
    """(train, heldout): a random `holdout` of the documents, at least one, is kept from training.

    Documents are split, not windows, so nothing held out continues a text that was trained on; and the same text
    found twice counts once. Both parts keep the order of `documents`.
    Raises ValueError where fewer than two different documents are there, or `holdout` leaves nothing to train on.
    """
    if not 0 < holdout < 1:
        raise ValueError(f"the held-out part must lie between 0 and 1, got {holdout}; try 0.1")
    distinct = list(dict.fromkeys(documents))
    if len(distinct) < 2:
        raise ValueError(
            f"a text needs at least 2 different documents, to train on and to hold out, and has {len(distinct)}; "
            "try a longer text, or a folder of several"
        )
    held = max(1, round(holdout * len(distinct)))
    if held == len(distinct):
        raise ValueError(f"holding out {holdout} of {len(distinct)} documents leaves none to train on; try 0.1")
    chosen = set(np.random.default_rng(seed).permutation(len(distinct))[:held].tolist())
    train = [text for i, text in enumerate(distinct) if i not in chosen]
    return train, [distinct[i] for i in sorted(chosen)]


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `vocab_size` tokens: it can encode any text, and decodes it exactly.

    Id 0 is `<|endoftext|>`, the first token of every document. A text too short for `vocab_size` merges gives fewer
    tokens. Raises ValueError for a `vocab_size` that does not hold the 256 bytes and the special token.
    """
    if vocab_size <= BYTES:
        raise ValueError(f"a byte-level tokenizer needs at least {BYTES + 1} tokens, got {vocab_size}; try 1024")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(
    path_or_name: str, advice: str = "try a folder that holds tokenizer.json, or a Hugging Face name"
) -> PreTrainedTokenizerBase:
    """A tokenizer from a folder, a GGUF file or the Hub. Code that comes with it is never run.

    Raises ValueError without one, with advice: what the caller would have the person do.
    """
    from transformers import AutoTokenizer

    if (file := gguf_at(path_or_name)) is not None:
        return tokenizer_of(file)
    try:
        found = AutoTokenizer.from_pretrained(path_or_name, trust_remote_code=False)
    except Exception as error:  # whatever it is, the person can only name another tokenizer
        folder = Path(path_or_name)
        lacks = folder.is_dir() and not any(any(folder.glob(name)) for name in TOKENIZER_FILES)
        why = "the folder has no tokenizer's files" if lacks else _first_line(error)
        raise ValueError(f"no tokenizer at {path_or_name!r} ({why}); {advice}") from error
    if set(found.get_vocab().values()) <= set(found.all_special_ids):  # made up for a GPT-2 or BERT without its files
        raise ValueError(f"no tokenizer at {path_or_name!r} (it has no tokens but special ones); {advice}")
    return found


def encode(tokenizer: PreTrainedTokenizerBase, documents: Iterable[str]) -> list[np.ndarray]:
    """The token ids of each document, int32 [tokens], each preceded by `bos_id(tokenizer)`."""
    bos = bos_id(tokenizer)
    return [
        np.array([bos, *ids], dtype=np.int32)
        for chunk in _chunks(documents, 256)  # bounds what is held as Python lists
        for ids in _encode_batch(tokenizer, chunk)
    ]


def bos_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that begins a document: bos, or else eos, or else an encoder's cls. ValueError without."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.cls_token_id):
        if token is not None:
            return int(token)
    raise ValueError(
        f"the tokenizer {tokenizer.name_or_path!r} has neither a bos nor an eos token, nor a cls token, to begin a "
        "document with; set its eos_token and save it, or try another"
    )


def _read_stdlib() -> Iterator[str]:
    root = Path(sysconfig.get_paths()["stdlib"])
    return (_read_text(path) for path in _files_below(root, NOT_STDLIB) if path.suffix == ".py")


def _read_path(source: str) -> Iterator[str]:
    path = _path_of(source)
    if path.is_dir():
        files: list[Path] = []
        left_out: list[Path] = []
        for file in _files_below(path, NOT_TEXT_FOLDERS):
            (files if _is_records(file) or not _is_binary(file) else left_out).append(file)
        if wide := [str(file) for file in left_out if _is_utf16(file)]:
            log.warning("left out of %s, since they are UTF-16 and texts must be UTF-8: %s", source, few(wide))
        if not files:
            raise ValueError(f"no text, .jsonl or .parquet file below the folder {source!r}; try another folder")
        return (text for file in files for text in _read_file(file))
    if path.is_file():
        if not _is_records(path) and _is_binary(path):
            if _is_utf16(path):
                raise ValueError(f"{source!r} is UTF-16, and texts must be UTF-8; write it as UTF-8 (iconv -f utf-16)")
            raise ValueError(f"{source!r} is not text: it holds zero bytes; try a text, .jsonl or .parquet file")
        return _read_file(path)
    if path.exists():
        raise ValueError(f"{source!r} is no file that can be read twice, as texts are; write it to one and give that")
    raise _no_text(source, path)


def check_path_of_text(source: str) -> None:
    """Raises ValueError for a source that should be a path, and where there is nothing. Nothing is read."""
    source = check_path("text", source, SOURCES)
    if source != "stdlib" and not source.startswith("hf:") and not (path := _path_of(source)).exists():
        raise _no_text(source, path)


def _path_of(source: str) -> Path:
    if "\n" in source or len(source.encode()) > 4096:  # the longest path that Linux has
        raise ValueError(
            f"a text is named by its path, and this is {len(source):,} characters of text itself ({source[:30]!r}...); "
            "write it to a file and give that"
        )
    return Path(source).expanduser()


def _no_text(source: str, path: Path) -> ValueError:
    return ValueError(f"no text at {source!r}: {_what_is_there(path)} ({SOURCES})")


def _what_is_there(path: Path) -> str:
    if path.is_symlink():
        return f"it is a link to {os.readlink(path)!r}, which is not there; try"
    parent = path.parent
    if not parent.is_dir():
        return f"there is no folder {str(parent)!r}; try"
    names = {path.name: str(parent / path.name) for path in parent.iterdir()} | {"stdlib": "stdlib"}
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {names[close[0]]!r}?" if close else "nothing there has such a name; try"


def _files_below(root: Path, left_out: set[str]) -> Iterator[Path]:
    """Files below `root` by path, without hidden ones and folders whose name is `left_out`."""
    for folder, names, files in os.walk(root):
        names[:] = sorted(n for n in names if n not in left_out and not n.startswith("."))
        found = (Path(folder, f) for f in sorted(files) if not f.startswith("."))
        yield from (path for path in found if path.is_file())  # no link to nothing, and no pipe


def _is_records(path: Path) -> bool:
    return path.name.lower().endswith((".jsonl", ".jsonl.gz", ".parquet"))


def _is_binary(path: Path) -> bool:
    with path.open("rb") as file:
        return b"\0" in file.read(8192)


def _is_utf16(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def _read_file(path: Path) -> Iterator[str]:
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    if _is_records(path):
        return _read_jsonl(path)
    return iter(_read_text(path).split(END_OF_TEXT))


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _read_jsonl(path: Path) -> Iterator[str]:
    raw = gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # noqa: SIM115 (closed with `file`)
    with io.TextIOWrapper(raw, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"line {number} of {str(path)!r}"
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{where} is not JSON ({error.msg}); try one record per line") from error
            except RecursionError as error:
                raise ValueError(f"{where} nests too deep to be read; try one record per line") from error
            keys = list(record) if isinstance(record, dict) else []
            if not (keys and isinstance(record.get("text"), str)):
                raise ValueError(f"{where} has no string under the key 'text'; {_found('key', keys)}")
            yield _in_unicode(record["text"])


def _in_unicode(text: str) -> str:
    """The same text, with U+FFFD in place of half a surrogate pair, which JSON can write and UTF-8 cannot."""
    if HALF_A_PAIR.search(text) is None:
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _read_parquet(path: Path) -> Iterator[str]:
    require(repr(str(path)), "hub")
    import pyarrow.parquet
    from pyarrow import ArrowException

    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as Parquet ({_first_line(error)}); try another file") from error
    with file:
        if "text" not in file.schema_arrow.names:
            raise ValueError(f"{str(path)!r} has no column 'text'; {_found('column', file.schema_arrow.names)}")
        for batch in file.iter_batches(columns=["text"]):
            yield from _strings(batch.column("text").to_pylist(), str(path))


def _read_hub(source: str) -> Iterator[str]:
    name, *rest = source.removeprefix("hf:").split(":")
    if not name or len(rest) > 2:
        raise ValueError(
            f"cannot read {source!r}; write hf:DATASET[:CONFIG][:SPLIT], as in hf:wikitext:wikitext-2-v1:test"
        )
    config, split, *_ = [*rest, "", ""]
    require(repr(source), "hub")
    import datasets

    try:
        data: Any = datasets.load_dataset(name, name=config or None, split=split or "train")
    except Exception as error:  # a Hub, a network, a cache or a file format: any of them can fail in its own way
        raise ValueError(f"cannot load {source!r} ({_first_line(error)}); try hf:DATASET[:CONFIG][:SPLIT]") from error
    if "text" not in data.column_names:
        raise ValueError(f"{source!r} has no column 'text'; {_found('column', data.column_names)}")
    return _strings(data["text"], source)


def _strings(values: Iterable[Any], where: str) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield value
        elif value is not None:
            raise ValueError(f"the column 'text' of {where!r} holds {type(value).__name__}; it must hold strings")


def _found(kind: str, names: Sequence[str]) -> str:
    if not names:
        return f"found no {kind}s; the text must stand in 'text'"
    return f"found the {kind}s {', '.join(map(repr, islice(names, 8)))}; try renaming one of them to 'text'"


def _cut(text: str) -> list[str]:
    """One text in about `PIECES` pieces that end at blank lines, or at line ends where there are too few of those."""
    size = len(text) / PIECES
    for end in (r"\n[ \t\r]*\n", r"\n"):
        pieces: list[str] = []
        start = 0
        for match in re.finditer(end, text):
            if match.end() - start >= size:
                pieces.append(text[start : match.end()])
                start = match.end()
        pieces.append(text[start:])
        pieces = [piece for piece in pieces if piece.strip()]
        if len(pieces) >= PIECES / 2:
            break
    return pieces


def _encode_batch(tokenizer: PreTrainedTokenizerBase, documents: list[str]) -> Iterable[list[int]]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer(documents, add_special_tokens=False, verbose=False)["input_ids"]
    backend.no_truncation()
    backend.no_padding()
    # Without offsets, which nobody reads here: a third of the time of tokenizer(documents).
    return (encoding.ids for encoding in backend.encode_batch_fast(documents, add_special_tokens=False))


def _chunks(documents: Iterable[str], size: int) -> Iterator[list[str]]:
    remaining = iter(documents)
    while chunk := list(islice(remaining, size)):
        yield chunk


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
    return kind + lines[0].rstrip(".;:")
