"""The keeper: the process that holds a lab."""
