"""The tests, as a package: what several rooms share is in `tests.support`."""
