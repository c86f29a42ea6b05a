"""Benchmarks: our programs and the ones they are compared with run in turn, as whole processes."""
