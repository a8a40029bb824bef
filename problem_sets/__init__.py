"""Problem sets of the course, each from one source. Still to come."""
