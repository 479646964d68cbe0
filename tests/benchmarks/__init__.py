"""Benchmarks: `python -m tests.benchmarks` (docs/performance.md)."""
