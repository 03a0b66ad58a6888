"""The commands of ``channel``."""
