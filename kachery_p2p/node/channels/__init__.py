"""Channel documents and membership: passing them on, admitting newcomers, who is online."""
