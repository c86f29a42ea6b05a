"""Side-by-side measurements: whole processes run in turn, ours and what they are measured against."""
