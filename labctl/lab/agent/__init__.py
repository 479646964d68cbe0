"""The process on a host that makes socket calls, and the client that asks it."""
