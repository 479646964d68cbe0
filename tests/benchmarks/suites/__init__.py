"""The suites: each has `run(options)`, which measures and returns a section of the report."""
