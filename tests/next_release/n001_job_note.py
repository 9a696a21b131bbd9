"""A column more."""

from django.db import migrations, models

from tests.next_release import PRESENT


class Migration(migrations.Migration):
    dependencies = [("orchestrator", PRESENT)]
    operations = [
        migrations.AddField(model_name="job", name="note", field=models.TextField(db_default="")),
    ]
