"""Files of streamlines."""
