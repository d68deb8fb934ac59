"""Look at the pairs of a run before it is trained: takes what `recipes.run` takes, and writes one page."""

import sys
from typing import Any

import hydra
from omegaconf import DictConfig

from preftune import command_line, config
from preftune.runs import environment
from preftune.runs.exits import exits
from preftune.runs.opening import identify
from recipes import CHOICES


def look(run: config.Config, resolved: dict[str, Any]) -> None:
    """Read, select and tokenise as the run would; print what came out, and write its page. No weights are loaded."""
    path, _ = identify(resolved)
    environment.settle()
    from preftune.data.loading import load_pairs
    from preftune.models.source import locate
    from preftune.models.tokenizer import load_tokenizer
    from preftune.reporting.pairs import report_pairs
    from preftune.reporting.pairs_page import write_page
    from preftune.reporting.pairs_terminal import print_pairs
    from preftune.tokens.encoding import control_tokens
    from preftune.tokens.tokenization import tokenize_splits

    chat = load_tokenizer(run.model, locate(run.model))
    pairs = load_pairs(run.data, control_tokens(chat))
    rows, _ = tokenize_splits(pairs, chat, run.train.max_length, run.data.overlong, run.data.on_bad_row)
    batch, longest = run.train.micro_batch, run.train.max_length
    report = report_pairs(pairs, rows, chat, batch=batch, max_length=longest, seed=run.seed, reads=run.loss.reads)
    print_pairs(report, write_page(report, path.resolve().name))


@hydra.main(version_base="1.3", config_path=str(CHOICES), config_name="run")
def main(choices: DictConfig) -> None:
    """Look at one run's pairs."""
    with exits():
        resolved = config.resolved(choices)
        look(config.Config.model_validate(resolved), resolved)


if __name__ == "__main__":
    with exits():
        sys.argv[1:] = command_line.checked(sys.argv[1:], CHOICES, sweeps=False)
    main()
