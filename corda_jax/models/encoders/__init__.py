"""Encoders: from an image to features of several levels."""
