"""Fixtures that several folders of tests use; each concern has its module below fixtures/."""

pytest_plugins = ["fixtures.servers"]
