"""Sinks, whose output is read back, and the facts about a run."""

import json
import math
import os
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tz
from tz.runs.sinks import bar, metric_rows

ROWS = [{"epoch": 0, "loss": 2.5, "score": 0.25}, {"epoch": 1, "loss": 1.5, "score": 0.75}]


def test_json_lines_are_read_back_and_cut_where_a_run_is_resumed(tmp_path):
    path = tmp_path / "new" / "metrics.jsonl"
    sink = tz.JsonLinesSink(path)
    for row in ROWS:
        sink(row)
    assert [json.loads(line) for line in path.read_text().splitlines()] == ROWS
    tz.JsonLinesSink(path)(ROWS[0])
    assert len(path.read_text().splitlines()) == 3  # without `first_epoch`, lines are appended
    tz.JsonLinesSink(path, first_epoch=1)(ROWS[1] | {"loss": 9.0})
    assert [json.loads(line)["loss"] for line in path.read_text().splitlines()] == [2.5, 2.5, 9.0]


@pytest.mark.parametrize("text", ["no json\n", "[1, 2]\n", '{"loss": 3}\n'])
def test_a_file_of_something_else_is_not_cut(text, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"found lines in .*notes.txt that are not metrics of epochs"):
        tz.JsonLinesSink(path, first_epoch=1)
    assert path.read_text() == text


def test_the_console_line_has_every_metric(capsys):
    tz.console_sink({"epoch": 3, "loss": 0.12345, "moves_per_second": 12345.6})
    assert capsys.readouterr().out == "epoch 3  loss 0.123  moves_per_second 12,346\n"


STRANGE = {
    "epoch": 2,
    "nan": math.nan,
    "infinite": np.float32(-np.inf),
    "missing": None,
    "numpy": np.float32(0.5),
    "count": np.int64(3),
    "array": np.array([0.25]),
    "jax": jnp.bfloat16(0.5),
    "traced": jnp.int32(7),
    "flag": True,
    "text": "draw",
    "vector": np.arange(2),
}


def test_the_console_prints_what_is_no_plain_number(capsys):
    tz.console_sink(STRANGE)
    line = capsys.readouterr().out
    assert line == (
        "epoch 2  nan nan  infinite -inf  missing None  numpy 0.500  count 3  array 0.250  jax 0.500  traced 7  "
        "flag True  text draw  vector [0 1]\n"
    )


def test_json_lines_have_null_for_what_json_has_not(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tz.JsonLinesSink(path)(STRANGE)

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(path.read_text(), parse_constant=refuse) == {
        "epoch": 2,
        "nan": None,
        "infinite": None,
        "missing": None,
        "numpy": 0.5,
        "count": 3,
        "array": 0.25,
        "jax": 0.5,
        "traced": 7,
        "flag": True,
        "text": "draw",
        "vector": "[0 1]",
    }
    tz.JsonLinesSink(path, first_epoch=3)(ROWS[0])
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_line_is_in_the_file_at_once(tmp_path):
    """Under `nohup`, standard output is a file, which Python writes with a long delay unless it is flushed."""
    code = "import os, tz; tz.console_sink({'epoch': 0}); os._exit(0)"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with (tmp_path / "log").open("w") as file:
        subprocess.run([sys.executable, "-c", code], check=True, stdout=file, env=buffered)
    assert (tmp_path / "log").read_text() == "epoch 0\n"


def test_tensorboard_shows_what_it_can(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = tz.runs.TensorBoardSink(tmp_path)
    sink(STRANGE)
    sink.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    values = {name: events.Scalars(name)[0].value for name in events.Tags()["scalars"]}
    assert math.isnan(values.pop("nan"))
    expected = {"infinite": -math.inf, "numpy": 0.5, "count": 3, "array": 0.25, "jax": 0.5, "traced": 7, "flag": 1}
    assert values == expected
    assert {"text/text_summary", "vector/text_summary"} <= set(events.Tags()["tensors"])


class FakeWandb(types.ModuleType):
    """The parts of wandb that tz uses. Without a login, `init` raises."""

    def __init__(self, has_login):
        super().__init__("wandb")
        self.has_login, self.logged = has_login, []

    def init(self, **options):
        if not self.has_login:
            raise RuntimeError("No API key configured")
        return self

    def log(self, metrics, step):
        self.logged.append((metrics, step))


def test_weights_and_biases_get_plain_values(monkeypatch):
    fake = FakeWandb(True)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    tz.runs.WandbSink("project")(STRANGE)
    ((metrics, step),) = fake.logged
    assert step == 2 and {type(value) for value in metrics.values()} == {int, float, bool, str, type(None)}
    assert metrics["numpy"] == metrics["jax"] == 0.5 and math.isnan(metrics["nan"])


def test_weights_and_biases_without_a_login_say_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(False))
    with pytest.raises(ValueError, match=r"WandbSink.*No API key.*wandb login.*offline"):
        tz.runs.WandbSink("project")


def test_tensorboard_events_are_read_back(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = tz.runs.TensorBoardSink(tmp_path, settings={"seed": 7})
    for row in ROWS:
        sink(row)
    sink.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("training/loss")] == [(0, 2.5), (1, 1.5)]
    assert set(events.Tags()["scalars"]) == {"training/loss", "score"}
    (text,) = events.Tensors("settings/text_summary")
    assert b'"seed": 7' in text.tensor_proto.string_val[0]


@pytest.mark.once
@pytest.mark.slow
def test_weights_and_biases_offline(tmp_path):
    """Runs in its own process, since wandb starts services and changes the process."""
    code = (
        "import sys, tz\n"
        "sink = tz.runs.WandbSink('tz-test', mode='offline', dir=sys.argv[1], config={'seed': 7})\n"
        f"for row in {ROWS!r}: sink(row)\n"
        "sink.close()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True)
    (log,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    data = log.read_bytes()
    assert all(name in data for name in (b"tz-test", b"seed", b"loss", b"score"))


@pytest.mark.parametrize(
    ("sink", "package", "extra"),
    [(tz.runs.WandbSink, "wandb", "wandb"), (tz.runs.TensorBoardSink, "tensorboardX", "tensorboard")],
)
def test_a_sink_whose_package_is_missing_says_what_to_install(sink, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"pip install 'tz\[{extra}\]'"):
        sink("somewhere")


def test_checkpoints_without_orbax_say_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "orbax.checkpoint", None)
    with pytest.raises(ImportError, match=r"pip install 'tz\[train\]'"):
        tz.Checkpoints(tmp_path)


def test_what_is_known_about_a_run():
    facts = tz.runs.run_facts()
    assert facts["versions"]["jax"] == jax.__version__ and facts["devices"].startswith(f"{jax.device_count()} x ")
    assert json.loads(json.dumps(facts)) == facts


def test_a_bar_is_silent_where_there_is_no_terminal(capfd):
    with bar(3, "epoch", True) as progress:
        progress.update(2)
    assert capfd.readouterr() == ("", "")


def test_a_bar_shows_in_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with bar(3, "epoch", True) as progress:
        progress.set_description("self-play")
        progress.update(3)
    assert "self-play" in capsys.readouterr().err
    with bar(3, "epoch", False) as progress:
        progress.update(3)
    assert capsys.readouterr().err == ""


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    """As on a full disk, after which there is room again."""
    path = tmp_path / "metrics.jsonl"
    sink = tz.JsonLinesSink(path)
    sink(ROWS[0])
    with path.open("a") as file:
        file.write('{"epoch": 1, "lo')
    sink(ROWS[1])
    assert metric_rows(path) == ROWS
    assert tz.plot.read_metrics(path) == ROWS
    tz.JsonLinesSink(path, first_epoch=2)(ROWS[1] | {"epoch": 2})
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [0, 1, 2]
