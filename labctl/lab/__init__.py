"""A topology that exists in the kernel: its keeper, the agents on its hosts, and their clients."""
