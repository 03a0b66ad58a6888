"""Feeds for users: handles, live logs, snapshots, watches."""
