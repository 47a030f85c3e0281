"""What ends work from outside: a user's or cluster's signal, and a limit of time on a stranger's code."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

EVERY = 1.0  # seconds between further interruptions of code that went on after the first


class Stopped(SystemExit):
    """A signal ends the program. Whoever catches the `SystemExit` of a stranger's code lets this one pass."""


class TimedOut(BaseException):
    """The time is up. No `Exception`, so that a stranger's `except Exception` does not swallow it."""


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Inside, Python code and system calls that wait, such as `time.sleep`, are interrupted once the time is up.

    Only the main thread can be interrupted, and only where the system has interval timers (Linux, macOS): elsewhere
    there is no limit. A single call into compiled code is interrupted when it returns. The handler and the timer that
    were there before are put back.

    Raises:
        TimedOut: The time is up; raised again every second, for code that catches everything.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return
    began = time.monotonic()
    handler = signal.signal(signal.SIGALRM, _time_out)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, EVERY)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)
        if left:  # somebody else's timer, which went on meanwhile; 0 would switch it off
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 0.001), interval)


def _time_out(*_: Any) -> NoReturn:
    raise TimedOut
