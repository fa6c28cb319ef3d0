"""Everything around a training step: state, optimiser, checkpoints, sharding."""
