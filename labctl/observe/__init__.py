"""Reads the kernel's state of a running lab: sockets, counters, addresses, routes, reachability."""
