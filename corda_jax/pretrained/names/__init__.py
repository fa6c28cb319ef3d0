"""Names of the tensors of released networks, one table a network."""
