"""Tasks between nodes: backends, the queue, requests, runs and results."""
