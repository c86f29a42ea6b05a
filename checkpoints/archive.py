"""Unpack the course's archive, and nothing that leads out of its folder."""

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
MAX_BYTES, MAX_FILES = 2**35, 1_000_000  # unpacked; the course's archive has far less of both


class BadArchive(Exception):
    """An archive that was not unpacked; the message names it and says why."""


def unpack(archive: Path, folder: Path) -> None:
    """Unpack PARTS of a zip or tar into ``folder``, each in whole; what is there already stays.

    They may lie in a top folder hw1_data. Raises BadArchive, with nothing unpacked, if the archive
    is damaged, lacks one of them, is too large, or holds anything but plain files and folders.
    """
    try:
        with _stage(folder) as stage:
            _extract(archive, stage)
            top = stage / "hw1_data" if (stage / "hw1_data").is_dir() else stage
            missing = [part for part in PARTS if not (top / part).is_dir()]
            if missing:
                raise BadArchive(f"it holds no {', '.join(missing)}")
            for part in PARTS:
                if (folder / part).exists():
                    say(f"kept {folder / part}, which was there already")
                else:
                    os.rename(top / part, folder / part)
                    say(f"unpacked {folder / part}")
        say(f"{archive} is not needed any more")
    except Exception as error:  # each kind of damage raises something else
        why = str(error) or type(error).__name__
        raise BadArchive(
            f"cannot unpack {archive}: {why}; if it is not the course's archive, delete it and "
            "start "
            "again"
        ) from error


@contextlib.contextmanager
def _stage(folder: Path) -> Iterator[Path]:
    """A hidden folder in ``folder`` that is removed in the end.

    First those are removed that killed processes have left there.
    """
    here = os.open(folder, os.O_RDONLY)
    try:
        # All that unpack here share a lock, which ends with a process however that ends: who can
        # have it alone is alone. An OSError: there are others, or the file system has no locks.
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
    """Links are refused wherever they lead.

    The data needs none, and crafted ones have led out of many a check.
    """
    is_tar = tarfile.is_tarfile(archive)  # asked first: a tar that ends in a zip passes for a zip
    if not is_tar and not zipfile.is_zipfile(archive):
        raise BadArchive("it is neither a zip nor a tar")
    with tarfile.open(archive) if is_tar else zipfile.ZipFile(archive) as opened:
        if is_tar:
            members = ((one.name, one.isreg() or one.isdir(), one.size) for one in opened)
        else:
            plain = (0, stat.S_IFREG, stat.S_IFDIR)  # 0: not made on Unix
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
                    f"it holds more than {MAX_FILES:,} files or {room:,} bytes, for which there "
                    "is room"
                )
            path = PurePosixPath(name.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or not is_plain:
                raise BadArchive(
                    f"it is not safe: {name!r} is a link, a device or a path that leads out"
                )
        # The filter also tames owners and permissions; Python has it since 3.10.12.
        opened.extractall(
            folder, **({"filter": "data"} if is_tar and hasattr(tarfile, "data_filter") else {})
        )
