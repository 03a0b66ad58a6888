"""Limits of what users hand in."""

from __future__ import annotations

from typing import Final

from .units import KIB

MAX_URI: Final = 4_000
"""Characters of a URI: a label of MAX_LABEL, all of it percent-encoded, fits several times."""
MAX_FILE_NAME: Final = 255
"""Bytes of a file's name that all file systems take."""
MAX_NPY_HEADER: Final = 128 * KIB
"""Bytes of an npy header: a structured type of some 5,000 fields. It is parsed as Python."""
MAX_PICKLE_DEPTH: Final = 300
"""Containers inside one another in a pickle: half of what Python's own pickler manages."""
MAX_PICKLE_KEY: Final = 100_000
"""Items of a dict key or set member with all that is inside it, since hashing visits each."""
MAX_PICKLE_ITEMS: Final = 1_000_000_000
"""Items that a pickle unfolds to if what is shared is counted as often as it is met."""
MAX_DTYPE_FIELDS: Final = 10_000
"""Fields of a pickled numpy dtype, those of its fields included."""
MAX_DTYPE_DEPTH: Final = 32
"""Dtypes inside one another; numpy walks them on the C stack."""
