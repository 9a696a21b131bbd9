"""How much of the calendar an expansion may look at. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler.recurrence.rrule import BadRRule


@dataclass
class Search:
    """What an expansion may still look at: each day or tick costs a step, and each occurrence that is found earns
    some. A 29 February that is a Monday is found day by day in at most 2,000 steps, which are 40 years.
    """

    most: int = 10_000
    earned: int = 2_000
    left: int = field(default=10_000)
    spent: int = 0

    def spend(self, steps: int = 1) -> None:
        self.spent += steps
        self.left -= steps
        if self.left < 0:
            raise BadRRule(
                "The rule has no occurrence, or none soon enough; remove a part, or use a shorter INTERVAL."
            )

    def found(self) -> None:
        self.left = min(self.most, self.left + self.earned)
