"""Benchmarks that run our programs and others in turn, each as a whole process."""
