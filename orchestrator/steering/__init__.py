"""What an operator does to jobs that were accepted already, one or many at once: change, cancel and retry them."""
