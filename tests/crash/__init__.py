"""Kills by the hundred: `python -m tests.crash --kills 1000`, or a few of them in the test suite."""
