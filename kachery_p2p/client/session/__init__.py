"""Connections to the local node, for programs with and without an event loop, and offline mode."""
