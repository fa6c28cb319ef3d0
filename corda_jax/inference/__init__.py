"""Use of a trained network: predictions of images and videos, and inference bundles."""
