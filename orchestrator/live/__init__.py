"""Live events: what becomes of jobs, read from their rows for whoever watches. No job pays for it, watched or not."""
