"""An app that takes guards away, to show that the fault-injection suite notices."""
