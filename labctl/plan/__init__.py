"""PURE: a resolved topology to ordered operations, which can be printed, compared and carried over a socket."""
