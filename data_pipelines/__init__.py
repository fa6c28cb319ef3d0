"""Data sets: prepared once into records, then read as batches, both by TensorFlow."""

import os

# TensorFlow reads this once, when it is first imported; its errors still arrive as exceptions.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
