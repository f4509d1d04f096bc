import pytest
import torch
import torch.nn.functional as F

from atrous.training.cpu.depthwise import dilated_depthwise

CASES = [(2, 2), (0, 2), (6, 6), (0, 6), (12, 12), (2, 1)]  # padding, rate


def _tensors(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 15, 14, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(3, 1, 3, 3, generator=generator, dtype=dtype, requires_grad=True)
    return x, weight


@pytest.mark.parametrize(("padding", "rate"), CASES)
def test_value_and_gradients_equal_torchs(padding: int, rate: int) -> None:
    x, weight = _tensors()
    ours = dilated_depthwise(x, weight, padding, rate)
    torchs = F.conv2d(x, weight, padding=padding, dilation=rate, groups=3)
    torch.testing.assert_close(ours, torchs)
    grad = torch.randn_like(torchs)
    for got, expected in zip(
        torch.autograd.grad(ours, (x, weight), grad),
        torch.autograd.grad(torchs, (x, weight), grad),
        strict=True,
    ):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(("padding", "rate"), [(2, 2), (6, 6)])
def test_gradients_agree_with_finite_differences(padding: int, rate: int) -> None:
    x, weight = _tensors()
    assert torch.autograd.gradcheck(
        lambda a, b: dilated_depthwise(a, b, padding, rate), (x[:1, :, :9, :8], weight)
    )


def test_rate_beyond_the_picture_leaves_the_centre_tap() -> None:
    x, weight = _tensors()
    torch.testing.assert_close(
        dilated_depthwise(x, weight, 18, 18), x * weight[:, 0, 1, 1, None, None]
    )


def test_autocast_computes_in_its_own_type() -> None:
    x, weight = _tensors(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = dilated_depthwise(x, weight, 2, 2)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
