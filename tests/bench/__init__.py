"""Benchmarks: commands, not tests. `make bench` runs the first; the others are named in the README."""
