"""What is open until it is closed, at the latest at the end of a with-statement."""

from __future__ import annotations

import abc
from typing import Self


class Closing(abc.ABC):
    """Adds the with-statement to a class that has :meth:`close`."""

    @abc.abstractmethod
    def close(self) -> None:
        """A second time does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
