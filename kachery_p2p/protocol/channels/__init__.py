"""Channels as values: signed documents, members and their roles, admissions, invitations."""
