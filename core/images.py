"""Decode image files to uint8 arrays (one, a data set, or a stream); write masks as PNG.

Torch is imported only where it is needed, so that files can be decoded during its import.
"""

from __future__ import annotations

import contextlib
import glob
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Generator, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from PIL import Image

from core.cli import InputError
from core.files import list_files, natural
from core.progress import counted
from core.threads import InOrder, Room

if TYPE_CHECKING:
    import torch

# Warnings about odd files that Pillow decodes anyway.
warnings.filterwarnings("ignore", module="PIL")
SUFFIXES = (".png", ".jpg", ".jpeg")
FORMATS = ("PNG", "JPEG")  # whatever the suffix; Pillow would also run PostScript programs
MAX_PIXELS = 2**28  # per image: 16,384 x 16,384, which is 1 GiB in Pillow
AT_ONCE = 2**20  # pixels converted at a time
Image.MAX_IMAGE_PIXELS = None  # MAX_PIXELS is checked instead


class BadImage(Exception):
    """A file cannot be read as an image; the message names it and says why."""


_pixels_at_once = Room(2**26)  # 256 MiB in Pillow


def read_rgb(path: Path) -> np.ndarray:
    """Decode an image file of any colour mode to RGB: (H, W, 3) uint8. Raises BadImage.

    Grey, palette and CMYK images are converted, transparency is dropped, and 16-bit channels keep
    their upper 8 bits.
    """
    with _opened(path) as image:
        pixels = np.empty((image.height, image.width, 3), dtype=np.uint8)
        rows = max(1, AT_ONCE // image.width)  # by parts, so that a large image is held only once
        for top in range(0, image.height, rows):
            box = (0, top, image.width, min(top + rows, image.height))
            part = image if rows >= image.height else image.crop(box)
            pixels[top : top + rows] = np.asarray(_as_rgb(part))
        return pixels


def read_square(path: Path, size: int) -> np.ndarray:
    """Decode and resize to (size, size, 3) uint8 with Pillow's antialiased bilinear filter.

    The aspect ratio is ignored; an image that already has this size is left unchanged. This is
    torchvision's ``Resize((size, size))``. Training and inference both use this function, so they
    see the same pixels. Raises BadImage.
    """
    with _opened(path) as image:
        image = _as_rgb(image)
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        return np.array(image)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image with Pillow and decode it.

    Raises BadImage, also for an error inside the ``with`` block.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if not _is_allowed(image):
                raise ValueError(
                    f"{image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are allowed"
                )
            with _pixels_at_once.hold(image.width * image.height):
                image.load()
                yield image
    except MemoryError:  # not the file's fault
        raise
    except FileNotFoundError as error:
        raise BadImage(f"{path}: no such file") from error
    except Exception as error:  # Pillow can raise almost anything on a broken file
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        # Path.is_file would raise if we may not enter the folder.
        if os.path.isfile(path) and os.path.getsize(path) == 0:
            reason = "the file is empty"
        raise BadImage(f"{path}: cannot be read as an image ({reason})") from error


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # Pillow would clip 16-bit values to 255 instead of scaling them
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


def size_in_header(path: Path) -> tuple[int, int] | None:
    """Return (height, width) from an image's header; None if it is unreadable or refused."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return (image.height, image.width) if _is_allowed(image) else None
    except Exception:  # Pillow can raise almost anything on a broken file
        return None


def _is_allowed(image: Image.Image) -> bool:
    return 0 < image.width * image.height <= MAX_PIXELS


# --- many images --------------------------------------------------------------------------------


def find(
    sources: list[Path], select: Callable[[list[Path]], list[Path]] = lambda paths: paths
) -> list[Path]:
    """Return the image files that ``sources`` name: files, folders and patterns like ``a/*.png``.

    ``select`` filters the files of each folder or pattern. Raises InputError if a source is none of
    these, or names no file.
    """
    found: list[Path] = []
    for source in sources:
        if os.path.isfile(source):
            if not source.name.lower().endswith(SUFFIXES):
                raise InputError(f"{source} is neither a folder nor one of *{', *'.join(SUFFIXES)}")
            found.append(source)
            continue
        if glob.has_magic(str(source)) and not os.path.exists(source):
            names = sorted(glob.glob(str(source)), key=natural)
            paths = [Path(name) for name in names if name.lower().endswith(SUFFIXES)]
        elif source.name.lower().endswith(SUFFIXES) and not os.path.exists(source):
            raise InputError(f"no file {source}")
        else:
            paths = list_files(source, SUFFIXES)
        if not (paths := select(paths)):
            raise InputError(f"no images, or only masks, in {source}")
        found += paths
    return list(dict.fromkeys(found))


def load(
    paths: list[Path], decode: Callable[[Path], np.ndarray], what: str = "images"
) -> torch.Tensor:
    """Decode a data set into memory: (N, C, H, W) uint8, channels last. See ``decoded``."""
    stream = decoded(paths, decode, what)
    first = next(stream)
    import torch

    data = np.empty((len(paths), *first.shape), dtype=np.uint8)
    for i, image in enumerate(chain([first], stream)):
        data[i] = image
    return torch.from_numpy(data).permute(0, 3, 1, 2)


def decoded(
    paths: list[Path], decode: Callable[[Path], np.ndarray], what: str = "images"
) -> Generator[np.ndarray, None, None]:
    """Decode a data set in threads and yield its images in order, with a progress bar.

    ``decode`` returns (H, W, C) uint8. Raises InputError, which names the first file that cannot be
    read or whose shape differs from the first image's.
    """
    first = None
    try:
        images = counted(InOrder(decode, paths), len(paths), what, "images")
        for path, image in zip(paths, images, strict=True):
            first = image if first is None else first
            if image.shape != first.shape:
                raise InputError(f"{path} is {size_of(image)}, but {paths[0]} is {size_of(first)}")
            yield image
    except BadImage as error:
        raise InputError(f"{error}; every image of a training set must be readable") from error


def size_of(image: np.ndarray) -> str:
    """Return the size of an image (H, W, ...) as text: ``WxH``."""
    return f"{image.shape[1]}x{image.shape[0]}"


# --- writing ------------------------------------------------------------------------------------


def write_png(file: IO[bytes], indices: np.ndarray, colours: np.ndarray) -> None:
    """Write ``indices``, (H, W) uint8, as a PNG in ``colours``, (K, 3) or (K, 1) uint8.

    Takes 2.0 ms for a mask of 512 x 512, where Pillow takes 4.8 (3 % of DeepLabv3's time per
    image). Only a few rows are held at a time, so a large image needs no more memory than a small
    one.
    """
    height, width = indices.shape
    channels = colours.shape[1]
    kind = {1: 0, 3: 2}[channels]  # PNG's colour type: grey or RGB
    file.write(b"\x89PNG\r\n\x1a\n")
    file.write(_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)))
    deflate = zlib.compressobj(1)
    above = np.zeros(width * channels, dtype=np.uint8)
    rows = max(1, AT_ONCE // width)
    for top in range(0, height, rows):
        block = colours.take(indices[top : top + rows], axis=0).reshape(-1, above.size)
        lines = np.empty((len(block), 1 + above.size), dtype=np.uint8)
        lines[:, 0] = 2  # PNG's filter "Up": each byte as its difference from the one above
        np.subtract(block[0], above, out=lines[0, 1:])
        np.subtract(block[1:], block[:-1], out=lines[1:, 1:])
        above = block[-1]
        if data := deflate.compress(lines.data):
            file.write(_chunk(b"IDAT", data))
    file.write(_chunk(b"IDAT", deflate.flush()))
    file.write(_chunk(b"IEND", b""))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
