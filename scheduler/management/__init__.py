"""Django's place for the commands of `manage.py`."""
