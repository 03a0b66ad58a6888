"""Folders, and many files at once: what the room ``files`` does for one, with few calls."""
