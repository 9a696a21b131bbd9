"""An app of one's own, whose kinds name a queue of one's own: it needs QUEUES=…,gpu:prefork:1."""
