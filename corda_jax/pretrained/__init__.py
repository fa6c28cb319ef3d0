"""Pretrained weights: PyTorch files, matching of names, initial states."""
