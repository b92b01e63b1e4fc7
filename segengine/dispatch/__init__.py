"""Tasks to workers, a bounded number at a time; every way they can end is an outcome."""
