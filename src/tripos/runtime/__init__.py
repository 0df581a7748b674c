"""Who executes plans: the numpy reference that defines every op, and the native CPU executor."""
