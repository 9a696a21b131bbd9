"""Whether Muster is healthy: readiness, and what `manage.py doctor` checks. Nothing here changes anything."""
