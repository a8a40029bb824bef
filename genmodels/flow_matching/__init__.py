"""Flow matching: regress the velocity that carries noise to data."""
