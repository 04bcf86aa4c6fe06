"""The same computation in less time."""
