"""Figures of each kind, a row a minute and an hour, that the tick writes so that a page need not count jobs."""
