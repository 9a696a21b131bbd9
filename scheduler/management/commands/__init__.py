"""A file for each command of an operator of schedules. What they do is done elsewhere."""
