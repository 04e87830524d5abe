"""Tests that take a minute, or that much together: `make test-long`. `make test` has shorter ones of most parts."""

import os

import pytest

long = pytest.mark.skipif("LOYALTY_LONG" not in os.environ, reason="takes a minute: make test-long")
