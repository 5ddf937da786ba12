"""Imports on background threads, late because of their weight.

with importing:
    import numpy

A fork while another thread imports would leave Python's import locks held for ever in the child: it waits instead.
"""

from __future__ import annotations

import os
import threading

importing = threading.RLock()
os.register_at_fork(before=importing.acquire, after_in_parent=importing.release, after_in_child=importing.release)
