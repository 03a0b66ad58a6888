"""What lies on disk: blobs, links, trees, partial downloads, feeds and the SQLite state.

Knows :mod:`kachery_p2p.protocol` and nothing else of the package. Every call blocks and is made
from a worker thread; nothing here knows of a network or an event loop.
"""
