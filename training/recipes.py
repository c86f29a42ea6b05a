"""Recipes on the command line: chosen by name, listed, and changed by ``--set NAME=VALUE``.

A recipe is a frozen dataclass in its problem's folder. The fields that are read here are those that
all recipes have: ``name``, ``source``, ``epochs``, ``batch_size``.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import math
import shlex
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from core import cli
from core.cli import InputError
from training.provenance import ALIASES, machines

IDENTITY = ("name", "model", "source", "pretrained")  # recipe fields that --set may not change
SYNONYMS = {  # what other projects call a recipe's field
    "learning_rate": "lr", "bs": "batch_size", "wd": "weight_decay", "optimizer": "optimiser",
    "optim": "optimiser", "scheduler": "schedule", "lr_schedule": "schedule",
    "warmup": "warmup_epochs", "ema": "average", "tta": "flip_test", "amp": "bf16",
    "color_jitter": "jitter", "smoothing": "label_smoothing",
}  # fmt: skip
RESULTS = Path(__file__).resolve().parents[1] / "results"
R = TypeVar("R")


def choose_recipe(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    recipes: Mapping[str, R],
    prefix: str,
) -> R:
    """Return the recipe that the flags name, with the values that they change.

    ``recipes``: by name. ``prefix``: how the names of these recipes' run folders begin. Handles
    ``--recipe list`` and ``--help`` too, and ends the program after them. Raises InputError if
    there is no such recipe or field, or if a value does not have the field's type.
    """
    if args.recipe == "list":
        cli.answer("\n\n".join(_listed(recipes[name], prefix) for name in recipes))
        sys.exit(0)
    recipe = overridden(named(recipes, args.recipe), args.epochs, args.batch_size, args.set)
    if args.help:
        values = "\n".join(f"  {name}={value}" for name, value in _settable(recipe))
        title = f"values of the recipe {args.recipe}; change them with --set NAME=VALUE:"
        cli.answer(f"{parser.format_help()}\n{title}\n{values}")
        sys.exit(0)
    return recipe


def named(recipes: Mapping[str, R], name: str) -> R:
    """Return the recipe now or formerly called ``name``, or raise InputError with similar names."""
    current = ALIASES.get(name, name)
    if current not in recipes:
        raise InputError(f"unknown recipe {name!r}. {_closest(name, list(recipes))}")
    return recipes[current]


def overridden(
    recipe: R,
    epochs: int | None = None,
    batch_size: int | None = None,
    changes: Sequence[str] = (),
) -> R:
    """Return ``recipe`` with other values. ``changes``: ``name=value`` each, as in ``--set``.

    Raises InputError if a field does not exist or if a text is not a value of its type.
    """
    changed: Any = recipe
    for name, number in (("epochs", epochs), ("batch_size", batch_size)):
        if number:
            changed = dataclasses.replace(changed, **{name: number})
    for change in changes:
        name, equals, text = change.partition("=")
        if not equals:
            raise InputError(f"--set {change}: write it as NAME=VALUE, such as lr=0.01")
        try:
            changed = _changed(changed, type(recipe), name.strip().split("."), text.strip())
            if changed.epochs < 1 or changed.batch_size < 1:
                raise ValueError(f"{name} must be 1 or more")
        except ValueError as error:
            raise InputError(f"--set {change}: {error}") from error
    return changed


def _changed(value: Any, kind: Any, path: list[str], text: str) -> Any:
    # Returns ``value``, of type ``kind``, with its part at ``path`` replaced. Raises ValueError.
    if not path:
        return _parsed(text, kind)
    name, *rest = path
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {k: v for k, v in typing.get_type_hints(type(value)).items() if k not in IDENTITY}
        if name not in fields:
            raise ValueError(f"no value {name!r} in the recipe. {_closest(name, list(fields))}")
        part = _changed(getattr(value, name), fields[name], rest, text)
        return dataclasses.replace(value, **{name: part})
    if isinstance(value, tuple):
        if not name.isdigit() or int(name) >= len(value):
            raise ValueError(
                f"{name!r} is not one of the {len(value)} parts, 0 to {len(value) - 1}"
            )
        kinds, k = typing.get_args(kind), int(name)
        part = _changed(value[k], kinds[0] if kinds[-1] is ... else kinds[k], rest, text)
        return (*value[:k], part, *value[k + 1 :])
    raise ValueError(f"a single value has no part {name!r}")


def _parsed(text: str, kind: Any) -> Any:
    # Parses a text as a value of type ``kind``. Raises ValueError, which says what is possible.
    parts = typing.get_args(kind)
    if isinstance(kind, types.UnionType):  # such as int | None
        inner = [part for part in parts if part is not type(None)]
        return None if text.lower() == "none" else _parsed(text, inner[0])
    if dataclasses.is_dataclass(kind):
        raise ValueError("it has parts; change one of them (they are listed in --help)")
    if typing.get_origin(kind) is typing.Literal:
        if text not in parts:
            raise ValueError(f"{text!r} is not one of {', '.join(map(str, parts))}")
        return text
    if typing.get_origin(kind) is tuple:
        if any(map(dataclasses.is_dataclass, parts)):
            raise ValueError("it has parts; change one of them (they are listed in --help)")
        texts = text.strip("()").split(",")
        parts = parts[:1] * len(texts) if parts[-1] is ... else parts
        if len(texts) != len(parts):
            raise ValueError(f"{len(parts)} values are needed, separated by commas")
        return tuple(_parsed(one.strip(), part) for one, part in zip(texts, parts, strict=True))
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{text!r} is neither true nor false")
        return text.lower() == "true"
    if kind is int or kind is float:
        try:
            number = kind(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a number of type {kind.__name__}") from None
        if not 0 <= number < math.inf:
            raise ValueError(f"{text} is negative or not finite")
        return number
    if kind is str:
        return text
    raise TypeError(f"no --set for values of the type {kind}")


def _closest(name: str, names: list[str]) -> str:
    synonym = SYNONYMS.get(name.lower().replace("-", "_"))
    near = [synonym] if synonym in names else difflib.get_close_matches(name, names, n=3)
    question = [f"Did you mean {' or '.join(near)}?"] if near else []
    every = [f"Choose from {', '.join(names)}"] if len(names) < 9 or not near else []
    return " ".join([*question, *every])


def _settable(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    # Yields the parts of a recipe as --set names and writes them.
    dot = f"{name}." if name else ""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            if field.name not in IDENTITY:
                yield from _settable(getattr(value, field.name), f"{dot}{field.name}")
    elif isinstance(value, tuple) and any(map(dataclasses.is_dataclass, value)):
        for k, part in enumerate(value):
            yield from _settable(part, f"{dot}{k}")
    else:
        yield name, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _listed(recipe: Any, prefix: str) -> str:
    # Describes a recipe: its source, its committed runs, and the command to train with it.
    former = [old for old, new in ALIASES.items() if new == recipe.name]
    found = [_measured(RESULTS / f"{prefix}_{name}") for name in (recipe.name, *former)]
    start = getattr(recipe, "pretrained", "")
    lines = [f"{recipe.name}: {recipe.source}", *([f"starts from {start}"] if start else [])]
    lines += [line for line in found if line]
    asked = ("--recipe", "list", "--recipe=list")
    command = ["python3", *(word for word in sys.orig_argv[1:] if word not in asked)]
    return "\n    ".join([*lines, f"{shlex.join(command)} --recipe {recipe.name}"])


def _measured(folder: Path) -> str:
    # Says what the run in ``folder`` reached and in how many hours; "" if there is no run.
    try:
        metadata = json.loads((folder / "run.json").read_text())
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    except (OSError, ValueError):
        return ""
    score = next((name for name in ("mean_iou", "accuracy", "knn") if name in lines[-1]), "loss")
    hours = sum(line["seconds"] for line in lines) / 3600
    return (
        f"measured: {score} {lines[-1][score]:.4f} after {len(lines)} epochs, {hours:.1f} hours on "
        f"{machines(metadata)} ({folder.parent.name}/{folder.name})"
    )
