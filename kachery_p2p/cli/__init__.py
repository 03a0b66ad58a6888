"""The ``kachery-p2p`` command. It calls :mod:`kachery_p2p.client`; the daemon is another process."""
