"""``python -m kachery_p2p`` is the ``kachery-p2p`` command."""

from __future__ import annotations

import sys

from kachery_p2p.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
