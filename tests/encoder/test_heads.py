import pytest
import torch
import torch.nn.functional as F

from atrous.build import create_model
from atrous.cost import measure
from atrous.encoder.dense_prediction_cell import BRANCHES, DensePredictionCell
from atrous.encoder.lr_aspp import LRASPP
from atrous.errors import AtrousError


def test_the_cell_of_xception71_costs_what_the_authors_publish():
    with torch.device("meta"):
        model = create_model("xception71", num_classes=19, head="dense_prediction_cell")
    found = measure(model, (1025, 2049)).paper_multiply_adds / 1e9
    assert found == pytest.approx(502.07, rel=0.001)  # the zoo's figure
    assert found == pytest.approx(501.83, abs=0.005)  # the fact sheet's own count


@pytest.mark.parametrize(("output_stride", "factor"), [(16, 1), (8, 2)])
def test_rates_of_the_cell_follow_the_stride(output_stride, factor):
    cell = DensePredictionCell(8, output_stride=output_stride)
    rates = [branch.depthwise.conv.dilation for branch in cell.branches]
    assert rates == [(factor * h, factor * w) for (h, w), _ in BRANCHES]


def test_the_cell_is_the_branches_of_the_paper():
    torch.manual_seed(0)
    cell = DensePredictionCell(8).eval()
    x = torch.randn(1, 8, 9, 11)
    with torch.inference_mode():
        b0 = cell.branches[0](x)
        b1 = cell.branches[1](b0)
        views = [b0, b1, cell.branches[2](b1), cell.branches[3](b0), cell.branches[4](b0)]
        assert torch.equal(cell(x), cell.merge(torch.cat(views, 1)))


def test_unequal_rates_reach_as_far_as_they_say():
    cell = DensePredictionCell(1)
    conv = cell.branches[0].depthwise.conv  # rate (1, 6)
    conv.weight.data.fill_(1)
    dot = torch.zeros(1, 1, 21, 21)
    dot[..., 10, 10] = 1
    with torch.inference_mode():
        rows, columns = conv(dot)[0, 0].nonzero(as_tuple=True)
    assert sorted(set(rows.tolist())) == [9, 10, 11]
    assert sorted(set(columns.tolist())) == [4, 10, 16]


@pytest.mark.parametrize(("output_stride", "kernel"), [(32, 25), (16, 49), (8, 97)])
def test_lr_aspp_pools_under_the_training_crop(output_stride, kernel):
    assert LRASPP(4, output_stride=output_stride)._kernel == kernel


@pytest.mark.parametrize(
    ("size", "pooled"), [((33, 65), (3, 9)), ((25, 25), (1, 1)), ((7, 9), (1, 1))]
)
def test_lr_aspp_gates_pointwise_features(size, pooled):
    torch.manual_seed(0)
    head = LRASPP(4, output_stride=32).eval()
    x = torch.randn(1, 4, *size)
    kernel = [min(25, n) for n in size]
    with torch.inference_mode():
        means = F.avg_pool2d(x, kernel, (4, 5))
        assert means.shape[-2:] == pooled
        gate = (head.gate(means) + 3).clamp(0, 6) / 6
        gate = F.interpolate(gate, size, mode="bilinear", align_corners=True)
        expected = head.pointwise(x) * gate
        assert torch.allclose(head(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"head": "hydra"}, "head"),
        ({"head": "lr_aspp", "atrous_rates": (6,)}, "atrous_rates"),
        ({"head": "dense_prediction_cell", "image_pooling": False}, "image_pooling"),
    ],
)
def test_impossible_heads_are_refused(options, option):
    with pytest.raises(AtrousError, match="E-ARCHITECTURE") as caught:
        create_model("mobilenet_v2", num_classes=2, **options)
    assert option in caught.value.what
