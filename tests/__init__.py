"""Tests of all parts, and what they have in common."""

import os

# Threads of a test are real ones. Nothing here uses eventlet's resolver of names, which takes long
# to import.
os.environ.setdefault("EVENTLET_NO_GREENDNS", "yes")
