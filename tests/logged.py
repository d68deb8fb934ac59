"""What a run logged, as two runs that are the same must have logged it."""

import json
from pathlib import Path
from typing import Any

# What is measured of the machine, and not of the training.
OF_THE_MACHINE = ("speed/", "memory/", "_runtime", "_per_second", "_preparation_time")


def events(directory: Path) -> list[dict[str, Any]]:
    """Return the events of a run's directory, but for what is measured of the machine."""
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [
        {name: value for name, value in json.loads(line).items() if not any(each in name for each in OF_THE_MACHINE)}
        for line in lines
    ]
