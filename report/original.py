"""Scores of the original report, which this project reproduces, and the best published scores.

All are validation scores on the course's own data: accuracy for problems 1 and 2, mean IoU for
problem 3. Each is from the best epoch, which its authors chose on the same images.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Score:
    """A score of the original report.

    ``epoch``: the best epoch, if the report names it. ``note``: a caveat to show with the score.
    """

    value: float
    epoch: int | None = None
    note: str = ""

    def __str__(self) -> str:
        return f"{self.value}, {self.note}" if self.note else f"{self.value}"


SCORES = {  # by problem and model or setting
    "p1_A": Score(0.6476, epoch=58),
    # All images of problem 1 are from CIFAR-100's training split, on which the initial weights had
    # been trained.
    "p1_B": Score(0.9714, epoch=1, note="contaminated"),
    "p2_A": Score(0.2848, note="other data"),
    "p2_B": Score(0.4114, note="other data"),
    "p2_C": Score(0.4551, note="other data"),
    "p2_D": Score(0.3062, note="other data"),
    "p2_E": Score(0.3087, note="other data"),
    "p3_A": Score(0.6257),
    "p3_B": Score(0.7341, note="from COCO weights"),
}
MASKS = ("0013", "0062", "0104")  # validation images for which it shows model B's masks
MASK_STAGES = (0.5775, 0.6537, 0.7166)  # model B's mean IoU at the three stages shown

PUBLISHED = {  # the best score that others reached with a single convolutional network
    "p1_A": 0.762,  # ResNet-like, at 72x72 pixels, from scratch
    "p1_B": 0.909,  # ResNeXt101 from ImageNet weights, at 224x224 pixels
    "p1_C": 0.909,  # as for model B
    "p2_C": 0.599,  # BYOL for 1000 epochs
    "p3_A": 0.725,  # VGG16 from ImageNet weights, focal loss
    "p3_B": 0.762,  # DeepLabv3 on ResNet101, focal loss
    "p3_C": 0.762,  # as for model B
}
