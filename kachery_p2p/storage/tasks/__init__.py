"""Tasks on disk: the journal of what was asked and run, and signed results."""
