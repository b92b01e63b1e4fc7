"""What tells others how a run is while it goes on: loaded only where one of them was asked for."""
