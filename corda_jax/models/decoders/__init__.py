"""Decoders: from features of several levels to predictions."""
