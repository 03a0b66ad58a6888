"""Where local clients come in: the Unix socket, the port, who they are, and how many at once."""
