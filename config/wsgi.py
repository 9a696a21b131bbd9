"""The WSGI application that granian serves."""

from django.core.wsgi import get_wsgi_application
from django.urls import get_resolver

from config.start import start

start()
application = get_wsgi_application()

# Loads every view now: the first request would take a second longer.
assert get_resolver().url_patterns
