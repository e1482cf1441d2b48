"""Command-line conventions: exit codes, messages, memory."""

import os
import sys

from crackcam.cli import console


def test_freed_memory_is_kept_unless_the_user_says_otherwise(monkeypatch):
    import ctypes

    asked = []

    class Library:
        def __init__(self, name):
            pass

        def mallopt(self, what, value):
            asked.append((what, value))
            return value <= 2**25 or what == -1  # an old glibc

    monkeypatch.setattr(ctypes, "CDLL", Library)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    console.keep_freed_memory()
    assert asked == [(-1, 2**31 - 1), (-3, 2**30), (-3, 2**25)]
    asked.clear()
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    console.keep_freed_memory()
    assert asked == []
