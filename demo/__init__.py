"""The demo: a small procedural data set in the course's layout, and everything run on it."""

import core  # noqa: F401  # says in one line what this Python lacks, before anything else is imported
