"""Finished (and running) results to the terminal, JSON and JUnit XML."""
