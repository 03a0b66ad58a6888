"""Feeds between nodes: appending, serving, following, submitting, and forks."""
