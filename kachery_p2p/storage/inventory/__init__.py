"""What a storage folder holds: its index, what is pinned, and how much may still come."""
