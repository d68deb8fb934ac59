"""Train: load the choices, prepare, train, report."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from preftune import command_line, config
from preftune.refusals import Refusal

CHOICES = Path(__file__).resolve().parent.parent / "conf"


def train(settings: config.Config) -> None:
    """Train the run."""
    raise Refusal(f"training must be built first, got {settings.model.name}")


@hydra.main(version_base="1.3", config_path=str(CHOICES), config_name="run")
def run(choices: DictConfig) -> None:
    """Run one job."""
    try:
        train(config.load(choices))
    except Refusal as refusal:
        sys.stderr.write(f"{refusal}\n")
        sys.exit(2)


def main() -> None:
    """Check the command line, then hand it to Hydra."""
    try:
        sys.argv[1:] = command_line.checked(sys.argv[1:], CHOICES)
    except Refusal as refusal:
        sys.stderr.write(f"{refusal}\n")
        sys.exit(2)
    run()


if __name__ == "__main__":
    main()
