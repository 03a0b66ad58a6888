"""Many small files between nodes, asked for and given together; and a single one in one breath."""
