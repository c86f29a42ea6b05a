"""The folder of a training run: one program at a time uses it, and older runs are set aside."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from pathlib import Path
from typing import IO

from core import checkpoint
from core.cli import InputError, say
from core.files import Unwritable, writable_folder
from training import processes

MAX_SNAPSHOTS = 8
FILES = ("run.json", "log.jsonl", "state.pt", "last.pt", "best.pt")  # any of them is worth keeping


def claim(folder: Path) -> IO[bytes] | None:
    """Create ``folder`` if necessary, ``lock`` it, and remove partial files of killed programs.

    Raises InputError if it cannot be created or written to, or if another program holds it.
    """
    writable_folder(folder / "snapshots")
    held = lock(folder)
    for path in (*folder.glob(".*.part"), *folder.glob("snapshots/.*.part")):
        path.unlink()
    return held


def lock(folder: Path) -> IO[bytes] | None:
    """Lock ``folder`` for this program until it ends; None if the file system has no locks.

    Raises InputError if another program holds it. With several processes, the lock file names their
    launch.
    """
    file = open(folder / ".lock", "a+b", buffering=0)  # noqa: SIM115  # held open
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        file.close()
        raise InputError(
            f"another program is training in {folder}; stop it first, or choose another --run"
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
    """Set aside the older run in ``folder``, if there is one.

    A run that the same launch of torchrun began before a restart is not an older one. Raises
    InputError if another program is training in the folder.
    """
    if not any((folder / name).exists() for name in FILES):
        return
    with contextlib.suppress(OSError):
        # When torchrun restarts its processes, the run that they began themselves stays. A first
        # start has begun none; in a container, the next launch may have the same name as this one.
        if processes.restarts() and (folder / ".lock").read_text() == processes.launch():
            return
    held = lock(folder)
    say(f"moved the older run to {set_aside(folder)}")
    if held:
        held.close()


def cannot_continue(folder: Path) -> bool:
    """Return whether ``folder``, which has no state.pt, holds results that must not be overwritten.

    A run writes its first files in this order: run.json, then weights or state.pt, then log.jsonl.
    So weights with a run.json but without a log are from a run that was killed in its first epoch,
    and starting again loses nothing.
    """
    weights = (folder / "last.pt").exists() or (folder / "best.pt").exists()
    return (folder / "log.jsonl").exists() or (weights and not (folder / "run.json").exists())


def set_aside(folder: Path) -> Path:
    """Rename a run's folder to the first free name: FOLDER.old-1, FOLDER.old-2, ...; return it."""
    folder, number = Path(os.path.abspath(folder)), 1  # a link itself is renamed, not its target
    while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    os.rename(folder, aside)
    return aside


def keep_snapshot(folder: Path, epoch: int, final: checkpoint.Checkpoint) -> None:
    """Save ``final`` of ``epoch`` (from 1) if it is one to keep, and delete those that are not.

    Epochs 1, 1+k, 1+2k, ... are kept; when there are too many, k doubles. So they stay few and
    evenly spaced, however long the run turns out to be. The last epoch is in ``last.pt``.
    """
    spacing = 1
    while (epoch - 1) // spacing >= MAX_SNAPSHOTS:
        spacing *= 2
    if (epoch - 1) % spacing == 0:
        checkpoint.save(folder / "snapshots" / f"epoch_{epoch:04d}.pt", final)
    for path in (folder / "snapshots").iterdir():
        named = re.fullmatch(r"epoch_(\d{4,})\.pt", path.name)  # not a user's copy
        if named and (int(named[1]) - 1) % spacing:
            path.unlink()
