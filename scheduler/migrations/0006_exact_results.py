"""Numbers are kept with the digits they have. No row is written anew: only the bound of their type goes."""

from django.db import migrations

import scheduler.models


class Migration(migrations.Migration):
    dependencies = [
        ("scheduler", "0005_exact_schedules"),
    ]

    operations = [
        migrations.AlterField(
            model_name="taskresult",
            name="result",
            field=scheduler.models.ExactField(decimal_places=324, max_digits=355),
        ),
    ]
