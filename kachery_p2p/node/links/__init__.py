"""Encrypted connections to other nodes: opening them, what flows over them, relaying for others."""
