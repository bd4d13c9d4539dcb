"""The tests: of the package, of what is around it, and the oracles that they share."""
