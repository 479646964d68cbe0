"""The owner's and a client's side of a lab."""
