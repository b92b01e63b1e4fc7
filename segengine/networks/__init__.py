"""What goes with a trained network and needs none: its bundle, its inputs' scale, the field behind it."""
