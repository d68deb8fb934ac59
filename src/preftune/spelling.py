"""The name that someone meant who wrote another."""

import difflib
from collections.abc import Iterable

# What people call a choice whose name is another.
_ALSO_CALLED = {
    "dpo": "sigmoid",
    "cdpo": "sigmoid",
    "slic": "hinge",
    "mpo": "sum",
    "bco": "bco_pair",
    "exo": "exo_pair",
}


def did_you_mean(name: object, options: Iterable[str]) -> str:
    """Return `; did you mean X?` with the option nearest to `name`, or nothing where none is near."""
    near = nearest(str(name), options)
    return f"; did you mean {near}?" if near else ""


def nearest(name: str, options: Iterable[str]) -> str | None:
    """Return the option also called `name`, else one that begins so, else the one spelled most like it, else none."""
    known = list(options)
    if _ALSO_CALLED.get(name) in known:
        return _ALSO_CALLED[name]
    longer = [option for option in known if len(name) > 2 and option.startswith(name)]
    return next(iter(longer + difflib.get_close_matches(name, known, n=1, cutoff=0.7)), None)
