"""Problem 2's recipes, as data: pre-training and transfer. What each reached stands in the README."""

from __future__ import annotations

import dataclasses

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class View:
    """How one of BYOL's two views is made of an image."""

    crop_scale: tuple[float, float] = (0.08, 1.0)
    crop_last: bool = False  # the report's order; the paper crops first
    jitter: tuple[float, float, float, float] = (
        0.4,
        0.4,
        0.2,
        0.1,
    )  # brightness, contrast, saturation, hue
    jitter_p: float = 0.8
    grey_p: float = 0.2
    blur_size: int = 13  # pixels; the paper's 23 of 224, for 128
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_p: float = 1.0
    solarize_p: float = 0.0


@dataclasses.dataclass(frozen=True)
class PretrainRecipe:
    """How to pre-train by BYOL.

    ``plateau_from``: the epoch from which lr falls to a tenth in the 11th epoch in a row without a lower loss, and patience
    is tried. ``probe_every``: the epochs between two kNN probes, the last of ``epochs`` being probed too; None: never.
    """

    name: str
    epochs: int
    patience: (
        int  # epochs without a lower loss, from plateau_from on, before the run ends; 0: never
    )
    batch_size: int
    views: tuple[View, View]
    optimiser: str
    lr: float
    schedule: str  # plateau or cosine
    plateau_from: int
    warmup_epochs: float
    weight_decay: float
    decay_vectors: bool
    target_decay: float
    target_schedule: str  # constant or cosine
    bf16: bool
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    probe_every: int | None = None


@dataclasses.dataclass(frozen=True)
class TransferRecipe:
    """How to train a classifier: a setting's, or the one whose backbone is pre-trained with labels."""

    name: str
    epochs: int
    patience: int  # epochs without a better validation accuracy (with labels: training loss) before the run ends; 0: never
    batch_size: int
    crop_scale: tuple[float, float]  # of a random resized crop; (1, 1): the whole image
    label_smoothing: float
    optimiser: str
    lr: float
    schedule: str  # constant or cosine
    warmup_epochs: float
    weight_decay: float
    decay_vectors: bool
    flip_test: bool
    bf16: bool
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


# The original report's two stages in one run: 100 epochs at a constant learning rate, then up to 200 with ReduceLROnPlateau.
# NOTE: its two patiences, both 10, leave the second little to do: the run ends before lr falls, but where the loss falls by
# less than the share of 1e-4 that ReduceLROnPlateau counts as lower.
# NOTE: the report drew each augmentation once a batch; here every image has its own draw. bfloat16 where the machine has it.
REPORT_VIEW = View(
    crop_last=True,
    jitter=(0.8, 0.8, 0.8, 0.2),
    jitter_p=0.3,
    grey_p=0.2,
    blur_size=3,
    blur_sigma=(1.0, 2.0),
    blur_p=0.2,
)
REPORT_PRETRAIN = PretrainRecipe(
    name="report", epochs=300, patience=10, batch_size=128, views=(REPORT_VIEW, REPORT_VIEW), optimiser="adam", lr=3e-4,
    schedule="plateau", plateau_from=100, warmup_epochs=0, weight_decay=0.0, decay_vectors=True, target_decay=0.99,
    target_schedule="constant", bf16=True, probe_every=10,
)  # fmt: skip

# The original report's transfer, the same for A-E: 0.2848, 0.4114, 0.4551, 0.3062, 0.3087. NOTE: bfloat16, as above.
REPORT_TRANSFER = TransferRecipe(
    name="report", epochs=150, patience=15, batch_size=256, crop_scale=(1.0, 1.0), label_smoothing=0.0, optimiser="adam",
    lr=3e-4, schedule="constant", warmup_epochs=0, weight_decay=1e-5, decay_vectors=True, flip_test=False, bf16=True,
)  # fmt: skip

# BYOL's paper (Grill et al. 2020): views of section 3.1 and appendix B; LARS, its schedule, lr = 0.2 * batch / 256 and the
# weight decay of section 3.3 and appendix J; target decay from 0.99 for 300 epochs (appendix J has 0.996, for 1000).
# NOTE: batch 4096 -> 256, 224 pixels -> 128. For 300 epochs the authors' code has lr 0.3 and weight decay 1e-6.
PAPER_PRETRAIN = PretrainRecipe(
    name="paper", epochs=300, patience=0, batch_size=256, views=(View(), View(blur_p=0.1, solarize_p=0.2)), optimiser="lars",
    lr=0.2, schedule="cosine", plateau_from=0, warmup_epochs=10, weight_decay=1.5e-6, decay_vectors=False, target_decay=0.99,
    target_schedule="cosine", bf16=True, probe_every=10,
)  # fmt: skip

# The report took the course's backbone trained with labels; this is the report's transfer, on the labelled images of mini.
REPORT_SUPERVISED = REPORT_TRANSFER

# As far as two CPU cores get in about an hour: the paper's views, small batches for more steps.
HOUR_PRETRAIN = PretrainRecipe(
    name="hour", epochs=1, patience=0, batch_size=64,
    views=(View(), View(blur_p=0.1, solarize_p=0.2)), optimiser="adamw", lr=1e-3, schedule="cosine", plateau_from=0,
    warmup_epochs=0.1, weight_decay=1e-4, decay_vectors=False, target_decay=0.97, target_schedule="cosine", bf16=True,
    probe_every=1,
)  # fmt: skip
HOUR_TRANSFER = TransferRecipe(
    name="hour", epochs=6, patience=0, batch_size=64, crop_scale=(0.35, 1.0), label_smoothing=0.1, optimiser="adamw",
    lr=5e-4, schedule="cosine", warmup_epochs=1, weight_decay=0.05, decay_vectors=False, flip_test=True, bf16=True,
)  # fmt: skip

# As many images as BYOL sees in that hour, so that the two backbones differ by the method alone.
HOUR_SUPERVISED = dataclasses.replace(HOUR_TRANSFER, epochs=1, warmup_epochs=0.1)

# For the drawn data of demo.sh: two minutes in all, of which BYOL's part is a sample only.
DEMO_PRETRAIN = dataclasses.replace(HOUR_PRETRAIN, name="demo", epochs=1)
DEMO_TRANSFER = dataclasses.replace(
    HOUR_TRANSFER, name="demo", epochs=5, batch_size=32, crop_scale=(0.6, 1.0)
)

PRETRAIN = {
    recipe.name: recipe
    for recipe in (REPORT_PRETRAIN, PAPER_PRETRAIN, HOUR_PRETRAIN, DEMO_PRETRAIN)
}
SUPERVISED = {recipe.name: recipe for recipe in (REPORT_SUPERVISED, HOUR_SUPERVISED)}
TRANSFER = {recipe.name: recipe for recipe in (REPORT_TRANSFER, HOUR_TRANSFER, DEMO_TRANSFER)}
