"""Problem 1: 32x32 images in 50 classes, by MobileNetV2."""

import core  # noqa: F401  # says in one line what this Python lacks, before anything else is imported
