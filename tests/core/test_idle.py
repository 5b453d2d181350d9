"""Work that waits for a pause between calls."""

import threading

from cpsched.core import idle


def test_the_action_waits_for_the_call_to_end():
    """While a call runs the action does not start; afterwards it does."""
    begun = threading.Event()
    with idle.busy():
        idle.when_idle(0.0, begun.set)
        assert not begun.wait(0.2)
    assert begun.wait(5.0)


def test_calls_may_overlap():
    """Only the end of the last of several calls lets the action start."""
    begun = threading.Event()
    with idle.busy():
        with idle.busy():
            idle.when_idle(0.0, begun.set)
        assert not begun.wait(0.2)
    assert begun.wait(5.0)


def test_calls_close_together_are_not_disturbed(monkeypatch):
    """The action waits for a pause that is longer than a moment between two calls."""
    monkeypatch.setattr(idle, "PAUSE", 2.0)
    begun = threading.Event()
    with idle.busy():
        idle.when_idle(0.0, begun.set)
    for _ in range(5):
        assert not begun.wait(0.02)
        with idle.busy():
            pass
    assert begun.wait(20.0)
