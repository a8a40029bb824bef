"""Diffusion models: learn to undo noise."""
