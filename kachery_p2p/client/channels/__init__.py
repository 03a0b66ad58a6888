"""Channels for users: invitations."""
