"""Scenario files to a checked model; the call language; steps, expectations and the runner."""
