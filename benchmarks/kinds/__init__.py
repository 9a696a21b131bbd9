"""Kinds of job that only benchmarks run; named in EXTRA_APPS."""
