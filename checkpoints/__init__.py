"""The weights that ship, their manifest, and what brings them in and out."""
