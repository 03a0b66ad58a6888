"""Logs of feeds on disk: one's own, and mirrors of others'."""
