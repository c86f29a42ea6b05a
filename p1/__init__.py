"""Problem 1: classify 32x32 images into 50 classes."""

import core  # noqa: F401  # checks Python and the packages before anything else is imported
