"""Programs that build the same networks in different ways, each for a process of its own."""
