"""Checkpoint files: weights with everything needed to use them, safe to load on any machine."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import math
import os
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn

from core.cli import InputError, some
from core.files import atomic_write

FORMAT = 1
LISTS = ("classes", "mean", "std", "test_scales")  # tuples in Python, lists in a file
SHIPPED = Path(__file__).resolve().parents[1] / "checkpoints"
MAX_BYTES = 50_000_000  # the course's limit for a file in the repository


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file.

    ``input_size`` is the side of the square input in pixels, or None if any size is accepted.
    ``mean`` and ``std`` normalise channels in 0..1. ``classes`` are the labels of the outputs, in
    order. ``scores`` were measured on the validation set named in ``made``.
    """

    problem: str
    architecture: str
    classes: tuple[str, ...]
    input_size: int | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    flip_test: bool  # average the logits of the image and its mirror image
    recipe: dict[str, Any]
    scores: dict[str, float]
    made: dict[str, Any]
    weights: dict[str, torch.Tensor]
    test_scales: tuple[float, ...] = (1.0,)  # average the logits over the image at these scales
    rotate_test: bool = False  # average the logits over the image's four quarter turns


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write ``checkpoint`` to ``path`` atomically, with its weight matrices as float16.

    Vectors (biases, BatchNorm's scales and statistics) stay float32: they are few, and a running
    variance may exceed float16's range. Raises InputError if a weight is not finite in its format.
    """
    fields = {
        field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)
    }
    fields["weights"] = {name: _compact(name, value) for name, value in checkpoint.weights.items()}
    fields["format"] = FORMAT
    for name in LISTS:
        fields[name] = list(fields[name])
    write(path, fields)


def write(path: Path, content: Any) -> None:
    """Save plain data to ``path`` atomically. Raises Unwritable, also if the disk is full."""
    with atomic_write(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # the zip file could not be closed after a failed write
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def _compact(name: str, value: torch.Tensor) -> torch.Tensor:
    value = value.detach().to(
        "cpu", torch.float16 if value.is_floating_point() and value.ndim >= 2 else None
    )
    if value.is_floating_point() and not value.isfinite().all():
        raise InputError(
            f"the weight {name} is not finite, so it is not saved; the training has diverged"
        )
    return value.contiguous().clone()  # a view would save its whole storage


def load(path: Path, problem: str) -> Checkpoint:
    """Load a checkpoint of ``problem`` (p1, p2 or p3) onto the CPU.

    Only plain data is unpickled. Raises InputError if the file is missing, broken or not a
    checkpoint of this problem, or if a field has a value that training never writes, such as a NaN
    weight.
    """
    fields = read(path)
    if "format" not in fields or "weights" not in fields:
        raise InputError(
            f"{path} is not a checkpoint of this project (bare weights?); "
            f"make one with {problem}.train"
        )
    version = fields.pop("format")
    if not isinstance(version, int) or version != FORMAT:
        raise InputError(
            f"{path} has the format of another version; use the code that wrote it, or train again"
        )
    if fields.get("problem") != problem and _is_text(fields.get("problem")):
        raise InputError(f"{path} is a checkpoint of {fields['problem']}, not of {problem}")
    optional = {
        field.name: field.default
        for field in dataclasses.fields(Checkpoint)
        if field.default is not dataclasses.MISSING
    }
    fields = optional | fields
    faults = [f"no field {name}" for name in SCHEMA.keys() - fields.keys()]
    faults += [f"unknown field {name}" for name in fields.keys() - SCHEMA.keys()]
    faults += [
        f"{name} is not {needed}"
        for name, (needed, holds) in SCHEMA.items()
        if name in fields and not holds(fields[name])
    ]
    if faults:
        raise InputError(
            f"{path} is not a complete checkpoint ({some(sorted(faults))}); fetch or train it again"
        )
    return Checkpoint(**fields | {name: tuple(fields[name]) for name in LISTS})


def _is_number(value: Any, above: float = -math.inf) -> bool:
    return type(value) in (int, float) and above < value < math.inf


def _is_list(value: Any, holds: Callable[[Any], bool], length: int | None = None) -> bool:
    return (
        isinstance(value, list | tuple) and length in (None, len(value)) and all(map(holds, value))
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_named(value: Any, holds: Callable[[Any], bool] = lambda _: True) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value)) and all(map(holds, value.values()))


def _is_finite(value: Any) -> bool:
    # A tensor may claim to be larger than its storage; reading it would take that much memory.
    if not isinstance(value, torch.Tensor) or value.nbytes > value.untyped_storage().nbytes():
        return False
    # A sum is finite only if all its terms are, and takes an eighth of the time of checking each.
    return not value.is_floating_point() or bool(value.sum(dtype=torch.float32).isfinite())


# Field of a file -> a description of what it must be, and the test for it.
SCHEMA: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "problem": ("a string", _is_text),
    "architecture": ("a string", _is_text),
    "classes": ("a list of strings", lambda value: _is_list(value, _is_text)),
    "input_size": (
        "None or an integer of at least 1",
        lambda value: value is None or type(value) is int and value > 0,
    ),
    "mean": ("three finite numbers", lambda value: _is_list(value, _is_number, 3)),
    "std": (
        "three finite numbers above 0",
        lambda value: _is_list(value, functools.partial(_is_number, above=0), 3),
    ),
    "flip_test": ("True or False", lambda value: isinstance(value, bool)),
    "rotate_test": ("True or False", lambda value: isinstance(value, bool)),
    "test_scales": (
        "a list of finite numbers above 0",
        lambda value: _is_list(value, functools.partial(_is_number, above=0)) and len(value) > 0,
    ),
    "recipe": ("a dict with string keys", _is_named),
    "scores": ("a dict with string keys", _is_named),
    "made": ("a dict with string keys", _is_named),
    "weights": ("a dict of finite tensors", lambda value: _is_named(value, _is_finite)),
}


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read named tensors from a state dict or any checkpoint of ours. Raises InputError."""
    content = read(path)
    if "format" in content and "weights" in content:
        content = content["weights"]
    if not _is_named(content, lambda value: isinstance(value, torch.Tensor)):
        raise InputError(f"{path} contains more than named tensors; give a file of weights only")
    return content


def read(path: Path, hint: str = "") -> dict[str, Any]:
    """Load plain data by name onto the CPU with ``torch.load``.

    ``hint``: what to do if the file is damaged (fetch or train it again). Raises InputError if it
    cannot be loaded, unless memory is too small.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the file in it, such as {path}/last.pt")
    if not path.is_file():
        hint = _how_to_restore(path) or "to check those that ship, run: bash hw1_download.sh"
        raise InputError(f"no checkpoint {path}; {hint}")
    try:
        path.open("rb").close()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        _check_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a broken or truncated file can raise almost anything, even OSError
        foreign = isinstance(error, pickle.UnpicklingError)
        why = "it contains more than plain weights" if foreign else "it is truncated or damaged"
        hint = hint or _how_to_restore(path) or "fetch it again or train it again"
        raise InputError(f"cannot load {path}: {why}; {hint}") from error
    if not _is_named(content):
        raise InputError(
            f"{path} contains a {type(content).__name__}, not named weights; choose another file"
        )
    return content


def _how_to_restore(path: Path) -> str:
    # Returns a hint for files that the manifest lists, otherwise "".
    try:
        manifest = json.loads((SHIPPED / "manifest.json").read_text(encoding="utf-8"))
        names = {part: [one["name"] for one in listed] for part, listed in manifest.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ""
    if path.resolve().parent == SHIPPED and path.name in names.get("checkpoints", []):
        return "it ships with the repository; restore it with: git checkout -- checkpoints"
    if path.name in names.get("pretrained", []):
        return f"download it with: bash hw1_download.sh pretrained {path.name}"
    return ""


# The classes and functions that pickled weights may name. torch allows a few more; two of these,
# bytearray and torch.Tensor, can turn a number into gigabytes.
PLAIN = re.compile(
    r"collections OrderedDict|torch (\w+Storage|Size|device|b?float\d+|u?int\d+|bool)"
    r"|torch\._utils _rebuild_(tensor(_v2)?|parameter)"
)


def _check_file(path: Path) -> None:
    # Raises UnpicklingError if loading the file could take more memory than the file's own size,
    # and another exception if the file is damaged.
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                parts = archive.infolist()
                compressed = any(part.compress_type != zipfile.ZIP_STORED for part in parts)
                size = sum(part.file_size for part in parts)
                if compressed or size > os.fstat(file.fileno()).st_size:
                    raise pickle.UnpicklingError("torch does not compress")
                if archive.testzip():  # torch itself does not verify the checksums
                    raise zipfile.BadZipFile
                names = [part.filename for part in parts if part.filename.endswith(".pkl")]
                pickles: list[IO[bytes]] = [io.BytesIO(archive.read(name)) for name in names]
        else:
            # torch's old format is five pickles: magic number, version, system, data, storage keys
            file.seek(0)
            pickles = [file] * 5
        for stream in pickles:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "GLOBAL" and not PLAIN.fullmatch(str(argument)):
                    raise pickle.UnpicklingError(argument)


def load_weights(model: nn.Module, weights: dict[str, torch.Tensor], source: str) -> None:
    """Copy ``weights`` into ``model``, either all of them or none.

    Raises InputError unless keys and shapes match exactly; the message lists the missing,
    unexpected and mis-shaped keys. ``source`` tells the user where the weights come from.
    """
    own, faults = model.state_dict(), []
    if missing := sorted(own.keys() - weights.keys()):
        faults.append(f"missing: {some(missing)}")
    if unexpected := sorted(weights.keys() - own.keys()):
        faults.append(f"unexpected: {some(unexpected)}")
    shapes = [
        f"{name} is {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in weights and weights[name].shape != own[name].shape
    ]
    if shapes:
        faults.append(f"mis-shaped: {some(shapes)}")
    if faults:
        raise InputError(
            f"{source} does not fit this network; {'; '.join(faults)}. Nothing was loaded"
        )
    model.load_state_dict(weights, strict=True)
