"""Benchmarks: every figure is a ratio against a stated baseline, measured in the same run. See README.md."""
