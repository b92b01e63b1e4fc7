"""What is measured, and against which truth."""
