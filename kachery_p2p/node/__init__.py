"""The daemon: thin asyncio shells around the machines of :mod:`kachery_p2p.protocol`.

Start reading at :mod:`.node`, the composition root; :mod:`.network` owns the links, :mod:`.api` the
local socket.
"""
