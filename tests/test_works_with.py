"""The table of projects: what is measured is right, and the page says what was found."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.utils.data import DataLoader

from experiments.works_with import __main__ as command
from experiments.works_with import measure, page
from experiments.works_with.projects import REQUIREMENTS
from lightning_onecycle import one_cycle
from pages import ROOT, blocks

PROJECTS = ROOT / "experiments" / "works_with" / "projects"


class WithStepLR(BoringModel):
    """Its loss depends on each batch, and falls."""

    def training_step(self, batch, batch_idx):
        return (self.layer(batch) - 5 - batch[:, :1]).square().mean()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


def project(*, takes_callbacks=True, loader=None):
    """A project of one module, whose users give callbacks to its Trainer."""

    def fit(*, callbacks, **options):
        data = loader or DataLoader(torch.randn(480, 32), batch_size=16, shuffle=True)
        given = callbacks if takes_callbacks else []
        Trainer(max_epochs=1, limit_train_batches=30, callbacks=given, **options).fit(
            WithStepLR(), data
        )

    return SimpleNamespace(fit=fit)


def phase(name, *arguments):
    found = {}
    getattr(measure, name)(*arguments, found)
    return found


# ---- measuring ----------------------------------------------------------------------------------


def test_what_the_module_brings():
    found = phase("own", project())
    assert (found["module"], found["lightning"]) == ("WithStepLR", "lightning.pytorch")
    assert found["schedulers"] == [{"name": "StepLR", "interval": "epoch"}]
    assert (found["optimizers"], found["steps"]) == (["SGD"], [30])
    assert {*found["versions"]} == {"torch", "lightning"}


def test_a_right_schedule_is_exact_and_a_range_test_leaves_no_trace():
    alone = phase("onecycle", project())
    assert (alone["steps"], alone["wrong"], alone["peaks"]) == ([30], None, [[0.02]])
    tested = phase("range_test", project())
    assert (tested["changed"], tested["wrong"], tested["end"]) == ([], None, alone["end"])
    assert 3 <= tested["points"] <= measure.NUM_TRAINING
    found = phase("finder", project())
    assert (found["steps"], found["wrong"]) == ([30], None)
    given = phase("given", project(), found["max_lr"])
    assert (given["wrong"], given["end"]) == (None, found["end"])
    assert given["end"] != alone["end"]


def test_a_wrong_schedule_is_told_with_its_first_wrong_step():
    found = phase("onecycle", project(takes_callbacks=False))
    assert found["wrong"] == "step 0, group 0: lr 0.02, not 0.002"


def test_a_schedule_that_is_cut_off_is_wrong():
    points = [[(0.4 * p.lr, p.momentum)] for p in one_cycle().trace(30)]
    assert measure.first_difference(points, [0.4], one_cycle()) is None
    assert measure.first_difference(points[:-1], [0.4], one_cycle()).startswith("step 1, group 0:")
    points[7] = [(points[7][0][0], 0.9)]
    assert "step 7, group 0: momentum 0.9" in measure.first_difference(points, [0.4], one_cycle())


def test_what_a_range_test_changes_is_named(monkeypatch):
    lr_find = measure.Tuner.lr_find

    def leaves_traces(tuner, model, *args, **kwargs):
        curve = lr_find(tuner, model, *args, **kwargs)
        torch.rand(1)
        with torch.no_grad():
            model.layer.bias += 1
        return curve

    monkeypatch.setattr(measure.Tuner, "lr_find", leaves_traces)
    assert phase("range_test", project())["changed"] == ["weights", "random numbers"]


def test_data_that_go_on_give_another_training():
    class Stream:
        def __init__(self):
            numbers = torch.Generator().manual_seed(0)
            self.batches = (torch.randn(4, 32, generator=numbers) for _ in itertools.count())

        def __iter__(self):
            return itertools.islice(self.batches, 30)

    alone = phase("onecycle", project(loader=Stream()))
    tested = phase("range_test", project(loader=Stream()))
    assert page.trace(tested, alone) == "another training"
    assert page.trace(alone, phase("onecycle", project(loader=Stream()))) == "no trace"


def test_each_phase_is_a_process_and_an_error_is_what_it_found(monkeypatch):
    def fails(project, found):
        found["points"] = project
        raise ValueError("no\n  data")

    assert measure.alone(fails, 3) == {"points": 3, "error": "ValueError: no data"}
    assert measure.alone(lambda found: os._exit(9)) == {"error": "exit code 9"}
    monkeypatch.setattr(measure, "LIMIT", 0.1)
    assert measure.alone(lambda found: time.sleep(60)) == {"error": "more than 0.1 seconds"}


def test_a_project_that_cannot_be_imported_is_an_error_in_its_file(tmp_path):
    measure.main("no_such_project", str(tmp_path / "found.json"))
    error = json.loads((tmp_path / "found.json").read_text())["error"]
    assert error.startswith("ModuleNotFoundError: No module named")


# ---- the command --------------------------------------------------------------------------------


def test_a_command_that_fails_or_takes_too_long_gives_its_reason(tmp_path):
    def call(code, seconds=60):
        return command.call([sys.executable, "-c", code], tmp_path / "logs" / "log", seconds)

    assert call("print('fine')") is None
    assert call("import sys; sys.exit('no such wheel')") == "no such wheel"
    assert call("import sys; sys.exit(3)") == "exit code 3"
    assert call("import os; print('fine'); os.kill(os.getpid(), 9)") == "it was ended by signal 9"
    assert call("import time; time.sleep(60)", seconds=0.2) == "it took more than 0.2 seconds"


def test_a_project_that_is_not_installed_is_a_row(monkeypatch, tmp_path, capsys):
    (tmp_path / "page.md").write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    for module, name, value in (
        (command, "RESULTS", tmp_path / "results"),
        (page, "RESULTS", tmp_path / "results"),
        (page, "PAGE", tmp_path / "page.md"),
        (command, "ENVIRONMENTS", tmp_path / "environments"),
        (command, "install", lambda name: "no wheel"),
        (sys, "argv", ["works_with", "chemprop"]),
    ):
        monkeypatch.setattr(module, name, value)
    assert command.main() == 1
    text = (tmp_path / "page.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "| chemprop " in text
    assert "not installed: no wheel" in text
    assert "old" not in text
    assert "[1/1] chemprop==" in capsys.readouterr().out


def test_an_unknown_name_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["works_with", "chemprops"])
    with pytest.raises(SystemExit):
        command.main()
    assert "NAME must be one of casanovo, chemprop" in capsys.readouterr().err


# ---- what is kept -------------------------------------------------------------------------------


def test_every_project_has_a_script_and_a_result():
    scripts = {path.stem for path in PROJECTS.glob("*.py")} - {"__init__"}
    assert scripts == {*REQUIREMENTS} == {*page.kept()}
    for name, result in page.kept().items():
        assert tuple(result["requirements"]) == REQUIREMENTS[name], name


def test_the_page_has_the_table_of_the_results():
    text = page.PAGE.read_text()
    assert f"{page.BEGIN}\n\n{page.table()}\n\n{page.END}" in text


def test_recipes_of_the_page_that_need_more_than_the_package_run(tmp_path, monkeypatch):
    pytest.importorskip("accelerate")
    callbacks = pytest.importorskip("lightning.pytorch.callbacks")
    if not hasattr(callbacks, "EMAWeightAveraging"):
        pytest.skip("EMAWeightAveraging came with Lightning 2.6")
    monkeypatch.chdir(tmp_path)
    text = page.PAGE.read_text()
    exec("\n".join(blocks(text, "python") + blocks(text, "py")), {"__name__": "works_with"})
