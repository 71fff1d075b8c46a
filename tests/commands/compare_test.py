"""`facecycle compare` trains on equal budgets, continues and reports."""

import json

import pytest
from etils import epath

from facecycle_jax import cli, training
from facecycle_jax.commands.compare import compare
from facecycle_jax.evaluation import comparison_results
from facecycle_jax.evaluation.comparison import AUTHORS, ComparisonOptions
from facecycle_jax.evaluation.comparison_report import ComparedRun
from facecycle_jax.training.comparison_plan import images_in, make_entry, steps_for
from facecycle_jax.training.comparison_runs import start_process, training_command

OPTIONS = ComparisonOptions(people=8)
# ml_collections loads configs in this way.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def entry(config="fab_net:small", fields=(), data=None):
    return make_entry(config, fields, data=data)


def test_every_method_sees_as_many_images():
    # 8 items of 2 frames; of FaceCycle half of the images in each stage.
    assert steps_for(entry().stages, images=1600) == {"": 100}
    of_stages = steps_for(entry("face_cycle:small").stages, images=1600)
    assert of_stages == {"motion": 50, "identity": 50}
    # One image in an item, and six.
    assert steps_for(entry("simclr:small").stages, images=1600) == {"": 200}
    frames = entry("temporal_consistency:small").stages
    assert steps_for(frames, images=1600) == {"": round(1600 / 48)}
    assert steps_for(frames, images=1) == {"": 1}


def test_published_configs_share_images_by_their_epochs():
    stages = entry("face_cycle").stages
    assert [stage.name for stage in stages] == ["motion", "identity"]
    # 40 and 20 epochs.
    assert [stage.share for stage in stages] == pytest.approx([2 / 3, 1 / 3])


def test_a_time_becomes_images_by_the_speed_of_the_stages():
    stages = entry("face_cycle:small").stages
    speeds = {"motion": 2.0, "identity": 1.0}
    images = images_in(stages, minutes=3, speeds=speeds)
    steps = steps_for(stages, images=images)
    seconds = sum(steps[name] / speeds[name] for name in steps)
    assert seconds == pytest.approx(180, abs=1)
    assert steps["motion"] == steps["identity"]


def test_fields_and_data_are_set_in_every_stage_and_win():
    fields = ["data.source=records", "panel_every=4"]
    stages = entry("face_cycle:small", fields, data="RECORDS")
    for stage in stages.stages:
        assert stage.config["data"]["source"] == "records"
        assert stage.config["data"]["path"] == "RECORDS"

    line = training_command(
        stages,
        epath.Path("w"),
        seed=3,
        steps={"motion": 10, "identity": 7},
        checkpoints=5,
    )
    assert "--workdir=w" in line
    assert "--config.motion.seed=3" in line
    assert "--config.identity.num_steps=7" in line
    assert "--config.identity.checkpoint_every=2" in line
    own = line.index("--config.motion.panel_every=10")
    assert own < line.index("--config.motion.panel_every=4")


def test_schedules_are_stretched_to_the_budget_unless_the_user_says_otherwise():
    own = ["optimiser.schedule_length_epochs=0"]
    lines = [
        training_command(
            entry("face_cycle", fields),
            epath.Path("w"),
            seed=0,
            steps={"motion": 10, "identity": 5},
            checkpoints=1,
        )
        for fields in ((), own)
    ]
    plain, changed = lines
    assert "--config.motion.optimiser.schedule_length_epochs=40" in plain
    assert "--config.identity.optimiser.schedule_length_epochs=20" in plain
    last = [x for x in changed if x.startswith("--config.motion.optimiser.sch")][-1]
    assert last == "--config.motion.optimiser.schedule_length_epochs=0"

    small = training_command(
        entry(), epath.Path("w"), seed=0, steps={"": 10}, checkpoints=1
    )
    assert "--config.optimiser.schedule_length_steps=200" in small


@pytest.mark.parametrize(
    ("config", "field", "words"),
    [
        ("fab_net:small", "num_steps=3", "num_steps follows from"),
        ("fab_net:small", "seed=3", "seed follows from"),
        ("fab_net:small", "loss.noise=False", "has no field config.loss.noise"),
        ("fab_net:small", "batch_size=0", "config.batch_size must be"),
        ("face_cycle:small", "nofield=1", "has no field config.motion.nofield"),
        ("nothing", "a=1", "there is no config 'nothing'"),
    ],
)
def test_fields_that_a_config_cannot_have_are_refused(config, field, words):
    with pytest.raises(ValueError, match=words):
        entry(config, [field])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--images", "0"], "--images must be above 0"),
        (["--minutes", "nan"], "--minutes must be above 0"),
        (["--images", "9", "--seeds", "0,0"], "--seeds must be different"),
        (["--images", "9", "--lfw", "/nowhere"], "--lfw: there is no /nowhere"),
        (["--images", "9", "--probes", "svm"], "probes are some of"),
        (["--images", "9", "--checkpoints", "0"], "--checkpoints must be at least 1"),
        (["fab_net:small", "--images", "9"], "two configs have the name fab_net_small"),
    ],
)
def test_mistakes_are_one_sentence_before_anything_is_made(
    tmp_path, capsys, arguments, words
):
    place = tmp_path / "comparison"
    line = ["compare", "fab_net:small", *arguments, "--workdir", str(place)]
    assert cli.main(line) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not place.exists()


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
        place = epath.Path(given["workdir"])
        for name, value in given.items():
            if name.endswith("num_steps"):
                stage = name.removeprefix("config.").removesuffix("num_steps")
                folder = place / stage.strip(".")
                (folder / "checkpoints" / value).mkdir(parents=True, exist_ok=True)
                speed = {"step": int(value), "learning_rate": 1, "steps_per_second": 2}
                (folder / "metrics.jsonl").write_text(json.dumps(speed) + "\n")
        return 0


@pytest.fixture
def evaluated(monkeypatch):
    """Stands in for the evaluation of a run; holds the runs that were evaluated."""
    found = []

    def evaluate(entry, seed, place, steps, options):
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
    places = [line[4].removeprefix(f"--workdir={tmp_path}/") for line in again.lines]
    assert places == ["face_cycle_small/0", "fab_net_small/1", "face_cycle_small/1"]
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


def test_processes_end_with_their_status():
    assert start_process(["sh", "-c", "exit 74"]) == 74
    assert start_process(["sh", "-c", "kill -9 $$"]) == 128 + 9


def test_seconds_of_training_leave_out_what_was_not_measured(tmp_path):
    lines = [
        {"step": 10, "learning_rate": 1.0, "steps_per_second": 5.0},
        {"step": 10, "eval/total": 1.0},
        # Not measured, so as long as the others.
        {"step": 15, "learning_rate": 1.0},
        {"step": 20, "learning_rate": 1.0, "steps_per_second": 2.5},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    # 15 steps took 4 seconds.
    assert training.training_seconds(tmp_path) == pytest.approx(20 * 4 / 15)
    assert not training.training_seconds(tmp_path / "none") > 0


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
