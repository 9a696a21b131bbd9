"""What a graph of steps may say: references to earlier results, conditions, and its check as a whole. No SQL."""
