"""Muster beside what people would use instead: `make bench`, or `python -m benchmarks --only tasks,reads --quick`."""
