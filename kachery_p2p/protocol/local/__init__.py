"""The messages between a client and the node of its own computer."""
