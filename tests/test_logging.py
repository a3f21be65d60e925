"""Sinks: what they write can be read back; and what is known about a run."""

import json
import subprocess
import sys

import jax
import pytest

import tz
from tz.logging import bar

ROWS = [{"epoch": 0, "loss": 2.5, "score": 0.25}, {"epoch": 1, "loss": 1.5, "score": 0.75}]


def test_json_lines_are_read_back_and_cut_where_a_run_is_resumed(tmp_path):
    path = tmp_path / "new" / "metrics.jsonl"
    sink = tz.JsonLinesSink(path)
    for row in ROWS:
        sink(row)
    assert [json.loads(line) for line in path.read_text().splitlines()] == ROWS
    tz.JsonLinesSink(path)(ROWS[0])
    assert len(path.read_text().splitlines()) == 3  # without an epoch to go on with, lines are added
    tz.JsonLinesSink(path, first_epoch=1)(ROWS[1] | {"loss": 9.0})
    assert [json.loads(line)["loss"] for line in path.read_text().splitlines()] == [2.5, 2.5, 9.0]


@pytest.mark.parametrize("text", ["no json\n", "[1, 2]\n", '{"loss": 3}\n'])
def test_a_file_of_something_else_is_not_cut(text, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"notes.txt has lines that are no metrics of epochs"):
        tz.JsonLinesSink(path, first_epoch=1)
    assert path.read_text() == text


def test_the_console_line_has_every_metric(capsys):
    tz.console_sink({"epoch": 3, "loss": 0.12345, "moves_per_second": 12345.6})
    assert capsys.readouterr().out == "epoch 3  loss 0.123  moves_per_second 12,346\n"


def test_tensorboard_events_are_read_back(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = tz.TensorBoardSink(tmp_path, settings={"seed": 7})
    for row in ROWS:
        sink(row)
    sink.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(0, 2.5), (1, 1.5)]
    assert set(events.Tags()["scalars"]) == {"loss", "score"}
    (text,) = events.Tensors("settings/text_summary")
    assert b'"seed": 7' in text.tensor_proto.string_val[0]


def test_weights_and_biases_offline(tmp_path):
    """In a process of its own, since wandb starts services and changes its process."""
    code = (
        "import sys, tz\n"
        "sink = tz.WandbSink('tz-test', mode='offline', dir=sys.argv[1], config={'seed': 7})\n"
        f"for row in {ROWS!r}: sink(row)\n"
        "sink.close()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True)
    (log,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    data = log.read_bytes()
    assert all(name in data for name in (b"tz-test", b"seed", b"loss", b"score"))


@pytest.mark.parametrize(
    ("sink", "package", "extra"),
    [(tz.WandbSink, "wandb", "wandb"), (tz.TensorBoardSink, "tensorboardX", "tensorboard")],
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
    facts = tz.run_facts()
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
