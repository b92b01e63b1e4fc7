"""Two stores of the same inputs, held against each other."""
