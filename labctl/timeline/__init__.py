"""What happened on all hosts of a lab, on one clock: calls, packets, kernel state, output."""
