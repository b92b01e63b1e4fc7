"""All that travels to a worker, and all that runs there."""
