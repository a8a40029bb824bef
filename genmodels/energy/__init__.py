"""Energy-based models and the samplers they need."""
