"""Side-by-side measurements: whole processes in turn, ours and those that they stand beside."""
