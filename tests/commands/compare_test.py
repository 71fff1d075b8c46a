"""`facecycle compare` trains on equal budgets, continues and reports."""

import json

import pytest
from etils import epath

from facecycle_jax import cli, training
from facecycle_jax.commands.compare import compare
from facecycle_jax.evaluation import comparison_results
from facecycle_jax.evaluation.comparison import AUTHORS, ComparisonOptions
from facecycle_jax.evaluation.comparison_report import ComparedRun
from facecycle_jax.training.comparison_plan import make_entry

OPTIONS = ComparisonOptions(people=8)
# ml_collections loads configs in this way.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def entry(config="fab_net:small", fields=(), data=None):
    return make_entry(config, fields, data=data)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--images", "0"], "--images must be above 0"),
        (["--minutes", "nan"], "--minutes must be above 0"),
        (["--images", "9", "--seeds", "0,0"], "--seeds must be different"),
        (["--images", "9", "--seeds", "0,00"], "--seeds must be different"),
        (["--images", "9", "--seeds", "0,x"], "--seeds must be different"),
        (["--images", "9", "--pose", ""], "--pose is empty"),
        (["--images", "9", "--lfw", "/nowhere"], "--lfw: there is no /nowhere"),
        (["--images", "9", "--probes", "svm"], "probes are some of"),
        (["--images", "9", "--checkpoints", "0"], "--checkpoints must be at least 1"),
        (
            ["--images", "9", "--probes", "linear, logistic", "--checkpoints", "0"],
            "--checkpoints must be at least 1",
        ),
        (["fab_net:small", "--images", "9"], "two configs have the name fab_net_small"),
    ],
)
def test_mistakes_are_one_sentence_before_anything_is_made(
    tmp_path, capsys, arguments, words
):
    workdir = tmp_path / "comparison"
    line = ["compare", "fab_net:small", *arguments, "--workdir", str(workdir)]
    assert cli.main(line) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not workdir.exists()


def test_a_workdir_below_a_file_is_refused(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    line = ["compare", "fab_net:small", "--images", "9", "--workdir", str(file / "x")]
    assert cli.main(line) == 2
    error = capsys.readouterr().err
    assert f"--workdir {file}/x cannot be made, because {file} is a file" in error


class Trainer:
    """Stands in for training: writes what runs leave, and ends as it is told."""

    def __init__(self, statuses=()):
        self.lines = []
        self._statuses = list(statuses)

    def __call__(self, line):
        self.lines.append(line)
        status = self._statuses.pop(0) if self._statuses else 0
        if status:
            return status

        given = dict(part[2:].split("=", 1) for part in line if part.startswith("--"))
        workdir = epath.Path(given["workdir"])
        for name, value in given.items():
            if name.endswith("num_steps"):
                stage = name.removeprefix("config.").removesuffix("num_steps")
                folder = workdir / stage.strip(".")
                (folder / "checkpoints" / value).mkdir(parents=True, exist_ok=True)
                speed = {"step": int(value), "learning_rate": 1, "steps_per_second": 2}
                (folder / "metrics.jsonl").write_text(json.dumps(speed) + "\n")
                path = given.get(f"config.{stage}data.path", "")
                (folder / "config.json").write_text(json.dumps({"data.path": path}))
        return 0


@pytest.fixture
def evaluated(monkeypatch):
    """Stands in for the evaluation of a run; holds the runs that were evaluated."""
    found = []

    def evaluate(entry, seed, run_workdir, steps, options):
        found.append((entry.name, seed))
        return ComparedRun(
            name=entry.name,
            seed=seed,
            images=1,
            seconds=1.0,
            result={
                "parameters": {"all": 2, "encoder": 1},
                "numbers": {"synthetic": {AUTHORS: 8}},
                "tasks": {"synthetic": {AUTHORS: {"head pose °": 9.0 + seed}}},
                "notes": [],
            },
            curve=[(1, 9.0 + seed)],
        )

    monkeypatch.setattr(comparison_results, "evaluate_run", evaluate)
    return found


def compared(tmp_path, trainer, *, budget=None, seeds=(0, 1), configs=None):
    return compare(
        [entry(config) for config in configs or ("fab_net:small", "face_cycle:small")],
        epath.Path(tmp_path),
        seeds=seeds,
        budget=budget or {"images": 320},
        options=OPTIONS,
        start=trainer,
    )


def test_a_stopped_comparison_goes_on_and_finished_runs_are_left_alone(
    tmp_path, evaluated
):
    pytest.importorskip("matplotlib")
    stopped = Trainer([0, training.PREEMPTED_EXIT])
    assert compared(tmp_path, stopped) == training.PREEMPTED_EXIT
    assert len(stopped.lines) == 2
    assert not (tmp_path / "comparison.md").exists()

    again = Trainer()
    assert compared(tmp_path, again) == 0
    # All but the one that was finished, the first seed first.
    runs = [line[4].removeprefix(f"--workdir={tmp_path}/") for line in again.lines]
    assert runs == ["face_cycle_small/0", "fab_net_small/1", "face_cycle_small/1"]
    assert "9.50 ± 0.50" in (tmp_path / "comparison.md").read_text()

    nothing = Trainer()
    assert compared(tmp_path, nothing, seeds=(0,)) == 0
    assert not nothing.lines


def test_a_diverged_run_is_left_out_and_named(tmp_path, evaluated):
    pytest.importorskip("matplotlib")
    trainer = Trainer([training.DIVERGED_EXIT])
    assert compared(tmp_path, trainer) == training.DIVERGED_EXIT
    assert ("fab_net_small", 0) not in evaluated
    text = (tmp_path / "comparison.md").read_text()
    assert "- fab_net_small of seed 0 diverged." in text


def test_another_budget_needs_another_workdir(tmp_path, evaluated):
    pytest.importorskip("matplotlib")
    assert compared(tmp_path, Trainer(), seeds=(0,)) == 0
    with pytest.raises(ValueError, match=r"another budget, \{'images': 320\}"):
        compared(tmp_path, Trainer(), budget={"images": 640})


def test_finished_runs_of_other_fields_are_not_compared(tmp_path, evaluated):
    pytest.importorskip("matplotlib")
    narrow = entry("face_cycle:small", ["model.width=0.0625"])
    options = {"seeds": (0,), "budget": {"images": 320}, "options": OPTIONS}
    assert compare([narrow], epath.Path(tmp_path), **options, start=Trainer()) == 0

    # Places and intervals may change.
    moved = entry("face_cycle:small", ["model.width=0.0625", "log_every=7"])
    assert compare([moved], epath.Path(tmp_path), **options, start=Trainer()) == 0
    with pytest.raises(ValueError, match=r"motion\.model\.width was 0\.0625 and is 0"):
        compared(tmp_path, Trainer(), seeds=(0,), configs=["face_cycle:small"])


def test_finished_runs_compare_their_data_with_those_of_another_path(
    tmp_path, evaluated
):
    pytest.importorskip("matplotlib")
    options = {"seeds": (0,), "budget": {"images": 320}, "options": OPTIONS}

    def started(path, statuses=()):
        trainer = Trainer(statuses)
        entries = [entry("face_cycle:small", data=path)]
        status = compare(entries, epath.Path(tmp_path), **options, start=trainer)
        return status, len(trainer.lines)

    assert started("/some/faces") == (0, 1)
    assert started("/some/faces") == (0, 0)
    # The run itself refuses other data.
    assert started("/other/faces", [2]) == (2, 1)
    assert started("/moved/faces") == (0, 1)
    assert started("/moved/faces") == (0, 0)


def test_runs_beyond_their_budget_are_refused(tmp_path, evaluated):
    (tmp_path / "fab_net_small/0/checkpoints/99").mkdir(parents=True)
    with pytest.raises(ValueError, match="is at step 99, beyond the 20 of this"):
        compared(tmp_path, Trainer(), configs=["fab_net:small"])


def test_speed_is_measured_once_and_decides_the_steps(tmp_path, evaluated):
    pytest.importorskip("matplotlib")
    trainer = Trainer()
    budget = {"minutes": 0.5}
    assert compared(tmp_path, trainer, budget=budget, seeds=(0,)) == 0
    # Two measurements and two runs, at two steps a second.
    assert len(trainer.lines) == 4
    assert "--config.num_steps=60" in trainer.lines[2]
    assert "--config.motion.num_steps=30" in trainer.lines[3]

    again = Trainer()
    assert compared(tmp_path, again, budget=budget, seeds=(0, 1)) == 0
    assert len(again.lines) == 2


@pytest.mark.slow
def test_two_methods_are_trained_evaluated_and_reported(tmp_path):
    """Real runs of two steps, in processes of their own."""
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    line = ["compare", "fab_net:small", "face_cycle:small"]
    line += ["--workdir", str(tmp_path), "--images", "32", "--people", "8"]
    line += ["--checkpoints", "1", "--untrained"]
    for field in (
        "model.width=0.0625",
        "model.code_dim=8",
        "data.identities=8",
        "data.frames_per_track=2",
        "eval_batches=1",
        "batch_size=2",
        "compile_quickly=True",
    ):
        line += ["--set", field]
    assert cli.main(line) == 0

    content = json.loads((tmp_path / "comparison.json").read_text())
    runs = {run["name"]: run for run in content["runs"]}
    assert content["settings"]["steps"] == {
        "fab_net_small": {"": 8},
        "face_cycle_small": {"motion": 4, "identity": 4},
    }
    assert runs["fab_net_small"]["images"] == 32
    assert runs["face_cycle_small"]["images"] == 32
    assert runs["face_cycle_small"]["seconds"] > 0
    assert len(runs["face_cycle_small"]["curve"]) == 2
    assert "fab_net_small, random weights" in runs
    assert (tmp_path / "curves.png").exists()
