"""Objects apart from each other: their rows and run lengths, and what is one object across windows."""
