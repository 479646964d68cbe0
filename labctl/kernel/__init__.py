"""System calls, netlink, namespaces, processes: the only importer of pyroute2 and ctypes."""
