"""Python programs for tests, without the half second that an interpreter takes to import the package.

One process for each process of pytest, the server, has imported it and does nothing. For each program
that a test starts it forks: what comes of that is a process of its own, with its own arguments,
environment, folder, descriptors, session and end, which can be killed like any other. :class:`Popen`
and :func:`run` are those of :mod:`subprocess`, and start an interpreter as usual whenever the program
depends on how the interpreter itself was started.

Its parent is the server: who asks the system for its children, and not the Popen, does not find it.
Not for tests of a start, or of what is imported when: there, :mod:`subprocess`.
"""

from .popen import Popen, run

__all__ = ["Popen", "run"]
