"""What a map says of the ground: areas in polygons, reference points, and areas estimated from them."""
