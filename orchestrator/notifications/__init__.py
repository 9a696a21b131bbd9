"""Notifications: who is told of the ends of jobs, by webhook, mail or Slack. It writes no job's status."""
