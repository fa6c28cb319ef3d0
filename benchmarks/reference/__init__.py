"""The released code, restated or run, to measure against."""
