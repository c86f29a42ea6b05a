"""The report: one page, built from the runs' logs and checkpoints."""

from core import require

require("matplotlib", "sklearn")
