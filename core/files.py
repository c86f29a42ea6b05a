"""Files that are either the old one or the whole new one, and folders listed in natural order."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from core.cli import InputError


class Unwritable(InputError):
    """A file cannot be written: no permission, no space, no disk. The message names it and says why."""


@contextlib.contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """Open ``path`` for binary writing; it appears complete when the block ends, or not at all.

    The bytes go to a hidden file beside it, are synced to the disk and renamed over ``path``. An error, a signal that
    raises or a full disk leaves what was there before; SIGKILL leaves at most the hidden file. Raises Unwritable.
    """
    try:
        handle, hidden = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:50]}.", suffix=".part")
    except OSError as error:
        raise Unwritable(f"cannot write {path}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(hidden, 0o666 & ~_umask())  # mkstemp makes it private; an output is as public as any new file
        os.replace(hidden, path)
    except OSError as error:
        raise Unwritable(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):  # renamed, it is no longer there
            os.unlink(hidden)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def writable_file(path: Path) -> Path:
    """Check, before any work is done, that ``path`` can become a file; make its folder. Raises InputError."""
    if path.is_dir():
        raise InputError(f"the output {path} is a folder; name a file")
    if path.exists() and not path.is_file():
        raise InputError(f"the output {path} is a device, which a new file would replace; name a file")
    writable_folder(path.parent)
    return path


def writable_folder(path: Path) -> Path:
    """Make ``path`` a folder that can be written in, or raise InputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"the output folder {path} cannot be made: a file is in the way") from error
    except OSError as error:
        raise InputError(f"the output folder {path} cannot be made: {error.strerror}") from error
    try:
        with tempfile.TemporaryFile(dir=path):  # asks the file system itself: root passes every os.access
            pass
    except OSError as error:
        raise InputError(f"cannot write in {path}: {error.strerror}") from error
    return path


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts ``2_10.png`` before ``10_2.png``: runs of digits compare as numbers."""
    parts = re.findall(r"(\d+)|(\D+)", name)
    return [(0, int(digits), digits) if digits else (1, 0, text) for digits, text in parts]


def list_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files directly in ``folder`` with one of ``suffixes`` (any case), in natural order. Hidden ones do not count.

    Raises InputError if there is no such folder or no such file in it.
    """
    if not folder.is_dir():
        raise InputError(f"no folder {folder}" if not folder.exists() else f"{folder} is not a folder")
    try:
        names = [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".") and entry.is_file()]
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror}") from error
    chosen = sorted((name for name in names if name.lower().endswith(suffixes)), key=natural)
    if not chosen:
        raise InputError(f"no {' or '.join('*' + s for s in suffixes)} file in {folder}")
    return [folder / name for name in chosen]
