"""Who has what: announcing it, knowing it, looking it up, being told when it appears."""
