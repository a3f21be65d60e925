"""Checkpoints: training continues bit for bit wherever it was stopped, and damaged files are not accepted."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trainer

import tz
from tz.runs.checkpoint_format import SavedRun
from tz.runs.checkpoints import _writable
from tz.runs.phases import test_phase as run_tests

pytestmark = pytest.mark.slow

MESH = tz.data_mesh(jax.devices()[:1])
ENV = tz.from_pgx("tic_tac_toe")
CONFIG = trainer.config()
NETWORK = tz.MLP((3, 3, 2), 9, width=4, key=jax.random.key(0))
TOTALS = {"seconds": "elapsed_seconds", "moves": "total_moves", "episodes": "total_games"}
TOTALS |= {"gradient_steps": "total_steps"}
TIMES = {"seconds", "moves_per_second", "simulations_per_second", "elapsed_seconds"}
train_loop = functools.partial(tz.train_loop, CONFIG, ENV, sinks=[], progress=False, mesh=MESH)


ENVIRONMENT = os.environ | {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


@functools.cache
def first() -> tz.learn.LoopState:
    return trainer.start(ENV, CONFIG, MESH)


def start() -> tz.learn.LoopState:
    """Returns a state whose arrays may be donated."""
    return jax.tree.map(lambda x: x.copy() if eqx.is_array(x) else x, first())


def arrays(state) -> list[np.ndarray]:
    leaves = jax.tree.leaves(eqx.filter(state, eqx.is_array))
    keys = [jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) for x in leaves]
    return [np.array(jax.random.key_data(x) if key else x) for x, key in zip(leaves, keys, strict=True)]


def assert_same(one, other):
    for a, b in zip(arrays(one), arrays(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def untimed(metrics) -> dict:
    return {name: value for name, value in metrics.items() if name not in TIMES}


@pytest.fixture(scope="module")
def ten_epochs():
    """Runs ten epochs without a stop; returns the state and the metrics."""
    rows = []
    return train_loop(start(), num_epochs=10, sinks=[rows.append]), rows


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a run of four epochs in it, saved after each, and the state after the last."""
    folder = tmp_path_factory.mktemp("run")
    checkpoints = tz.Checkpoints(folder, every_epochs=1, keep=2)
    return folder, train_loop(start(), num_epochs=4, checkpoints=checkpoints)


def test_ten_epochs_are_four_and_six(ten_epochs, tmp_path):
    rows, path = [], tmp_path / "metrics.jsonl"
    sinks = [rows.append, tz.JsonLinesSink(path)]
    train_loop(start(), num_epochs=4, sinks=sinks, checkpoints=tz.Checkpoints(tmp_path, every_epochs=100))
    checkpoints = tz.Checkpoints(tmp_path, every_epochs=100, resume=True)
    state = checkpoints.restore(start())
    with path.open("a") as file:  # an epoch after the last checkpoint, and a line that was cut off
        file.write('{"epoch": 4, "loss": 0.5}\n{"epoch": 5, "lo')
    sinks = [rows.append, tz.JsonLinesSink(path, first_epoch=int(state.epoch))]
    state = train_loop(state, num_epochs=6, sinks=sinks, checkpoints=checkpoints)
    assert_same(state, ten_epochs[0])
    assert [untimed(row) for row in rows] == [untimed(row) for row in ten_epochs[1]]
    written = [json.loads(line) for line in path.read_text().splitlines()]
    for number, (line, row) in enumerate(zip(written, rows, strict=True), start=1):
        sums = {total: sum(row[name] for row in rows[:number]) for name, total in TOTALS.items()}
        assert line == {**row, **sums}, "what there was in all counts on after the restart"
    assert checkpoints.epochs == [4, 10]


def test_a_state_restored_recompiles_nothing_on_one_device_and_goes_to_several(run):
    folder, state = run
    checkpoints = tz.Checkpoints(folder, resume=True)
    traces = []
    env = tz.Env(ENV.init, lambda *args: traces.append(0) or ENV.step(*args), ENV.observe, name=ENV.name)
    fresh = trainer.start(env, CONFIG, MESH)
    fresh = tz.train_loop(CONFIG, env, fresh, num_epochs=2, sinks=[], mesh=MESH)
    before = len(traces)
    assert before > 0
    tz.train_loop(CONFIG, env, checkpoints.restore(fresh), num_epochs=2, sinks=[], mesh=MESH)
    assert len(traces) == before
    two = tz.data_mesh(jax.devices()[:2])
    there = checkpoints.restore(trainer.start(ENV, CONFIG, two))
    assert_same(there, state)
    assert there.games.step.sharding == trainer.start(ENV, CONFIG, two).games.step.sharding


class Scored(eqx.Module):
    """A tester whose score is given for each epoch."""

    scores: tuple[float, ...] = eqx.field(static=True)

    def init(self, evaluator, *, mesh):
        return jax.numpy.int32(0)

    def test(self, mcts, env, evaluator, state, *, key, mesh):
        return state + 1, {"given_score": self.scores[int(state)]}


def test_the_newest_are_kept_and_the_best(tmp_path):
    config = eqx.tree_at(lambda c: c.testers, CONFIG, (Scored((0.7, 0.7, 0.3, 0.2, 0.6, 0.6, 0.1)),))
    state = trainer.start(ENV, config, MESH)
    loop = functools.partial(tz.train_loop, config, ENV, sinks=[], mesh=MESH)
    checkpoints = tz.Checkpoints(tmp_path, every_epochs=3, keep=2, best="given_score")
    state = loop(state, num_epochs=4, checkpoints=checkpoints)
    assert checkpoints.epochs == [2, 3, 4]  # the newer of the best; every third; the last
    checkpoints = tz.Checkpoints(tmp_path, every_epochs=3, keep=2, best="given_score", resume=True)
    loop(checkpoints.restore(state), num_epochs=3, checkpoints=checkpoints)
    assert checkpoints.epochs == [2, 6, 7]


def test_saving_by_the_clock_and_at_the_end_only(run, tmp_path):
    _, state = run
    checkpoints = tz.Checkpoints(tmp_path, every_epochs=None, every_minutes=1e-9, keep=9)
    state = train_loop(jax.tree.map(lambda x: x, start()), num_epochs=2, checkpoints=checkpoints)
    assert checkpoints.epochs == [1, 2]
    checkpoints = tz.Checkpoints(tmp_path / "other", every_epochs=None)
    train_loop(state, num_epochs=2, checkpoints=checkpoints)
    assert checkpoints.epochs == [4]


def test_a_folder_with_a_run_is_not_begun_anew(run, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "run")
    (folder / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir()  # another process is writing this one
    before = sorted(folder.rglob("*"))
    with pytest.raises(ValueError, match=r"found a run of 4 epochs in .*; continue the run with resume=True"):
        tz.Checkpoints(folder)
    assert sorted(folder.rglob("*")) == before


def test_a_checkpoint_of_before_the_renaming_is_read(run, tmp_path, monkeypatch):
    state = run[1]
    old_name = lambda name: ".games.episode_steps" if name == ".games.episode_moves" else name
    with monkeypatch.context() as patch:
        named = tz.runs.checkpoints.named
        patch.setattr(tz.runs.checkpoints, "named", lambda state: {old_name(n): x for n, x in named(state).items()})
        tz.Checkpoints(tmp_path).finish(state)
    assert_same(tz.Checkpoints(tmp_path, resume=True).restore(start()), state)


def test_a_checkpoint_of_before_returns_were_counted_is_read_with_zeros_for_them(run, tmp_path, monkeypatch):
    """It is resumed on one device and on two, and forked."""
    folder, _ = run
    state = tz.Checkpoints(folder, resume=True).restore(start())
    state = eqx.tree_at(lambda state: state.games.episode_return, state, state.games.episode_return + 1)
    expected = eqx.tree_at(lambda state: state.games.episode_return, state, 0 * state.games.episode_return)
    name = ".games.episode_return"
    with monkeypatch.context() as patch:
        named = tz.runs.checkpoints.named
        patch.setattr(tz.runs.checkpoints, "named", lambda state: {n: x for n, x in named(state).items() if n != name})
        tz.Checkpoints(tmp_path).finish(state)
    assert SavedRun(tmp_path).facts()[1]["stored"] == {name: ""}, "it is not in the file"
    assert_same(tz.Checkpoints(tmp_path, resume=True).restore(start()), expected)
    two = tz.data_mesh(jax.devices()[:2])
    there = tz.Checkpoints(tmp_path, resume=True).restore(trainer.start(ENV, CONFIG, two))
    assert_same(there, expected)
    assert there.games.episode_return.sharding == there.games.step.sharding
    assert_same(tz.fork(tmp_path, CONFIG, ENV, start(), mesh=MESH), expected)


def test_a_checkpoint_whose_positions_are_in_the_trees_alone_is_read(run, tmp_path, monkeypatch):
    """In earlier versions, the root of each tree was the only copy of the position."""
    state = run[1]
    with monkeypatch.context() as patch:
        named, new = tz.runs.checkpoints.named, (".games.env_state", ".games.metadata")
        without = lambda state: {name: x for name, x in named(state).items() if not name.startswith(new)}
        patch.setattr(tz.runs.checkpoints, "named", without)
        tz.Checkpoints(tmp_path).finish(state)
    restored = tz.Checkpoints(tmp_path, resume=True).restore(start())
    assert_same(restored, state)
    places = [
        x.unsafe_buffer_pointer() for x in jax.tree.leaves((restored.games.metadata, restored.games.search.metadata))
    ]
    assert len(set(places)) == len(places), "no two arrays share their memory, which is given up"
    assert_same(tz.fork(tmp_path, CONFIG, ENV, start(), mesh=MESH), state)


def test_other_settings_are_refused_with_the_difference(run):
    folder, _ = run
    checkpoints = tz.Checkpoints(folder, resume=True)
    network = tz.MLP(ENV.observation.shape, ENV.num_actions, width=16, key=jax.random.key(0))
    other = tz.init_loop(CONFIG, ENV, network, key=jax.random.key(1), mesh=MESH)
    with pytest.raises(ValueError, match=r"\.train\.network.*float32\[8, 18\], expected float32\[16, 18\]"):
        checkpoints.restore(other)


@pytest.mark.parametrize(
    ("options", "message"), [({"keep": 0}, "found keep=0"), ({"every_minutes": -1.0}, "found every_minutes=-1")]
)
def test_numbers_out_of_range_are_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        tz.Checkpoints(tmp_path, **options)


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written to"):
        tz.Checkpoints(tmp_path / "file")
    with pytest.raises(ValueError, match="cannot be written to"):
        tz.Checkpoints("/proc/tz")  # which not even root can write to


def test_processes_of_one_id_do_not_disturb_each_other(tmp_path, monkeypatch):
    """Containers may share a folder: two processes test at the same time whether they can write there."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    of_the_other = tmp_path / ".writable_1"
    of_the_other.touch()
    assert _writable(tmp_path) == tmp_path and list(tmp_path.iterdir()) == [of_the_other]


@pytest.mark.parametrize("value", [np.float32(0.5), jax.numpy.float32(0.5), float("nan"), True])
def test_the_best_by_what_a_tester_of_the_users_returns(value, run, tmp_path):
    checkpoints = tz.Checkpoints(tmp_path, every_epochs=1, best="score")
    checkpoints.after_epoch(lambda: run[1], {"epoch": 3, "seconds": 1.0, "score": value}, tested=True)
    checkpoints.finish(run[1])
    found = SavedRun(tmp_path).facts()[1]["best"]
    np.testing.assert_equal(found, ["score", float(value)])


@pytest.mark.parametrize("value", [None, "won"])
def test_a_best_that_is_no_number_is_refused(value, run, tmp_path):
    checkpoints = tz.Checkpoints(tmp_path, best="score")
    with pytest.raises(ValueError, match="found no number 'score' among the metrics"):
        checkpoints.after_epoch(lambda: run[1], {"epoch": 3, "seconds": 1.0, "score": value}, tested=True)


def test_a_test_without_a_value_is_never_the_best_and_does_not_end_the_run(run, tmp_path):
    def after(epoch, **metrics):
        state = eqx.tree_at(lambda state: state.epoch, run[1], jax.numpy.int32(epoch + 1))
        checkpoints.after_epoch(lambda: state, {"epoch": epoch, "seconds": 1.0, **metrics}, tested=True)
        return state

    for resume in (False, True):
        checkpoints = tz.Checkpoints(tmp_path, every_epochs=None, keep=1, best="score", resume=resume)
        begin = 10 * resume
        after(begin, score=float("nan"))
        after(begin + 1, score=0.3 + 0.1 * resume)
        after(begin + 2, score=float("nan"))
        checkpoints.finish(after(begin + 3))
        assert checkpoints.epochs == [begin + 2, begin + 4]


class Counts(eqx.Module):
    """A tester that counts its tests in one of several wrong ways, or keeps its state."""

    way: str
    name: str = "counts"

    def init(self, evaluator, *, mesh):
        kinds = {"number": 0, "array": jnp.zeros((), jnp.int32), "grows": jnp.zeros(1), "flag": (True, jnp.zeros(2))}
        return kinds[self.way]

    def test(self, mcts, env, evaluator, state, *, key, mesh):
        if self.way == "number":
            state = state + 1
        if self.way == "array":
            state = state.astype(jnp.float32)
        return jnp.append(state, 1.0) if self.way == "grows" else state, {}


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("number", "a test of Counts: found 1 at .* in its state, expected 0 as before, since only JAX arrays are sav"),
        ("array", r"a test of Counts: found float32\[\].*, expected int32\[\] as before"),
        ("grows", r"a test of Counts: found float32\[2\].*, expected float32\[1\] as before"),
    ],
)
def test_a_tester_whose_state_could_not_be_resumed_is_refused_at_its_first_test(way, message):
    config = dataclasses.replace(CONFIG, testers=(Counts(way),), epochs_per_test=1)
    state = tz.init_loop(config, ENV, NETWORK, key=jax.random.key(0), mesh=MESH)
    with pytest.raises(ValueError, match=message):
        run_tests(config, ENV, state, MESH)


def test_what_is_no_array_in_the_state_of_a_tester_may_stay_as_it_is(tmp_path):
    """As in a network with batch normalisation or dropout, which has flags beside its arrays."""
    config = dataclasses.replace(CONFIG, testers=(Counts("flag"),), epochs_per_test=1)
    state = tz.init_loop(config, ENV, NETWORK, key=jax.random.key(0), mesh=MESH)
    state, _ = run_tests(config, ENV, state, MESH)
    tz.Checkpoints(tmp_path).finish(state)
    again = tz.init_loop(config, ENV, NETWORK, key=jax.random.key(1), mesh=MESH)
    assert tz.Checkpoints(tmp_path, resume=True).restore(again).testers[0][0] is True


def test_a_tester_may_get_another_function_of_the_same_game():
    """A training may go on with a game that was made again."""
    config = dataclasses.replace(CONFIG, testers=(tz.ApproxEloTester(4, 4, 2, opening_moves=1, max_moves=9),))
    state = tz.init_loop(config, ENV, NETWORK, key=jax.random.key(0), mesh=MESH)
    again = dataclasses.replace(ENV, observe=lambda state: ENV.observe(state))
    state, metrics = run_tests(config, again, state, MESH)
    assert "elo" in metrics


def test_a_state_that_is_behind_its_folder_does_not_replace_the_run(tmp_path):
    checkpoints = tz.Checkpoints(tmp_path)
    state = train_loop(start(), num_epochs=2, checkpoints=checkpoints)
    for saved in (checkpoints, tz.Checkpoints(tmp_path, resume=True)):
        with pytest.raises(ValueError, match=r"train_loop: found a state of epoch 0 and a checkpoint of epoch 2"):
            train_loop(start(), num_epochs=1, checkpoints=saved)
        assert saved.epochs == [2]
    train_loop(state, num_epochs=1, checkpoints=checkpoints)
    assert checkpoints.epochs[-1] == 3


def test_a_metric_that_no_tester_has_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"found no number 'random_score' among the metrics.*best_score"):
        train_loop(start(), num_epochs=2, checkpoints=tz.Checkpoints(tmp_path, best="random_score"))


def save_two_more(checkpoints, state):
    """The first is written in the background, so either call may raise the error that it cannot be written."""
    for _ in range(2):
        state = dataclasses.replace(state, epoch=state.epoch + 1)
        checkpoints.save(state)


def check_a_full_disk(folder: pathlib.Path) -> None:
    """Limits the size of files, which looks like a full disk to a program."""
    checkpoints = tz.Checkpoints(folder, resume=True, every_epochs=1)
    state = checkpoints.restore(start())
    expected = arrays(state)
    jax.config.update("jax_enable_compilation_cache", False)  # or it would keep programs that were cut off
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, most))
    with pytest.raises(OSError, match=r"found an error while writing to .*\[3, 4\] are complete"):
        save_two_more(checkpoints, state)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    checkpoints = tz.Checkpoints(folder, resume=True)
    assert checkpoints.epochs == [3, 4]
    for a, b in zip(arrays(checkpoints.restore(start())), expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_epoch_finish_and_saves(number, ten_epochs, tmp_path):
    rows = []
    checkpoints = tz.Checkpoints(tmp_path, every_epochs=100)
    sinks = [rows.append, lambda metrics: os.kill(os.getpid(), number) if metrics["epoch"] == 2 else None]
    handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    with pytest.raises(SystemExit, match=rf"{number.name} after 3 epochs, which are saved in .*python -m tz resume"):
        train_loop(start(), num_epochs=10, sinks=sinks, checkpoints=checkpoints)
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == handlers
    checkpoints = tz.Checkpoints(tmp_path, resume=True)
    assert_same(train_loop(checkpoints.restore(start()), num_epochs=7, checkpoints=checkpoints), ten_epochs[0])


def test_a_second_interrupt_stops_at_once(tmp_path):
    def twice(metrics):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train_loop(start(), num_epochs=3, sinks=[twice], checkpoints=tz.Checkpoints(tmp_path))


def test_a_loop_in_another_thread_saves_without_signals(tmp_path):
    checkpoints = tz.Checkpoints(tmp_path)
    thread = threading.Thread(target=lambda: train_loop(start(), num_epochs=1, checkpoints=checkpoints))
    thread.start()
    thread.join()
    assert checkpoints.epochs == [1]


def test_the_state_of_a_warm_up_that_is_not_finite_is_saved_too(tmp_path):
    network = lambda observation: (jax.numpy.zeros(9), jax.numpy.where(observation.sum() > 0, jax.numpy.nan, 0.0))
    config = dataclasses.replace(CONFIG, testers=(), average_decay=None)
    with pytest.warns(UserWarning, match="without any parameters"):
        state = tz.init_loop(config, ENV, network, key=jax.random.key(0), mesh=MESH)
    checkpoints = tz.Checkpoints(tmp_path)
    for folder in ("stopped_in_epoch_0", "stopped_in_epoch_0_2"):  # a second failure does not hide behind the first
        with pytest.raises(FloatingPointError, match="self-play move 0 of epoch 0") as error:
            tz.train_loop(config, ENV, state, num_epochs=1, sinks=[], mesh=MESH, checkpoints=checkpoints)
        state = error.value.state
        assert tz.Checkpoints(tmp_path / folder, resume=True).epochs == [0]


def test_the_state_before_a_step_that_is_not_finite_is_saved(tmp_path):
    def bad(sample, *, key):
        return eqx.tree_at(lambda s: s.value, sample, sample.value * jax.numpy.nan)

    config = eqx.tree_at(lambda c: c.augment, CONFIG, bad, is_leaf=lambda x: x is None)
    checkpoints = tz.Checkpoints(tmp_path, every_epochs=1)
    state = train_loop(start(), num_epochs=2, checkpoints=checkpoints)
    kept = arrays(state.train)
    with pytest.raises(FloatingPointError, match="gradient step 0 of epoch 2") as error:
        tz.train_loop(config, ENV, state, num_epochs=1, sinks=[], mesh=MESH, checkpoints=checkpoints)
    note = error.value.__notes__[0]
    folder = tmp_path / "stopped_in_epoch_2"
    assert str(folder) in note
    saved = tz.Checkpoints(folder, resume=True).restore(start())
    for a, b in zip(arrays(saved.train), kept, strict=True):
        np.testing.assert_array_equal(a, b)
    assert tz.Checkpoints(tmp_path, resume=True).epochs == [1, 2]


def damaged(folder: pathlib.Path, rng: random.Random) -> str:
    """Damages a file of the newest checkpoint in one of many ways, and says which."""
    files = sorted(path for path in (folder / "checkpoints" / "4").rglob("*") if path.is_file())
    (path,) = rng.choices(files, [path.stat().st_size for path in files])  # mostly those with the numbers
    data = bytearray(path.read_bytes())
    kind = rng.choice(["flip", "flip", "truncate", "random", "zeros", "missing"])
    if kind == "flip" and data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "truncate":
        data = data[: rng.randrange(len(data) + 1)]
    elif kind == "random":
        data = bytearray(rng.randbytes(len(data)))
    elif kind == "zeros":
        data = bytearray(len(data))
    path.unlink()
    if kind != "missing":
        path.write_bytes(data)
    return f"{kind} {path.relative_to(folder)}"


def check_damages(folder: pathlib.Path, scratch: pathlib.Path) -> None:
    """Damages a checkpoint in 40 ways: reading it gives the saved numbers or an error of the expected kind."""
    template = start()
    expected = arrays(tz.Checkpoints(folder, resume=True).restore(template))
    rng, refused = random.Random(0), 0
    for index in range(40):
        copy = shutil.copytree(folder, scratch / str(index))
        what = damaged(copy, rng)
        try:
            restored = tz.Checkpoints(copy, resume=True).restore(template)
        except ValueError as error:
            refused += 1
            if "damaged" not in str(error):
                raise AssertionError(what) from error
        else:
            if int(restored.epoch) == 4:
                for a, b in zip(arrays(restored), expected, strict=True):
                    np.testing.assert_array_equal(a, b)
            else:
                assert int(restored.epoch) == 3, what  # without its mark of completion, there is no checkpoint
        shutil.rmtree(copy)
    assert refused > 6  # many files of orbax are not needed to read it


class Bomb:
    """Runs code when its pickle is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.write_text, (self.path, "executed")


def check_bombs(folder: pathlib.Path, scratch: pathlib.Path) -> None:
    """Replaces each file of a checkpoint, one at a time, by a pickle that would write a file if it were loaded."""
    scratch.mkdir()
    bomb, mark = pickle.dumps(Bomb(scratch / "executed")), scratch / "executed"
    pickle.loads(bomb)
    assert mark.exists()
    mark.unlink()
    names = [path.relative_to(folder) for path in (folder / "checkpoints" / "4").rglob("*") if path.is_file()]
    template = start()
    for index, name in enumerate(names):
        copy = shutil.copytree(folder, scratch / str(index))
        (copy / name).write_bytes(bomb)
        with contextlib.suppress(ValueError):  # a few files are not needed to read the rest
            tz.Checkpoints(copy, resume=True).restore(template)
    assert len(names) > 10 and not mark.exists()


@pytest.mark.once
def test_damage_is_refused_nothing_is_executed_and_a_full_disk_leaves_the_earlier_checkpoints(run, tmp_path):
    """Runs in its own process, since threads of orbax may raise further errors at any time after the first."""
    shutil.copytree(run[0], tmp_path / "run")
    code = f"""
import pathlib, test_checkpoint
folder = pathlib.Path({str(tmp_path)!r})
test_checkpoint.check_damages(folder / "run", folder / "damaged")
test_checkpoint.check_bombs(folder / "run", folder / "bombs")
test_checkpoint.check_a_full_disk(folder / "run")
"""
    command = [sys.executable, "-c", code]
    place = pathlib.Path(__file__).parent
    done = subprocess.run(command, cwd=place, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


PHASES = ("save", "collect_phase")


def killed(folder: pathlib.Path, phase: str, occurrence: int, delay: float) -> list[str]:
    """Starts the trainer, kills it some time after it begins a phase, and returns what it announced."""
    said = []
    command = [sys.executable, trainer.__file__, str(folder), "1000"]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        said.append(line.strip())
        if said.count(phase) == occurrence:
            time.sleep(delay)
            process.kill()
            break
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL, said
    return said


def checksums(folder: pathlib.Path, epoch: int) -> dict:
    return SavedRun(folder).facts(epoch)[1]["arrays"]


def lines(folder: pathlib.Path) -> list[dict]:
    return [untimed(json.loads(line)) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def chain_of_kills(folder: pathlib.Path, seed: int, number: int) -> list[tuple[int, dict]]:
    """Kills the trainer several times; the newest checkpoint is never older than one that was complete before."""
    rng, newest, found = random.Random(seed), 0, []
    for index in range(number):
        said = killed(folder, PHASES[index % 2], rng.randint(3, 5), rng.random() * 0.03)
        epochs = tz.Checkpoints(folder, resume=True).epochs
        complete = newest + max(said.count("save") - 2, 0)  # the last two may be incomplete
        newest = epochs[-1] if epochs else 0
        assert newest >= complete
        if epochs:
            found.append((newest, checksums(folder, newest)))
    return found


@pytest.mark.once
def test_a_run_that_is_killed_at_any_moment_goes_on_from_its_last_checkpoint(tmp_path):
    """Two kills, in a save and in self-play; then the run ends with the same bits as one that was never stopped.

    A process is only killed when everything is compiled, or it might leave half a program in JAX's cache.
    """
    straight, other, last = tmp_path / "straight", tmp_path / "killed", 24
    found = chain_of_kills(other, seed=1, number=2)
    assert len(found) == 2 and found[-1][0] < last
    for folder in (straight, other):
        trainer.train(str(folder), last)
    assert checksums(other, last) == checksums(straight, last)
    assert lines(other) == lines(straight) and len(lines(straight)) == last
