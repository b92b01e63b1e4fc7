"""The stages of a run, on the driver: each hands out tasks and counts what came of them."""
