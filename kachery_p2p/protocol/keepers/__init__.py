"""Keepers: members that keep things for others."""
