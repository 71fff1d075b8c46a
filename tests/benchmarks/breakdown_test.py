"""Sums of a trace by network, on a trace made here."""

from benchmarks import breakdown

PROGRAM = """
  %dot.3 = f32[2]{0} dot(%a, %b), metadata={op_name="jit(step)/jvp(Generator)/reduce/dot" stack_frame_id=1}
  ROOT %conv.1 = f32[2]{0} convolution(%a, %b), metadata={op_name="jit(step)/transpose(jvp(VGG19))/conv"}
  %add.2 = f32[2]{0} add(%a, %b), metadata={op_name="jit(step)/add"}
  %bare.4 = f32[2]{0} add(%a, %b)
"""  # noqa: E501


def event(instruction, duration, phase="X"):
    return {"ph": phase, "dur": duration, "args": {"hlo_op": instruction}}


def test_time_is_summed_by_network_and_direction():
    names = breakdown.instruction_names(PROGRAM)
    assert set(names) == {"dot.3", "conv.1", "add.2"}
    events = [
        event("dot.3", 30),
        event("dot.3", 30),
        event("conv.1", 20),
        event("add.2", 20),
    ]
    events += [event("unknown", 1000), event("dot.3", 1000, phase="B"), {"ph": "M"}]
    table = breakdown.summary(events, names)
    assert "| generator | 60.0 % | 0.0 % |" in table
    assert "| VGG-19 | 0.0 % | 20.0 % |" in table
    assert "| losses, sampling and update | 20.0 % | 0.0 % |" in table


def test_a_trace_without_instructions_is_reported():
    assert "names no instruction" in breakdown.summary([{"ph": "M"}], {})
