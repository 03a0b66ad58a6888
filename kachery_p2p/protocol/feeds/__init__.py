"""Feeds as values: heads, slices and proofs, who may write, forks and what an owner decided."""
