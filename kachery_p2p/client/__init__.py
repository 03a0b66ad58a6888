"""What people import: the async API, its sync twin, and the codecs between objects and bytes."""
