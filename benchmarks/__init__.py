"""Side-by-side measurements: whole processes run in turn, ours and what they are measured against."""

import core  # noqa: F401  # says in one line what this Python lacks, before anything else is imported
