"""Tasks for users: functions, backends and their workers, requests."""
