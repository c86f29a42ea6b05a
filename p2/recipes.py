"""Problem 2's recipes, as data, for pre-training and transfer."""

from __future__ import annotations

import dataclasses
from typing import Literal

from core.recipe import BaseRecipe


@dataclasses.dataclass(frozen=True)
class View:
    """How to make one of BYOL's two views from an image."""

    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_last: bool = False  # True is the report's order; the paper crops first
    # brightness, contrast, saturation, hue
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    jitter_p: float = 0.8
    grey_p: float = 0.2
    blur_size: int = 13  # pixels, for a view of 128 pixels; the paper has 23 for 224
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # pixels, for a view of 128 pixels
    blur_p: float = 1.0
    solarize_p: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainRecipe(BaseRecipe):
    """How to pre-train with BYOL, on square views of ``size`` pixels.

    ``patience`` counts epochs without a lower loss, from ``plateau_from`` on.
    """

    views: tuple[View, View]
    schedule: Literal["constant", "plateau", "cosine"]
    plateau_from: int  # the epoch from which plateau and patience look at the loss
    target_decay: float
    target_schedule: Literal["constant", "cosine"]
    # epochs between kNN probes; epoch number ``epochs`` has one too; None: no probe
    probe_every: int | None = None
    size: int = 128
    late_size: int = 128  # size of the views in the last late_epochs epochs
    late_epochs: int = 0

    def size_in(self, epoch: int) -> int:
        """The side of a view in pixels in ``epoch``, which counts from 0."""
        return self.late_size if epoch >= self.epochs - self.late_epochs else self.size


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransferRecipe(BaseRecipe):
    """How to train a classifier: one of the five settings, or the pre-training with labels."""

    crop_scale: tuple[float, float]  # of the random resized crop; 1,1: the whole image
    label_smoothing: float
    schedule: Literal["constant", "cosine"]
    flip_test: bool  # average the logits over the image and its mirror image


# --- the original report --------------------------------------------------------------------------

# NOTE: early stopping and ReduceLROnPlateau both wait 10 epochs, so the run usually ends before the
# learning rate falls. It falls only if the loss improves by less than 0.01 % per epoch: early
# stopping counts that, ReduceLROnPlateau does not. So the second stage changes little.
# NOTE: the report drew each augmentation once per batch; here every image gets its own draw.
# NOTE: 16 bits where that is faster.
ORIGINAL_VIEW = View(
    crop_last=True, jitter=(0.8, 0.8, 0.8, 0.2), jitter_p=0.3, blur_size=3, blur_sigma=(1.0, 2.0),
    blur_p=0.2,
)  # fmt: skip
ORIGINAL_PRETRAIN = PretrainRecipe(
    name="original",
    source="the original report: 100 epochs at one learning rate, then up to 200 on plateaus",
    epochs=300, patience=10, batch_size=128, views=(ORIGINAL_VIEW, ORIGINAL_VIEW),
    optimiser="adam", lr=3e-4, schedule="plateau", plateau_from=100, warmup_epochs=0,
    weight_decay=0.0, decay_vectors=True, target_decay=0.99, target_schedule="constant", bf16=True,
    probe_every=10,
)  # fmt: skip
ORIGINAL_TRANSFER = TransferRecipe(
    name="original",
    source="the original report, for A to E: 0.2848, 0.4114, 0.4551, 0.3062, 0.3087",
    epochs=150, patience=15, batch_size=256, crop_scale=(1.0, 1.0), label_smoothing=0.0,
    optimiser="adam", lr=3e-4, schedule="constant", warmup_epochs=0, weight_decay=1e-5,
    decay_vectors=True, flip_test=False, bf16=True,
)  # fmt: skip
ORIGINAL_SUPERVISED = dataclasses.replace(
    ORIGINAL_TRANSFER,
    source="the original report's transfer, on the labelled images of mini; it itself took the "
    "course's backbone",
)

# --- BYOL's paper ---------------------------------------------------------------------------------

# The views follow section 3.1 and appendix B. LARS, its schedule and the target's decay follow the
# authors' code for 300 epochs: lr 0.3 * batch / 256, weight decay 1e-6, decay from 0.99.
# NOTE: the batch is 256, not 4096; images have 128 pixels, not 224; crops are resized with a
# bilinear filter, not a bicubic one.
PAPER_PRETRAIN = PretrainRecipe(
    name="paper", source="Grill et al. 2020, 'Bootstrap Your Own Latent', for 300 epochs",
    epochs=300, patience=0, batch_size=256, views=(View(), View(blur_p=0.1, solarize_p=0.2)),
    optimiser="lars", lr=0.3, schedule="cosine", plateau_from=0, warmup_epochs=10,
    weight_decay=1e-6, decay_vectors=False, target_decay=0.99, target_schedule="cosine", bf16=True,
    probe_every=10,
)  # fmt: skip

# --- about an hour on two CPU cores ---------------------------------------------------------------

HOUR_PRETRAIN = dataclasses.replace(
    PAPER_PRETRAIN, name="hour", source="the paper's views; small batches for more steps",
    epochs=1, batch_size=64, optimiser="adamw", lr=1e-3, warmup_epochs=0.1, weight_decay=1e-4,
    target_decay=0.97, probe_every=1,
)  # fmt: skip
HOUR_TRANSFER = TransferRecipe(
    name="hour", source="fine-tuning as it is usual now", epochs=6, patience=0, batch_size=64,
    crop_scale=(0.35, 1.0), label_smoothing=0.1, optimiser="adamw", lr=5e-4, schedule="cosine",
    warmup_epochs=1, weight_decay=0.05, decay_vectors=False, flip_test=True, bf16=True,
)  # fmt: skip
HOUR_SUPERVISED = dataclasses.replace(
    HOUR_TRANSFER,
    source="as many images as BYOL sees in its hour, so that the backbones differ by the method",
    epochs=1, warmup_epochs=0.1,
)  # fmt: skip

# --- the best result of a night on two CPU cores --------------------------------------------------

BEST_PRETRAIN = dataclasses.replace(
    HOUR_PRETRAIN, name="best",
    source="the paper's views, small at first: a view of 64 pixels costs a quarter of one of 128",
    epochs=30, batch_size=128, warmup_epochs=1, target_decay=0.99, probe_every=2, size=64,
    late_epochs=2,
)  # fmt: skip
BEST_TRANSFER = dataclasses.replace(
    HOUR_TRANSFER, name="best", source="as the recipe hour, for longer", epochs=40
)
BEST_SUPERVISED = dataclasses.replace(
    HOUR_SUPERVISED, name="best", source="as the recipe hour, for longer", epochs=12
)

# --- for the drawn data of demo.sh: two minutes in total ------------------------------------------

DEMO_PRETRAIN = dataclasses.replace(HOUR_PRETRAIN, name="demo", source="a sample, for demo.sh")
DEMO_TRANSFER = dataclasses.replace(
    HOUR_TRANSFER, name="demo", source="for demo.sh", epochs=3, batch_size=16,
    crop_scale=(0.6, 1.0),
)  # fmt: skip

PRETRAIN = {
    recipe.name: recipe
    for recipe in (ORIGINAL_PRETRAIN, PAPER_PRETRAIN, HOUR_PRETRAIN, BEST_PRETRAIN, DEMO_PRETRAIN)
}
SUPERVISED = {
    recipe.name: recipe for recipe in (ORIGINAL_SUPERVISED, HOUR_SUPERVISED, BEST_SUPERVISED)
}
TRANSFER = {
    recipe.name: recipe
    for recipe in (ORIGINAL_TRANSFER, HOUR_TRANSFER, BEST_TRANSFER, DEMO_TRANSFER)
}
