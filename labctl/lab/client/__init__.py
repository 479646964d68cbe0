"""The side of a lab's owner and of its clients."""
