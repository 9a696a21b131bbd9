"""Where the test kinds leave their effects."""

from django.db import models


class Effect(models.Model):
    """A handler's write to the database: one row each time it was committed."""

    job_id = models.UUIDField(db_index=True)
    attempt = models.IntegerField()
    number = models.IntegerField(default=0)
