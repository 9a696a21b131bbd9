"""One call of a handler: its connection, its deadline, the state of its process. Nothing about other jobs."""
