"""Where a run comes from: code, command and machine of its first start and of later ones."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core import checkpoint, devices
from core.files import sha256
from core.randomness import seed_of
from training import processes
from training.optim import ENDLESS

ALIASES = {"report": "original"}  # former recipe names, which committed runs have
# The first digits of the sha256 of the published CIFAR-100 weights. All images of problem 1,
# including the validation images, are in CIFAR-100's training split.
CONTAMINATED = "8a269f5e"
PIECE = 2**24  # bytes that are digested together


def start(device: torch.device) -> dict[str, Any]:
    """Return what a reader of the log needs to know about this start of the program.

    ``processes`` is included only if there are several.
    """
    several = {"processes": processes.world_size()} if processes.world_size() > 1 else {}
    return (
        {"command": shlex.join(["python3", *sys.orig_argv[1:]]), "commit": commit()}
        | several
        | {
            "device": devices.describe(device),
            "torch": torch.__version__,
            "started": datetime.datetime.now().isoformat(" ", "seconds"),
        }
    )


def continued(
    metadata: dict[str, Any], now: dict[str, Any], epoch: int, step: int
) -> dict[str, Any]:
    """Return a run's ``metadata`` with a note that a new start continued it.

    It continued at ``step`` of ``epoch``, both from 1. ``now``: what ``start`` returned for it. A
    start that differs from the previous one only in its time is not noted.
    """
    latest = metadata.get("continued", [metadata])[-1]
    names = ("command", "commit", "processes", "device", "torch")
    before = {name: latest[name] for name in names if name in latest}
    if before == {name: value for name, value in now.items() if name != "started"}:
        return metadata
    return metadata | {
        "continued": [*metadata.get("continued", []), {"epoch": epoch, "step": step} | now]
    }


def values(recipe: Any) -> dict[str, Any]:
    """Return a recipe (a dataclass) as plain values, without ``source`` and ``pretrained``.

    A run identifies its initial weights by their digest, not by a name.
    """
    left_out = ("source", "pretrained")
    return {key: value for key, value in dataclasses.asdict(recipe).items() if key not in left_out}


def why_not_on(old: dict[str, Any], new: dict[str, Any], recipe: Any, epochs_done: int) -> str:
    """Say why a run with the identity ``old`` cannot continue as ``new``; "" if it can.

    An identity has recipe, data and seed as plain values; ``recipe`` is that of ``new``. A run can
    continue if both are equal, apart from the patience, a recipe's former name and fields that
    recipes did not have then. The number of epochs may change too, but not below ``epochs_done``,
    if the schedule does not depend on it.
    """
    name = old["recipe"].get("name")
    former = old["recipe"] | {"name": ALIASES.get(name, name)}
    for field in dataclasses.fields(recipe):
        if field.name in new["recipe"] and field.default is not dataclasses.MISSING:
            former.setdefault(field.name, json.loads(json.dumps(field.default)))
    changed = dict(_differences(old | {"recipe": former}, new))
    why = "; ".join(f"{name} was {was!r}, is now {now!r}" for name, (was, now) in changed.items())
    if not changed.keys() <= {"recipe.epochs", "recipe.patience"}:
        return why
    if "recipe.epochs" not in changed:
        return ""
    values = new["recipe"]
    bound = [k for k in values if k.endswith("schedule") and values[k] not in ENDLESS]
    bound += [k for k in ("late_epochs",) if values.get(k)]
    if bound:
        because = " and ".join(bound)
        return f"{why}, and every step depends on the number of epochs (because of {because})"
    return "" if values["epochs"] >= epochs_done else f"{why}, but {epochs_done} are already done"


def _differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from _differences(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif old != new:
        yield name, (old, new)


def commits(metadata: dict[str, Any]) -> str:
    """List the commits that made a run, in order: ``abc``, or ``abc, later def``."""
    return _in_order(one["commit"] for one in _starts(metadata))


def machines(metadata: dict[str, Any], short: bool = False) -> str:
    """List the machines that made a run, like ``commits``; ``short``: of a CPU only its threads."""
    names = [str(one.get("device", "unknown")) for one in _starts(metadata)]
    if short:
        names = [name.split(",")[-1].strip() if "threads" in name else name for name in names]
    return _in_order(re.sub(r"\b1 threads$", "1 thread", name) for name in names)


def _starts(metadata: dict[str, Any]) -> list[dict[str, Any]]:
    return [metadata, *metadata.get("continued", [])]


def _in_order(texts: Iterable[str]) -> str:
    return ", later ".join(dict.fromkeys(texts))


def read(path: Path) -> dict[str, Any] | None:
    """Read a ``run.json``. Returns None if it is missing or broken."""
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    starts = [metadata]
    if isinstance(metadata, dict):
        later = metadata.get("continued", [])
        starts += later if isinstance(later, list) else [None]
    texts = all(isinstance(one, dict) and isinstance(one.get("commit"), str) for one in starts)
    return metadata if texts and isinstance(metadata.get("data", {}), dict) else None


def digest(*parts: Tensor | Path) -> str:
    """Return a short digest of the content of tensors, (N, ...) on the CPU, and of files.

    File names and times do not count, so a run can continue after its data was unpacked again. All
    bytes are read, which takes about a second per GiB.
    """
    total = hashlib.blake2b(digest_size=8)
    with ThreadPoolExecutor() as pool:
        for part in parts:
            if isinstance(part, Path):
                pieces: list[Any] = [part.read_bytes()]
            else:
                # Images are digested in their memory layout, channels last.
                rows = part.movedim(1, -1) if part.ndim == 4 else part
                total.update(f"{tuple(rows.shape)} {rows.dtype}".encode())
                pieces = [
                    piece.contiguous().numpy()
                    for piece in rows.split(max(1, PIECE * len(rows) // max(1, rows.nbytes)))
                ]
            for digest_of_piece in pool.map(lambda piece: hashlib.blake2b(piece).digest(), pieces):
                total.update(digest_of_piece)
    return total.hexdigest()


def initial_weights(name: str | None, file: Path | None) -> dict[str, Any]:
    """Return notes on the weights from which a run starts.

    ``name`` is the value of ``--pretrained`` and ``file`` the file that it means, whose sha256 is
    noted. If that is a checkpoint of a run, the notes list what that run started from, back to the
    first.
    """
    notes: dict[str, Any] = {"pretrained": str(name), "pretrained_sha256": None}
    if file is None:
        return notes
    notes["pretrained_sha256"] = sha256(file)
    made = checkpoint.read(file).get("made")
    if before := origins(made.get("data") if isinstance(made, dict) else None):
        notes["pretrained_before"] = before
    return notes


def origins(data: Any) -> list[str]:
    """List what the weights of a run with the notes ``data`` go back to, latest first.

    Each is a sha256 or, for runs that did not record it, a file name; [] means random weights.
    """
    if not isinstance(data, dict) or data.get("pretrained") in (None, "None"):
        return []
    before = data.get("pretrained_before")
    first = data.get("pretrained_sha256") or data["pretrained"]
    return [str(first), *map(str, before if isinstance(before, list) else [])]


def is_contaminated(data: dict[str, Any]) -> bool:
    """Return whether a run with the notes ``data`` goes back to weights from CIFAR-100."""
    return any(one.startswith(CONTAMINATED) or "cifar100" in one.lower() for one in origins(data))


def fingerprint(paths: list[Path]) -> str:
    """Return a short digest of the files' names, sizes and times; it changes when a file does."""
    stats = [(path.name, path.stat()) for path in paths]
    texts = (f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in stats)
    return f"{seed_of(0, *texts):016x}"


def commit() -> str:
    """Return the commit of the code, with ``-dirty`` if the code was changed since.

    Returns ``unknown`` outside a clone, even if the folder is inside another project's clone.
    """
    root = Path(__file__).resolve().parents[1]
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    others = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment = others | {"GIT_CEILING_DIRECTORIES": str(root.parent)}
    try:
        return subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # OSError: git is not installed
        return "unknown"
