"""The views that come with the project: where they are once ``scripts/web`` has built them."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from kachery_p2p.protocol.errors import BadInput
from kachery_p2p.protocol.files.view_pack import INDEX

FOLDER: Final = Path(__file__).parents[2] / "page" / "views"


def built_in(name: Literal["timeseries", "table"]) -> Path:
    """Its folder. Raises BadInput: this installation lacks it."""
    folder = FOLDER / name
    if not (folder / INDEX).is_file():
        reason = (
            "this installation lacks the views. Install a released wheel of kachery_p2p, or run "
            "./scripts/web in its source folder (it takes npm)"
        )
        raise BadInput(what=f"the view {name!r}", reason=reason)
    return folder
