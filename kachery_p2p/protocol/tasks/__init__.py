"""Tasks as values: functions, arguments and keys, signed results, what nodes say of a task."""
