"""Problem 1's recipes, as data.

Use them as ``RECIPES[name][model]``. ``--recipe list`` says what each one reached.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from core.efficientnet_lite import MEAN, STD
from core.recipe import BaseRecipe
from p1.model import ARCHITECTURE

CIFAR100_MEAN, CIFAR100_STD = (0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(BaseRecipe):
    """How to train. ``patience`` counts epochs without a better validation accuracy.

    With ``lr`` 0, no step is taken.
    """

    model: str  # A: from scratch; B: pre-trained; C: EfficientNet-Lite from ImageNet
    schedule: Literal["constant", "cosine"]  # cosine: a linear warm-up, then decay to 0
    label_smoothing: float
    crop_padding: int  # pixels on each side
    jitter: tuple[float, float, float, float]  # brightness, contrast, saturation, hue
    rotation: float  # degrees
    # decay of the averaged weights, which are evaluated and saved; 0: no average; 1: plain mean
    average: float
    flip_test: bool  # average the logits over the image and its mirror image
    architecture: str = ARCHITECTURE  # see p1.model.build
    backbone_rate: float = 1.0  # multiplies the learning rate of the backbone
    drop_path: float = 0.0  # EfficientNet-Lite: probability of dropping the last block
    pretrained: str = ""  # initial weights, unless --pretrained names others; "": random
    cutmix: float = 0.0  # probability that a box of another image is pasted into an image
    # batches of each epoch in which BatchNorm's statistics of the averaged weights are measured; 0:
    # the statistics are averaged like the weights
    statistics: int = 0


# The original only scales pixels to 0..1; it does not normalise them.
# NOTE: 16 bits where that is faster; whether the report's number format mattered is unknown.
ORIGINAL_A = Recipe(
    name="original", model="A", source="the original report: 0.6476 after 58 epochs", epochs=200,
    patience=20, batch_size=256, optimiser="adam", lr=3e-4, schedule="constant", warmup_epochs=0,
    weight_decay=1e-5, decay_vectors=True, label_smoothing=0.0, crop_padding=4,
    jitter=(0.5, 0.5, 0.5, 0.0), rotation=30, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0),
    average=0.0, flip_test=False, bf16=True,
)  # fmt: skip

ORIGINAL_B = dataclasses.replace(
    ORIGINAL_A, model="B",
    source="the original report: 0.9714 after 1 epoch, from weights that had seen the validation "
    "images (see p1/README.md)",
    epochs=150, patience=15, jitter=(0.0, 0.0, 0.0, 0.0), rotation=0,
)  # fmt: skip

HOUR_A = Recipe(
    name="hour", model="A", source="as far as two CPU cores get in an hour or two", epochs=14,
    patience=0, batch_size=128, optimiser="sgd", lr=0.1, schedule="cosine", warmup_epochs=1,
    weight_decay=5e-4, decay_vectors=False, label_smoothing=0.1, crop_padding=4,
    jitter=(0.0, 0.0, 0.0, 0.0), rotation=0, mean=CIFAR100_MEAN, std=CIFAR100_STD, average=0.998,
    flip_test=True, bf16=True,
)  # fmt: skip
HOUR_B = dataclasses.replace(
    HOUR_A, model="B", pretrained="runs/p1_pretrain_hour/last.pt", epochs=8, lr=0.02
)

BEST_A = dataclasses.replace(
    HOUR_A, name="best", source="a long cosine, CutMix, averaged weights", epochs=80,
    warmup_epochs=2, average=0.999, cutmix=0.5,
)  # fmt: skip
# A second cosine that starts where hour ends: an eighth of best's time.
LONG_A = dataclasses.replace(
    BEST_A, name="long", source="after hour", pretrained="runs/p1_A_hour/last.pt", epochs=10,
    lr=0.05, warmup_epochs=1, average=0.998, cutmix=0.25,
)  # fmt: skip
# A third cosine, with CutMix in more of the images, as they have been seen more often.
LONGER_A = dataclasses.replace(
    LONG_A, name="longer", source="after long", pretrained="runs/p1_A_long/last.pt", epochs=8,
    cutmix=0.5,
)  # fmt: skip
# A constant learning rate and the mean of the weights over all steps: see training.optim.warmed_up.
MEAN_A = dataclasses.replace(
    LONGER_A, name="mean", source="after longer", pretrained="runs/p1_A_longer/last.pt",
    epochs=4, lr=0.02, schedule="constant", warmup_epochs=0, average=1.0,
)  # fmt: skip
# A fourth cosine, as long as two cores allow in two hours.
RESTART_A = dataclasses.replace(
    LONGER_A, name="restart", source="after mean", pretrained="runs/p1_A_mean/last.pt", epochs=40,
    lr=0.1, average=0.999,
)  # fmt: skip
BEST_B = dataclasses.replace(BEST_A, model="B", pretrained=HOUR_B.pretrained, epochs=60, lr=0.05)

BEST_C = Recipe(
    name="best", model="C", source="from ImageNet weights, on images enlarged to 128 pixels",
    epochs=10, patience=0, batch_size=64, optimiser="adamw", lr=2e-3, schedule="cosine",
    warmup_epochs=0.5, weight_decay=0.02, decay_vectors=False, label_smoothing=0.1, crop_padding=4,
    jitter=(0.0, 0.0, 0.0, 0.0), rotation=0, mean=MEAN, std=STD, average=0.998, flip_test=True,
    bf16=True, architecture="efficientnet_lite0_128", backbone_rate=0.25, drop_path=0.1, cutmix=0.5,
    pretrained="imagenet",
)  # fmt: skip

# Starts where the recipe best ends. Mixes fewer images, because test images are not mixed.
LARGE_C = dataclasses.replace(
    BEST_C, name="large", source="after best, on images enlarged to 192 pixels",
    pretrained="runs/p1_C_best/last.pt", epochs=4, lr=8e-4, cutmix=0.25,
    architecture="efficientnet_lite0_192",
)  # fmt: skip
MEAN_C = dataclasses.replace(
    LARGE_C, name="mean", source="after large", pretrained="runs/p1_C_large/last.pt", epochs=2,
    lr=4e-4, schedule="constant", warmup_epochs=0, average=1.0,
)  # fmt: skip
# lr is 0, so no step is taken: the run only measures BatchNorm's statistics again (see
# training.loop.measure_statistics).
RECALIBRATED_C = dataclasses.replace(
    MEAN_C, name="recalibrated",
    source="after mean: BatchNorm's statistics of the averaged weights",
    pretrained="runs/p1_C_mean/last.pt", epochs=1, lr=0.0, statistics=120,
)  # fmt: skip
# For model B's initial weights, trained on other images and labels: see p1/pretrain.py.
HOUR_PRETRAIN = dataclasses.replace(HOUR_A, epochs=4)
ORIGINAL_PRETRAIN = dataclasses.replace(
    ORIGINAL_A, source="augmented as the original report's model B", jitter=(0.0, 0.0, 0.0, 0.0),
    rotation=0,
)  # fmt: skip

DEMO_A = dataclasses.replace(
    HOUR_A, name="demo", source="for the drawn data of demo.sh: a minute", epochs=5, batch_size=32,
    lr=0.05, average=0.95,
)  # fmt: skip

RECIPES = {
    "original": {"A": ORIGINAL_A, "B": ORIGINAL_B},
    "hour": {"A": HOUR_A, "B": HOUR_B},
    "demo": {"A": DEMO_A},
    "best": {"A": BEST_A, "B": BEST_B, "C": BEST_C},
    "long": {"A": LONG_A},
    "longer": {"A": LONGER_A},
    "large": {"C": LARGE_C},
    "mean": {"A": MEAN_A, "C": MEAN_C},
    "restart": {"A": RESTART_A},
    "recalibrated": {"C": RECALIBRATED_C},
}
PRETRAIN = {"original": ORIGINAL_PRETRAIN, "hour": HOUR_PRETRAIN}
