"""Muster's Django project: settings, Celery app, URLs."""
