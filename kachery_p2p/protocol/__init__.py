"""What the network is made of, without any I/O: bytes and values in, bytes and values out.

No sockets, files, clock or randomness: ``now`` and randomness are arguments. Start reading at
:mod:`.frames` (what nodes say), :mod:`.session` (how it is encrypted), :mod:`.mux` (how it shares a
link), :mod:`.methods` (what nodes ask of one another), :mod:`.limits` and :mod:`.errors`.
"""
