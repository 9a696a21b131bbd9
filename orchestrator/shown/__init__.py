"""How the admin and its templates show things: durations and times in words, lists. Nothing about jobs."""
