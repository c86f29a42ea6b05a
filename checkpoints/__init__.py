"""The weights that ship, their manifest, and the tools to download, export and publish them."""
