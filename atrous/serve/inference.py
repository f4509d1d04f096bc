"""The Open Inference Protocol, version 2, as KServe and Triton speak it, JSON and binary tensors.

One input, ``image``: UINT8 [H, W, 3] or [1, H, W, 3], RGB. One output, ``labels``: UINT8 (UINT16
above 256 classes) [H, W], with the leading 1 if the input had it.
"""

import json
from itertools import chain
from typing import TYPE_CHECKING, Any

from atrous.errors import AtrousError

if TYPE_CHECKING:
    from atrous.predict.predictor import Predictor

LENGTH = "inference-header-content-length"
MOST_JSON = 4_000_000  # labels that are written as JSON; a million takes some 3 MB
_DEEPEST = 4  # axes of a tensor
_FIX = "send one tensor 'image' of UINT8, [H, W, 3], RGB; see docs/serve.md"


def metadata(name: str, model: dict[str, Any]) -> dict[str, Any]:
    """Returns what ``GET /v2/models/NAME`` says."""
    return {
        "name": name,
        "versions": ["1"],
        "platform": "atrous",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, 3]}],
        "outputs": [{"name": "labels", "datatype": _datatype(model["classes"]), "shape": [-1, -1]}],
    }


def json_length(header: str | None, body_length: int) -> int:
    """Returns how many bytes of the body are JSON.

    Raises:
        AtrousError: The header is no such number.
    """
    if header is None:
        return body_length
    if not header.isdigit() or not 0 < int(header) <= body_length:
        raise _wrong(f"Inference-Header-Content-Length is {header!r}, the body {body_length} bytes")
    return int(header)


def most_pixels(length: int, body_length: int) -> int:
    """Returns how many pixels a body can hold at most: a number of JSON takes two bytes."""
    return (body_length - length) // 3 if length < body_length else length // 6


def infer(
    predictor: "Predictor", body: bytes, fields: dict[str, Any]
) -> tuple[dict[str, Any], bytes]:
    """Segments the tensor of a request.

    Args:
        predictor: What segments.
        body: JSON, and what comes after it.
        fields: ``inference``: ``length`` of the JSON and ``name`` of the model; ``max_pixels``.

    Returns:
        What is said of the answer (media type, length of its JSON, pixels), and the answer.

    Raises:
        AtrousError: Not a request of this protocol, or not one picture.
    """
    length = fields["inference"]["length"]
    request = _request(body[:length])
    image = _image(request, body[length:])
    pixels = image.shape[-3] * image.shape[-2]
    if pixels > fields["max_pixels"]:
        raise AtrousError("E-IMAGE-PIXELS", f"{pixels / 1e6:.1f} megapixels are too many")
    labels = predictor(image.reshape(image.shape[-3:])).labels
    output: dict[str, Any] = {
        "name": "labels",
        "datatype": _datatype(predictor.classes),
        "shape": [*image.shape[:-3], *labels.shape],
    }
    answer = {"model_name": fields["inference"]["name"], "model_version": "1", "outputs": [output]}
    if "id" in request:
        answer["id"] = request["id"]
    if not _wants_binary(request):
        if labels.size > MOST_JSON:
            raise AtrousError(
                "E-ANSWER-BYTES",
                f"{labels.size / 1e6:.1f} million labels are too many for JSON",
                fix="ask for binary data: parameters.binary_data_output",
            )
        output["data"] = labels.ravel().tolist()
        return {"type": "application/json", "pixels": pixels}, json.dumps(answer).encode()
    data = labels.astype(labels.dtype.newbyteorder("<")).tobytes()
    output["parameters"] = {"binary_data_size": len(data)}
    head = json.dumps(answer).encode()
    said = {"type": "application/octet-stream", "json_length": len(head), "pixels": pixels}
    return said, head + data


def _request(text: bytes) -> dict[str, Any]:
    try:
        request = json.loads(text)
    except (ValueError, RecursionError):
        raise _wrong("the request is not JSON") from None
    if not isinstance(request, dict):
        raise _wrong("the request is no JSON object")
    return request


def _image(request: dict[str, Any], binary: bytes) -> Any:
    """Returns the picture, (H, W, 3) or (1, H, W, 3)."""
    import numpy as np

    tensor = _only_input(request)
    shape = tensor.get("shape")
    if (
        not isinstance(shape, list)
        or not all(type(side) is int and 0 < side < 1 << 31 for side in shape)
        or shape[-1:] != [3]
        or (len(shape) != 3 and (len(shape) != 4 or shape[0] != 1))
    ):
        raise _wrong(f"shape {shape} is not [H, W, 3] or [1, H, W, 3]")
    count = 3 * shape[-3] * shape[-2]
    parameters = tensor.get("parameters")
    size = parameters.get("binary_data_size") if isinstance(parameters, dict) else None
    if size is not None:
        if not size == count == len(binary):
            raise _wrong(f"{len(binary)} bytes for a tensor of {count}")
        return np.frombuffer(binary, np.uint8).reshape(shape)
    values = _numbers(tensor.get("data"))
    if len(values) != count or min(values) < 0 or max(values) > 255:
        raise _wrong(f"{len(values)} values for a tensor of {count} in 0..255")
    return np.array(values, np.uint8).reshape(shape)


def _numbers(data: Any) -> list[int]:
    """Returns the numbers of a list, or of lists of lists.

    Types are looked at before NumPy makes an array: of long texts it would make a huge one.
    """
    for _ in range(_DEEPEST):
        kinds = set(map(type, data)) if isinstance(data, list) else set()
        if kinds == {int}:
            return data
        if kinds != {list}:
            break
        data = list(chain.from_iterable(data))
    raise _wrong("data that is no list of whole numbers")


def _only_input(request: dict[str, Any]) -> dict[str, Any]:
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise _wrong("not exactly one input")
    tensor = inputs[0]
    if tensor.get("name") != "image" or tensor.get("datatype") != "UINT8":
        raise _wrong(f"an input {tensor.get('name')!r} of {tensor.get('datatype')!r}")
    return tensor


def _wants_binary(request: dict[str, Any]) -> bool:
    """Returns whether the answer is to be binary; refuses outputs there are none of."""
    parameters = request.get("parameters")
    binary = isinstance(parameters, dict) and parameters.get("binary_data_output") is True
    for output in request.get("outputs") or []:
        if not isinstance(output, dict) or output.get("name") != "labels":
            raise _wrong("an output that is not 'labels'")
        if isinstance(output.get("parameters"), dict):
            binary = output["parameters"].get("binary_data", binary) is True
    return binary


def _datatype(classes: Any) -> str:
    return "UINT8" if len(classes) <= 256 else "UINT16"


def _wrong(what: str) -> AtrousError:
    return AtrousError("E-INFERENCE", what, fix=_FIX)
