"""Every notebook runs from its first cell to its last, and its text is true to what it prints."""

import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from preftune.toy.preferences import sample_pairs

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SECONDS = 300  # for one cell: a sweep trains three times
WHERE = "import sys\nimport preftune\nprint(sys.executable, preftune.__file__)"
NAMES = {"2305.18290", "2.5"}  # of a paper and of a model: the only decimals in a text that are no results


def executed(path: Path, directory: Path) -> nbformat.NotebookNode:
    """Run a notebook where it lies, and a last cell that prints what ran it; `directory` takes the kernel's files."""
    sample_pairs(1, label_noise=0.0)  # makes the toy's model and answers where they are missing: not a cell's time
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(WHERE))
    # without kernel directories, python3 is the interpreter of this process and no installed kernel's
    kernels = KernelSpecManager(kernel_dirs=[])
    kernel = AsyncKernelManager(
        kernel_name="python3", kernel_spec_manager=kernels, connection_file=str(directory / "kernel.json")
    )
    client = NotebookClient(notebook, km=kernel, timeout=SECONDS, resources={"metadata": {"path": str(path.parent)}})
    fonts = Path(os.environ["PREFTUNE_CACHE"]) / "matplotlib"  # seconds to list them, so once
    environment = {"PYTHONPATH": str(ROOT / "src"), "IPYTHONDIR": str(directory), "MPLCONFIGDIR": str(fonts)}
    client.execute(env={**os.environ, **environment})
    return notebook


def printed(notebook: nbformat.NotebookNode) -> str:
    """Return all that the cells wrote to stdout."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(output.text for output in outputs if output.get("name") == "stdout")


def stated(notebook: nbformat.NotebookNode) -> set[str]:
    """Return the decimal numbers in the text that are results."""
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return set(re.findall(r"\d+\.\d+", text)) - NAMES


def test_there_are_as_many_notebooks_as_are_tested() -> None:
    assert [path.name for path in NOTEBOOKS] == ["01_dpo_from_scratch.ipynb", "02_read_a_sweep.ipynb"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_notebook_is_committed_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) > 10
    assert not [cell.source for cell in cells if cell.outputs or cell.execution_count is not None]
    assert notebook.metadata.kernelspec.name == "python3"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_each_notebook_runs_on_this_checkout_and_prints_every_number_of_its_text(path: Path, tmp_path: Path) -> None:
    notebook = executed(path, tmp_path)
    shown = printed(notebook)
    assert shown.splitlines()[-1] == f"{sys.executable} {ROOT / 'src' / 'preftune' / '__init__.py'}"
    assert len(stated(notebook)) >= 3
    assert not [number for number in stated(notebook) if number not in shown]
    plots = [cell for cell in notebook.cells if "image/png" in str(cell.get("outputs"))]
    assert len(plots) == sum("plt.show()" in cell.source for cell in notebook.cells)
