"""When a rule fires, as pure functions of rule, start, zone and instant. No clock, no database, no model."""
