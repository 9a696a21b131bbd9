"""What runs by itself every second: the tick, and retention. Nothing that a request waits for."""
