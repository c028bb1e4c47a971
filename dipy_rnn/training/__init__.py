"""Training: sequences along reference streamlines, losses, the loop."""
