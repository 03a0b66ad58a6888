"""The page for browsers that a proxy serves beside the links of nodes."""
