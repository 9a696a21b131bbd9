"""The checks of `manage.py doctor` on the database, the broker, workers, jobs and traces. They only read."""

from importlib import import_module

# In the order in which they are reported: what others need comes first.
for subject in ("database", "configuration", "broker", "workers", "jobs", "telemetry"):
    import_module(f"{__name__}.{subject}")
