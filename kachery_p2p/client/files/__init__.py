"""Files by content, for users: storing, linking, loading, finding."""
