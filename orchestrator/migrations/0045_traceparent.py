"""Jobs keep the trace that they were submitted in, so that their attempts continue it."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0044_index_of_released_steps"),
    ]

    operations = [
        migrations.AddField(
            model_name="job",
            name="traceparent",
            field=models.CharField(
                help_text="The trace that it was submitted in, as W3C's traceparent, if OpenTelemetry was on.",
                max_length=55,
                null=True,
            ),
        ),
    ]
