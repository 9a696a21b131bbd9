"""Who may do what: users, permissions, tokens, and the trail of who did what. Nothing about jobs."""
