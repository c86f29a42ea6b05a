"""What the six training loops share: the step, the learning rate at a step, the accuracy.

The loops are in ``p1/train.py``, ``p2/pretrain.py`` (BYOL), ``p2/supervise.py``, ``p2/train.py``,
``p3/pretrain.py`` and ``p3/train.py``. Apart from ``flip_test``, ``backbone_rate`` and
``statistics``, only recipe fields that every recipe has are read here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from core import augment, devices, progress, views
from core.cli import InputError
from core.randomness import batches, generator
from core.recipe import BaseRecipe
from training import optim, processes


def first_batch(count: int, batch_size: int, seed: int) -> tuple[Tensor, tuple[int, int, int]]:
    """Return the first batch of a run over ``count`` images, for ``--preview``.

    Returns its indices, (batch,) int64, and what ``training.run.Run.keys`` would return for it.
    """
    _, index = next(batches(count, batch_size, seed=seed, epoch=0))
    return index, (seed, 0, 0)


def state(scaler: torch.amp.GradScaler, **parts: Any) -> dict[str, Any]:
    """Return the parts of a training that change, by name, for ``training.run.Run``.

    Parts that are None and a disabled scaler are left out.
    """
    used = {name: part for name, part in parts.items() if part is not None}
    return used | ({"scaler": scaler} if scaler.is_enabled() else {})


def checkpoint_fields(
    problem: str,
    architecture: str,
    classes: Sequence[str],
    input_size: int | None,
    recipe: BaseRecipe,
) -> dict[str, Any]:
    """Return the fields of ``core.checkpoint.Checkpoint`` that say how to use a run's weights.

    Those of the views at test time are the recipe's, if it has them.
    """
    at_test = ("flip_test", "test_scales", "rotate_test")
    return {
        "problem": problem,
        "architecture": architecture,
        "classes": tuple(classes),
        "input_size": input_size,
        "mean": recipe.mean,
        "std": recipe.std,
        "flip_test": False,
        **{name: getattr(recipe, name) for name in at_test if hasattr(recipe, name)},
    }


def make_optimizer(network: nn.Module, recipe: Any) -> torch.optim.Optimizer:
    """Return the recipe's optimiser for the parameters that have a gradient: see ``optim.make``."""
    return optim.make(
        recipe.optimiser,
        network,
        recipe.lr,
        recipe.weight_decay,
        recipe.decay_vectors,
        getattr(recipe, "backbone_rate", 1.0),
    )


def loss_scaler(device: torch.device, bf16: bool) -> torch.amp.GradScaler:
    """Return a loss scaler, enabled only where ``devices.autocast`` computes in float16.

    Micikevicius et al. 2018, "Mixed Precision Training", section 3.2: small gradients would become
    0 in float16. The scale is part of the run's state.
    """
    is_float16 = bf16 and devices.short_format(device) is torch.float16
    return torch.amp.GradScaler(device.type, enabled=is_float16)


def step(
    loss: Tensor,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    *,
    average: nn.Module | None = None,
    decay: float = 0.0,
) -> None:
    """Update ``network`` with the gradients of ``loss``, a scalar; then ``average`` with ``decay``.

    Without averaged weights, ``average`` is None or ``network`` itself. If ``scaler`` finds
    gradients that are not finite, the weights do not change.
    """
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    processes.copy_buffers(network)
    if average is not None and average is not network:
        optim.update_average(average, network, decay)


def set_learning_rate(
    optimizer: torch.optim.Optimizer, recipe: Any, step: int, steps_per_epoch: int
) -> None:
    """Set the learning rate of ``step``, which is counted from 0 over the whole run.

    Does nothing if the schedule is ``constant`` or ``plateau``. Raises InputError if it is neither
    of them nor ``cosine``.
    """
    if recipe.schedule == "cosine":
        warmup, total = recipe.warmup_epochs * steps_per_epoch, recipe.epochs * steps_per_epoch
        optim.set_lr(optimizer, recipe.lr * optim.warmup_cosine(step, warmup, total))
    elif recipe.schedule not in optim.ENDLESS:
        raise InputError(
            f"unknown schedule {recipe.schedule!r}; choose from cosine, {', '.join(optim.ENDLESS)}"
        )


@torch.no_grad()
def measure_statistics(
    network: nn.Module,
    inputs_of: Callable[[Tensor, torch.Generator], Tensor],
    count: int,
    recipe: Any,
    device: torch.device,
    seed: int,
    epoch: int,
) -> None:
    """Measure BatchNorm's running statistics: their mean over an epoch's first batches.

    Averaged weights need this, as no training step has seen their activations (Izmailov et al.
    2018, "Averaging Weights Leads to Wider Optima and Better Generalization", section 3.2).
    ``inputs_of`` returns the inputs, (N, 3, H, W) float32, for images' indices, (N,) int64, and the
    generator of their augmentation. ``count``: images in the data set. ``recipe.statistics``: how
    many batches. Leaves ``network`` in evaluation mode.
    """
    network.eval()
    kind = nn.modules.batchnorm._BatchNorm  # BatchNorm2d, or SyncBatchNorm with several GPUs
    layers = [layer for layer in network.modules() if isinstance(layer, kind)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.train()
        layer.reset_running_stats()
        layer.momentum = None  # so they become the mean of all batches
    drawn = batches(count, recipe.batch_size, seed=seed, epoch=epoch)
    first = list(itertools.islice(drawn, recipe.statistics))
    for step, index in progress.over(first, "BatchNorm's statistics"):
        images = inputs_of(index, generator(seed, epoch, step))  # float32, as in training
        with devices.autocast(device, recipe.bf16):
            network(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.eval()
        layer.momentum = momentum


@torch.no_grad()
def accuracy(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: Any,
    device: torch.device,
    batch_size: int = 64,
) -> float:
    """Return the share, 0..1, of ``images`` (N, 3, H, W) uint8 that are classified correctly.

    ``labels``: (N,) int64. With ``recipe.flip_test``, the logits are averaged over mirror images.
    The number format is that of training. With several processes, each measures its share. Leaves
    ``network``, a classifier, in evaluation mode.
    """
    network.eval()
    right = torch.tensor(0)
    parts = list(zip(images.split(batch_size), labels.split(batch_size), strict=True))
    for batch, truth in progress.over(processes.local_share(parts), "validation"):
        with devices.autocast(device, recipe.bf16):
            inputs = augment.normalise(augment.to_float(batch.to(device)), recipe.mean, recipe.std)
            out = views.logits(network, inputs, recipe.flip_test)
            right += (out.argmax(1).cpu() == truth).sum()
    return processes.total(right).item() / len(labels)


def held_out(labels: Tensor, seed: int, share: int = 10) -> Tensor:
    """Choose images to hold out for measuring: (N,) bool, one in ``share`` of each class.

    ``labels``: (N,) int64, or zeros if there are no classes. If a class has two or more images, at
    least one is held out. The choice depends on ``seed`` alone. Raises InputError if no class has
    two images.
    """
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique().tolist():
        members = (labels == label).nonzero()[:, 0]
        count = max(round(len(members) / share), 1) if len(members) > 1 else 0
        drawn = torch.randperm(len(members), generator=generator(seed, "hold-out", label))
        held[members[drawn[:count]]] = True
    if not held.any():
        raise InputError(
            "no class has two images, one to train on and one to measure on; add images"
        )
    return held


def split_for_tune(
    images: Tensor, labels: Tensor, seed: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Split a data set for ``--tune`` into one part to train on and one to measure on.

    Each part is images (N, ...) and labels (N,), copied into memory. ``labels``: as in
    ``held_out``. Raises InputError as ``held_out`` does.
    """
    held = held_out(labels, seed)
    return (images[~held], labels[~held]), (images[held], labels[held])
