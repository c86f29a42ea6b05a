"""Data-set cache: a set is decoded once into a uint8 file, which later runs read or map.

The file, ``FOLDER.KIND.DIGEST.npy``, is in a hidden folder ``.cache`` beside the image folder or,
if that is not writable, in the user's own cache folder. It may be deleted at any time. Checksums
follow numpy's array and are verified whenever the file is read; a data set that the disk has
damaged is decoded again.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import warnings
import weakref
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor

from core import images, threads
from core.cli import InputError, say, warn
from core.files import Unwritable, atomic_write, writable_folder
from core.randomness import seed_of
from training import processes
from training.provenance import fingerprint

FORMAT = 2  # increase it when the same files decode to different bytes
PIECE = 2**24  # bytes per checksum


def load(
    paths: list[Path],
    decode: Callable[[Path], np.ndarray],
    kind: str,
    memory: float,
    beside: list[Path] | None = None,
) -> Tensor:
    """Load a data set as ``images.load`` does, but decode it only once.

    Returns (N, C, H, W) uint8 in channels-last memory. ``paths``: files of one folder. ``kind``: a
    name for what ``decode`` makes of a file. ``beside``: further files that ``decode`` reads. If
    this set and those loaded before take more than ``memory`` bytes together, it is memory-mapped
    and must not be written to. With several processes, every set is mapped so that they share its
    pages. Only the newest set of a folder and kind is kept on the disk. Raises InputError as
    ``images.load`` does.
    """
    folder = paths[0].parent.resolve()
    try:
        digest = seed_of(0, FORMAT, PIL.__version__, fingerprint([*paths, *(beside or [])]))
    except OSError:  # a file is missing; decoding reports which one
        return images.load(paths, decode, folder.name)
    stem = f"{folder.name}.{kind}"
    name = f"{stem}.{digest:016x}.npy"
    for place in places(folder):
        if (data := read(place / name, len(paths), memory)) is not None:
            return data
    if new := writable_place(folder):
        with locked(new / f"{stem}.lock", folder):
            # Another process may have written the file while this one waited.
            data = read(new / name, len(paths), memory)
            if data is None:
                remove(new, stem)
                if write(new / name, paths, decode):
                    data = read(new / name, len(paths), memory)
    return images.load(paths, decode, folder.name) if data is None else data


def places(folder: Path) -> list[Path]:
    """List the possible cache folders of an image folder: beside it, or in the user's cache."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    beside = folder.parent / ".cache"
    if not user.is_absolute():  # there is no home folder
        return [beside]
    return [beside, user / "hw1" / f"{seed_of(0, str(folder.parent)):016x}"]


def writable_place(folder: Path) -> Path | None:
    """Return the first writable one of ``places``, or None, with a warning, if there is none."""
    reasons = []
    for place in places(folder):
        try:
            return writable_folder(place)
        except InputError as error:
            reasons.append(str(error))
    warn(f"{'; '.join(reasons)}; so every run decodes {folder} into memory again")
    return None


@contextlib.contextmanager
def locked(path: Path, folder: Path) -> Iterator[None]:
    """Hold the file ``path`` as a lock. The system releases it when the process ends in any way."""
    with contextlib.ExitStack() as stack:
        # Without the lock (unsupported, or another user's), two processes may decode the same data.
        with contextlib.suppress(OSError):
            file = stack.enter_context(open(path, "ab"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"waiting for another process that is decoding {folder}")
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def remove(place: Path, stem: str) -> None:
    """Remove the outdated caches of a folder and kind, and files left by killed processes."""
    for path in place.iterdir():
        if path.name.startswith((f"{stem}.", f".{stem}.")) and path.suffix in (".npy", ".part"):
            with contextlib.suppress(OSError):
                path.unlink()


def write(path: Path, paths: list[Path], decode: Callable[[Path], np.ndarray]) -> bool:
    """Decode straight into the file ``path``, with only a few images in memory.

    Returns False, with a warning, if the file cannot be written. Raises InputError, and leaves no
    file, if an image cannot be read or differs in size from the first.
    """
    stream = images.decoded(paths, decode, paths[0].parent.name)
    first = next(stream)
    shape = (len(paths), *first.shape)
    pieces = _pieces(shape)
    checksums = np.zeros(len(pieces), "<u4")
    try:
        with atomic_write(path) as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": "|u1", "fortran_order": False, "shape": shape}
            )
            # Reserve the space now: a disk that is too full then fails at once, not after an hour.
            size = file.tell() + len(paths) * first.nbytes + checksums.nbytes
            os.posix_fallocate(file.fileno(), 0, size)
            for number, image in enumerate(chain([first], stream)):
                image = np.ascontiguousarray(image)
                file.write(image.data)
                piece = number // len(pieces[0])
                checksums[piece] = zlib.crc32(image.data, int(checksums[piece]))
            file.write(checksums.data)
    except Unwritable as error:
        warn(f"{error}; so this run and the next decode {paths[0].parent} into memory")
        return False
    finally:
        stream.close()
    return True


def _pieces(shape: tuple[int, ...]) -> list[range]:
    # Splits the images into pieces of about 16 MiB, each with its own checksum, so that threads can
    # check them in parallel.
    length = max(1, PIECE // math.prod(shape[1:]))
    return [range(start, min(start + length, shape[0])) for start in range(0, shape[0], length)]


def read(path: Path, count: int, memory: float) -> Tensor | None:
    """Return the ``count`` images in the file ``path``, mapped or read as ``load`` says.

    Returns None if the file is missing, holds something else, or was damaged since it was written.
    """
    try:
        data = np.load(path, mmap_mode="r")
        sound = (
            isinstance(data, np.memmap)
            and data.dtype == np.uint8
            and data.ndim == 4
            and data.flags.c_contiguous
            and len(data) == count
        )
        if not sound:
            return None
        checksums = np.fromfile(path, "<u4", offset=data.offset + data.nbytes)
        end = data.offset + data.nbytes + checksums.nbytes
    except Exception:  # numpy can raise almost anything on a broken file
        return None
    pieces = _pieces(data.shape)
    if len(checksums) != len(pieces) or end != path.stat().st_size:
        return None
    in_memory = _in_memory + data.nbytes <= memory and processes.world_size() == 1
    array = np.empty(data.shape, np.uint8) if in_memory else data
    if in_memory:
        _count(data.nbytes)
        weakref.finalize(array, _count, -data.nbytes)

    def is_undamaged(piece: range, checksum: int) -> bool:
        part = slice(piece.start, piece.stop)
        if in_memory:
            array[part] = data[part]
        return zlib.crc32(array[part].data) == checksum

    with ThreadPoolExecutor(threads.THREADS) as pool:
        if not all(pool.map(is_undamaged, pieces, checksums)):
            warn(f"{path} is damaged; decoding its images again")
            return None
    with warnings.catch_warnings():
        # torch warns that the array is read-only; Linux would want a writable one to fit in memory.
        warnings.simplefilter("ignore")
        return torch.from_numpy(array).permute(0, 3, 1, 2)


_in_memory = 0  # bytes of the data sets that this process holds in memory


def _count(change: int) -> None:
    global _in_memory
    _in_memory += change


def resident(data: Tensor, device: torch.device, memory: float) -> Tensor:
    """Move the data set to ``device`` if it takes at most ``memory`` bytes; otherwise leave it.

    ``gather`` then moves each batch. A data set takes at most half of a GPU's free memory.
    """
    if device.type == "cuda":
        memory = min(memory, torch.cuda.mem_get_info(device)[0] // 2)
    return data.to(device) if data.nbytes <= memory else data


def gather(data: Tensor, index: Tensor, device: torch.device) -> Tensor:
    """Return the images at ``index``, (B,) int64, on ``device``; ``data`` may be on another."""
    return data[index.to(data.device)].to(device)
