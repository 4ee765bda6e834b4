"""Labelled pictures, drawn at any size: glyphs of fonts, Fashion-MNIST, or a folder of image files.

A picture is square and stands in a frame of any height and width: it keeps its proportions, has the size of the
frame's shorter side times a scale, is turned, and moved from the middle. What it leaves of the frame is ground. Frames
are drawn at twice their size and then halved, so that edges are smooth. Pixels are float32 from -1 to 1.

glyphs         letters and digits in fonts that come with matplotlib, white on black: outlines, of which a larger size
               shows more
fashion-mnist  the idx files of Debian's package dataset-fashion-mnist, 28 x 28 pixels each
a folder       a folder for each class, which holds its image files; what is transparent in them is white
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np

from whorl.extras import require

if TYPE_CHECKING:
    from PIL.Image import Image

Part = Literal["training", "evaluation", "validation"]
OVER = 2  # frames are drawn so many times larger
EM = 0.85  # of a picture's side, the size of a font: the widest letter and the highest fit in it
LETTERS = "abcdefghijklmnopqrstuvwxyz23456789"  # not 0 and 1, which are o and l in some fonts
FONTS = tuple(
    f"{family}{style}.ttf"
    for family, styles in {
        "DejaVuSans": ("", "-Bold", "-Oblique", "-BoldOblique"),
        "DejaVuSansMono": ("", "-Bold"),
        "DejaVuSerif": ("", "-Bold", "-Italic"),
        "STIXGeneral": ("", "Bol", "Italic"),
    }.items()
    for style in styles
)
FASHION = Path("/usr/share/datasets/fashion-mnist")
CLOTHES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
HELD_OUT = 10  # every tenth file of a class is for the evaluation, and another for validation


class Placed(NamedTuple):
    """Where a picture stands in its frame: its size and by how much it is moved to the right and down, in shares of the
    frame's shorter side, and its turn to the left in degrees."""

    scale: float = 1.0
    right: float = 0.0
    down: float = 0.0
    turn: float = 0.0


class Pictures(ABC):
    """Pictures of some classes. Raises MissingExtraError where Pillow is not installed.

    detail  whether a larger size shows more, and not the same pixels enlarged
    """

    classes: tuple[str, ...]
    detail: ClassVar[bool] = False

    def __init__(self) -> None:
        require("the images task", "images")

    @abstractmethod
    def pick(self, rng: np.random.Generator, label: int, part: Part) -> Any:
        """One of a class's pictures. Those of different parts are different ones, but for glyphs, of which no two are
        placed alike."""

    @abstractmethod
    def at(self, picked: Any, side: int) -> tuple[Image, Any]:
        """A picture with this many pixels along its sides, grey or in colours, and its ground."""

    @abstractmethod
    def content(self) -> bytes:
        """What determines all of them, for a fingerprint."""

    def draw(self, picked: Any, height: int, width: int, placed: Placed) -> np.ndarray:
        """A picture in its frame, float32 [3, height, width]."""
        from PIL import Image

        shorter = OVER * min(height, width)
        picture, ground = self.at(picked, max(1, round(shorter * placed.scale)))
        if placed.turn:
            picture = picture.rotate(placed.turn, Image.Resampling.BICUBIC, fillcolor=ground)
        frame = Image.new(picture.mode, (OVER * width, OVER * height), ground)
        left = (OVER * width - picture.width) / 2 + shorter * placed.right
        top = (OVER * height - picture.height) / 2 + shorter * placed.down
        frame.paste(picture, (round(left), round(top)))
        pixels = np.asarray(frame.reduce(OVER), np.float32) / 127.5 - 1
        return np.broadcast_to(pixels, (3, height, width)) if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


class Glyphs(Pictures):
    """A letter or digit in one of twelve fonts. A picture is (class, font)."""

    classes = tuple(LETTERS)
    detail = True

    def __init__(self) -> None:
        super().__init__()
        import matplotlib

        self.folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
        lacking = [name for name in FONTS if not (self.folder / name).is_file()]
        if lacking:
            raise ValueError(
                f"the glyphs of the images task are drawn in fonts that come with matplotlib, and {self.folder} has no "
                f"{', '.join(lacking)}; try images:data=FOLDER, with a folder of image files for each class"
            )

    def pick(self, rng: np.random.Generator, label: int, part: Part) -> tuple[int, int]:
        return label, int(rng.integers(len(FONTS)))

    def at(self, picked: tuple[int, int], side: int) -> tuple[Image, int]:
        from PIL import Image, ImageDraw

        label, number = picked
        font = _font(str(self.folder / FONTS[number]), EM * side)
        picture = Image.new("L", (side, side))
        left, top, right, bottom = font.getbbox(LETTERS[label])
        corner = ((side - left - right) / 2, (side - top - bottom) / 2)
        ImageDraw.Draw(picture).text(corner, LETTERS[label], fill=255, font=font)
        return picture, 0

    def content(self) -> bytes:
        """All of them at one size: another version of FreeType, or of a font, may draw them otherwise."""
        every = ((label, font) for label in range(len(LETTERS)) for font in range(len(FONTS)))
        return b"".join(np.asarray(self.at(picked, 32)[0]).tobytes() for picked in every)


@lru_cache(maxsize=256)
def _font(path: str, size: float) -> Any:
    from PIL import ImageFont

    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


class Raster(Pictures):
    """Pictures that have pixels of their own, which are resampled. A picture is its number."""

    @abstractmethod
    def numbers(self, label: int, part: Part) -> np.ndarray:
        """Those of a class's pictures."""

    @abstractmethod
    def image(self, number: int) -> Image:
        """Its own pixels, "L" or "RGB"."""

    def pick(self, rng: np.random.Generator, label: int, part: Part) -> int:
        return int(rng.choice(self.numbers(label, part)))

    def at(self, picked: int, side: int) -> tuple[Image, Any]:
        """The whole of it, in its proportions; the ground is the mean of its border."""
        from PIL import Image

        image = self.image(picked)
        width, height = (max(1, round(side * n / max(image.size))) for n in image.size)
        pixels = np.asarray(image)
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).mean(0).round().astype(int)
        ground = int(border) if image.mode == "L" else tuple(border.tolist())
        picture = Image.new(image.mode, (side, side), ground)
        whole = image.resize((width, height), Image.Resampling.BICUBIC)
        picture.paste(whole, ((side - width) // 2, (side - height) // 2))
        return picture, ground


class FashionMnist(Raster):
    """Ten kinds of clothes: a twelfth of the training file (5,000) for validation, the test file for the evaluation.
    Raises ValueError where the files are not there, or not what they should be.

    folder: of the four idx files, as the Debian package installs them.
    """

    classes = CLOTHES

    def __init__(self, folder: Path = FASHION) -> None:
        super().__init__()
        self.folder = folder
        if not folder.is_dir():
            raise ValueError(
                f"there is no {folder}, where Debian's package dataset-fashion-mnist puts Fashion-MNIST; try apt-get "
                "install dataset-fashion-mnist, or images:data=FOLDER, the folder that has its idx .gz files"
            )

    @cached_property
    def files(self) -> tuple[np.ndarray, np.ndarray, int]:
        """All pixels, all labels, and how many of them are for training and validation."""
        pixels = [self._read(f"{part}-images-idx3-ubyte.gz", 3) for part in ("train", "t10k")]
        labels = [self._read(f"{part}-labels-idx1-ubyte.gz", 1) for part in ("train", "t10k")]
        if [len(one) for one in pixels] != [len(one) for one in labels]:
            raise ValueError(f"{self.folder} has other numbers of pictures than of labels")
        return np.concatenate(pixels), np.concatenate(labels), len(labels[0])

    @cached_property
    def _of_classes(self) -> dict[Part, list[np.ndarray]]:
        _, labels, trained = self.files
        held = trained - max(1, trained // 12)
        ranges: dict[Part, tuple[int, int]] = {
            "training": (0, held),
            "validation": (held, trained),
            "evaluation": (trained, len(labels)),
        }
        return {
            part: [first + np.flatnonzero(labels[first:last] == label) for label in range(len(self.classes))]
            for part, (first, last) in ranges.items()
        }

    def numbers(self, label: int, part: Part) -> np.ndarray:
        return self._of_classes[part][label]

    def _read(self, name: str, axes: int) -> np.ndarray:
        """The bytes of an idx file: two zeros, 8 (for bytes), the number of axes, their sizes big-endian, the data."""
        path, start = self.folder / name, 4 + 4 * axes
        try:
            data = gzip.decompress(path.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"cannot read {path}: {error}") from error
        sizes = np.frombuffer(data[4:start], ">u4") if len(data) >= start else np.zeros(1)
        if data[:4] != bytes((0, 0, 8, axes)) or len(data) - start != sizes.prod():
            raise ValueError(f"{path} is no idx file of bytes with {axes} axes")
        return np.frombuffer(data, np.uint8, offset=start).reshape(sizes)

    def image(self, number: int) -> Image:
        from PIL import Image

        return Image.fromarray(self.files[0][number])

    def content(self) -> bytes:
        return b"".join(one.tobytes() for one in self.files[:2])


class Folder(Raster):
    """Image files in a folder for each class, of which every tenth is for the evaluation, and another for validation.
    Raises ValueError where there are fewer than two classes, or fewer than three files in one."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        if not folder.is_dir():
            raise ValueError(
                f"{folder} is no folder of images; give glyphs, fashion-mnist, or a folder that has one of image files "
                "for each class (after images:data=, one whose path has no spaces and no commas)"
            )
        files = {
            place.name: sorted(file for file in place.iterdir() if file.suffix.lower() in ENDINGS)
            for place in sorted(folder.iterdir())
            if place.is_dir() and not place.name.startswith(".")
        }
        few = [name for name, some in files.items() if len(some) < 3]
        if len(files) < 2 or few:
            lacks = f"{few[0]} has {len(files[few[0]])}" if few else f"it has {' and '.join(files) or 'none'}"
            raise ValueError(
                f"{folder} needs a folder for each of two classes or more, with three image files or more in each "
                f"({', '.join(ENDINGS)}); {lacks}"
            )
        self.folder, self.classes = folder, tuple(files)
        self.files = [file for some in files.values() for file in some]
        self.ends = np.cumsum([0, *map(len, files.values())])

    def numbers(self, label: int, part: Part) -> np.ndarray:
        every = np.arange(self.ends[label], self.ends[label + 1])
        rest = np.arange(len(every)) % HELD_OUT
        return every[{"evaluation": rest == 0, "validation": rest == 1, "training": rest > 1}[part]]

    def image(self, number: int) -> Image:
        """As a viewer shows it: turned as its EXIF says, and what is transparent on white."""
        from PIL import Image, ImageOps

        with self._opened(self.files[number]) as image:
            turned = ImageOps.exif_transpose(image)
            if not turned.has_transparency_data:
                return turned.convert("RGB")
            shown = turned.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown).convert("RGB")

    def content(self) -> bytes:
        """Every file is opened for it, so that one that is no image is named before anything is trained. (The end of
        some kinds, as JPEG, is seen when it is drawn.)"""
        digest = hashlib.sha256()
        for file in self.files:
            with self._opened(file) as image:
                image.verify()
            digest.update(f"{file.relative_to(self.folder)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
        return digest.digest()

    @contextmanager
    def _opened(self, file: Path) -> Iterator[Image]:
        from PIL import Image

        try:
            with Image.open(file) as image:
                if image.mode in ("I", "F") or image.mode.startswith("I;"):
                    raise ValueError("it has more than 8 bits for each pixel's grey; convert it to 8")
                yield image
        except (OSError, ValueError, SyntaxError, EOFError, zlib.error, Image.DecompressionBombError) as error:
            raise ValueError(f"cannot read the image {file}: {error}") from error


def pictures(data: str) -> Pictures:
    """Those that `images:data=` names. Raises ValueError where there are none."""
    if not data.strip():
        raise ValueError(f"{data!r} names no images; give glyphs, fashion-mnist, or a folder of image files")
    if data == "glyphs":
        return Glyphs()
    if data == "fashion-mnist":
        return FashionMnist()
    folder = Path(data)
    return FashionMnist(folder) if any(folder.glob("t10k-images-idx3-ubyte*")) else Folder(folder)
