"""A program for the tests of forks: `python -m tests.forked …`."""
