"""Every bound of the system: its name, its unit, and why it is what it is.

A limit is checked before memory is allocated for what it bounds. Nothing else in the package holds a
number of this kind. There is a page for each noun; all of them are imported from here.
"""

from .backing import *  # noqa: F403
from .channels import *  # noqa: F403
from .directories import *  # noqa: F403
from .feeds import *  # noqa: F403
from .files import *  # noqa: F403
from .gossip import *  # noqa: F403
from .keepers import *  # noqa: F403
from .keeping import *  # noqa: F403
from .links import *  # noqa: F403
from .local import *  # noqa: F403
from .tasks import *  # noqa: F403
from .units import *  # noqa: F403
from .values import *  # noqa: F403
