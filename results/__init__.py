"""Logs of the runs whose figures the README quotes."""
