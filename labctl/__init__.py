"""labctl: small networks of Linux network namespaces, and scenarios that run across them."""

__version__ = "0.1.0"
