"""The scheduler app: A+B tasks, and the schedules that make them. No other app builds on it."""
