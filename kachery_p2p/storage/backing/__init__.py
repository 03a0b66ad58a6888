"""Storage elsewhere that a node reads, and perhaps writes: what its files are, and what lies there."""
