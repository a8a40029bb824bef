"""Mixture models: EM and variational inference."""
