"""Files between nodes: downloads from several sources, and providing to others."""
