"""Content on disk: blobs, linked files, partial downloads, Merkle trees beside large blobs."""
