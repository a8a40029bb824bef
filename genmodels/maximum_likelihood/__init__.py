"""Maximum likelihood: models whose fit is a formula."""
