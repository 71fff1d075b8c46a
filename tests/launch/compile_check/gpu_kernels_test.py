"""Kernels counted in a program in the syntax of the compiler for GPUs."""

from launch.compile_check import count_kernels


def test_kernels_of_a_gpu_are_counted_with_their_bytes():
    text = """
%inside (p: f32[8,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0} parameter(0)
  ROOT %twice = f32[8,128]{1,0} add(%p, %p)
}

%body (p: f32[8,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0} parameter(0)
  ROOT %more = f32[8,128]{1,0} fusion(%p), kind=kLoop, calls=%inside
}

ENTRY %main (x: f32[8,128], k: f32[128,128]) -> f32[8,128] {
  %x = f32[8,128]{1,0} parameter(0)
  %k = f32[128,128]{1,0} parameter(1)
  %a = (f32[8,128]{1,0}, u8[4096]{0}) custom-call(%x, %k), custom_call_target="__cudnn$convForward"
  %b = f32[8,128]{1,0} get-tuple-element(%a), index=0
  %c = f32[8,128]{1,0} fusion(%b, %k), kind=kCustom, calls=%inside, backend_config={"kind":"__triton_gemm"}
  %d = f32[8,128]{1,0} while(%c), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %e = f32[8,128]{1,0} copy(%d)
}
"""  # noqa: E501
    kernels = count_kernels(text)
    assert kernels.fusions == 1 + 3
    assert kernels.triton == 1
    assert kernels.libraries == (("cudnn$convForward", 1),)
    assert kernels.others == (("copy", 1),)

    # The scratch memory of the library call does not count.
    small = 4 * 8 * 128
    large = 4 * 128 * 128
    call = small + large + small
    assert kernels.bytes == call + call + 3 * 2 * small + 2 * small
