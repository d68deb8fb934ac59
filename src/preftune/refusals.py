"""What a user can mend: raised with a sentence, shown without a traceback."""


class Refusal(Exception):
    """Something the user gave cannot be used; the message says what was wrong and what to do."""


def refuse_all(faults: list[str]) -> None:
    """Raise one `Refusal` that lists every fault, or return where there is none."""
    if faults:
        raise Refusal("\n".join(faults))


class RunFailed(Exception):
    """A run cannot go on; the message says why, and is shown without a traceback."""


class Interrupted(KeyboardInterrupt):
    """A run was stopped from outside; the message says where."""
