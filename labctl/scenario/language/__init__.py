"""The call language: parse a text, check it before the lab exists, run it in a session on a calling process."""
