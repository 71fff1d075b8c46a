"""Steps of a comparison: equal images or equal time for every method."""

import json

import pytest
from etils import epath

from facecycle_jax.errors import UserError
from facecycle_jax.training.comparison_plan import (
    images_in,
    make_entry,
    plan_steps,
    steps_for,
)

# ml_collections loads configs in this way.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


def entry(config="fab_net:small", fields=(), data=None):
    return make_entry(config, fields, data=data)


def test_every_method_sees_as_many_images():
    # 8 items of 2 frames; of FaceCycle half of the images in each stage.
    assert steps_for(entry().stages, images=1600) == {"": 100}
    of_stages = steps_for(entry("face_cycle:small").stages, images=1600)
    assert of_stages == {"motion": 50, "identity": 50}
    # 64 items of one image, and 8 of five.
    assert steps_for(entry("simclr:small").stages, images=1600) == {"": 25}
    frames = entry("temporal_consistency:small").stages
    assert steps_for(frames, images=1600) == {"": 1600 // 40}
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


@pytest.mark.parametrize(
    ("config", "field", "words"),
    [
        ("fab_net:small", "num_steps=3", "num_steps follows from"),
        ("fab_net:small", "seed=3", "seed follows from"),
        ("face_cycle:small", "motion.num_steps=3", "motion.num_steps follows from"),
        ("face_cycle:small", "identity.seed=3", "identity.seed follows from"),
        ("fab_net:small", "loss.noise=False", "has no field config.loss.noise"),
        ("fab_net:small", "batch_size=0", "config.batch_size must be"),
        ("face_cycle:small", "nofield=1", "has no field config.nofield"),
        ("nothing", "a=1", "there is no config 'nothing'"),
    ],
)
def test_fields_that_a_config_cannot_have_are_refused(config, field, words):
    with pytest.raises(ValueError, match=words):
        entry(config, [field])


def test_stages_with_lengths_in_steps_and_in_epochs_are_refused(tmp_path):
    file = tmp_path / "mixed.py"
    file.write_text(
        "from facecycle_jax.configs import face_cycle\n"
        "def get_config():\n"
        "    config = face_cycle.get_config()\n"
        "    config.motion.num_steps = 1000\n"
        "    config.motion.num_epochs = 0\n"
        "    return config\n"
    )
    words = "the length of motion is in num_steps and that of identity in num_epochs"
    with pytest.raises(UserError, match=words):
        entry(str(file))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"steps": None}, "it has no 'steps'"),
        ({"fields": None}, "it has no 'fields'"),
        ({"budget": None}, "it has no 'budget'"),
        ({"steps": {"fab_net_small": 100}}, "'steps' of fab_net_small is 100"),
        ({"steps": {"fab_net_small": {"": "x"}}}, "'steps' of fab_net_small is a dict"),
        ({"fields": {"fab_net_small": [1]}}, "'fields' of fab_net_small is a list"),
    ],
)
def test_a_broken_plan_is_named(tmp_path, changed, words):
    workdir = epath.Path(tmp_path)
    options = {"budget": {"images": 1600}, "measure": None}
    assert plan_steps([entry()], workdir, **options) == {"fab_net_small": {"": 100}}
    assert plan_steps([entry()], workdir, **options) == {"fab_net_small": {"": 100}}

    path = tmp_path / "plan.json"
    content = {**json.loads(path.read_text()), **changed}
    content = {name: value for name, value in content.items() if value is not None}
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"plan\.json is broken \(.*{words}"):
        plan_steps([entry()], workdir, **options)
