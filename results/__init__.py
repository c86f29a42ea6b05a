"""The logs of the runs whose scores the README quotes, and the program that makes its tables."""
