"""How fast steps, data and evaluation are, and where the time goes."""
