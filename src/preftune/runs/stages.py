"""How long each stage of a run took."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


class Stages:
    """Measures stages by name; one that is entered again goes on counting.

    Attributes:
        seconds: Wall-clock seconds by stage.
    """

    def __init__(self) -> None:
        """Start with nothing measured."""
        self.seconds: dict[str, float] = {}
        self._entered: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the time inside towards `name`."""
        self._entered[name] = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.state()[name]
            del self._entered[name]

    def measure(self, name: str, act: Callable[[], None]) -> None:
        """Do `act`, and count its time towards `name`."""
        with self(name):
            act()

    def state(self) -> dict[str, float]:
        """Return the seconds by stage up to now."""
        now = time.perf_counter()
        return self.seconds | {n: self.seconds.get(n, 0.0) + now - since for n, since in self._entered.items()}

    def restore(self, state: Mapping[str, float]) -> None:
        """Count on from those of an earlier start, beside what was measured in this one.

        Within a stage nothing changes: a training that goes back has spent its time all the same.
        """
        if self._entered:
            return
        self.seconds = {name: self.seconds.get(name, 0.0) + state.get(name, 0.0) for name in {**self.seconds, **state}}
