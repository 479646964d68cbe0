"""A topology that exists in the kernel: the keeper, its protocol and the `Lab` handle."""
