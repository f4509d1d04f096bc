import pytest
import torch

from atrous.build import create_model
from atrous.errors import AtrousError


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050"])
def test_output_stride_can_change_on_a_timm_backbone(name):
    torch.manual_seed(0)
    model = create_model(f"timm/{name}", num_classes=3, output_stride=16).eval()
    parameters = dict(model.named_parameters())
    images = torch.randint(0, 256, (1, 3, 65, 97), dtype=torch.uint8)
    with torch.inference_mode():
        before = model(images)
        model.set_output_stride(8)
        assert model.encoder.backbone(images.float())[0].shape[-2:] == (9, 13)
        fresh = create_model(f"timm/{name}", num_classes=3, output_stride=8).eval()
        fresh.load_state_dict(model.state_dict())
        assert torch.equal(model(images), fresh(images))
        model.set_output_stride(16)
        assert torch.equal(model(images), before)
    assert all(value is parameters[key] for key, value in model.named_parameters())


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "vgg11"])
def test_backbones_that_cannot_be_dilated_are_refused_with_an_alternative(name):
    with pytest.raises(AtrousError, match="E-BACKBONE-DILATION") as caught:
        create_model(f"timm/{name}", num_classes=3)
    assert "timm/resnet50" in caught.value.fix


def test_P06_unknown_timm_names_get_suggestions():
    with pytest.raises(AtrousError, match="E-UNKNOWN-NAME") as caught:
        create_model("timm/resnet5O", num_classes=3)
    assert "resnet50" in caught.value.fix


def test_stride_four_is_refused_for_timm():
    model = create_model("timm/resnet18", num_classes=3)
    with pytest.raises(AtrousError, match="E-OUTPUT-STRIDE"):
        model.set_output_stride(4)


def test_timm_backbones_bring_their_own_normalisation():
    model = create_model("timm/resnet18", num_classes=3)
    assert model.normalize.mean.flatten()[0].item() == pytest.approx(255 * 0.485)
