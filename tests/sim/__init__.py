"""A seeded simulator of whole networks of nodes; see docs/decisions/003-simulate-the-node.md."""
