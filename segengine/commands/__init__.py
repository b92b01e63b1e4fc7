"""What a user asks of a job or a store beside running it."""
