"""How good is a sample, or a density: figures with known truths."""
