"""`python -m recipes.losses`: the list, one loss, one of the user's own, and the page."""

import html
import math
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from preftune.losses.catalogue import LOSSES
from preftune.losses.traits import declares
from preftune.reporting.charts import line
from preftune.reporting.loss_descriptions import curve, describe, parameters_of
from preftune.reporting.losses_page import losses_page
from recipes import losses as recipe

ROOT = Path(__file__).parents[1]
OWN = '''
def own(logps, *, beta, tilt=0.0):
    """Costs less, the larger the margin.

    .. math:: -\\\\beta h \\\\text{<script>alert(1)</script>}
    """
    return -beta * logps.margin() + tilt * logps.extras["harm"]


def broken(logps, *, beta):
    """<script>alert(1)</script>"""
    return (beta * logps.margin()).exp()
'''
VOID = {"meta", "br", "link", "img"}


class Page(HTMLParser):
    """What is open, what is held, and what is shown."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.points: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        values = {name: value or "" for name, value in attrs}
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values["href"]] if "href" in values else []
        self.points += [values["points"]] if "points" in values else []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["losses", *arguments])
    monkeypatch.setenv("COLUMNS", "80")
    recipe.main()
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    with pytest.raises(SystemExit) as ending:
        shown(capsys, monkeypatch, *arguments)
    assert ending.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    (tmp_path / "own_listed.py").write_text(OWN)
    return tmp_path


def test_every_loss_is_listed_in_80_columns(capsys, monkeypatch) -> None:
    printed = shown(capsys, monkeypatch)
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 80
    assert {line.split()[0] for line in lines if line and line[0] != " "} == LOSSES.keys()
    assert "sigmoid       beta=0.1  label_smoothing=0.0  arXiv:2305.18290" in printed
    assert "DPO loss; conservative DPO when `label_smoothing` is not 0." in printed


def test_every_loss_says_what_the_page_shows() -> None:
    described = recipe.every()
    assert [loss.name for loss in described] == list(LOSSES)
    for loss in described:
        assert loss.summary.endswith((".", "?")), loss.name
        assert loss.formulas, loss.name
        assert loss.paragraphs, loss.name
        assert loss.returns.startswith(("Cost of each pair", "Cost of each rank")), loss.name
        assert loss.source, loss.name
        assert all(loss.arguments.values()), loss.name
        assert set(loss.arguments) == set(parameters_of(loss.function)), loss.name


def test_every_loss_has_a_file_of_defaults_and_is_drawn() -> None:
    assert [loss.name for loss in recipe.every() if not loss.drawable()] == []
    assert [name for name in LOSSES if not (ROOT / "conf" / "loss" / f"{name}.yaml").is_file()] == []


def test_one_loss_is_shown_with_the_numbers_of_its_parameters(capsys, monkeypatch) -> None:
    printed = shown(capsys, monkeypatch, "sigmoid", "beta=0.2")
    assert r"-(1 - \epsilon) \log \sigma(\beta h)" in printed
    assert "beta=0.2" in printed
    assert "label_smoothing=0.0" in printed
    rows = [row.split() for row in printed.replace("│", " ").replace("|", " ").splitlines()]
    assert ["+0", "0.6931", "-0.1000"] in rows
    assert ["+10", f"{math.log1p(math.exp(-2)):.4f}", f"{-0.2 / (1 + math.exp(2)):.4f}"] in rows
    assert "sigmoid passes: one finite cost a pair;" in printed


def test_a_loss_of_ones_own_is_shown_after_the_same_battery(own: Path, capsys, monkeypatch) -> None:
    printed = shown(capsys, monkeypatch, "own_listed.own", "beta=0.1", "--page", "own.html")
    assert "own_listed.own: Costs less, the larger the margin." in printed
    assert "tilt, of which its docstring says nothing" in printed
    assert "own_listed.own passes: one finite cost a pair;" in printed
    assert "page: own.html" in printed
    page = (own / "own.html").read_text(encoding="utf-8")
    assert Page(page).ids == ["own_listed.own"]
    assert "script" not in Page(page).tags
    assert "<code>-\\beta h \\text{&lt;script&gt;" in page


def test_what_is_wrong_is_refused_in_one_sentence(own: Path, capsys, monkeypatch) -> None:
    assert refused(capsys, monkeypatch, "own_listed.broken", "beta=0.1") == (
        "loss.name must give finite costs at chosen answers 10,000 nats above their reference, got inf for pair 0 "
        "from own_listed.broken\n"
    )
    assert refused(capsys, monkeypatch, "own_listed.own", "bata=0.1") == (
        "loss.name must be given each parameter that has no default, got no beta for own_listed.own(logps, *, beta, "
        "tilt=0.0)\n"
        "loss.name must take each parameter given, got bata for own_listed.own(logps, *, beta, tilt=0.0); did you "
        "mean beta?\n"
    )
    assert refused(capsys, monkeypatch, "sigmoid", "beta=-1") == (
        "loss.name must take ordinary pairs, got ValueError from sigmoid: beta must be above 0, got -1\n"
    )
    assert refused(capsys, monkeypatch, "sigmiod").endswith(", got 'sigmiod'; did you mean sigmoid?\n")
    assert refused(capsys, monkeypatch, "sigmoid", "beta") == ("a parameter must be given as name=value, got 'beta'\n")
    monkeypatch.setattr(sys, "argv", ["losses", "sigmoid", "--page", "no/such/losses.html"])
    with pytest.raises(SystemExit) as ending:
        recipe.main()
    assert ending.value.code == 2
    assert capsys.readouterr().err == (
        "--page must be a file that can be written, got no/such/losses.html: No such file or directory\n"
    )


def test_the_command_ends_with_the_code_of_a_refusal(own: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "recipes.losses", "own_listed.broken", "beta=0.1"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        cwd=own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith("loss.name must give finite costs")


def test_the_page_holds_every_loss_with_its_formula_and_two_lines() -> None:
    losses = recipe.every()
    page = Page(losses_page(losses))
    assert page.open == []
    assert page.ids == list(LOSSES)
    assert page.tags.count("polyline") == 2 * sum(loss.drawable() for loss in losses)
    assert page.tags.count("math") >= len(LOSSES)
    assert "script" not in page.tags
    assert "https://arxiv.org/abs/2305.18290" in page.links
    assert {link for link in page.links if not link.startswith("https://arxiv.org/abs/")} == {f"#{n}" for n in LOSSES}


@pytest.mark.parametrize("name", LOSSES)
def test_every_formula_of_a_docstring_becomes_mathml(name: str) -> None:
    loss = describe(name, LOSSES[name], {})
    page = losses_page([loss])
    prose = [*loss.paragraphs, *loss.arguments.values(), loss.summary, loss.returns, loss.source]
    assert Page(page).tags.count("math") == len(loss.formulas) + sum(text.count(":math:") for text in prose)


@pytest.mark.parametrize("latex", [r"\unheard{x}", r"\text{<script>x</script>}", r"\left( x", "a & b", "a_b_c"])
def test_latex_that_is_not_understood_is_shown_as_it_is_written(latex: str) -> None:
    def own(logps):
        return logps.margin()

    own.__doc__ = f"First line.\n\n.. math:: {latex}\n"
    page = losses_page([describe("own", own, {})])
    assert f"<code>{html.escape(latex)}</code>" in page
    assert not {"math", "script"} & set(Page(page).tags)


def test_a_docstring_is_read_part_by_part() -> None:
    def own(logps, *, beta, tau=1.0, limit=None):
        r"""First line.

        .. math:: a
            + b

        Then text with
        two lines.

        .. math:: c

        Args:
            logps: Pairs.
            beta: Said of beta,
                in two lines: with a colon.
            tau (float): Said of tau.

        Returns:
            Cost of each pair.

        Source:
            Someone 2024, arXiv:2401.00001, Eq. 1.

        Example:
            >>> 1
        """

    loss = describe("own", own, {"beta": 2})
    assert loss.summary == "First line."
    assert loss.formulas == ("a + b", "c")
    assert loss.paragraphs == ("Then text with two lines.",)
    assert loss.arguments == {"beta": "Said of beta, in two lines: with a colon.", "tau": "Said of tau.", "limit": ""}
    assert loss.returns == "Cost of each pair."
    assert loss.paper() == "arXiv:2401.00001"
    assert loss.drawable()
    assert not describe("own", own, {}).drawable()


def test_a_loss_without_a_docstring_is_described_by_its_parameters() -> None:
    loss = describe("bare", lambda logps, *, beta: -beta * logps.margin(), {"beta": 1})
    assert (loss.summary, loss.formulas, loss.paragraphs, loss.source, loss.paper()) == ("", (), (), "", "")
    assert dict(loss.arguments) == {"beta": ""}
    assert Page(losses_page([loss])).open == []


def test_a_curve_moves_chosen_up_and_rejected_down_by_half_the_margin_each() -> None:
    @declares(tokens=("logps", "collision", "kl"), running=("margin",))
    def looks(logps, *, beta):
        chosen, rejected = logps.tokens()
        torch.testing.assert_close(chosen.policy.sum(1), logps.policy_chosen)
        assert chosen.policy.shape == chosen.collision.shape == rejected.kl.shape == (1, 16)
        assert "harm" in logps.extras
        assert logps.extras["harm"].item() == 0.5
        return beta * logps.chosen_logratio() - 3 * beta * logps.rejected_logratio()

    loss = describe("looks", looks, {"beta": 0.5})
    assert curve(loss, (-10, 4)) == [(-10.0, -10.0, 1.0), (4.0, 4.0, 1.0)]


def test_a_line_is_drawn_between_round_numbers_without_what_is_not_finite() -> None:
    drawn = line([(-10, -0.011), (0, math.nan), (10, 0.006)], "chosen", "nats", (0, "start"))
    assert Page(drawn).points == ["38.0,112.7 340.0,39.3"]
    for label in (">-0.015<", ">-0.005<", ">0<", ">0.01<"):
        assert label in drawn
    flat = line([(-10, 0.0), (10, 0.0)], "chosen", "nats", (0, "start"))
    assert Page(flat).points == ["38.0,130.0 340.0,130.0"]
