"""Problem 3: segment satellite images into 7 land-cover classes."""

import core  # noqa: F401  # checks Python and the packages before anything else is imported
