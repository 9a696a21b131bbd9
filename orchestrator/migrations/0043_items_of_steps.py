"""Steps that run for each value of a list."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0042_index_of_waiting_steps"),
    ]

    operations = [
        migrations.AddField(
            model_name="step",
            name="each",
            field=models.JSONField(
                help_text="The list for each value of which it runs, and how: graphs.rows.", null=True
            ),
        ),
        migrations.AddField(
            model_name="step",
            name="items",
            field=models.IntegerField(help_text="How many values that list had.", null=True),
        ),
        migrations.AddField(
            model_name="step",
            name="released",
            field=models.IntegerField(
                help_text="So many of its items may start so far; null: all of them.", null=True
            ),
        ),
    ]
