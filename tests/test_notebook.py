"""What docs/ has to run: the notebook in a kernel of its own, the examples as scripts."""

import re
import runpy
from pathlib import Path

import nbformat
import pytest
import torch
from nbclient import NotebookClient

DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOK = DOCS / "notebooks" / "range_test_and_fit.ipynb"
PNG = "image/png"


def outputs(notebook):
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def pictures(notebook):
    return [output for output in outputs(notebook) if PNG in output.get("data", {})]


def printed(notebook):
    return "".join(output.get("text", "") for output in outputs(notebook))


@pytest.fixture
def committed():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_committed_notebook_was_run_from_top_to_bottom(committed):
    nbformat.validate(committed)
    code = [cell for cell in committed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for output in outputs(committed) if output.output_type == "error"]
    assert not [output for output in outputs(committed) if output.get("name") == "stderr"]
    assert len(pictures(committed)) == 3


def test_the_committed_notebook_names_no_path(committed):
    for cell in committed.cells:
        assert "execution" not in cell.metadata  # nor when it ran
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(PNG, None)
    text = nbformat.writes(committed)
    assert not re.findall(r"(?<![\w.:/])/(?:home|root|tmp|usr|work|Users)\b|[A-Z]:\\\\", text)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_notebook_runs(committed, tmp_path):
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(committed, timeout=120, kernel_name="python3", resources=where).execute()
    assert len(pictures(committed)) == 3
    assert 0.01 < float(re.search(r"peak: (\S+)", printed(committed))[1]) < 1
    accuracies = re.findall(r"val/acc (\S+)%", printed(committed))
    assert len(accuracies) == 10
    assert float(accuracies[-1]) > 96
    assert not list(tmp_path.iterdir())


def test_the_plain_loop(capsys):
    names = runpy.run_path(str(DOCS / "examples" / "plain_pytorch.py"))
    assert names["scheduler"].last_epoch == names["STEPS"]
    assert names["accuracy"] > 0.95
    for name, value in names["net"].state_dict().items():
        assert torch.equal(value, names["whole"][name])  # resumed, and as if never interrupted
    assert capsys.readouterr().out.endswith("the same weights: True\n")


def test_the_fabric_loop(capsys):
    runpy.run_path(str(DOCS / "examples" / "fabric.py"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"step {n}" for n in (16, 32, 48, 64, 80)]
    assert lines[-1].endswith("learning rate 0.0005")  # 0.5 / 1000, at the end of the one cycle
