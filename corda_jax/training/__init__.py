"""What any training step needs around it: state, optimiser, checkpoints, sharding."""
