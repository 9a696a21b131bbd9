"""What can be done with tasks and schedules, each in one transaction. Nothing of HTTP, and no rule of recurrence."""
