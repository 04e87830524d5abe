"""Brings the whole system up on one machine and holds the `loyalty` command line."""
