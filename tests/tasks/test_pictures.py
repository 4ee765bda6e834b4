"""Labelled pictures: glyphs, idx files and folders of image files, drawn in frames of any size."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from whorl.tasks import pictures as module
from whorl.tasks.pictures import FONTS, LETTERS, FashionMnist, Folder, Glyphs, Placed, pictures


@pytest.fixture(scope="module")
def glyphs() -> Glyphs:
    return Glyphs()


def middle(image: np.ndarray) -> np.ndarray:
    """The mean place of what is white, row and column, in pixels from the middle of the frame."""
    ink = (image[0] + 1) / 2
    places = [np.arange(n) - (n - 1) / 2 for n in ink.shape]
    return np.array([(ink.sum(1) * places[0]).sum(), (ink.sum(0) * places[1]).sum()]) / ink.sum()


@pytest.mark.parametrize("label", range(len(LETTERS)), ids=list(LETTERS))
def test_every_glyph_is_drawn_in_every_font_and_fits(glyphs: Glyphs, label: int) -> None:
    drawn = [glyphs.draw((label, font), 64, 64, Placed()) for font in range(len(FONTS))]
    for image in drawn:
        assert image.shape == (3, 64, 64)
        assert image.dtype == np.float32
        assert -1 == image.min() < image.max() == 1
        edge = np.concatenate([image[0, 0], image[0, -1], image[0, :, 0], image[0, :, -1]])
        assert edge.max() == -1, "no stroke is cut off"
    assert len({image.tobytes() for image in drawn}) == len(FONTS)


def test_the_letters_are_told_apart_by_their_shapes(glyphs: Glyphs) -> None:
    """A check of the data without a model: the nearest upright glyph of its size, by correlation over some shifts, is
    mostly of the true class, which guessing finds once in 34 times."""
    rng, side, wrong = np.random.default_rng(0), 32, 0
    shifts = [(y, x) for y in range(-2, 3) for x in range(-2, 3)]
    every = [(label, font) for label in range(len(LETTERS)) for font in range(len(FONTS))]
    known = np.stack([glyphs.draw(one, side, side, Placed(0.85))[0] for one in every]).reshape(len(every), -1)
    known = (known - known.mean(1, keepdims=True)) / known.std(1, keepdims=True)
    for i in range(102):
        placed = Placed(rng.uniform(0.75, 0.95), *rng.uniform(-0.05, 0.05, 2), rng.uniform(-12, 12))
        image = glyphs.draw((i % 34, int(rng.integers(len(FONTS)))), side, side, placed)[0]
        moved = np.stack([np.roll(image, shift, (0, 1)).ravel() for shift in shifts])
        nearest = (known @ moved.T).max(1).argmax()
        wrong += every[nearest][0] != i % 34
    assert wrong < 30, f"{wrong} of 102"


def test_a_larger_glyph_shows_more(glyphs: Glyphs) -> None:
    """Its edges are as sharp as those of a small one, and not a small one enlarged."""
    small, large = (glyphs.draw((0, 0), side, side, Placed())[0] for side in (32, 128))
    enlarged = np.asarray(Image.fromarray(small).resize((128, 128), Image.Resampling.BICUBIC))
    steepest = [np.abs(np.diff(image)).max() for image in (small, large, enlarged)]
    assert steepest[1] > 0.9 * steepest[0]
    assert steepest[2] < 0.5 * steepest[0]
    halved = large.reshape(32, 4, 32, 4).mean((1, 3))
    assert np.corrcoef(halved.ravel(), small.ravel())[0, 1] > 0.95, "and it is the same picture, to half a pixel"


def test_a_picture_stands_where_it_is_placed(glyphs: Glyphs) -> None:
    plain = glyphs.draw((14, 0), 64, 64, Placed(0.5))  # an o
    np.testing.assert_allclose(middle(plain), 0, atol=0.6)
    moved = glyphs.draw((14, 0), 64, 64, Placed(0.5, right=0.25, down=-0.125))
    np.testing.assert_allclose(middle(moved) - middle(plain), (-8, 16), atol=1e-4)
    ell = LETTERS.index("l")
    lying = glyphs.draw((ell, 0), 64, 64, Placed(turn=90.0))
    np.testing.assert_allclose(lying[0], np.rot90(glyphs.draw((ell, 0), 64, 64, Placed())[0]), atol=0.6)
    assert (lying[0] > 0).any(0).sum() > 3 * (lying[0] > 0).any(1).sum()


def test_a_wide_frame_leaves_a_picture_its_proportions(glyphs: Glyphs) -> None:
    square, wide, high = (glyphs.draw((0, 0), *shape, Placed())[0] for shape in ((36, 36), (36, 64), (64, 36)))
    assert np.array_equal(wide[:, 14:-14], square)
    assert np.array_equal(high[14:-14], square)
    assert wide[:, :14].max() == wide[:, -14:].max() == -1


def save_fashion(folder: Path, pictures_: int = 36) -> np.ndarray:
    """Small idx files of pictures whose pixels are their number, and whose classes go round."""
    folder.mkdir()
    numbers = np.arange(pictures_, dtype=np.uint8)
    for part, of in (("train", numbers[:24]), ("t10k", numbers[24:])):
        images = np.broadcast_to(of[:, None, None], (len(of), 28, 28))
        for name, array in (("images-idx3", images), ("labels-idx1", of % 10)):
            head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
            (folder / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    return numbers


def test_idx_files_are_read_and_their_test_file_is_held_out(tmp_path: Path) -> None:
    save_fashion(tmp_path / "fashion")
    read = pictures(str(tmp_path / "fashion"))
    assert isinstance(read, FashionMnist)
    assert len(read.classes) == 10
    rng = np.random.default_rng(0)
    assert {read.pick(rng, 3, "training") for _ in range(40)} == {3, 13}
    assert {read.pick(rng, 3, "validation") for _ in range(9)} == {23}
    assert {read.pick(rng, 5, "evaluation") for _ in range(40)} == {25, 35}
    assert read.draw(25, 28, 28, Placed()).round(4).min() == pytest.approx(25 / 127.5 - 1, abs=1e-4)


def test_idx_files_that_are_none_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_fashion(tmp_path / "fashion")
    labels = tmp_path / "fashion" / "train-labels-idx1-ubyte.gz"
    for content, message in ((b"no gzip", "cannot read"), (gzip.compress(b"\0\0\x08\x01\0\0\0\x09"), "is no idx file")):
        labels.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            pictures(str(tmp_path / "fashion")).content()
    monkeypatch.setattr(FashionMnist.__init__, "__defaults__", (tmp_path / "none",))
    with pytest.raises(ValueError, match="apt-get install dataset-fashion-mnist"):
        pictures("fashion-mnist")


@pytest.mark.skipif(not module.FASHION.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_debian_package_is_read() -> None:
    read = FashionMnist()
    assert [len(read.numbers(label, "evaluation")) for label in range(10)] == [1000] * 10
    assert sum(len(read.numbers(label, "validation")) for label in range(10)) == 5000


def photos(folder: Path, each: int = 12) -> Path:
    for name, colour in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            Image.new("RGB", (40, 20 + i), colour).save(folder / name / f"{i:02}.png")
    (folder / "notes.txt").write_text("no class")
    return folder


def test_a_folder_has_a_class_for_each_folder_of_images(tmp_path: Path) -> None:
    found = pictures(str(photos(tmp_path / "photos")))
    assert isinstance(found, Folder)
    assert found.classes == ("blue", "red")
    parts = {part: found.numbers(1, part).tolist() for part in ("training", "validation", "evaluation")}
    assert parts == {"evaluation": [12, 22], "validation": [13, 23], "training": [14, 15, 16, 17, 18, 19, 20, 21]}
    image = found.draw(12, 8, 16, Placed())
    assert image.shape == (3, 8, 16)
    np.testing.assert_allclose(image[0], 1, err_msg="the ground is the colour of the border")
    np.testing.assert_allclose(image[2], -1)
    before = found.content()
    Image.new("RGB", (40, 20), (254, 0, 0)).save(tmp_path / "photos" / "red" / "00.png")
    assert Folder(tmp_path / "photos").content() != before


def test_folders_without_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no folder of images; give glyphs, fashion-mnist, or a folder"):
        pictures(str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"two classes or more.*; it has none$"):
        pictures(str(tmp_path))
    (tmp_path / "one" / "only").mkdir(parents=True)
    Image.new("L", (4, 4)).save(tmp_path / "one" / "only" / "0.png")
    with pytest.raises(ValueError, match=r"two classes or more.*; only has 1$"):
        pictures(str(tmp_path / "one"))
    for n in (1, 2):
        Image.new("L", (4, 4)).save(tmp_path / "one" / "only" / f"{n}.png")
    with pytest.raises(ValueError, match=r"two classes or more.*; it has only$"):
        pictures(str(tmp_path / "one"))
    with pytest.raises(ValueError, match="' ' names no images; give glyphs"):
        pictures(" ")
    (photos(tmp_path / "photos", each=4) / "blue" / "00.png").unlink()
    (tmp_path / "photos" / "blue" / "01.png").unlink()
    with pytest.raises(ValueError, match="three image files or more in each.*; blue has 2"):
        pictures(str(tmp_path / "photos"))
    broken = photos(tmp_path / "broken") / "red" / "00.png"
    broken.write_bytes(b"no image")
    with pytest.raises(ValueError, match=f"cannot read the image {broken}"):
        pictures(str(tmp_path / "broken")).draw(12, 8, 8, Placed())


def test_a_class_without_images_is_named_and_what_is_hidden_is_no_class(tmp_path: Path) -> None:
    photos(tmp_path)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    assert pictures(str(tmp_path)).classes == ("blue", "red")
    (tmp_path / "green").mkdir()
    with pytest.raises(ValueError, match=r"three image files or more in each.*; green has 0$"):
        pictures(str(tmp_path))


def test_a_file_that_is_no_image_is_named_before_any_is_drawn(tmp_path: Path) -> None:
    found = pictures(str(photos(tmp_path)))
    assert found.content()
    file = tmp_path / "red" / "07.png"
    for content in (b"no image", b"", file.read_bytes()[:-20]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=f"cannot read the image {file}"):
            found.content()


def drawn(folder: Path, number: int, height: int, width: int) -> np.ndarray:
    return pictures(str(folder)).draw(number, height, width, Placed())


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode: str, tmp_path: Path) -> None:
    """Black ink on nothing: its colours alone are black everywhere."""
    photos(tmp_path)
    ink = Image.new("LA", (40, 40), (0, 0))
    ink.paste((0, 255), (0, 0, 40, 20))
    file = tmp_path / "red" / "00.png"
    if mode == "P":
        numbered = Image.new("P", (40, 40), 1)
        numbered.putpalette([0, 0, 0, 0, 0, 0])
        numbered.paste(0, (0, 0, 40, 20))
        numbered.save(file, transparency=1)
    else:
        ink.convert(mode).save(file)
    image = drawn(tmp_path, 12, 8, 8)
    np.testing.assert_allclose(image[:, :3], -1, atol=0.02)
    np.testing.assert_allclose(image[:, 5:], 1, atol=0.02)


def test_a_photo_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    photos(tmp_path)
    lying = Image.new("RGB", (40, 20), (255, 255, 255))
    lying.paste((0, 0, 0), (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned to the right
    (tmp_path / "red" / "00.png").unlink()
    lying.save(tmp_path / "red" / "00.jpg", exif=exif, quality=100, subsampling=0)
    image = drawn(tmp_path, 12, 16, 16)[0, :, 8]
    assert image[2] < -0.9, "its left is above"
    assert image[13] > 0.9


def huge() -> bytes:
    """The head of a PNG of 10 billion pixels."""
    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("00.png", huge(), "exceeds limit"),
        ("00.ppm", b"P6\nzz 4\n255\n" + bytes(48), "invalid literal"),
    ],
    ids=["huge", "letters"],
)
def test_files_that_are_broken_otherwise_are_named(name: str, content: bytes, why: str, tmp_path: Path) -> None:
    (photos(tmp_path) / "red" / "00.png").unlink()
    (tmp_path / "red" / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"cannot read the image {tmp_path / 'red' / name}: .*{why}"):
        pictures(str(tmp_path)).draw(12, 8, 8, Placed())


@pytest.mark.parametrize(("name", "pixels"), [("00.png", np.uint16), ("00.tiff", np.int32), ("00.tiff", np.float32)])
def test_more_than_eight_bits_are_refused(name: str, pixels: type, tmp_path: Path) -> None:
    """Pillow clips them at 255 on the way to colours, so that nearly all of such an image would be white."""
    (photos(tmp_path) / "red" / "00.png").unlink()
    grey = np.linspace(0, 65535, 48).astype(pixels).reshape(6, 8)
    Image.fromarray(grey).save(tmp_path / "red" / name)
    with pytest.raises(ValueError, match="more than 8 bits for each pixel's grey; convert it to 8"):
        pictures(str(tmp_path)).draw(12, 8, 8, Placed())


def test_without_pillow_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.require.__globals__["EXTRAS"], "images", ("one_that_is_not_there",))
    with pytest.raises(
        ImportError, match=r"the images task needs one_that_is_not_there.*pip install 'whorl\[images\]'"
    ):
        pictures("glyphs")
