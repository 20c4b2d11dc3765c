"""Pools and reductions."""

from __future__ import annotations

from operator_cases.case import Case

POOLING = {
    "max_pool": Case("(float[1,4,8,6] x) => (float[1,4,4,3] y) { y = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) }"),
    "max_pool_pads": Case(
        "(float[1,4,8,6] x) => (float[1,4,4,3] y) { y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x) }"
    ),
    "max_pool_1d": Case("(float[1,4,9] x) => (float[1,4,4] y) { y = MaxPool<kernel_shape=[3], strides=[2]>(x) }"),
    "max_pool_ceil": Case(
        "(float[1,4,8,7] x) => (float[1,4,4,3] y)"
        " { y = MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1, pads=[0,0,0,0]>(x) }"
    ),
    "max_pool_same": Case(
        "(float[1,4,7,7] x) => (float[1,4,4,4] y)"
        ' { y = MaxPool<kernel_shape=[2,2], strides=[2,2], auto_pad="SAME_LOWER">(x) }'
    ),
    "average_pool": Case(
        "(float[1,4,8,6] x) => (float[1,4,4,3] y) { y = AveragePool<kernel_shape=[2,2], strides=[2,2]>(x) }"
    ),
    "average_pool_1d": Case(
        "(float[1,4,9] x) => (float[1,4,3] y) { y = AveragePool<kernel_shape=[3], strides=[3]>(x) }"
    ),
    "average_pool_pads": Case(
        "(float[1,4,8,6] x) => (float[1,4,8,6] y) { y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(x) }", lsb=2
    ),
    "average_pool_pads_odd": Case(
        "(float[1,4,8,6] x) => (float[1,4,8,6] y) { y = AveragePool<kernel_shape=[2,2], pads=[1,1,0,0]>(x) }", lsb=2
    ),
    "average_pool_include_pad": Case(
        "(float[1,4,8,6] x) => (float[1,4,8,6] y)"
        " { y = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(x) }"
    ),
    "average_pool_ceil": Case(
        "(float[1,4,8,7] x) => (float[1,4,4,3] y)"
        " { y = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x) }",
        lsb=2,
    ),
    "average_pool_ceil_include": Case(
        "(float[1,4,8,7] x) => (float[1,4,4,3] y)"
        " { y = AveragePool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1, count_include_pad=1>(x) }",
        lsb=2,
    ),
    "average_pool_border_left": Case(
        "(float[1,4,25,5] x) => (float[1,4,1,1] y) { y = AveragePool<kernel_shape=[24,5], strides=[24,5]>(x) }"
    ),
    "global_average_pool": Case("(float[1,4,8,6] x) => (float[1,4,1,1] y) { y = GlobalAveragePool(x) }"),
    "global_average_pool_1d": Case("(float[1,4,9] x) => (float[1,4,1] y) { y = GlobalAveragePool(x) }"),
    "global_max_pool": Case("(float[1,4,8,6] x) => (float[1,4,1,1] y) { y = GlobalMaxPool(x) }"),
    **{
        f"reduce_{op.lower()}_{name}": Case(
            f"(float[1,4,6,5] x) => (float[{out}] y) {{ y = {kind}<axes={axes}, keepdims={keep}>(x) }}",
            opset=12,
        )
        for op, kind in (("mean", "ReduceMean"), ("max", "ReduceMax"), ("sum", "ReduceSum"))
        for name, axes, keep, out in (
            ("spatial", "[2,3]", 1, "1,4,1,1"),
            ("spatial_flat", "[2,3]", 0, "1,4"),
            ("channel", "[1]", 1, "1,1,6,5"),
            ("last_flat", "[-1]", 0, "1,4,6"),
            ("middle_flat", "[2]", 0, "1,4,5"),
            ("outer_inner", "[1,3]", 0, "1,6"),
            ("all_but_batch", "[1,2,3]", 0, "1"),
        )
    },
    "reduce_mean_all": Case("(float[1,4,6] x) => (float[1,1,1] y) { y = ReduceMean(x) }"),
    # No stored dimension is left. A mean of 6 reaches twice as far as one of 24: its step is two of theirs.
    "reduce_mean_of_means": Case(
        "(float[4,6] x) => (float[1] y)"
        " { a = ReduceMean<axes=[1], keepdims=1>(x) y = ReduceMean<axes=[0], keepdims=0>(a) }",
        lsb=3,
    ),
    "reduce_max_of_means_concat": Case(
        "(float[4,6] x) => (float[2] y) { a = ReduceMean<axes=[1], keepdims=1>(x)"
        " b = ReduceMax<axes=[0], keepdims=0>(a) y = Concat<axis=0>(b, b) }",
        lsb=2,
    ),
    "reduce_mean_all_concat": Case(
        "(float[1,4,6] x) => (float[1,1,2] y) { a = ReduceMean(x) y = Concat<axis=2>(a, a) }"
    ),
    "reduce_mean_axes_input": Case(
        "(float[1,4,6] x) => (float[1,4] y) { a = Constant<value_ints=[2]>() y = ReduceMean<keepdims=0>(x, a) }",
        opset=18,
    ),
    "reduce_sum_axes_input": Case(
        "(float[1,4,6] x) => (float[1,4] y) { a = Constant<value_ints=[-1]>() y = ReduceSum<keepdims=0>(x, a) }"
    ),
    "reduce_sum_around_a_unit_axis": Case(
        "(float[1,5,1,7] x) => (float[1,1] y) { a = Constant<value_ints=[1,3]>() y = ReduceSum<keepdims=0>(x, a) }"
    ),
    "reduce_mean_after_conv": Case(
        "(float[1,3,6,5] x, float[4,3,3,3] w) => (float[1,4,3] y)"
        " { c = Conv(x, w) y = ReduceMean<axes=[2], keepdims=0>(c) }",
        lsb=2,
    ),
}
