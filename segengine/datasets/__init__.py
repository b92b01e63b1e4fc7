"""Public data sets as sources: their folders, their labels, their splits."""
