"""How a command ends: a sentence on standard error, and an exit code that says what it was."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from preftune.refusals import Refusal, RunFailed
from preftune.reporting.inert import inert
from preftune.space import failing_plainly

# 0 complete; 1 failed; 2 refused before anything was loaded; 143 stopped from outside.
CODES: dict[type[BaseException], int] = {Refusal: 2, RunFailed: 1, KeyboardInterrupt: 143}


@contextmanager
def exits() -> Iterator[None]:
    """End the process with the message and code of what a user can cause; any other exception goes on."""
    try:
        with failing_plainly(Path()):
            yield
    except tuple(CODES) as ending:
        sys.stderr.write(f"{inert(str(ending) or 'stopped by Ctrl-C')}\n")
        sys.exit(next(code for kind, code in CODES.items() if isinstance(ending, kind)))
