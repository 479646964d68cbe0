"""What the kernel says about a running lab: sockets, counters, addresses, routes, reachability."""
