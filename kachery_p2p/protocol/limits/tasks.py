"""Limits of tasks."""

from __future__ import annotations

from typing import Final

from .units import MIB

TASK_BYTES: Final = 16
"""Of the random number by which a request for a task is known."""
MAX_FUNCTION_ID: Final = 200
"""Characters of a task function's id."""
MAX_TASK_CODE: Final = 100
"""Characters of the fingerprint of a function's code."""
MAX_TASK_KWARGS: Final = 1_000_000
"""Bytes of the arguments of a task as JSON. Larger things are stored, and the arguments have their
URI. They travel in one frame."""
SHORT_TASK_KWARGS: Final = 16_000
"""Bytes of arguments that go with the request itself. So few are looked through on the event loop, in a
millisecond."""
MAX_INLINE_RESULT: Final = 32_000
"""Bytes of a result that travels in the answer itself: half a header. A larger one is a file."""
MAX_TASK_MESSAGE: Final = 1_000
"""Characters of what a function says about its progress."""
MAX_TASK_LOG: Final = 8_000
"""Bytes of what a function printed, in one update."""
MAX_TASK_REASON: Final = 2_000
"""Characters of why a task failed."""
MAX_TASK_TRACEBACK: Final = 16_000
"""Characters of the traceback of a function that raised."""
MAX_TASK_UPDATE: Final = 60_000
"""Bytes of all texts and the result in one update, so that it fits a header whatever the script."""
MAX_TASK_OFFERS: Final = 48_000
"""Bytes, about, of one answer to what is on offer; of more there are several."""
MAX_TASK_FUNCTIONS: Final = 1_000
"""Functions that one backend offers."""
MAX_TASK_ABOUT: Final = 200
"""Characters of what a function says that it does."""
MAX_TASK_PARAMETERS: Final = 32
"""Arguments of a function that are described; a function with more says that there are more."""
MAX_PARAMETER_NAME: Final = 100
"""Characters of an argument's name."""
MAX_PARAMETER_DEFAULT: Final = 100
"""Characters, as JSON, of a default or of one choice."""
MAX_PARAMETER_CHOICES: Final = 20
"""Values of an argument that are listed."""
MAX_TASK_SIGNATURE: Final = 8_000
"""Bytes, about, of one function's signature; a longer one is left out."""
MAX_TASK_BACKENDS: Final = 100
"""Backends of one node."""
MAX_TASK_SLOTS: Final = 10_000
"""Tasks that one backend runs at once."""
MAX_TASKS_QUEUED: Final = 10_000
"""Tasks that wait in one node for a free slot."""
MAX_TASK_IDS: Final = 20_000
"""Ids of tasks that have not ended by which a node knows them: one calculation may be asked for by
many."""
MAX_TASKS_REQUESTED: Final = 10_000
"""Tasks that a node sees through for callers of its own computer, also for those that have gone."""
MAX_TASKS_KEPT: Final = 10_000
"""Tasks that ended and are remembered for who comes again."""
MAX_TASKS_KEPT_BYTES: Final = 16 * MIB
"""Bytes of how they ended; the newest."""
MAX_TASKS_NESTED: Final = 100
"""Runs of one backend that gave up their slots because they wait for other tasks: each is a process, or
a thread."""
TASK_CANCEL_SECONDS: Final = 2.0
"""A function that was asked to stop and goes on for longer is ended with its worker process."""
MAX_TASK_LOG_KEPT: Final = 1_000_000
"""Characters of what a function printed that its requester keeps, the newest."""
TASK_KEEP_SECONDS: Final = 300.0
"""For so long they are."""
TASK_BACKEND_SECONDS: Final = 60.0
"""A request waits so long for a backend if the caller says nothing else."""
TASK_LOOK_SECONDS: Final = 3.0
"""What looking for a result that somebody holds, or asking a node for its load, may take."""
MAX_TASK_OFFERS_ASKED: Final = 10_000
"""Functions of one node that are looked at."""
MAX_TASK_SECONDS: Final = 366 * 24 * 3600.0
"""The longest time that can be set for a task, or for waiting until somebody offers it. Without one it
takes as long as it does: the call by which it was asked for ends with it, and so does a backend's
offer."""
MAX_TASK_RETRIES: Final = 100
"""How often a caller may have a run repeated that failed."""
MAX_TASK_RESULTS: Final = 100_000
"""Results that a node keeps; those that were not used for longest are forgotten first."""
MAX_TASK_RESULT_BYTES: Final = 1024 * MIB
"""Bytes of them; files that results lie in are not counted."""
ACTION_KEEP_SECONDS: Final = 30 * 24 * 3600.0
"""How an action ended is remembered for so long."""
ACTION_KEEP_LEAST: Final = 3600.0
"""It is remembered for so long in any case: whoever asks again within it is never told that the
action did not begin."""
MAX_ACTIONS: Final = 1_000_000
"""Actions that are remembered, run here and asked for each. If none may be forgotten, no further one
begins."""
MAX_ACTION_BYTES: Final = 1024 * MIB
"""Bytes of what came of them."""
