"""The five settings that problem 2 compares."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where the backbone's initial weights come from, and whether training changes them.

    ``start`` is "nothing" for random weights, "labels" for weights trained with labels by the
    course or by ``p2.supervise``, "byol" for weights trained without labels by ``p2.pretrain``.
    """

    name: str
    start: Literal["nothing", "labels", "byol"]
    frozen: bool  # only the head is trained


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("A", start="nothing", frozen=False),
        Setting("B", start="labels", frozen=False),
        Setting("C", start="byol", frozen=False),
        Setting("D", start="labels", frozen=True),
        Setting("E", start="byol", frozen=True),
    )
}
