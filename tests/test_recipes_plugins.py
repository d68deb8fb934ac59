"""A loss and a constraint in a file of the user's own, from the command line to the summary."""

import json
from pathlib import Path

import pytest

from preftune import command_line
from preftune.refusals import RunFailed
from preftune.runs.opening import identify
from tests.test_recipes import ROOT, SMALL, Execute, execute, read  # noqa: F401  a fixture

# Fifteen lines, as a person would write them.
OWN = '''
"""A margin loss of my own."""

import torch
from torch import Tensor


def squared_hinge(logps, *, beta: float, target: float = 1.0) -> Tensor:
    """Costs nothing where the reward of chosen exceeds that of rejected by `target`."""
    reward = beta * logps.margin()
    return torch.relu(target - reward) ** 2


def fallen(logps) -> Tensor:
    """Nats by which chosen fell below its reference."""
    return -logps.chosen_logratio()
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module beside the run, under a name that no other test imports."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    file = tmp_path / f"{name}.py"
    file.write_text(OWN.lstrip())
    monkeypatch.syspath_prepend(str(tmp_path))
    return file


def typed(*arguments: str) -> list[str]:
    """Return the overrides as Hydra gets them from the command line."""
    return command_line.checked([*arguments], ROOT / "conf")


def test_fifteen_lines_of_ones_own_train_by_dotted_path(execute: Execute, own: Path) -> None:  # noqa: F811
    assert len(OWN.strip().splitlines()) == 15
    chosen = typed(f"loss.name={own.stem}.squared_hinge", "loss.params.beta=0.1", "train.max_steps=18")
    directory = execute(*SMALL, *chosen)  # three times over 48 pairs
    assert directory.name.startswith(f"tiny-toy-{own.stem}.squared_hinge-")
    summary = read(directory / "summary.json")
    # at the start every reward is 0, so that each pair costs its target, 1, squared
    assert summary["loss_first"] == pytest.approx(1.0, abs=1e-4)
    assert summary["verified"]["loss"] == pytest.approx(summary["verified"]["scratch"], abs=1e-5)
    assert summary["verified"]["trl"] is None
    assert summary["loss_last"] < 0.8


def test_a_constraint_of_ones_own_is_logged_by_its_name(
    execute: Execute,  # noqa: F811
    own: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    term = f"loss.terms.fallen.function={own.stem}.fallen"
    directory = execute(*SMALL, *typed(term, "loss.terms.fallen.limit=0.0", "loss.terms.fallen.weight=0.5"))
    assert "fallen above 0, weight 0.5" in capsys.readouterr().out
    events = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    trained = [event for event in events if "terms/fallen" in event]
    assert [event["terms/fallen"] >= 0 for event in trained] == [True] * 3
    assert {"terms/fallen", "terms/fallen_score"} <= trained[0].keys()
    assert "eval_terms/fallen" in [event for event in events if "eval_loss" in event][-1]


def test_a_loss_that_fails_the_battery_is_refused_before_any_model_is_looked_for(
    execute: Execute,  # noqa: F811
    own: Path,
    tmp_path: Path,
) -> None:
    own.write_text("def flat(logps):\n    return 0 * logps.margin()\n")
    with pytest.raises(RunFailed, match=r"^loss\.name must send gradient to the policy's log-probabilities, got 0 at "):
        execute("model=llama3_8b", f"model.path={tmp_path}", *SMALL, *typed(f"loss.name={own.stem}.flat"))


def test_another_line_in_ones_own_loss_is_another_run(own: Path) -> None:
    def identity(function: str) -> str:
        loss = {"name": f"{own.stem}.{function}", "terms": {}}
        groups = {"model": {"name": "tiny"}, "data": {"name": "toy"}, "adapter": {}, "run": {"dir": None}}
        return identify({**groups, "loss": loss})[1]

    first, other = identity("squared_hinge"), identity("fallen")
    own.write_text(OWN + "# changed\n")
    assert len({first, other, identity("squared_hinge")}) == 3


def test_a_dotted_path_takes_the_file_without_parameters() -> None:
    assert typed("loss.name=my_pkg.my_loss", "seed=1") == ["++loss.name=my_pkg.my_loss", "++seed=1", "loss=custom"]
    assert typed("loss=custom", "loss.name=my_pkg.my_loss") == ["loss=custom", "++loss.name=my_pkg.my_loss"]
