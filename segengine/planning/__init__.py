"""From inputs, layouts and records to what is left to do."""
