"""Links as values: frames, the Noise handshake and session, many streams over one session, and pace."""
