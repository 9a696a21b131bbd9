"""Numbers are kept with the digits they have. No row is written anew: only the bound of their type goes."""

from django.db import migrations

import scheduler.models


class Migration(migrations.Migration):
    dependencies = [
        ("scheduler", "0004_exact_tasks"),
    ]

    operations = [
        migrations.AlterField(
            model_name="taskschedule",
            name="a",
            field=scheduler.models.ExactField(decimal_places=324, max_digits=354),
        ),
        migrations.AlterField(
            model_name="taskschedule",
            name="b",
            field=scheduler.models.ExactField(decimal_places=324, max_digits=354),
        ),
    ]
