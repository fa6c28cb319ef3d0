"""The adaptation method: mixing, pseudo-labels, augmentation, and the step that joins them."""
