"""Problem 3's recipes, as data.

Use them as ``RECIPES[name][model]``. ``--recipe list`` says what each one reached.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from core.augment import IMAGENET_MEAN, IMAGENET_STD
from core.efficientnet_lite import MEAN, STD
from core.recipe import BaseRecipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(BaseRecipe):
    """How to train. ``patience`` counts epochs without a better validation mIoU.

    With ``lr`` 0, no step is taken.
    """

    model: str  # a key of p3.model.OF_MODEL
    crop: int  # side in pixels of the random square crop; 0: the whole image
    symmetry: Literal["flip", "square"]  # flip: left and right; square: all eight symmetries
    jitter: tuple[float, float, float, float]  # brightness, contrast, saturation, hue
    ignore_unknown: bool  # leave pixels of the class unknown out of the loss
    schedule: Literal["constant", "plateau", "cosine"]  # see training.optim
    # decay of the averaged weights, which are evaluated and saved; 0: no average; 1: plain mean
    average: float
    flip_test: bool  # average the logits over the image and its mirror image
    # range of the share of the image's area that a crop covers before it is resized to ``crop``;
    # zeros: a crop of ``crop`` pixels, not resized
    crop_area: tuple[float, float] = (0.0, 0.0)
    backbone_rate: float = 1.0  # multiplies the learning rate of the backbone
    drop_path: float = 0.0  # EfficientNet-Lite: probability of dropping the last block
    pretrained: str = ""  # initial weights, unless --pretrained names others; "": random
    balance: float = 0.0  # how much more a pixel of a rare class counts: see p3.train.class_weights
    jaccard: float = 0.0  # weight of the soft Jaccard loss, added to cross entropy
    test_scales: tuple[float, ...] = (1.0,)  # for validation and test: see core.views.logits
    rotate_test: bool = False  # average the logits over the image's four quarter turns
    # batches of each epoch in which BatchNorm's statistics of the averaged weights are measured; 0:
    # the statistics are averaged like the weights
    statistics: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainRecipe(BaseRecipe):
    """How to train a backbone to classify images of ``size`` x ``size`` pixels.

    ``patience`` counts epochs without a better accuracy on the held-out images.
    """

    model: str  # A or B
    size: int
    crop_area: tuple[float, float]  # range of the share of the image's area that a crop covers
    jitter: tuple[float, float, float, float]  # brightness, contrast, saturation, hue
    schedule: Literal["constant", "cosine"]
    average: float  # as in Recipe
    flip_test: bool


# NOTE: 16 bits where that is faster.
ORIGINAL_A = Recipe(
    name="original", model="A", source="the original report: 0.6257", epochs=80, patience=15,
    batch_size=16, crop=0, symmetry="flip", jitter=(0.0, 0.0, 0.0, 0.0), ignore_unknown=False,
    optimiser="adam", lr=3e-4, schedule="plateau", warmup_epochs=0, weight_decay=1e-5,
    decay_vectors=True, mean=IMAGENET_MEAN, std=IMAGENET_STD, average=0.0, flip_test=False,
    bf16=True,
)  # fmt: skip
ORIGINAL_B = dataclasses.replace(
    ORIGINAL_A,
    model="B",
    source="the original report: 0.7341, from COCO weights, which --pretrained FILE names; without "
    "it, from random weights",
)

HOUR_B = Recipe(
    name="hour", model="B", source="as far as two CPU cores get in an hour or two", epochs=14,
    patience=0, batch_size=16, crop=256, symmetry="square", jitter=(0.2, 0.2, 0.2, 0.0),
    ignore_unknown=True, optimiser="adamw", lr=1e-3, schedule="cosine", warmup_epochs=0.5,
    weight_decay=0.01, decay_vectors=False, mean=IMAGENET_MEAN, std=IMAGENET_STD, average=0.995,
    flip_test=False, bf16=True,
)  # fmt: skip
# VGG16 costs eleven times as much per pixel.
HOUR_A = dataclasses.replace(HOUR_B, model="A", epochs=8, crop=128, lr=1e-4)

# From ImageNet weights. Crops show the image at scales of about 0.5 to 1, as does the test.
BEST_C = Recipe(
    name="best", model="C", source="from ImageNet weights, crops and tests at several scales",
    epochs=24, patience=0, batch_size=16, crop=256, symmetry="square",
    jitter=(0.25, 0.25, 0.25, 0.05), ignore_unknown=True, optimiser="adamw", lr=1.5e-3,
    schedule="cosine", warmup_epochs=1, weight_decay=0.02, decay_vectors=False, mean=MEAN, std=STD,
    average=0.995, flip_test=True, bf16=True, crop_area=(0.2, 1.0), backbone_rate=0.27,
    drop_path=0.1, jaccard=0.5, test_scales=(0.5, 0.75), pretrained="imagenet",
)  # fmt: skip

# On images of three eighths to three quarters of their size: a crop has a seventh of the pixels of
# a whole image.
BEST_B = dataclasses.replace(
    BEST_C, model="B", source="after p3.pretrain, on small images for more epochs", epochs=28,
    crop=192, crop_area=(0.25, 1.0), test_scales=(0.375, 0.5), lr=1e-3, backbone_rate=1.0,
    drop_path=0.0, mean=IMAGENET_MEAN, std=IMAGENET_STD, balance=0.5,
    pretrained="runs/p3_pretrain_B_best/last.pt",
)  # fmt: skip
# A second cosine that starts where best ends.
LONG_B = dataclasses.replace(
    BEST_B, name="long", source="after best", pretrained="runs/p3_B_best/last.pt", epochs=16,
    lr=6e-4,
)  # fmt: skip
# A third cosine, at the scales of model C.
LARGE_B = dataclasses.replace(
    LONG_B, name="large", source="after long, on larger crops", epochs=16, crop=256,
    crop_area=BEST_C.crop_area, test_scales=BEST_C.test_scales,
    pretrained="runs/p3_B_long/last.pt",
)  # fmt: skip
# One long cosine from a high rate, tested in quarter turns.
RESTART_B = dataclasses.replace(
    LARGE_B, name="restart", source="after large, one long cosine", epochs=24, lr=1.5e-3,
    average=0.997, flip_test=False, rotate_test=True, pretrained="runs/p3_B_large/last.pt",
)  # fmt: skip
# The mean over all steps, as in model C.
MEAN_B = dataclasses.replace(
    RESTART_B, name="mean", source="after restart", pretrained="runs/p3_B_restart/last.pt",
    epochs=8, lr=5e-4, schedule="constant", warmup_epochs=0, average=1.0, statistics=60,
)  # fmt: skip
# VGG16 costs more per pixel, so its crops are smaller, its epochs are fewer, and there is one scale
# at validation. It has no BatchNorm: at 2e-4 without a warm-up, its features died within an epoch.
BEST_A = dataclasses.replace(
    BEST_B, model="A", source="after p3.pretrain, on small images", epochs=12, crop=160, lr=1e-4,
    backbone_rate=0.5, crop_area=(0.2, 0.8), test_scales=(0.5,),
    pretrained="runs/p3_pretrain_A_best/last.pt",
)  # fmt: skip
# For the backbones of A and B, as classifiers of small images: see p3/pretrain.py.
PRETRAIN_B = PretrainRecipe(
    name="best", model="B", source="on the labels of problem 2's mini, at 64x64 pixels", epochs=5,
    patience=0, batch_size=128, size=64, crop_area=(0.35, 1.0), jitter=(0.25, 0.25, 0.25, 0.05),
    optimiser="adamw", lr=1e-3, schedule="cosine", warmup_epochs=0.25, weight_decay=0.02,
    decay_vectors=False, average=0.995, flip_test=True, bf16=True,
)  # fmt: skip
PRETRAIN_A = dataclasses.replace(
    PRETRAIN_B, model="A", source="as B's, with BatchNorm until it is saved", epochs=4
)  # fmt: skip

# A second cosine that starts where best ends, with more weight on the Jaccard loss, which is closer
# to the metric.
LONG_C = dataclasses.replace(
    BEST_C, name="long", source="after best", pretrained="runs/p3_C_best/last.pt", epochs=16,
    lr=8e-4, average=0.997, jaccard=1.0,
)  # fmt: skip
# Two more epochs at a low learning rate, so that the log contains the score with quarter turns.
TURNED_C = dataclasses.replace(
    LONG_C, name="turned", source="after long", pretrained="runs/p3_C_long/last.pt", epochs=2,
    lr=1e-4, warmup_epochs=0.25, flip_test=False, rotate_test=True,
)  # fmt: skip
# A constant learning rate and the mean of the weights over all steps: see training.optim.warmed_up.
MEAN_C = dataclasses.replace(
    TURNED_C, name="mean", source="after turned", pretrained="runs/p3_C_turned/last.pt", epochs=8,
    lr=4e-4, schedule="constant", warmup_epochs=0, average=1.0,
)  # fmt: skip
# lr is 0, so no step is taken: the run only measures BatchNorm's statistics again (see
# training.loop.measure_statistics).
RECALIBRATED_C = dataclasses.replace(
    MEAN_C, name="recalibrated",
    source="after mean: BatchNorm's statistics of the averaged weights",
    pretrained="runs/p3_C_mean/last.pt", epochs=1, lr=0.0, statistics=125,
)  # fmt: skip

# From random weights, a few minutes are not enough to learn rangeland and water.
DEMO_C = dataclasses.replace(
    BEST_C, name="demo", source="for the drawn data of demo.sh, from the weights that ship",
    pretrained="checkpoints/p3_c.pt", epochs=2, batch_size=8, lr=3e-4, average=0.9,
)  # fmt: skip

RECIPES = {
    "original": {"A": ORIGINAL_A, "B": ORIGINAL_B},
    "hour": {"A": HOUR_A, "B": HOUR_B},
    "demo": {"C": DEMO_C},
    "best": {"A": BEST_A, "B": BEST_B, "C": BEST_C},
    "long": {"B": LONG_B, "C": LONG_C},
    "large": {"B": LARGE_B},
    "turned": {"C": TURNED_C},
    "mean": {"B": MEAN_B, "C": MEAN_C},
    "recalibrated": {"C": RECALIBRATED_C},
    "restart": {"B": RESTART_B},
}
PRETRAIN = {"best": {"A": PRETRAIN_A, "B": PRETRAIN_B}}
