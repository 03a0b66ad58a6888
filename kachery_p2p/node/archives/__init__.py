"""Putting content into the archives of this node."""
