"""Files that are either the old one or the whole new one, and folders listed in natural order."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from core.cli import InputError


class Unwritable(InputError):
    """A file cannot be written: no permission, no space, no disk. The message names it and says why."""


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open ``path`` for binary writing; it appears complete when the block ends, or not at all.

    The bytes go to a hidden file beside it, are synced to the disk and renamed over ``path``. An error, a signal that
    raises or a full disk leaves what was there before; SIGKILL leaves at most the hidden file. Raises Unwritable.
    """
    hidden = path.parent / f".{path.name[:50]}.{secrets.token_hex(8)}.part"
    try:
        with open(
            hidden, "xb"
        ) as file:  # not mkstemp, whose files are private: an output is as public as any new file
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(hidden, path)
    except OSError as error:
        raise Unwritable(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # it was renamed, or never made
            os.unlink(hidden)


def writable_file(path: Path) -> Path:
    """Check, before any work is done, that ``path`` can become a file; make its folder. Raises InputError."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = stat.S_IFREG  # which it will be
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; name another file") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"the output {path} is a folder; name a file")
    if not stat.S_ISREG(mode):
        raise InputError(
            f"the output {path} is a device, which a new file would replace; name a file"
        )
    writable_folder(path.parent)
    return path


def writable_folder(path: Path) -> Path:
    """Make ``path`` a folder that can be written in, or raise InputError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(
            f"the output folder {path} cannot be made: a file is in the way"
        ) from error
    except OSError as error:
        raise InputError(f"the output folder {path} cannot be made: {error.strerror}") from error
    try:
        with tempfile.TemporaryFile(
            dir=path
        ):  # asks the file system itself: root passes every os.access
            pass
    except OSError as error:
        raise InputError(f"cannot write in {path}: {error.strerror}") from error
    return path


def readable_folder(path: Path) -> Path:
    """Check that ``path`` is a folder whose files can be opened, or raise InputError."""
    try:
        os.stat(os.path.join(path, "."))  # the dot asks for the right to open what is in it, too
    except FileNotFoundError as error:
        raise InputError(f"no folder {path}") from error
    except NotADirectoryError as error:
        raise InputError(f"{path} is not a folder") from error
    except OSError as error:
        raise InputError(f"cannot read the folder {path}: {error.strerror}") from error
    return path


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts ``2_10.png`` before ``10_2.png``: runs of digits compare as numbers."""
    parts = re.findall(r"(\d+)|(\D+)", name)
    return [(0, int(digits), digits) if digits else (1, 0, text) for digits, text in parts]


def list_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files directly in ``folder`` with one of ``suffixes`` (any case), in natural order. Hidden ones do not count.

    Raises InputError if there is no such folder or no such file in it.
    """
    readable_folder(folder)
    try:
        names = [
            entry.name
            for entry in os.scandir(folder)
            if not entry.name.startswith(".") and entry.is_file()
        ]
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror}") from error
    chosen = sorted((name for name in names if name.lower().endswith(suffixes)), key=natural)
    if not chosen:
        raise InputError(f"no {' or '.join('*' + s for s in suffixes)} file in {folder}")
    return [folder / name for name in chosen]
