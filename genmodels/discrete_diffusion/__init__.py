"""Diffusion over tokens."""
