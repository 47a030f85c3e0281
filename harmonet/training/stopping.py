"""Ending in time: a signal is remembered, the step is finished, a checkpoint is written, and then the process ends."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from harmonet.interruption import Stopped

# SLURM sends USR1 ahead of the time limit where it is told to, TERM on pre-emption; people send INT.
SIGNALS = (signal.SIGTERM, signal.SIGINT, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))


@dataclass
class Stop:
    """Whether a signal asked to end, and which.

    Attributes:
        signal: Its number; 0 while there was none.
        waits: Whether a signal waits until it is asked for, or ends what is being done.
    """

    signal: int = 0
    waits: bool = True

    def status(self) -> int:
        """Exit status of a process that ended by it, as shells count."""
        return 128 + (self.signal or signal.SIGTERM)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, a signal raises SystemExit: for work that may be left halfway, since it is done again."""
        self.waits = False
        try:
            yield
        finally:
            self.waits = True


@contextmanager
def deferred() -> Iterator[Stop]:
    """Remembers the first signal while inside; a second one ends at once, as it would have outside.

    Raises:
        SystemExit: A signal was remembered and nobody asked.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may listen
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def remember(number: int, *_: Any) -> None:
        stop.signal = number
        _listen(before)
        if not stop.waits:
            raise Stopped(stop.status())

    heard = {number: remember for number, handler in before.items() if handler is not signal.SIG_IGN}
    _listen(heard)
    try:
        yield stop
    finally:
        _listen(before)
    if stop.signal:  # it came after the last time that anybody asked
        raise Stopped(stop.status())


def _listen(handlers: Any) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)
