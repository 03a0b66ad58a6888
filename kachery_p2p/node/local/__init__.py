"""The local API: who calls, and the calls of each noun."""
