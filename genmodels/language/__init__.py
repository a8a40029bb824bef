"""Autoregressive language models."""
