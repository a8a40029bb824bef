"""One notebook a lecture: sources in notebooks/src, the notebooks made from them by `python -m notebooks build`."""
