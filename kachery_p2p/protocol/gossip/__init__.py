"""Availability as values: blinded keys, announcement logs, and the index that proxies keep of them."""
