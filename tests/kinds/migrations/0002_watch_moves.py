from django.db import migrations

from tests.moves import watch_moves


class Migration(migrations.Migration):
    """A stack whose jobs move as they must not fails where they do."""

    dependencies = [("kinds", "0001_initial"), ("orchestrator", "0001_initial")]

    operations = [migrations.RunPython(lambda *_: watch_moves(), migrations.RunPython.noop)]
