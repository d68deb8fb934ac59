"""Look at the pairs of a run before it is trained: takes what `recipes.run` takes, and writes no file."""

import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from preftune import command_line, config
from preftune.runs import environment
from preftune.runs.exits import exits

CHOICES = Path(__file__).resolve().parent.parent / "conf"


def look(run: config.Config) -> None:
    """Read, select and tokenise as the run would, and print what came out. No weights are loaded."""
    environment.settle()
    from preftune.data.loading import load_pairs
    from preftune.models.source import locate
    from preftune.models.tokenizer import load_tokenizer
    from preftune.reporting.pairs import report_pairs
    from preftune.reporting.pairs_terminal import print_pairs
    from preftune.tokens import tokenize_splits

    chat = load_tokenizer(run.model, locate(run.model))
    pairs = load_pairs(run.data)
    rows, _ = tokenize_splits(pairs, chat, run.train.max_length, run.data.overlong)
    batch = run.train.micro_batch
    print_pairs(report_pairs(pairs, rows, chat, batch=batch, max_length=run.train.max_length, seed=run.seed))


@hydra.main(version_base="1.3", config_path=str(CHOICES), config_name="run")
def main(choices: DictConfig) -> None:
    """Look at one run's pairs."""
    with exits():
        look(config.load(choices))


if __name__ == "__main__":
    with exits():
        sys.argv[1:] = command_line.checked(sys.argv[1:], CHOICES, sweeps=False)
    main()
