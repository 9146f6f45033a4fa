"""Counters of Inductor's wrappers, on a wrapper of two kernels and a product."""

import pytest
from ci.regressions.replay import run

WRAPPER = """
import torch

triton_poi_fused_mul_0 = async_compile.triton('triton_poi_fused_mul_0', '''
@triton.jit
def triton_poi_fused_mul_0(in_ptr0, out_ptr0, xnumel, XBLOCK : tl.constexpr):
    tmp0 = tl.load(in_ptr0 + (x0), xmask)
    tl.store(out_ptr0 + (x0), tmp0, xmask)
''', device_str='cuda')
triton_poi_fused_add_1 = async_compile.triton('triton_poi_fused_add_1', '''
@triton.jit
def triton_poi_fused_add_1(in_out_ptr0, in_ptr0, in_ptr1, out_ptr0, xnumel, XBLOCK : tl.constexpr):
    tmp0 = tl.load(in_out_ptr0 + (x0), xmask)
    tmp1 = tl.load(in_ptr0 + (x1), xmask)
    tmp2 = tl.load(in_ptr1 + (4 + 16*x0), xmask)
    tmp3 = triton_helpers.bucketize_binary_search(tmp2)
    tl.store(in_out_ptr0 + (x0), tmp2, xmask)
    tl.store(out_ptr0 + (x0), tmp2, xmask)
''', device_str='cuda')

class Runner:
    def call(self, args):
        arg0_1, arg1_1 = args
        args.clear()
        arg1_1_size = arg1_1.size()
        s0 = arg1_1_size[0]
        assert_size_stride(arg0_1, (4, 8), (8, 1), 'input')
        with torch.cuda._DeviceGuard(0):
            torch.cuda.set_device(0)
            stream0 = get_raw_stream(0)
            buf0 = empty_strided_cuda((s0, 4), (4, 1), torch.float32)
            triton_poi_fused_mul_0_xnumel = 4*s0
            triton_poi_fused_mul_0.run(arg1_1, buf0, triton_poi_fused_mul_0_xnumel, stream=stream0)
            del arg1_1
            buf1 = empty_strided_cuda((s0, 8), (8, 1), torch.float32)
            extern_kernels.mm(reinterpret_tensor(buf0, (s0, 4), (4, 1), 0), arg0_1, out=buf1)
            del buf0
            buf2 = empty_strided_cuda((s0, ), (1, ), torch.float64)
            buf3 = buf1; del buf1  # reuse
            buf4 = empty_strided_cuda((s0, 16), (16, 1), torch.float32)
            buf5 = buf4; del buf4  # reuse
            triton_poi_fused_add_1.run(buf3, buf2, buf5, buf5, 8*s0, stream=stream0)
        return (buf3, )

runner = Runner()
"""


@pytest.mark.parametrize("edges", [10, 1000])
def test_launches_bytes_and_peak(edges):
    cost = run(WRAPPER, [((4, 8), (8, 1), "float32"), ((edges, 4), (4, 1), "float64")])
    assert (cost.launches, cost.products, cost.largest) == (3, 1, 8 * edges)
    first, product = 32 + 16, 16 + 32
    second = (
        2 * 32 + 8 + 2 * 32
    )  # in place: read and written; a slice of 8 of 16 columns is read, and one written
    assert cost.bytes == edges * (first + product + second) + 4 * 8 * 4
    assert cost.memory.peak == 104 * edges  # the last kernel's
