"""Headers of GGUF files, against the gguf package's reader, and what is no such file."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from whorl.gguf_files.header import gguf_at, read_header

gguf = pytest.importorskip("gguf", reason="the gguf package is an optional extra of whorl")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Every type of value, and tensors of two shapes."""
    writer = gguf.GGUFWriter(tmp_path / "some.gguf", "llama")
    for kind in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"):
        getattr(writer, f"add_{kind}")(f"a.{kind}", 100)
    writer.add_float32("a.float32", 0.5)
    writer.add_float64("a.float64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.text", "naïve ▁")
    writer.add_array("a.texts", ["one", "", "▁two"])
    writer.add_array("a.numbers", [1.5, 2.5])
    writer.add_array("a.truths", [True, False])
    import numpy as np

    writer.add_tensor("wide", np.arange(12, dtype=np.float32).reshape(3, 4))
    writer.add_tensor("flat", np.arange(5, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tmp_path / "some.gguf"


def test_a_header_is_what_the_gguf_package_reads(path: Path) -> None:
    header, reader = read_header(path), gguf.GGUFReader(path)
    theirs = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert header.said == theirs
    assert {name: (stored.shape, stored.kind, stored.at) for name, stored in header.tensors.items()} == {
        t.name: (tuple(reversed(t.shape.tolist())), int(t.tensor_type), t.data_offset) for t in reader.tensors
    }
    assert header.tensors["wide"].shape == (3, 4)


def test_every_place_where_a_file_may_end_is_said(path: Path) -> None:
    whole, short = path.read_bytes(), path.with_name("short.gguf")
    header = read_header(path)
    for size in range(4, header.tensors["wide"].at - 40, 7):
        short.write_bytes(whole[:size])
        where = r"\((\d+ bytes more|a text of \d+ bytes) at byte \d+( of \d+)?\)$"
        said = rf"cannot read .*short\.gguf: its header ends early or is damaged {where}"
        with pytest.raises(ValueError, match=said):
            read_header(short)


def test_a_file_that_ends_before_a_tensor_begins_is_refused_at_once(path: Path) -> None:
    whole, short = path.read_bytes(), path.with_name("short.gguf")
    last = max(read_header(path).tensors.values(), key=lambda stored: stored.at)
    short.write_bytes(whole[: last.at - 1])
    with pytest.raises(ValueError, match=r"short\.gguf ends before \w+ does: it is not whole"):
        read_header(short)


def test_what_is_no_gguf_is_said(path: Path) -> None:
    whole = path.read_bytes()
    other = path.with_name("other.gguf")
    for content, words in (
        (b"", "cannot read .*: it is empty"),
        (b"lmgg" + whole[4:], "does not begin with the letters GGUF"),
        (whole[:4] + struct.pack(">I", 3) + whole[8:], "little-endian files of version 2 and 3 are read"),
        (whole[:4] + struct.pack("<I", 1) + whole[8:], "GGUF version 1"),
        (whole.replace(b"general.architecture", b"general.architectuxe"), "does not say general.architecture"),
    ):
        other.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            read_header(other)


def test_one_part_of_several_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "part.gguf", "llama")
    writer.add_uint16("split.count", 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match=r"is one of 3 parts; join them with llama-gguf-split --merge"):
        read_header(tmp_path / "part.gguf")


def test_a_name_means_a_file_or_the_one_in_a_folder(path: Path) -> None:
    folder = path.parent
    assert gguf_at(path) == gguf_at(str(path)) == gguf_at(folder) == path
    bare = folder / "bare"  # by what it begins with
    bare.write_bytes(path.read_bytes())
    assert gguf_at(bare) == bare
    with pytest.raises(ValueError, match="there is no file .*absent.gguf"):
        gguf_at(folder / "absent.gguf")
    assert gguf_at("some/name") is None
    (folder / "notes.txt").write_text("no model")
    assert gguf_at(folder / "notes.txt") is None
    second = folder / "second.GGUF"
    second.write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"holds 2 GGUF files: name one, .*\.(gguf|GGUF) or .*\.(gguf|GGUF)$"):
        gguf_at(folder)
    (folder / "config.json").write_text("{}")
    assert gguf_at(folder) is None, "a folder with another model is that model's"
