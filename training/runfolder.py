"""A training run's folder: one program's at a time; older runs are kept aside, snapshots few."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO

from core import checkpoint
from core.cli import InputError, say
from core.files import Unwritable, writable_folder
from training import processes

MAX_SNAPSHOTS = 8


def claim(folder: Path) -> IO[bytes] | None:
    """Make ``folder`` if need be, ``lock`` it, and remove what killed programs were writing.

    Raises InputError if it cannot be made or written to, or if another program holds it.
    """
    writable_folder(folder / "snapshots")
    held = lock(folder)
    for path in (*folder.glob(".*.part"), *folder.glob("snapshots/.*.part")):
        path.unlink()
    return held


def lock(folder: Path) -> IO[bytes] | None:
    """Hold ``folder`` as this program's own until it ends; None where the file system has no locks.

    Raises InputError if another program holds it. If there are several processes, the lock's file
    names their launch.
    """
    file = open(folder / ".lock", "a+b", buffering=0)  # noqa: SIM115  # held open
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.close()
        raise InputError(
            f"another program is training in {folder}; stop it first, or name another --run"
        ) from error
    except OSError:
        file.close()
        return None
    try:
        file.truncate(0)
        file.write(processes.launch().encode())
    except OSError as error:  # a full disk
        file.close()
        raise Unwritable(f"cannot write {file.name}: {error.strerror}") from error
    return file


def start_over(folder: Path) -> None:
    """Keep the older run in ``folder``, if there is one, aside.

    A run that the same torchrun began, before it started its processes again, is not an older one.
    Raises InputError if another program is training in the folder.
    """
    if not any((folder / name).exists() for name in ("run.json", "state.pt")):
        return
    with contextlib.suppress(OSError):
        # A first start has begun nothing; in a container the next launch has this one's name.
        if processes.restarts() and (folder / ".lock").read_text() == processes.launch():
            return
    held = lock(folder)
    say(f"the older run is kept in {set_aside(folder)}")
    if held:
        held.close()


def set_aside(folder: Path) -> Path:
    """Rename a run's folder to the first free of FOLDER.old-1, FOLDER.old-2, ...: the new name."""
    folder, number = Path(os.path.abspath(folder)), 1  # a link itself is renamed
    while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    os.rename(folder, aside)
    return aside


def keep_snapshot(folder: Path, epoch: int, final: checkpoint.Checkpoint) -> None:
    """Save ``final``, of ``epoch`` (from 1), if that is one to keep, and drop those that are not.

    Epochs 1, 1+k, 1+2k, ... are kept; when they grow too many, k doubles. So they stay few and
    evenly spread however long the run turns out to be. The last epoch is ``last.pt``.
    """
    spacing = 1
    while (epoch - 1) // spacing >= MAX_SNAPSHOTS:
        spacing *= 2
    if (epoch - 1) % spacing == 0:
        checkpoint.save(folder / "snapshots" / f"epoch_{epoch:04d}.pt", final)
    for path in (folder / "snapshots").glob("epoch_*.pt"):
        if (int(path.stem.split("_")[1]) - 1) % spacing:
            path.unlink()
