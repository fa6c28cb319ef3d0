"""Data sets: prepared once into records by TFDS, then read as batches by tf.data."""
