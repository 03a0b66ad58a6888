"""Objects to stored bytes and back."""
