"""This machine, as client and daemon both see it: where folders and sockets are, and the framed
socket between the two. Knows protocol/; both client/ and node/ know it."""
