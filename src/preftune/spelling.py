"""The name that someone meant who wrote another."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: object, options: Iterable[str]) -> str:
    """Return `; did you mean X?` with the option nearest to `name`, or nothing where none is near."""
    near = nearest(str(name), options)
    return f"; did you mean {near}?" if near else ""


def nearest(name: str, options: Iterable[str]) -> str | None:
    """Return the option that begins with `name`, else the one spelled most like it, else none."""
    known = list(options)
    longer = [option for option in known if len(name) > 2 and option.startswith(name)]
    return next(iter(longer + difflib.get_close_matches(name, known, n=1, cutoff=0.7)), None)
