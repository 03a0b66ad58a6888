"""The local API: the calls of each noun. Where clients come in is :mod:`kachery_p2p.node.doors`."""
