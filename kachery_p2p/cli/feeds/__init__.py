"""The commands of ``feed``."""
