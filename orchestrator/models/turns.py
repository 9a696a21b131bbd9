"""Whose turn it is: the clocks of owners, and their shares."""

from typing import ClassVar

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q


class Turn(models.Model):
    """An owner's place among those who have ready jobs of a kind, or had until recently: they take turns."""

    kind = models.CharField(max_length=100)
    owner = models.CharField(max_length=150, blank=True)
    clock = models.FloatField(help_text="Seconds of slots that it has used, by its weight; it counts on from others'.")
    at = models.FloatField(help_text="Its place: its clock, less a head start for the priority of its next job.")
    since = models.BigIntegerField(help_text="The arrival since which it waits; the earlier goes first at one place.")
    served = models.FloatField(help_text="What its clock showed when it was last served.")
    turn = models.BigIntegerField(help_text="The number of its last turn, or of the last one before it came.")
    new = models.BooleanField(help_text="It has had no turn since it came, or came back.")
    idle = models.BooleanField(help_text="It has no ready job that may start.")
    version = models.BigIntegerField(db_default=0, help_text="Rises with each job that arrives.")

    class Meta:
        default_permissions = ()
        indexes: ClassVar = [
            # Serves: the claim.
            models.Index(name="turn_by_place", fields=["kind", "at", "since"], condition=Q(idle=False)),
            # Serve: the clock of the kind, that a newcomer's is set to.
            models.Index(name="turn_by_clock", fields=["kind", "clock"], condition=Q(idle=False, new=False)),
            models.Index(name="turn_by_number", fields=["kind", "turn"]),
        ]
        constraints: ClassVar = [
            models.UniqueConstraint(name="turn_is_one_an_owner", fields=["kind", "owner"]),
        ]

    def __str__(self) -> str:
        return f"{self.owner or 'no owner'}, {self.kind}"


class Arrival(models.Model):
    """Jobs of an owner became ready: written by triggers, in the transaction that made them so, read by the claim."""

    # Serves: the claim, which looks for new ones of its kind. There is no other index: each single job has an arrival.
    pk = models.CompositePrimaryKey("kind", "id")
    id = models.BigIntegerField(help_text="In their order; PostgreSQL gives it.")
    kind = models.CharField(max_length=100)
    owner = models.CharField(max_length=150, blank=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.owner or 'no owner'}, {self.kind}"


class OwnerShare(models.Model):
    """What an operator has set for an owner: how much of the workers it gets, and whether it gets any."""

    owner = models.CharField(max_length=150, unique=True, blank=True, help_text="Empty: all jobs that have no owner.")
    weight = models.FloatField(
        db_default=1.0,
        default=1.0,
        validators=[MinValueValidator(0.01), MaxValueValidator(100.0)],
        help_text="Its share beside others: one of weight 2 gets twice as much of the slots as one of weight 1.",
    )
    slot_share = models.FloatField(
        null=True,
        blank=True,
        validators=[MinValueValidator(0.001), MaxValueValidator(1.0)],
        help_text="The most of a queue's slots that it may hold, from 0.001 to 1; empty: OWNER_SLOT_SHARE.",
    )
    paused_at = models.DateTimeField(null=True, blank=True, help_text="Since when none of its jobs is started.")

    class Meta:
        verbose_name = "owner"
        permissions: ClassVar = [("pause_ownershare", "Can pause and resume owners")]
        constraints: ClassVar = [
            models.CheckConstraint(name="owner_weight_is_in_bounds", condition=Q(weight__gte=0.01, weight__lte=100)),
            models.CheckConstraint(
                name="owner_slot_share_is_in_bounds",
                condition=Q(slot_share=None) | Q(slot_share__gte=0.001, slot_share__lte=1),
            ),
        ]

    def __str__(self) -> str:
        return self.owner or "no owner"
