"""Origins and archives: storage elsewhere that this node stands for."""
