"""From image files to uint8 tensors: one image, a whole data set, or an endless stream in bounded memory."""

from __future__ import annotations

import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from core.cli import InputError

warnings.filterwarnings(
    "ignore", module="PIL"
)  # remarks on oddities of files that it decodes nevertheless
SUFFIXES = (".png", ".jpg", ".jpeg")
THREADS = max(2, min(16, os.cpu_count() or 2))
T = TypeVar("T")


class BadImage(Exception):
    """A file that cannot be read as an image; the message names it and says why."""


def read_rgb(path: Path) -> np.ndarray:
    """Decode an image file of any colour mode to RGB: (H, W, 3) uint8. Raises BadImage.

    Grey, palette and CMYK images are converted, transparency is dropped, and 16 bits a channel become the upper 8.
    """
    return np.array(open_rgb(path))


def open_rgb(path: Path) -> Image.Image:
    """The same as a Pillow image in mode RGB, fully decoded. Raises BadImage."""
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode.startswith(
                "I"
            ):  # Pillow would clip 16 bits to 255 instead of scaling them
                image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
            return image.convert("RGB")
    except FileNotFoundError as error:
        raise BadImage(f"{path}: no such file") from error
    except Exception as error:  # Pillow's decoders raise nearly everything on a broken file
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if (
            os.path.isfile(path) and os.path.getsize(path) == 0
        ):  # Path.is_file raises where the folder is closed to us
            reason = "the file is empty"
        raise BadImage(f"{path}: cannot be read as an image ({reason})") from error


def read_square(path: Path, size: int) -> np.ndarray:
    """Decode and resize to (size, size, 3) uint8 with Pillow's antialiased bilinear filter, ignoring the aspect ratio.

    An image of that size already is left as it is. This is torchvision's ``Resize((size, size))``, so training and
    inference, which both come through here, see the same pixels as everybody else's.
    """
    image = open_rgb(path)
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.array(image)


def load(
    paths: list[Path], decode: Callable[[Path], np.ndarray], what: str = "images"
) -> torch.Tensor:
    """Decode a whole data set into memory: (N, C, H, W) uint8 with channels-last memory. See ``decoded``."""
    stream = decoded(paths, decode, what)
    first = next(stream)
    data = np.empty((len(paths), *first.shape), dtype=np.uint8)
    for i, image in enumerate(chain([first], stream)):
        data[i] = image
    return torch.from_numpy(data).permute(0, 3, 1, 2)


def decoded(
    paths: list[Path], decode: Callable[[Path], np.ndarray], what: str = "images"
) -> Iterator[np.ndarray]:
    """Decode a data set by threads, in order, with a progress bar.

    ``decode`` gives (H, W, C) uint8. Raises InputError that names the first file which cannot be read or whose shape is
    not the first one's.
    """
    first = None
    try:
        for path, image in zip(
            paths, progress(in_order(decode, paths), len(paths), what), strict=True
        ):
            first = image if first is None else first
            if image.shape != first.shape:
                raise InputError(f"{path} is {size_of(image)}, but {paths[0]} is {size_of(first)}")
            yield image
    except BadImage as error:
        raise InputError(f"{error}; a training set must be whole") from error


def size_of(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def in_order(
    work: Callable[[Path], T], items: Iterable[Path], ahead: int = 4 * THREADS
) -> Iterator[T]:
    """Map ``work`` over ``items`` in threads, in order, at most ``ahead`` of them started before their turn."""
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque = deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def progress(items: Iterable[T], total: int, what: str) -> Iterable[T]:
    """``items`` with a progress bar on stderr where that is a terminal, and nothing elsewhere."""
    return tqdm(
        items, total=total, desc=what, unit="img", leave=False, disable=not sys.stderr.isatty()
    )
