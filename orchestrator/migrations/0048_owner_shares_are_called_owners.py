"""What the admin calls them."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [
        ("orchestrator", "0047_index_of_deadlines"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="ownershare",
            options={
                "permissions": [("pause_ownershare", "Can pause and resume owners")],
                "verbose_name": "owner",
            },
        ),
    ]
