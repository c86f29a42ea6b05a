"""Atomic writes, checks of input and output paths, and folder listings in natural order."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from core.cli import InputError

ABANDONED = 3600  # seconds without a write after which a hidden file's writer must be dead


class Unwritable(InputError):
    """A file cannot be written: no permission, no space, no disk. The message says why."""


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open ``path`` for binary writing; it appears complete when the block ends, or not at all.

    The bytes go to a hidden file in the same folder, which is synced to disk and then renamed to
    ``path``. The folder is created if necessary, links are followed, and an old file's permissions
    are kept. After an error, a full disk or a signal that raises, ``path`` is as it was before.
    SIGKILL leaves at most the hidden file, which ``remove_abandoned`` deletes. Raises Unwritable.
    """
    target = link_target(path)
    hidden = target.parent / f".{target.name[:50]}.{secrets.token_hex(8)}.part"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Not mkstemp, whose files are private: an output gets the permissions of any new file.
        with open(hidden, "xb") as file:
            with contextlib.suppress(OSError):  # there is no old file, or another user owns it
                os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(hidden, target)
    except OSError as error:
        raise Unwritable(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # it was renamed or never created
            os.unlink(hidden)


def link_target(path: Path) -> Path:
    """Return the file that ``path`` is or, through links, leads to; it need not exist.

    Raises Unwritable if it is under /dev, /proc or /sys (but not /dev/shm), or if the links are
    circular.
    """
    for _ in range(40):  # the limit that Linux has too
        path = Path(os.path.realpath(path.parent), path.name)
        system = {"dev", "proc", "sys"} & set(path.parts[1:2])
        if system and path.parts[1:3] != ("dev", "shm"):
            raise Unwritable(f"cannot write {path}: it belongs to the system; choose another file")
        if not os.path.islink(path):
            return path
        path = path.parent / os.readlink(path)
    raise Unwritable(f"cannot write {path}: its symbolic links form a loop; choose another file")


def remove_abandoned(folder: Path) -> None:
    """Remove the hidden files that killed programs have left in ``folder``."""
    part = re.compile(r"\..+\.[0-9a-f]{16}\.part")
    with contextlib.suppress(OSError):  # no folder, or another program removes the same files
        for entry in os.scandir(folder):
            if part.fullmatch(entry.name) and entry.stat().st_mtime < time.time() - ABANDONED:
                os.unlink(entry)


def writable_file(path: Path) -> Path:
    """Check, before any work is done, that ``path`` can become a file. Creates nothing.

    Raises InputError.
    """
    target = link_target(path)
    try:
        mode = target.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = stat.S_IFREG  # it will be a regular file
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another file") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"the output {path} is a folder; give a file name")
    if not stat.S_ISREG(mode):
        raise InputError(
            f"the output {path} is a device, which a new file would replace; choose a regular file"
        )
    output_folder(target.parent)
    return path


def output_folder(path: Path) -> Path:
    """Check that ``path`` is or can become a writable folder. Creates nothing.

    Removes files that killed programs have left there. Raises InputError.
    """
    link_target(path)
    existing = path.absolute()
    try:
        while not _exists(existing):
            existing = existing.parent
        if not existing.is_dir():
            raise InputError(f"cannot create the output folder {path}: a file is in the way")
        # Ask the file system itself, since os.access allows root everything.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise InputError(f"cannot write to {existing}: {error.strerror}") from error
    remove_abandoned(path)
    return path


def _exists(path: Path) -> bool:
    # Unlike Path.exists, this is also True for a link that leads nowhere.
    try:
        os.lstat(path)
        return True
    except (FileNotFoundError, NotADirectoryError):
        return False


def writable_folder(path: Path) -> Path:
    """Create the folder ``path`` if necessary. Raises InputError if it is not writable."""
    output_folder(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot create the output folder {path}: {error.strerror}") from error
    return path


def check_outputs(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise InputError if writing ``outputs`` would overwrite one of ``inputs`` or each other."""
    outputs = [Path(os.path.realpath(path)) for path in outputs]
    if len(set(outputs)) < len(outputs):
        raise InputError("two outputs have the same name; choose another file")
    existing = {_identity(path): path for path in outputs if os.path.exists(path)}
    if not existing:
        return
    for path in inputs:
        if _identity(path) in existing:
            raise InputError(f"the output {path} is also an input; choose another output")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def readable_folder(path: Path) -> Path:
    """Check that ``path`` is a folder whose files can be opened, or raise InputError."""
    try:
        os.stat(os.path.join(path, "."))  # the dot checks that files in it can be opened, too
    except FileNotFoundError as error:
        raise InputError(f"no folder {path}") from error
    except NotADirectoryError as error:
        raise InputError(f"{path} is not a folder") from error
    except OSError as error:
        raise InputError(f"cannot read the folder {path}: {error.strerror}") from error
    return path


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits, as manifests and publishers give it."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def natural(name: str) -> list[tuple[int, int, str, str]]:
    """Return a sort key that puts ``2_10.png`` before ``10_2.png``: digits compare as numbers."""
    key = []
    for digits, text in re.findall(r"([0-9]+)|([^0-9]+)", name):
        number = digits.lstrip("0")  # not an int: Python refuses to convert 5,000 digits
        key.append((0, len(number), number, digits) if digits else (1, 0, text, ""))
    return key


def list_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """List the files directly in ``folder`` with one of ``suffixes`` (any case), in natural order.

    Hidden files are ignored. Raises InputError if there is no such folder or no such file in it.
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
