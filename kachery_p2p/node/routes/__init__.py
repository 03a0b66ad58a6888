"""How a node gets to another one: over which route, to a better one, and to the next if one fails."""
