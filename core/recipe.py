"""The part of a training recipe that all problems share."""

from __future__ import annotations

import dataclasses
from typing import Literal

from core.augment import IMAGENET_MEAN, IMAGENET_STD


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseRecipe:
    """How to train. Each problem's recipes add their own fields.

    ``source``: where the recipe comes from, and the result reported for it. ``lr``: the learning
    rate of one optimiser step on ``batch_size`` images. ``decay_vectors``: apply weight decay to
    biases and BatchNorm too. ``bf16``: compute in 16 bits where that is faster, see
    ``core.devices.autocast``. ``mean``, ``std``: they normalise the channels, which are 0..1.
    """

    name: str
    source: str
    epochs: int
    patience: int  # stop after so many epochs without an improvement; 0: never
    batch_size: int
    optimiser: Literal["adam", "adamw", "sgd", "lars"]
    lr: float
    warmup_epochs: float  # the learning rate grows linearly to ``lr``, if the schedule is cosine
    weight_decay: float
    decay_vectors: bool
    bf16: bool
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
