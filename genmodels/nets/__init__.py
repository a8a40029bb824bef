"""Networks that several models share. Those that depend on time take (x, t, y=None), in that order."""
