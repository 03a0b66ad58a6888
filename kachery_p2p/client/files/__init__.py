"""Files by content: the async API. The sync twins are in :mod:`.sync`.

A ``store_*`` returns a URI that names the content by its hash; any node of a common channel loads it
with that (:mod:`.stores`). A ``load_*`` looks in the local storage first, then asks the local
node, which fetches from the network (:mod:`.loads`). It returns None when everybody reachable
was asked and nobody has the content, and raises an error that says what else was the matter
otherwise.

Everywhere: ``basename`` is the label in the URI and no part of the content; ``channel`` (a name or
id) limits a store or a load to one channel; ``progress`` is as :mod:`.display.progress` says.
"""
