"""The rule that turns an output stride into strides and atrous rates; plain numbers, no torch."""

from collections.abc import Sequence

from atrous.errors import AtrousError

OUTPUT_STRIDES = (4, 8, 16, 32)
RATES_AT_STRIDE_16 = (6.0, 12.0, 18.0)


def rates_at(rates_at_16: Sequence[float], output_stride: int) -> tuple[int, ...]:
    """Scales rates so that filters cover the same pixels at every output stride.

    >>> rates_at((6, 12, 18), 8)
    (12, 24, 36)
    """
    return tuple(max(1, round(rate * 16 / output_stride)) for rate in rates_at_16)


def check_output_stride(output_stride: int, supported: Sequence[int] = OUTPUT_STRIDES) -> None:
    """Raises `AtrousError` for a stride that is not supported."""
    if output_stride not in supported:
        raise AtrousError(
            "E-OUTPUT-STRIDE",
            f"unsupported output stride {output_stride!r}",
            fix=f"use one of {', '.join(map(str, supported))}",
        )


def atrous_schedule(
    strides: Sequence[int], output_stride: int, *, initial_stride: int
) -> list[tuple[int, int]]:
    """Returns stride and atrous rate of each unit of a backbone.

    This is the authors' rule (`resnet_utils.stack_blocks_dense`). Once the output stride is
    reached, a unit with a stride loses it and keeps the current rate. Only the units after it get
    their rate multiplied by the lost stride. Many ports already apply the new rate to the unit
    itself, which changes the pixels that its filters cover.

    Args:
        strides: Stride of each unit in the network for classification.
        output_stride: Pixels per step of the last features.
        initial_stride: Stride of the features that enter the first unit.

    Returns:
        (stride, rate) of each unit.

    >>> atrous_schedule([2, 1, 2, 1], 4, initial_stride=2)
    [(2, 1), (1, 1), (1, 1), (1, 2)]
    """
    check_output_stride(output_stride)
    current, rate, schedule = initial_stride, 1, []
    for stride in strides:
        if current == output_stride:
            schedule.append((1, rate))
            rate *= stride
        else:
            schedule.append((stride, 1))
            current *= stride
    return schedule


def last_units(strides: Sequence[int], *, initial_stride: int) -> dict[int, int]:
    """Returns the index of the last unit at each of the strides 4, 8 and 16.

    Args:
        strides: Stride of each unit in the network for classification.
        initial_stride: Stride of the features that enter the first unit.

    >>> last_units([1, 2, 2, 1, 2], initial_stride=2)
    {4: 1, 8: 3, 16: 4}
    """
    stride, last = initial_stride, {}
    for index, nominal in enumerate(strides):
        stride *= nominal
        last[stride] = index
    return {stride: last[stride] for stride in (4, 8, 16)}
