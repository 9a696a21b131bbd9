"""A file for each command for records. They read options and print; what they do is done by `services`."""
