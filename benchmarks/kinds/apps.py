"""The app of the benchmarks' kinds."""

from django.apps import AppConfig


class KindsConfig(AppConfig):
    name = "benchmarks.kinds"
    label = "benchmark_kinds"
