"""Paths on the command line: ``~`` is the home folder also where the shell leaves it as it is, as after
``--option=``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from kachery_p2p.local.places import user_path


class UserPath(click.Path):
    """A path of the user's. Not looked at: that is for who uses it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        return Path(user_path(value))
