"""A run's own report: one HTML page of what stands in its directory, whatever of it is there. No script."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from preftune.reporting.charts import Part, bar_row
from preftune.reporting.measures import MEASURES, ROWS
from preftune.reporting.numbers import cell, duration, spelled
from preftune.reporting.page import page, safe
from preftune.reporting.pair_report import PairReport
from preftune.reporting.pairs_page import account, waterfall
from preftune.reporting.run_curves import curves_section
from preftune.reporting.run_files import RunFiles, finite, mapping, number_at, read_run_files, text_at
from preftune.reporting.samples import samples_section

_TRACEBACK = 24


class _Split(BaseModel):
    """A split of ledger.json, as far as it is drawn."""

    source: str
    read: int
    dropped: dict[str, int]
    more: int
    kept: int
    truncated: int
    wrong: list[str]


def run_page(directory: Path) -> str:
    """Return the report of the run in `directory`; files that are missing or torn are left out of it."""
    run = read_run_files(directory)
    name = directory.resolve().name
    parts = [
        f"<h1>{safe(name)}</h1>",
        f'<p class="lede">{safe(_lede(run))}</p>',
        *_ending(run),
        *_results(run),
        *_plan(run),
        *curves_section(run.by_step()),
        *_data(run),
        *samples_section(run.samples),
        *_timing(run),
        *_environment(run),
    ]
    return page(f"Run {name}", "\n".join(parts))


def _lede(run: RunFiles) -> str:
    step, steps = number_at(run.status, "step"), number_at(run.status, "max_steps")
    seconds = run.seconds()
    parts = [
        text_at(run.status, "state") or "its state is not known",
        f"{step:.0f} of {steps:.0f} steps" if step is not None and steps else "before the first step",
        f"started {text_at(run.status, 'started')}" if text_at(run.status, "started") else "",
        f"took {duration(seconds)}" if seconds is not None else "",
    ]
    return "; ".join(part for part in parts if part)


def _ending(run: RunFiles) -> Iterator[str]:
    """Yield how the run ended: its verdict, or else the reason with the end of the traceback."""
    verdict = mapping(run.summary.get("verdict"))
    state = text_at(run.status, "state")
    if state == "complete" and verdict:
        kind = "" if verdict.get("word") == "healthy" else "unsure"
        said = f'<span class="word">{safe(text_at(verdict, "word"))}</span>: {safe(text_at(verdict, "sentence"))}'
        yield f'<section class="card answer {kind}"><p class="said">{said}</p>{_history(run)}</section>'
        return
    reason = text_at(run.status, "reason") or _WITHOUT_REASON.get(state, "no reason was written")
    said = f'<span class="word">{safe(state or "unknown")}</span>: {safe(reason)}'
    yield f'<section class="card answer none"><p class="said">{said}</p>{_history(run)}'
    if lines := run.traceback.rstrip().splitlines():
        left_out = f"The last {_TRACEBACK} of {len(lines):,} lines of" if len(lines) > _TRACEBACK else "From"
        yield f'<p class="note">{left_out} traceback.txt</p><pre>{safe(chr(10).join(lines[-_TRACEBACK:]))}</pre>'
    yield "</section>"


_WITHOUT_REASON = {
    "running": "it goes on, or was killed before it could say why",
    "complete": "but it left no verdict",
}


def _history(run: RunFiles) -> str:
    """Return the states that the run went through, where there is more than the last, and the steps that stood out."""
    states = _entries(run, "verdicts")
    told = {
        "States over the run": states if len(states) > 1 else [],
        "Steps whose loss jumped": _entries(run, "spikes"),
        "Steps that were left out": _entries(run, "left_out"),
    }
    return "".join(_steps(title, entries) for title, entries in told.items() if entries)


def _entries(run: RunFiles, name: str) -> list[Mapping[str, Any]]:
    found = run.summary.get(name)
    return [mapping(entry) for entry in found] if isinstance(found, list) else []


def _steps(title: str, entries: Sequence[Mapping[str, Any]]) -> str:
    items = "".join(f"<li>step {safe(text_at(entry, 'step'))}: {_said(entry)}</li>" for entry in entries)
    return f'<details class="more"><summary>{title}</summary><ul>{items}</ul></details>'


def _said(entry: Mapping[str, Any]) -> str:
    """Return what is told of a step: of a state its word and sentence, of others what stood out, and their rows."""
    if "word" in entry:
        return f'<span class="word">{safe(text_at(entry, "word"))}</span> {safe(text_at(entry, "sentence"))}'
    loss, middle = number_at(entry, "loss"), number_at(entry, "median")
    what = text_at(entry, "what") if loss is None or middle is None else f"{loss:.4g}, median before it {middle:.4g}"
    rows = entry.get("rows")
    named = ", ".join(str(row) for row in rows) if isinstance(rows, list) else ""
    return safe(f"{what}; {named}" if named else what)


def _results(run: RunFiles) -> Iterator[str]:
    rows = []
    for key, name, unit in ROWS:
        before, after = number_at(run.summary, "eval_start", key), number_at(run.summary, "eval", key)
        if before is not None and after is not None:
            said = f"{name}, {unit}" if unit else name
            rows.append(_cells(said, f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}"))
    rows += _sampled(run)
    if rows:
        heads = "".join(f'<th scope="col">{head}</th>' for head in ("held out", "start", "end", "change"))
        yield "<h2>What training changed</h2>"
        yield f'<section class="card"><div class="scroll named"><table><thead><tr>{heads}</tr></thead>'
        yield f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    yield from _sources(run)


def _sampled(run: RunFiles) -> Iterator[str]:
    was, now = (mapping(mapping(run.summary.get("true_reward")).get(who)) for who in ("reference", "policy"))
    start, end = number_at(was, "mean"), number_at(now, "mean")
    if start is not None and end is not None:
        errors = [number_at(one, "stderr") for one in (was, now)]
        said = [spelled(mean, error, ".3f") for mean, error in zip((start, end), errors, strict=True)]
        yield _cells("true reward", *said, f"{end - start:+.3f}")
    if won := MEASURES["win_rate"].of(run):
        end_rate = spelled(won.value, won.stderr, ".3f")
        yield _cells("win rate over the reference", "0.500", end_rate, f"{won.value - 0.5:+.3f}")
    first, last = number_at(run.summary, "length_sampled_reference"), number_at(run.summary, "length_sampled")
    if first is not None and last is not None:
        yield _cells("length of sampled answers, tokens", f"{first:.1f}", f"{last:.1f}", f"{last - first:+.1f}")
    if (moved := number_at(run.summary, "adapter_moved")) is not None:
        yield _cells("share of trained entries that moved", "0.000", f"{moved:.3f}", f"{moved:+.3f}")


def _sources(run: RunFiles) -> Iterator[str]:
    rows = []
    for name, found in mapping(run.summary.get("sources")).items():
        numbers = [number_at(mapping(found), key) for key in ("accuracy", "margin", "pairs")]
        forms = (".3f", ".2f", ",.0f")
        said = [spelled(value, None, form) for value, form in zip(numbers, forms, strict=True)]
        rows.append(_cells(name, *said))
    if rows:
        heads = "".join(f'<th scope="col">{head}</th>' for head in ("source", "accuracy", "margin, nats", "pairs"))
        yield f'<h3>By source</h3><section class="card"><div class="scroll"><table><thead><tr>{heads}</tr></thead>'
        yield f"<tbody>{''.join(rows)}</tbody></table></div></section>"


def _cells(name: str, *cells: str) -> str:
    return f'<tr><th scope="row">{safe(name)}</th>{"".join(f"<td>{cell(text)}</td>" for text in cells)}</tr>'


def _plan(run: RunFiles) -> Iterator[str]:
    yield "<h2>Plan</h2>"
    if run.plan:
        yield _facts(run.plan)
    else:
        yield '<p class="quiet">The run ended before it had one, or left none; its settings stand below.</p>'
    yield f"<p>{safe(_verified(run))}</p>"


def _facts(lines: Sequence[tuple[str, str]]) -> str:
    rows = "".join(f'<tr><th scope="row">{safe(name)}</th><td>{safe(value)}</td></tr>' for name, value in lines)
    return f'<section class="card"><table class="facts"><tbody>{rows}</tbody></table></section>'


def _verified(run: RunFiles) -> str:
    verified, engine = mapping(run.summary.get("verified")), text_at(run.summary, "engine")
    by = f" It was trained by the {engine} engine." if engine else ""
    if not verified:
        return f"Not verified: verify is off, or the run ended before its summary.{by}"
    values = {key: number_at(verified, key) for key in verified}
    named = (("loss", "loss"), ("scratch", "scratch"), ("trl", "TRL"))
    losses = ", ".join(f"{name} {values[key]:.6f}" for key, name in named if values.get(key) is not None)
    norms = (("gradient_norm", "gradient norm"), ("gradient_norm_scratch", "scratch"))
    gradients = ", ".join(f"{name} {values[key]:.6f}" for key, name in norms if values.get(key) is not None)
    largest, sequences = values.get("largest_difference"), values.get("sequences")
    over = "" if sequences is None else f" over {sequences:,.0f} sequences"
    difference = "" if largest is None else f"largest difference {largest:.0e} nats{over}"
    return f"Verified: {'; '.join(part for part in (losses, difference, gradients) if part)}.{by}"


def _data(run: RunFiles) -> Iterator[str]:
    """Yield the data report's first sections; of a stream, which has no such report, the ledger."""
    try:
        report = TypeAdapter(PairReport).validate_json((run.path / "data.json").read_bytes())
        splits = _splits(report.ledger)
        sections = list(account(report))
    # One of another version may hold numbers that cannot be drawn.
    except (OSError, ValueError, LookupError, ArithmeticError):
        splits, sections = _splits(run.ledger), []
    if splits:
        yield "<h2>Pairs</h2>"
    if sections and splits:
        yield from sections
        yield '<p class="quiet">The rest of the data report is in <a href="data.html">data.html</a>.</p>'
    elif splits:
        yield '<div class="cards">'
        for name, split in splits.items():
            yield f'<section class="card"><h3>{safe(name.replace("_", " "))}</h3>{waterfall(split)}</section>'
        yield "</div>"


def _splits(ledger: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    try:
        return {name: _Split.model_validate(split).model_dump() for name, split in ledger.items()}
    except ValidationError:
        return {}


def _timing(run: RunFiles) -> Iterator[str]:
    named = {name: finite(seconds) for name, seconds in mapping(run.summary.get("seconds")).items()}
    stages = {name: seconds for name, seconds in named.items() if seconds is not None and seconds >= 0}
    whole = sum(stages.values())
    if not whole:
        return
    rows = [
        bar_row(name, [Part("plain", seconds / whole, f"{name}: {seconds:.1f} s")], duration(seconds))
        for name, seconds in stages.items()
    ]
    speeds = (("pairs_per_second", "pairs a second"), ("tokens_per_second", "tokens a second"))
    numbers = [
        f"<span>{name} <b>{value:,.1f}</b></span>"
        for key, name in speeds
        if (value := number_at(run.summary, key)) is not None
    ]
    if (peak := number_at(run.summary, "peak_memory_bytes")) is not None:
        numbers.append(f"<span>peak memory <b>{peak / 2**20:,.0f} MiB</b></span>")
    yield "<h2>Where the time went</h2>"
    yield f'<section class="card"><table class="bars"><tbody>{"".join(rows)}'
    yield f"{bar_row('all stages', [], duration(whole), 'total')}</tbody></table>"
    yield f'<p class="numbers">{"".join(numbers)}</p></section>'


def _environment(run: RunFiles) -> Iterator[str]:
    versions = {name: text_at(mapping(run.manifest.get("versions")), name) for name in _names(run.manifest, "versions")}
    lines = [(name, text_at(run.manifest, name)) for name in ("identity", "python", "platform", "template")]
    lines += [
        (f"{part} {name}", text_at(mapping(run.manifest.get(part)), name))
        for part in ("model", "data")
        for name in _names(run.manifest, part)
    ]
    lines += [("versions", ", ".join(f"{name} {version}" for name, version in versions.items() if version))]
    known = [(name, value) for name, value in lines if value]
    if known:
        yield "<h2>Environment</h2>"
        yield _facts(known)
    if run.config:
        written = yaml.safe_dump(json.loads(json.dumps(run.config, default=str)), sort_keys=False, allow_unicode=True)
        yield f'<details class="more"><summary>Settings</summary><section class="card"><pre>{safe(written)}</pre>'
        yield "</section></details>"


def _names(manifest: Mapping[str, Any], part: str) -> Sequence[str]:
    return list(mapping(manifest.get(part)))
