"""Where the ``kachery-p2p`` command begins: quiet from its first moment on.

The rest takes a tenth of a second to import. Ctrl-C in that time ends the command as it ends any other
program, and not with a traceback of imports. So this module imports nothing but :mod:`signal`.
"""

import signal


def main() -> int:
    """Run the command line and return the exit status."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from kachery_p2p.cli.main import main as run

    return run()
