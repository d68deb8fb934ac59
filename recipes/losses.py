"""Look at the losses: all of them, one of them, or one of your own by dotted path, which is checked as a run would."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from preftune.losses.catalogue import LOSSES
from preftune.losses.plugins import check_loss
from preftune.plugins import function_at
from preftune.refusals import Refusal
from preftune.reporting.loss_descriptions import Description, describe, parameters_of
from preftune.reporting.losses_page import write_page
from preftune.reporting.losses_terminal import print_loss, print_losses, print_passed, print_place
from preftune.runs.exits import exits
from preftune.spelling import did_you_mean
from recipes import CHOICES


def main() -> None:
    """List every loss, or show and check one."""
    parser = argparse.ArgumentParser(prog="python -m recipes.losses", description=__doc__)
    parser.add_argument("name", nargs="?", help="a loss, or module.function of your own; without it, all are listed")
    parser.add_argument("parameters", nargs="*", metavar="name=value", help="parameters that it is shown with")
    parser.add_argument("--page", type=Path, metavar="FILE", help="write one HTML page of what is shown to FILE")
    asked = parser.parse_args()
    with exits():
        losses = [one(asked.name, asked.parameters)] if asked.name else every()
        if asked.name:
            print_loss(losses[0])
            print_passed(losses[0])
        else:
            print_losses(losses)
        if asked.page:
            write_page(losses, asked.page)
            print_place(asked.page)


def every() -> list[Description]:
    """Return the losses of the catalogue with the parameters that `conf/loss/` gives them."""
    return [describe(name, function, defaults(name)) for name, function in LOSSES.items()]


def one(name: str, parameters: list[str]) -> Description:
    """Return one loss with its parameters, after the battery."""
    if wrong := next((text for text in parameters if "=" not in text), None):
        raise Refusal(f"a parameter must be given as name=value, got {wrong!r}")
    if name not in LOSSES and "." not in name:
        raise Refusal(f"loss.name must be one of {', '.join(LOSSES)}, got {name!r}{did_you_mean(name, LOSSES)}")
    function = LOSSES[name] if name in LOSSES else function_at(name, "loss.name")
    given = {str(key): value for key, value in OmegaConf.from_dotlist(parameters).items()}
    check_loss(function, values := {**defaults(name), **given}, name)
    return describe(name, function, values)


def defaults(name: str) -> Mapping[str, Any]:
    """Return what the file of `name` in `conf/loss/` gives its parameters, or nothing where it has none."""
    file = CHOICES / "loss" / f"{name}.yaml"
    values = OmegaConf.load(file).items() if file.is_file() else ()
    return {str(key): value for key, value in values if key in parameters_of(LOSSES[name])}


if __name__ == "__main__":
    main()
