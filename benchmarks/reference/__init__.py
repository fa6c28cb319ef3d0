"""The released code, restated or run, for comparison."""
