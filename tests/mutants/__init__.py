"""Planted bugs: each patch here breaks one promise, and names the test that must see it. `make mutants` proves it."""
