"""Weights of others: PyTorch's files read and written, names matched, initial states."""
