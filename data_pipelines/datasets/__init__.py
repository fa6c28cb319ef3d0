"""The data sets, as TFDS builders."""
