"""Train one run, or several with -m: load the choices, prepare, train, report."""

import sys
from typing import Any

import hydra
from omegaconf import DictConfig

from preftune import command_line, config
from preftune.reporting import terminal
from preftune.runs import environment, sweeps
from preftune.runs.directory import RunDirectory
from preftune.runs.exits import exits
from preftune.runs.opening import open_run
from preftune.runs.stages import Stages
from preftune.runs.stops import Stops, stopping
from preftune.runs.watching import Tracker, watching
from preftune.training.checkpoints import Checkpoints
from recipes import CHOICES


def run(resolved: dict[str, Any]) -> None:
    """Do one run in its directory from where it stands, or say that it is complete."""
    choices = config.Config.model_validate(resolved)
    with stopping() as stops, open_run(resolved, scratch=choices.dry_run) as directory:
        environment.settle(deterministic=choices.deterministic)
        if (previous := directory.previous()) and previous.complete:
            return terminal.print_complete(directory.path, previous, directory.samples())
        saved = Checkpoints(directory.path / "checkpoints", directory.identities, choices.train.checkpoints)
        directory.start(resolved, {}, saved.newest())
        view = watching(choices.track, directory.path, resolved, not choices.dry_run, choices.sweep.name, saved.goes_on)
        with view as tracker, directory.running():
            train(choices, directory, saved, tracker, stops)
            return stops.disregard()


def train(run: config.Config, directory: RunDirectory, saved: Checkpoints, tracker: Tracker, stops: Stops) -> None:
    """Prepare, train, report. What is heavy is imported here, after the choices were checked."""
    from preftune.evaluating.points import Points
    from preftune.models.policy import save_policy
    from preftune.reporting import pairs, plan, summary
    from preftune.training import footprint, memory, methods, preparation

    seconds = Stages()
    with seconds("data"):
        prepared = preparation.prepare(run.model, run.data, run.adapter, run.train, run.loss, run.seed)
        directory.write_inputs(prepared.manifest(), pairs.report_run(prepared, run.train, run.seed, run.loss.reads))
        needs = memory.plan_memory(prepared, run.train, run.engine, run.verify)
        space = footprint.plan_space(
            prepared, run.train, run.loss, run.reference, run.engine, directory.path, run.dry_run
        )
    sides = (run.reference, run.engine, run.verify)
    terminal.print_plan(plan.plan_lines(prepared, run.loss, needs, space, *sides), directory, tracker.describe())
    if run.dry_run:
        return
    trainer = methods.build_trainer(prepared, needs.settle(run.train), run.loss, *sides, run.seed, directory.path)
    trainer.report_to(directory.progress, directory.log, tracker.log)
    points = Points(trainer, prepared, run.evaluate, run.guard, run.seed, tracker.alert)
    trainer.keep_checkpoints(saved, {"points": points, "log": directory.log, "seconds": seconds}, stops.stop)
    seconds.measure("reference", trainer.keep_reference)
    seconds.measure("evaluate", points.measure_start)
    seconds.measure("train", stops.deferred()(trainer.fit))
    seconds.measure("evaluate", points.measure_end)
    save_policy(prepared.policy, prepared.chat.tokenizer, directory.path)
    results = summary.summarise(trainer.totals(), seconds.seconds, points, trainer.verified)
    directory.write_results(results, points.samples, prepared.pairs.ledger.to_json())
    tracker.summarise(results)
    tracker.log_samples(points.samples)
    terminal.print_results(directory.path, results, points.samples)


@hydra.main(version_base="1.3", config_path=str(CHOICES), config_name="run")
def main(choices: DictConfig) -> float | None:
    """Do one run here, or one job of a sweep in a process of its own."""
    return sweeps.launch("recipes.run", run, config.resolved(choices))


if __name__ == "__main__":
    with exits(), sweeps.sweeping(*command_line.read(sys.argv[1:], CHOICES)) as sys.argv[1:]:
        main()
