"""The weights that ship, their manifest, and the tools to download, export and publish them."""

import core  # noqa: F401  # checks Python and the packages before anything else is imported
