"""Processes that share the work of the one that began them."""

from __future__ import annotations

import os
import threading
from multiprocessing import connection, parent_process


def end_with_parent() -> None:
    """End this process, which was spawned, as soon as its parent is gone: one that is killed sends no word, and its
    children would wait for work for ever, or go on with work that nobody wants."""
    threading.Thread(target=_wait_for_the_end, daemon=True).start()


def _wait_for_the_end() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
