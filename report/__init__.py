"""The report: one page, built from the logs and checkpoints of the runs."""
