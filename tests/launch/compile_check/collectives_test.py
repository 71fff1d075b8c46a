"""Collectives counted in compiled programs.

The programs are of eight devices, have loops, or are in the syntax of TPU's compiler.
"""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from facecycle_jax.devices import batch_sharding, make_mesh
from launch.compile_check import Collective, count_between_slices, count_collectives


def compiled(function, *shapes, inputs, outputs):
    """Returns the text of a function compiled for float32 arrays of these shapes."""
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    jitted = jax.jit(function, in_shardings=inputs, out_shardings=outputs)
    return jitted.lower(*arguments).compile().as_text()


@pytest.fixture(scope="module")
def places():
    """Shardings: whole on every device, and split over all devices."""
    mesh = make_mesh()
    whole = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec("data"))
    return whole, split


def loss(w, x):
    return jnp.mean(jnp.square(x @ w))


def test_gradients_of_a_split_batch_are_reduced_once(places):
    whole, split = places
    text = compiled(
        jax.grad(loss), (32, 16), (64, 32), inputs=(whole, split), outputs=whole
    )
    assert count_collectives(text) == [Collective("all-reduce", 1, 4 * 32 * 16)]


def test_split_parameters_are_gathered(places):
    _, split = places
    text = compiled(
        jax.grad(loss), (32, 16), (64, 32), inputs=(split, split), outputs=split
    )
    assert Collective("all-gather", 1, 4 * 32 * 16) in count_collectives(text)


def test_a_loop_counts_as_often_as_it_turns(places):
    whole, split = places

    def total(w, x):
        def step(w, _):
            return w - jax.grad(loss)(w, x), None

        w, _ = jax.lax.scan(step, w, None, length=5)
        return w

    text = compiled(total, (32, 16), (64, 32), inputs=(whole, split), outputs=whole)
    assert count_collectives(text) == [Collective("all-reduce", 5, 5 * 4 * 32 * 16)]


def test_one_device_sends_nothing():
    text = jax.jit(jnp.sum).lower(jnp.ones(8)).compile().as_text()
    assert count_collectives(text) == []


def test_asynchronous_forms_count_once():
    text = """
%wrapped (p: f32[8,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %r = f32[8,128]{1,0:T(8,128)} all-reduce(%p), to_apply=%add
}

ENTRY %main (x: f32[8,128]) -> f32[64,128] {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  %a = ((f32[8,128]{1,0}), f32[8,128]{1,0}, u32[]{:S(2)}) async-start(%x), calls=%wrapped
  %b = f32[8,128]{1,0:T(8,128)} async-done(%a)
  %c = (f32[8,128]{1,0}, f32[64,128]{1,0}) all-gather-start(%b), dimensions={0}
  %d = f32[64,128]{1,0} all-gather-done(%c)
  %e = (bf16[8]{0}, bf16[8]{0:T(256)(128)(2,1)}) all-reduce(%f, %g), to_apply=%add
  ROOT %h = f32[64,128]{1,0} copy(%d)
}
"""  # noqa: E501
    assert count_collectives(text) == [
        Collective("all-gather", 1, 4 * 64 * 128),
        Collective("all-reduce", 2, 4 * 8 * 128 + 2 * 2 * 8),
    ]


def test_a_collective_that_several_fusions_share_counts_once():
    text = """
%start (p: f32[8,128]) -> f32[64,128] {
  %p = f32[8,128]{1,0} parameter(0)
  ROOT %r = f32[64,128]{1,0} all-gather(%p), channel_id=4, dimensions={0}
}

%meanwhile (q: f32[8,128]) -> f32[64,128] {
  %q = f32[8,128]{1,0} parameter(0)
  ROOT %s = f32[64,128]{1,0:S(1)} all-gather(%q), channel_id=4, dimensions={0}
}

ENTRY %main (x: f32[8,128]) -> f32[64,128] {
  %x = f32[8,128]{1,0} parameter(0)
  %a = f32[64,128]{1,0} fusion(%x), kind=kCustom, calls=%start
  %b = f32[64,128]{1,0} fusion(%x), kind=kCustom, calls=%meanwhile
  ROOT %c = f32[64,128]{1,0} all-gather(%x), channel_id=5, dimensions={0}
}
"""
    assert count_collectives(text) == [Collective("all-gather", 2, 2 * 4 * 64 * 128)]


def test_gradients_of_whole_parameters_cross_the_slices_whole(places):
    whole, split = places
    text = compiled(
        jax.grad(loss), (32, 16), (64, 32), inputs=(whole, split), outputs=whole
    )
    everything = count_collectives(text)
    assert count_between_slices(text, per_slice=4) == everything
    assert count_between_slices(text, per_slice=8) == []


def test_parts_of_parameters_cross_the_slices_as_parts(monkeypatch):
    monkeypatch.setattr(
        "facecycle_jax.devices.mesh.slice_of", lambda device: device.id // 4
    )
    mesh = make_mesh()
    parts = NamedSharding(mesh, PartitionSpec(None, "data"))
    text = compiled(
        jax.grad(loss),
        (32, 16),
        (64, 32),
        inputs=(parts, batch_sharding(mesh)),
        outputs=parts,
    )
    # Parameters are gathered within a slice; between slices only gradients are added.
    within = {collective.kind for collective in count_collectives(text)}
    assert "all-gather" in within
    (between,) = count_between_slices(text, per_slice=4)
    assert between.kind == "all-reduce"
    assert between.bytes <= 4 * 32 * 16


@pytest.mark.parametrize(
    ("groups", "spans"),
    [
        ("replica_groups={{0,1},{2,3}}", False),
        ("replica_groups={{0,2},{1,3}}", True),
        ("replica_groups={}", True),
        ("channel_id=1", True),
        ("replica_groups=[2,2]<=[4]", False),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", True),
        ("replica_groups=[4,1]<=[4]", False),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}", False),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", True),
        ("replica_groups=mesh['a'=2,'b'=1,'c'=2] {'a','c'}", True),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}", True),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}", False),
        ("replica_groups=mesh['a'=4] {'a':(2)2}", False),
        ("replica_groups=mesh['a'=4] {'a':(1)2}", True),
        ("source_target_pairs={{0,1},{1,0}}", False),
        ("source_target_pairs={{0,1},{1,2}}", True),
    ],
)
def test_groups_of_devices_decide_what_crosses_slices(groups, spans):
    text = f"""
ENTRY %main (x: f32[8]) -> f32[8] {{
  %x = f32[8]{{0}} parameter(0)
  ROOT %a = f32[8]{{0}} all-to-all(%x), {groups}, dimensions={{0}}
}}
"""
    found = count_between_slices(text, per_slice=2)
    assert found == ([Collective("all-to-all", 1, 32)] if spans else [])


def test_what_hosts_exchange_for_tpus_counts_with_a_chip_s_part():
    transfer = (
        '_xla_host_transfer_handler_name="xla_megascale_runtime",'
        '_xla_host_transfer_rendezvous="all-reduce_0",'
        '_xla_megascale_transfer_type="ALL_REDUCE"'
    )
    text = f"""
ENTRY %main (x: f32[512,128]) -> f32[512,128] {{
  %x = f32[512,128]{{1,0}} parameter(0)
  %t = token[] after-all()
  %a = f32[128,128]{{1,0}} reduce-scatter(%x), replica_groups={{{{0,1,2,3}}}}, to_apply=%add
  %s = (f32[128,128]{{1,0}}, u32[], token[]) send(%a, %t), is_host_transfer=true, frontend_attributes={{{transfer}}}
  %d = token[] send-done(%s), frontend_attributes={{{transfer}}}
  %r = (f32[128,128]{{1,0}}, u32[], token[]) recv(%t), is_host_transfer=true, frontend_attributes={{{transfer}}}
  %e = (f32[128,128]{{1,0}}, token[]) recv-done(%r), frontend_attributes={{{transfer}}}
  %g = f32[128,128]{{1,0}} get-tuple-element(%e), index=0
  ROOT %h = f32[512,128]{{1,0}} all-gather(%g), replica_groups={{{{0,1,2,3}}}}, dimensions={{0}}
}}
"""  # noqa: E501
    expected = [Collective("all-reduce", 1, 4 * 128 * 128)]
    assert count_between_slices(text, per_slice=4) == expected
