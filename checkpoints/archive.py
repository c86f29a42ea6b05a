"""Unpack the course's archive without writing anything outside its folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from core.cli import say

PARTS = ("p1_data", "p2_data", "p3_data")
MAX_BYTES, MAX_FILES = 2**35, 1_000_000  # unpacked; the course's archive is far below both limits


class BadArchive(Exception):
    """An archive was not unpacked; the message says which one and why."""


def unpack(archive: Path, folder: Path) -> None:
    """Unpack PARTS of a zip or tar into ``folder``, each completely; existing ones are kept.

    The archive may contain them in a folder hw1_data. Raises BadArchive and unpacks nothing if the
    archive is damaged or too large, lacks a part, or has anything but plain files and folders.
    """
    try:
        with _stage(folder) as stage:
            _extract(archive, stage)
            top = stage / "hw1_data" if (stage / "hw1_data").is_dir() else stage
            missing = [part for part in PARTS if not (top / part).is_dir()]
            if missing:
                raise BadArchive(f"it does not contain {', '.join(missing)}")
            for part in PARTS:
                if (folder / part).exists():
                    say(f"kept {folder / part}, which already existed")
                else:
                    os.rename(top / part, folder / part)
                    say(f"unpacked {folder / part}")
        say(f"{archive} is no longer needed")
    except Exception as error:  # every kind of damage raises another exception
        why = str(error) or type(error).__name__
        raise BadArchive(
            f"cannot unpack {archive}: {why}; if it is not the course's archive, delete it and "
            "start again"
        ) from error


@contextlib.contextmanager
def _stage(folder: Path) -> Iterator[Path]:
    """A hidden temporary folder inside ``folder``.

    Also removes the folders that killed processes have left behind.
    """
    here = os.open(folder, os.O_RDONLY)
    try:
        # All processes that unpack here share a lock, which ends with the process in any case. A
        # process that gets it exclusively is therefore alone. OSError means that there are others,
        # or that the file system has no locks.
        with contextlib.suppress(OSError):
            fcntl.flock(here, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for left in folder.glob(".unpacking-*"):
                shutil.rmtree(left, ignore_errors=True)
        with contextlib.suppress(OSError):
            fcntl.flock(here, fcntl.LOCK_SH)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as stage:
            yield Path(stage)
    finally:
        os.close(here)


def _extract(archive: Path, folder: Path) -> None:
    """Extract a zip or tar into ``folder``. Raises BadArchive.

    All links are refused: the data needs none, and crafted links have bypassed many checks.
    """
    is_tar = tarfile.is_tarfile(archive)  # first, because a tar that ends in a zip passes for a zip
    if not is_tar and not zipfile.is_zipfile(archive):
        raise BadArchive("it is neither a zip nor a tar")
    with tarfile.open(archive) if is_tar else zipfile.ZipFile(archive) as opened:
        if is_tar:
            members = ((one.name, one.isreg() or one.isdir(), one.size) for one in opened)
        else:
            plain = (0, stat.S_IFREG, stat.S_IFDIR)  # 0: the zip was not made on Unix
            members = (
                (info.filename, stat.S_IFMT(info.external_attr >> 16) in plain, info.file_size)
                for info in opened.infolist()
            )
        room = min(MAX_BYTES, shutil.disk_usage(folder).free)
        total = 0
        for count, (name, is_plain, size) in enumerate(members, 1):
            total += size
            if total > room or count > MAX_FILES:
                raise BadArchive(
                    f"it contains more than {MAX_FILES:,} files, or more than the {room:,} bytes "
                    "for which there is room"
                )
            path = PurePosixPath(name.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or not is_plain:
                raise BadArchive(
                    f"it is not safe: {name!r} is a link, a device or a path out of the folder"
                )
        # The filter also makes owners and permissions safe; Python has it since 3.10.12.
        opened.extractall(
            folder, **({"filter": "data"} if is_tar and hasattr(tarfile, "data_filter") else {})
        )
