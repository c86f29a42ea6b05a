"""Problem 2: pre-train a ResNet50 by BYOL without labels, then classify 65 classes in five
settings.
"""

import core  # noqa: F401  # says in one line what this Python lacks, before anything else is imported
