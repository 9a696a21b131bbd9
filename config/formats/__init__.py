"""How dates and times are shown, by language. Nothing about what they mean."""
