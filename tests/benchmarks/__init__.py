"""Side-by-side measurements: `python -m tests.benchmarks [NAME ...]` prints the table."""
