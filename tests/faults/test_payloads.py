"""Files that mean harm: pickles, code, templates, names and markup come to a refusal or to plain text."""

import json
import pickle
import shlex
import shutil
from pathlib import Path

import pytest

from preftune import command_line
from preftune.data.loading import load_pairs
from preftune.models.policy import load_policy
from preftune.models.source import locate
from preftune.models.tokenizer import load_tokenizer
from preftune.refusals import Refusal
from preftune.reporting import terminal
from preftune.reporting.comparison_files import _cells
from preftune.runs.directory import RunDirectory
from preftune.runs.exits import exits
from preftune.runs.identity import directory_name
from preftune.training.preparation import _policy
from tests import stock

ROOT = Path(__file__).parents[2]
HOSTILE = "\x1b]0;owned\x07\x1b[2J[/foo][link=http://x]y[/link]\u202egnp\x00"


class Payload:
    """Writes a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (Path.write_text, (self.file, "owned"))


@pytest.fixture
def owned(tmp_path):
    """The file that a payload writes; none may be there at the end."""
    yield tmp_path / "owned"
    assert not (tmp_path / "owned").exists()


@pytest.fixture
def copied(chatml_model, tmp_path):
    """A model's directory to harm."""
    return Path(shutil.copytree(chatml_model, tmp_path / "model"))


def loaded(directory: Path):
    settings = stock.model_settings(directory)
    return load_policy(settings, stock.lora(), locate(settings), seed=0)


def tokenizer(directory: Path):
    settings = stock.model_settings(directory)
    return load_tokenizer(settings, locate(settings))


def rewritten(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_the_payload_works_where_it_is_unpickled(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "done")))
    assert (tmp_path / "done").read_text() == "owned"


def test_weights_that_are_a_pickle_with_code_are_refused(copied, owned):
    (copied / "model.safetensors").unlink()
    (copied / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(owned)))
    with pytest.raises(Refusal, match=r"weights must load from .*, got \w+: "):
        loaded(copied)


def test_an_adapter_that_is_a_pickle_with_code_is_refused(chatml_model, tmp_path, owned):
    adapter = tmp_path / "adapter"
    loaded(chatml_model).save_pretrained(str(adapter))
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Payload(owned)))
    settings = stock.model_settings(chatml_model)
    with pytest.raises(Refusal, match=r"adapter must load from .*, got \w+: "):
        load_policy(settings, stock.lora(path=str(adapter)), locate(settings), seed=0)


def test_an_adapter_that_names_a_module_to_import_is_refused(chatml_model, tmp_path):
    adapter = tmp_path / "adapter"
    loaded(chatml_model).save_pretrained(str(adapter))
    rewritten(adapter / "adapter_config.json", megatron_config={"a": 1}, megatron_core="payload_module")
    settings = stock.model_settings(chatml_model)
    with pytest.raises(Refusal, match="and name no Megatron core"):
        load_policy(settings, stock.lora(path=str(adapter)), locate(settings), seed=0)


CODE = "from pathlib import Path\nPath({!r}).write_text('owned')\nclass Model: ...\nclass Config: ...\n"


def test_a_model_that_brings_code_is_refused_without_a_question(copied, owned, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    (copied / "payload.py").write_text(CODE.format(str(owned)))
    rewritten(
        copied / "config.json",
        model_type="payload",
        auto_map={"AutoConfig": "payload.Config", "AutoModelForCausalLM": "payload.Model"},
    )
    with pytest.raises(Refusal) as refusal:
        loaded(copied)
    assert str(refusal.value) == (
        f"{copied} must be a model of a kind that transformers has itself, got one that brings code of its own for "
        "its weights, which is never run; choose another model, or a copy without that code"
    )


def test_a_tokenizer_that_brings_code_is_refused_without_a_question(copied, owned, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    (copied / "payload.py").write_text(CODE.format(str(owned)))
    rewritten(
        copied / "tokenizer_config.json",
        tokenizer_class="Payload",
        auto_map={"AutoTokenizer": ["payload.Model", "payload.Model"]},
    )
    with pytest.raises(Refusal, match="got one that brings code of its own for its tokenizer, which is never run"):
        tokenizer(copied)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch owned') }}",
        "{% set x = messages.append(1) %}{{ x }}",
        "{{ 1 // 0 }}",
        "{{ raise_exception('\x1b[2Jno') }}",
        "{% include '/etc/hostname' %}",
        "{% for x in %}",
    ],
)
def test_a_chat_template_that_reaches_out_of_its_sandbox_is_refused(copied, template, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (copied / "chat_template.jinja").write_text(template)
    with pytest.raises(SystemExit) as ending, exits():
        tokenizer(copied)
    assert ending.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("the chat template must render a question and its answer, got ")
    assert "\x1b" not in said
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["rows.pkl", "rows.pt", "rows.npy", "rows.joblib"])
def test_data_in_a_form_that_can_hold_code_are_refused_by_name(tmp_path, owned, name):
    (tmp_path / name).write_bytes(pickle.dumps(Payload(owned)))
    with pytest.raises(Refusal, match=r"data\.path"):
        stock_pairs(tmp_path / name)


def test_a_pickle_under_the_name_of_a_table_is_refused(tmp_path, owned):
    for name in ("rows.json", "rows.jsonl", "rows.csv", "rows.parquet"):
        (tmp_path / name).write_bytes(pickle.dumps(Payload(owned)))
        with pytest.raises(Refusal):
            stock_pairs(tmp_path / name)


def stock_pairs(path: Path):
    return load_pairs(stock.data_settings(path))


@pytest.mark.parametrize(
    "line",
    [
        "loss._target_=os.system",
        "+model._target_=os.system",
        "+x._target_=os.system",
        "+data.columns._target_=pandas.read_pickle",
        "'+loss.terms.a={{_target_:os.system}}'",
        "hydra.launcher._target_=os.system",
        "'hydra.callbacks={{a:{{_target_:os.system}}}}'",
        "-m hydra.sweeper._target_=os.system seed=1,2",
    ],
)
def test_a_target_is_refused_wherever_it_is_typed(line):
    with pytest.raises(Refusal, match="_target_"):
        command_line.checked(shlex.split(line.replace("{{", "{").replace("}}", "}")), ROOT / "conf")


@pytest.mark.parametrize("group", ["loss", "model", "data"])
def test_a_target_in_a_file_of_choices_is_refused(tmp_path, group):
    (tmp_path / group).mkdir()
    (tmp_path / group / "payload.yaml").write_text("name: payload\n_target_: os.system\n")
    with pytest.raises(Refusal, match=rf"{group}\._target_ must be left out, got 'os\.system'"):
        command_line.checked([f"--config-dir={tmp_path}", f"{group}=payload"], ROOT / "conf")


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a/b", "..", ".", "a\x00b", "x" * 5000, "é/ü", "-rf", "a b"])
def test_a_name_never_leaves_its_directory(tmp_path, name):
    made = directory_name(name, name, name, "0" * 64)
    assert "/" not in made
    assert "\x00" not in made
    assert len(made.encode()) <= 255
    assert (tmp_path / made).resolve().parent == tmp_path.resolve()


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", "a\x00b", "-x", "x" * 300])
def test_the_name_of_a_sweep_is_one_component(name):
    with pytest.raises(Refusal, match=r"sweep\.name"):
        command_line.checked(["-m", f"sweep.name='{name}'", "seed=1,2"], ROOT / "conf")


def test_a_plan_with_markup_and_escapes_from_a_model_is_plain_text(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    with RunDirectory.open(tmp_path / "run", "0" * 64) as directory:
        terminal.print_plan([("turns end in", HOSTILE)], directory, HOSTILE)
    said = capsys.readouterr().out
    assert "[/foo][link=http://x]y[/link]" in said
    assert not {"\x1b", "\x07", "\x00", "\u202e"} & set(said)


def test_a_place_with_markup_is_shown_while_weights_load(chatml_model, tmp_path):
    odd = Path(shutil.copytree(chatml_model, tmp_path / "[" / "foo]"))
    settings = stock.model_settings(odd)
    assert _policy(settings, stock.lora(), locate(settings), 0)


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+1+cmd|' /C calc'!A0", "'+1+cmd|' /C calc'!A0"),
        ("-1+1", "'-1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("-0.1", "-0.1"),
        ("+1e-05", "+1e-05"),
        ("plain", "plain"),
    ],
)
def test_a_cell_is_never_a_formula(text, cell):
    assert list(_cells([text])) == [cell]
