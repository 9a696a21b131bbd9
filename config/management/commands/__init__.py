"""A file for each command for a whole project on one machine. What other commands need is in `config.local`."""
