"""One file a model: weights and all that is needed to use them, safe to open on any machine."""

from __future__ import annotations

import dataclasses
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from core.cli import InputError, some
from core.files import atomic_write

FORMAT = 1
LISTS = ("classes", "mean", "std", "test_scales")  # fields that are tuples here and lists in a file
MAX_BYTES = 50_000_000  # the course's limit for a file that lies in the repository


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    ``input_size`` is the square's side in pixels, or None where any size is taken. ``mean`` and ``std`` normalise
    channels in 0..1. ``classes`` are the labels as the outputs name them. ``scores`` are measured on the validation set
    named in ``made``.
    """

    problem: str
    architecture: str
    classes: tuple[str, ...]
    input_size: int | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    flip_test: bool  # average the logits of the image and of its mirror image
    recipe: dict[str, Any]
    scores: dict[str, float]
    made: dict[str, Any]
    weights: dict[str, torch.Tensor]
    test_scales: tuple[float, ...] = (1.0,)  # average the logits over the image at these scales


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write ``checkpoint`` to ``path`` in whole, its weight matrices as float16.

    Vectors (biases, BatchNorm's scales and statistics) stay float32: they are few, and a running variance may lie
    outside float16. Raises InputError if a weight is not finite in its format.
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
    """``torch.save`` of plain data to ``path``, in whole. Raises Unwritable, on a full disk too."""
    with atomic_write(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # the zip could not be closed, after a write had failed
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def _compact(name: str, value: torch.Tensor) -> torch.Tensor:
    value = value.detach().to(
        "cpu", torch.float16 if value.is_floating_point() and value.ndim >= 2 else None
    )
    if value.is_floating_point() and not value.isfinite().all():
        raise InputError(
            f"the weight {name} is not finite, so it is not saved; the training has diverged"
        )
    return value.contiguous().clone()  # a view would drag its whole storage into the file


def load(path: Path, problem: str) -> Checkpoint:
    """Read a checkpoint of ``problem`` (p1, p2 or p3) onto the CPU.

    Only plain data is unpickled. Raises InputError if the file is missing, broken, no checkpoint or another problem's.
    """
    fields = read(path)
    if "format" not in fields or "weights" not in fields:
        raise InputError(
            f"{path} is not a checkpoint of this project (bare weights?); make one with {problem}.train"
        )
    if fields.pop("format") != FORMAT:
        raise InputError(
            f"{path} has another version's format; use the code it was made with, or train again"
        )
    if fields.get("problem") != problem:
        raise InputError(f"{path} is a checkpoint of {fields.get('problem')}, not of {problem}")
    try:
        fields |= {name: tuple(fields[name]) for name in LISTS if name in fields}
        return Checkpoint(**fields)
    except TypeError as error:
        raise InputError(f"{path} is not a whole checkpoint ({error})") from error


def read(path: Path) -> dict[str, Any]:
    """``torch.load`` of plain data by name onto the CPU, with every failure an InputError of one line."""
    if not path.is_file():
        raise InputError(f"no checkpoint {path}; fetch what ships with: bash hw1_download.sh")
    try:
        path.open("rb").close()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    is_zip = zipfile.is_zipfile(path)  # torch's older files are none
    try:
        if is_zip:
            with zipfile.ZipFile(path) as archive:
                if archive.testzip():  # torch itself does not look at the checksums
                    raise zipfile.BadZipFile
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken zip, a foreign pickle or a short file each raise something else, OSError too
        foreign = is_zip and isinstance(error, pickle.UnpicklingError)
        why = "it holds more than plain weights" if foreign else "it is cut short or damaged"
        raise InputError(f"cannot load {path}: {why}; fetch it again or train it again") from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path} holds a {type(content).__name__}, not weights by their names; name another file"
        )
    return content


def load_weights(model: nn.Module, weights: dict[str, torch.Tensor], source: str) -> None:
    """Copy ``weights`` into ``model``, all of them or none.

    Raises InputError naming the missing, unexpected and mis-shaped keys if the two do not match key for key; ``source``
    says in that message where the weights come from.
    """
    own = model.state_dict()
    faults = (
        [f"missing: {some(sorted(own.keys() - weights.keys()))}"]
        if own.keys() - weights.keys()
        else []
    )
    if weights.keys() - own.keys():
        faults.append(f"unexpected: {some(sorted(weights.keys() - own.keys()))}")
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
