"""What can be done with records: keep them as they were sent, and store them. Nothing of HTTP."""
