"""An app of kinds that tests need, written as any user's app is."""
