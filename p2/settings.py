"""The five settings of the comparison, as five rows."""

from __future__ import annotations

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Setting:
    """Where the backbone's weights come from, and whether they are trained on.

    ``start``: nothing; labels: trained with labels, by the course or by ``p2.supervise``; byol:
    trained without labels, by ``p2.pretrain``.
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
