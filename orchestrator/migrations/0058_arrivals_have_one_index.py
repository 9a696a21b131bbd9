"""Drops the index of arrivals by kind: their primary key has become the same."""

from django.db import migrations

from orchestrator.migrations._indexes import remove_index


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("orchestrator", "0057_key_of_arrivals"),
    ]

    operations = [
        remove_index("arrival", "orchestrator_arrival", "arrival_by_kind", "(kind, id)"),
    ]
