"""Latent-variable models: VAEs and tighter bounds."""
