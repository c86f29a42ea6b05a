"""The report: one page, built from the logs and checkpoints of the runs."""

from core import require

require("matplotlib", "sklearn")
