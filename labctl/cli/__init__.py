"""Typer commands, thin: parse, call, print."""
