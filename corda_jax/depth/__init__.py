"""Self-supervised depth: cameras, view synthesis, photometric losses, and the training step."""
