import flatbuffers
import numpy as np
import pytest
import tflite as schema
import torch
from ai_edge_litert.interpreter import Interpreter
from PIL import Image

from atrous.errors import AtrousError
from atrous.images.decode import read_image
from atrous.loading import from_tflite, load
from atrous.weights.tensorflow import tflite

VOC_MODEL = "deeplabv3_mnv2_pascal_quant.tflite"
ADE20K_MODEL = "deeplabv3_mnv2_ade20k_uint8.tflite"
PHOTOS = [
    "bird_segmentation.bmp",
    "cat_720p.jpg",
    "dog_segmentation_256.bmp",
    "owl.jpg",
    "pets.jpg",
]


@pytest.mark.parametrize(
    ("name", "size", "every", "average"),
    [(VOC_MODEL, 513, 0.98, 0.98), (ADE20K_MODEL, 512, 0.0, 0.95)],
    ids=["voc", "ade20k"],
)
def test_float_labels_agree_with_litert_at_the_graphs_size(shared, name, size, every, average):
    model = from_tflite(shared / "weights" / name)
    litert = Interpreter(str(shared / "weights" / name), num_threads=1)
    litert.allocate_tensors()
    agreements = []
    for photo in PHOTOS:
        picture = read_image(shared / "photos" / photo).resize(
            (size, size), Image.Resampling.BILINEAR
        )
        array = np.array(picture)
        litert.set_tensor(litert.get_input_details()[0]["index"], array[None])
        litert.invoke()
        quantized = litert.get_tensor(litert.get_output_details()[0]["index"])[0]
        with torch.inference_mode():
            labels = model(torch.from_numpy(array).permute(2, 0, 1)[None]).argmax(1)[0].numpy()
        agreements.append((labels == quantized).mean())
    assert min(agreements) >= every
    assert np.mean(agreements) >= average


def test_graphs_say_what_they_are(shared):
    voc = from_tflite(shared / "weights" / VOC_MODEL)
    ade20k = from_tflite(shared / "weights" / ADE20K_MODEL)
    assert (voc.architecture.output_stride, ade20k.architecture.output_stride) == (16, 16)
    assert (voc.architecture.decoder, ade20k.architecture.decoder) == (False, True)
    assert (voc.architecture.one_sided_padding, ade20k.architecture.one_sided_padding) == (0, 16)
    assert voc.architecture.atrous_rates == ade20k.architecture.atrous_rates == ()
    assert voc.architecture.mean == (128.0,)
    assert (voc.classes[8], ade20k.classes[:3]) == ("cat", ("other", "wall", "building"))
    assert len(voc.provenance.sha256) == 64


def test_folded_batch_norm_passes_values_through(shared):
    model = from_tflite(shared / "weights" / VOC_MODEL)
    bn = model.encoder.aspp.project.bn
    x = torch.randn(1, 256, 3, 3)
    with torch.inference_mode():
        torch.testing.assert_close(bn(x), x + bn.bias[:, None, None], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [VOC_MODEL, ADE20K_MODEL])
@pytest.mark.parametrize("size", [(1, 1), (65, 98), (64, 97)])
def test_imported_graphs_take_any_size_and_stride(shared, name, size):
    model = from_tflite(shared / "weights" / name)
    images = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    with torch.inference_mode():
        for output_stride in (16, 8, 32):
            model.set_output_stride(output_stride)
            assert model(images).shape[-2:] == size
            stride = model.logits_stride
            expected = (-(-size[0] // stride), -(-size[1] // stride))
            assert model.coarse_logits(images).shape[-2:] == expected


@pytest.mark.parametrize("keep", [0, 3, 100, 5000, 2_000_000])
def test_W10_truncated_files_are_refused(shared, tmp_path, keep):
    whole = (shared / "weights" / VOC_MODEL).read_bytes()
    path = tmp_path / "cut.tflite"
    path.write_bytes(whole[:keep])
    with pytest.raises(AtrousError, match="E-WEIGHTS-FORMAT"):
        from_tflite(path)


def test_classification_graphs_are_refused(shared):
    with pytest.raises(AtrousError):
        from_tflite(shared / "weights" / "mobilenet_v2_1.0_224_quant.tflite")


@pytest.mark.parametrize("function", [from_tflite, load, tflite.read])
def test_files_compiled_for_the_edge_tpu_are_named_for_what_they_are(tmp_path, function):
    """A graph whose only operator is the compiler's, as edgetpu_compiler writes them."""
    builder = flatbuffers.Builder(0)
    custom = builder.CreateString("edgetpu-custom-op")
    schema.OperatorCodeStart(builder)
    schema.OperatorCodeAddDeprecatedBuiltinCode(builder, schema.BuiltinOperator.CUSTOM)
    schema.OperatorCodeAddCustomCode(builder, custom)
    schema.OperatorCodeAddBuiltinCode(builder, schema.BuiltinOperator.CUSTOM)
    code = schema.OperatorCodeEnd(builder)
    schema.ModelStartOperatorCodesVector(builder, 1)
    builder.PrependUOffsetTRelative(code)
    codes = builder.EndVector()
    schema.ModelStart(builder)
    schema.ModelAddVersion(builder, 3)
    schema.ModelAddOperatorCodes(builder, codes)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    path = tmp_path / "model_edgetpu.tflite"
    path.write_bytes(builder.Output())
    with pytest.raises(AtrousError) as caught:
        function(path)
    assert caught.value.code == "E-WEIGHTS-EDGE-TPU"


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(AtrousError, match="E-FILE-MISSING"):
        from_tflite(tmp_path / "none.tflite")
