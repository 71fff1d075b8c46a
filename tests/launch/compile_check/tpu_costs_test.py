"""Memory traffic and cycles counted in programs in the syntax of TPU's compiler."""

from launch.compile_check import estimated_cycles, memory_bytes


def test_what_stays_on_the_chip_is_not_moved():
    text = """
%inside (p: f32[8,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %twice = f32[8,128]{1,0:T(8,128)} add(%p, %p)
}

ENTRY %main (x: f32[8,128]) -> f32[64,128] {
  %x = f32[16,128]{1,0:T(8,128)} parameter(0)
  %a = ((f32[16,128]{1,0:T(8,128)}), f32[8,128]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%x)
  %b = f32[8,128]{1,0:T(8,128)S(1)} slice-done(%a)
  %c = f32[8,128]{1,0:T(8,128)S(1)} fusion(%b), kind=kLoop, calls=%inside
  %d = (f32[8,128]{1,0:T(8,128)S(1)}, bf16[4]{0:T(256)}) fusion(%c, %x), kind=kLoop, calls=%inside
  %e = f32[8,128]{1,0:T(8,128)S(1)} get-tuple-element(%d), index=0
  %f = f32[8,128]{1,0:T(8,128)S(1)} custom-call(%e), custom_call_target="ConcatBitcast"
  ROOT %g = f32[8,128]{1,0:T(8,128)} copy(%f)
}
"""  # noqa: E501
    # Half of x read ahead; all of it and a small result by the second fusion; the
    # result.
    assert memory_bytes(text) == 4 * 8 * 128 + (4 * 16 * 128 + 2 * 4) + 4 * 8 * 128
    assert memory_bytes(text.replace("S(1)", "")) > 2 * memory_bytes(text)


def test_cycles_are_those_of_the_operations_that_run():
    cycles = 'backend_config={"window_config":{"estimated_cycles":"%d"}}'
    text = f"""
%inside (p: f32[8]) -> f32[8] {{
  ROOT %p = f32[8]{{0}} parameter(0), {cycles % 1000}
}}

ENTRY %main (x: f32[8]) -> f32[8] {{
  %x = f32[8]{{0}} parameter(0)
  %a = f32[8]{{0}} fusion(%x), kind=kLoop, calls=%inside, {cycles % 20}
  ROOT %b = f32[8]{{0}} copy(%a), {cycles % 3}
}}
"""
    assert estimated_cycles(text) == 23


def test_what_a_loop_or_a_call_holds_counts_as_often_as_it_runs():
    cycles = 'backend_config={"estimated_cycles":"10"}'
    five = 'backend_config={"known_trip_count":{"n":"5"}}'
    text = f"""
%body (p: f32[8]) -> f32[8] {{
  %p = f32[8]{{0}} parameter(0)
  ROOT %twice = f32[8]{{0}} multiply(%p, %p), {cycles}
}}

%condition (p: f32[8]) -> pred[] {{
  %p = f32[8]{{0}} parameter(0)
  ROOT %less = pred[] constant(true)
}}

%called (q: f32[8]) -> f32[8] {{
  %q = f32[8]{{0}} parameter(0)
  %w = f32[8]{{0}} while(%q), condition=%condition, body=%body, {five}
  ROOT %n = f32[8]{{0}} negate(%w), {cycles}
}}

ENTRY %main (x: f32[8]) -> f32[8] {{
  %x = f32[8]{{0}} parameter(0)
  %a = f32[8]{{0}} call(%x), to_apply=%called
  ROOT %b = f32[8]{{0}} call(%a), to_apply=%called
}}
"""
    # Ten products, which read an array twice and write one, and two negations.
    assert memory_bytes(text) == 10 * 3 * 32 + 2 * 2 * 32
    assert estimated_cycles(text) == 120
