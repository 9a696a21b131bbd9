"""A file for each command of an operator of jobs. They read options and print; what they do is done elsewhere."""
