"""Problem 3: satellite images in 7 land-cover classes, by VGG16-FCN32s, DeepLabv3 and
DeepLabv3+.
"""

import core  # noqa: F401  # says in one line what this Python lacks, before anything else is imported
