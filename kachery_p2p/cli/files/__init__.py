"""The commands that store, link, load and find."""
