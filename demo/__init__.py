"""The demo: a small procedural data set in the course's layout, and everything run on it."""

import core  # noqa: F401  # checks Python and the packages before anything else is imported
