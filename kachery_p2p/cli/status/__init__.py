"""``status``: the dashboard."""
