"""What every job imports, for the server that jobs are forked from: it takes seconds and touches no device."""

from preftune.runs import environment

environment.settle()

from preftune.evaluating import answers  # noqa: E402, F401
from preftune.models import policy  # noqa: E402, F401
from preftune.reporting import pairs, plan, summary, terminal  # noqa: E402, F401
from preftune.training import memory, methods, preparation  # noqa: E402, F401
