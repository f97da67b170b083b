"""Fixtures that several folders of tests use; each concern has its module below fixtures/."""

import signal

from hypothesis import settings

# In this order: the later ones import the first.
pytest_plugins = [
    "fixtures.servers",
    "fixtures.redo",
    "fixtures.log_cluster",
    "fixtures.storage_cluster",
    "fixtures.compute_cluster",
]

# A suite that is told to end (a CI's time limit) tears its fixtures down as after Ctrl-C, so that
# no server outlives it.
signal.signal(signal.SIGTERM, signal.default_int_handler)
# A suite in the background of a shell has inherited that SIGINT is ignored, and so would its nodes.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes is the machine's affair.
settings.register_profile("seawall", deadline=None)
settings.load_profile("seawall")
