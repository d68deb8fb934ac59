"""Small models, tokenizers and data that the tests make themselves."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process a core: more threads than cores slow each other down
os.environ.setdefault("PREFTUNE_CACHE", str(Path(__file__).parents[1] / ".cache"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

from tests import stock

signal.signal(signal.SIGINT, signal.default_int_handler)  # where a shell ran us with &, it is ignored

SHARED = Path(__file__).parents[2] / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    """Let no run of the tests see what an earlier one kept, but for the toy's model."""
    if not hasattr(config, "workerinput"):
        for kept in ("pairs", "tokens"):
            shutil.rmtree(Path(os.environ["PREFTUNE_CACHE"]) / kept, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def no_litter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Temporary directories of this process go when it ends; those of a killed one when pytest clears its own."""
    tempfile.tempdir = str(tmp_path_factory.mktemp("temporary"))
    yield
    shutil.rmtree(tempfile.tempdir, ignore_errors=True)
    tempfile.tempdir = None


@pytest.fixture(autouse=True)
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test meets an account, whatever the machine has."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def chatml_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama in bfloat16 safetensors whose tokenizer has a ChatML template and no BOS."""
    return stock.save_model(tmp_path_factory.mktemp("chatml"), stock.CHATML)


@pytest.fixture(scope="session")
def llama3_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama in bfloat16 safetensors whose tokenizer has a Llama-3 template that writes the BOS."""
    return stock.save_model(tmp_path_factory.mktemp("llama3"), stock.LLAMA3)


@pytest.fixture(scope="session")
def pair_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty-two short pairs as JSON lines."""
    return stock.write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", stock.pairs(22))


@pytest.fixture(scope="session")
def demo_pairs() -> Path:
    """The 200 real pairs beside the checkout."""
    path = SHARED / "dpo_en_demo_200.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path
