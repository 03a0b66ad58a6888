"""Files as values: manifests, and which bytes of a download to ask of whom."""
