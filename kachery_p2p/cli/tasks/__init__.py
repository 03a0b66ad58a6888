"""The commands of ``task``."""
