"""Problem 2: pre-train a ResNet50 with BYOL, then classify 65 classes in five settings."""

import core  # noqa: F401  # checks Python and the packages before anything else is imported
