"""PURE: topology files and shapes to a resolved model; addressing and routing. Knows nothing of the kernel."""
