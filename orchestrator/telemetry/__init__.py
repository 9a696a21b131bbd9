"""What logs, Flower and OpenTelemetry report of jobs while they run. Nothing here changes a job or fails it."""
