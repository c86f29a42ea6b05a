"""The demo: a small procedural data set in the course's layout, and everything run on it."""
