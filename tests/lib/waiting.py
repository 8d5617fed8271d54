# SPDX-License-Identifier: Apache-2.0
"""Waiting for a condition with a deadline.

A test never sleeps for a fixed time and hopes: it states what it waits for, and fails with that sentence and the last
thing it saw. A condition that raises one of `retry_on` counts as "not yet".
"""
import time


class DeadlineError(AssertionError):
    """The condition did not become true in time; the text says which one and what was last seen."""


def wait_for(condition, timeout, what, interval=0.05, retry_on=()):
    """Returns the first true value of condition(); raises DeadlineError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    last = None
    while True:
        try:
            last = condition()
            if last:
                return last
        except retry_on as problem:
            last = problem
        if time.monotonic() >= deadline:
            raise DeadlineError(f"after {timeout} s still waiting for: {what}; last seen: {last!r}")
        time.sleep(interval)


def assert_stays(condition, seconds, what, interval=0.05):
    """Fails as soon as condition() is false within the time: for what must not happen although it could."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert condition(), f"did not stay so for {seconds} s: {what}"
        time.sleep(interval)
