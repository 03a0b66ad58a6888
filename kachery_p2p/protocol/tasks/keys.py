"""Under which content keys backends and results of tasks are announced and looked up."""

from __future__ import annotations

from typing import Final

from kachery_p2p.protocol.gossip.keys import ContentKey
from kachery_p2p.protocol.tasks.task import check_function_id, check_key

TASK_CONTEXT: Final = b"kachery-task"
"""Personalisation of the keys under which backends for a task function are found; the identifier is
the function's id in UTF-8."""

TASK_BACKEND_CONTEXT: Final = b"kachery-backend"
"""Personalisation of the one key under which every node with a backend is found; no identifier."""

TASK_RESULT_CONTEXT: Final = b"kachery-result"
"""Personalisation of the keys of results of tasks; the identifier is the task's key, 32 bytes."""


def task_function_key(function: str) -> ContentKey:
    """A node with a backend for a task function, by the function's id. Raises BadInput."""
    identifier = check_function_id(function).encode("utf-8")
    return ContentKey("tasks", TASK_CONTEXT, identifier, f"task function {function!r}")


def task_backends_key() -> ContentKey:
    """A node with a backend for any task function."""
    return ContentKey("tasks", TASK_BACKEND_CONTEXT, b"", "task backends")


def task_result_key(key: bytes) -> ContentKey:
    """A signed result, by the 32-byte key of the task: whoever may share files may share it.

    Raises:
        BadInput: the key has another length.
    """
    title = f"the result of task {check_key(key).hex()}"
    return ContentKey("files", TASK_RESULT_CONTEXT, key, title)
