from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0053_function_of_charges"),
    ]

    operations = [
        migrations.CreateModel(
            name="HeldBack",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("kind", models.CharField(max_length=100)),
                ("limit", models.CharField(help_text="The name of the limit, as it is set.", max_length=30)),
                ("jobs", models.IntegerField(help_text="Counted up to a bound.")),
                ("oldest_since", models.DateTimeField(help_text="Since when the oldest of them could.")),
            ],
            options={
                "verbose_name_plural": "held back",
                "default_permissions": (),
                "constraints": [
                    models.UniqueConstraint(fields=("kind", "limit"), name="held_back_is_counted_once"),
                ],
            },
        ),
    ]
