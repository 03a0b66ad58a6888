"""Keepers on the node: what is kept here for others, and elsewhere for this node."""
