"""The Open Inference Protocol, by hand and with Triton's own client."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from atrous.serve.server import Server
from tests.serve.clients import Answer, ask, encoded, labels_of, noise

PATH = "/v2/models/fake/infer"


def tensor(image: np.ndarray, **changes: Any) -> dict[str, Any]:
    values = {"name": "image", "datatype": "UINT8", "shape": list(image.shape)}
    return {**values, "data": image.ravel().tolist(), **changes}


def infer(server: Server, request: Any, binary: bytes = b"") -> Answer:
    head = json.dumps(request).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))} if binary else {}
    return ask(server, PATH, head + binary, headers=headers)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return noise(12, 19)


@pytest.fixture(scope="module")
def labels(server: Server, image: np.ndarray) -> np.ndarray:
    return labels_of(ask(server, body=encoded(image)))


def test_metadata_names_input_and_output(server: Server) -> None:
    assert ask(server, "/v2").json["name"] == "atrous"
    assert ask(server, "/v2/health/live").status == ask(server, "/v2/health/ready").status == 200
    for path in ("/v2/models/fake", "/v2/models/fake/versions/1"):
        described = ask(server, path).json
        assert described["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, 3]}]
        assert [output["name"] for output in described["outputs"]] == ["labels"]
        assert ask(server, f"{path}/ready").json == {"name": "fake", "ready": True}
    assert ask(server, "/v2/models/other").status == 404


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("batch", [False, True])
def test_json_tensors_give_the_labels(
    nested: bool, batch: bool, server: Server, image: np.ndarray, labels: np.ndarray
) -> None:
    given = image[None] if batch else image
    request = {"id": "7", "inputs": [tensor(given, **({"data": given.tolist()} if nested else {}))]}
    answer = infer(server, request).json
    assert (answer["id"], answer["model_name"]) == ("7", "fake")
    (output,) = answer["outputs"]
    assert output["shape"] == list(labels[None].shape if batch else labels.shape)
    assert output["data"] == labels.ravel().tolist()


def test_binary_tensors_give_binary_labels(
    server: Server, image: np.ndarray, labels: np.ndarray
) -> None:
    given = tensor(image, parameters={"binary_data_size": image.size})
    del given["data"]
    request = {"inputs": [given], "parameters": {"binary_data_output": True}}
    answer = infer(server, request, image.tobytes())
    length = int(answer.headers["inference-header-content-length"])
    (output,) = json.loads(answer.body[:length])["outputs"]
    assert output["parameters"] == {"binary_data_size": labels.size}
    assert answer.body[length:] == labels.tobytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update(name="x"),
        lambda t: t.update(datatype="FP32"),
        lambda t: t.update(shape=[1, 2]),
        lambda t: t.update(shape=[2, *t["shape"]]),
        lambda t: t.update(shape=[-1, -1, 3]),
        lambda t: t.update(shape=[True, True, 3]),
        lambda t: t.update(shape="image"),
        lambda t: t.update(data=t["data"][1:]),
        lambda t: t.update(data=[*t["data"][1:], 256]),
        lambda t: t.update(data=[*t["data"][1:], -1]),
        lambda t: t.update(data=[*t["data"][1:], 1.5]),
        lambda t: t.update(data=[*t["data"][1:], "x"]),
        lambda t: t.update(data=[*t["data"][1:], True]),
        lambda t: t.update(data=[*t["data"][1:], None]),
        lambda t: t.update(data=[*t["data"][1:], 10**30]),
        lambda t: t.update(data=[*t["data"][1:], [1]]),
        lambda t: t.update(data=["x" * 100_000, *(["y"] * 50_000)]),  # 20 GB as an array
        lambda t: t.update(data=[[[[[[1]]]]]]),
        lambda t: t.update(data=[]),
        lambda t: t.update(data=[[1, 2], [3]]),
        lambda t: t.update(data={"a": 1}),
        lambda t: t.update(parameters={"binary_data_size": 5}),
        lambda t: t.update(parameters={"binary_data_size": "5"}),
        lambda t: t.pop("data"),
    ],
)
def test_tensors_that_are_no_picture_are_refused(
    change: Callable[[dict[str, Any]], object], server: Server, image: np.ndarray
) -> None:
    given = tensor(image)
    change(given)
    answer = infer(server, {"inputs": [given]})
    assert (answer.status, answer.json["code"]) == (422, "E-INFERENCE")
    assert answer.json["error"] == answer.json["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"{}",
        b'{"inputs": []}',
        b'{"inputs": [1]}',
        b'{"inputs": {"a": 1}}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_requests_that_are_none_are_refused(body: bytes, server: Server) -> None:
    assert ask(server, PATH, body).json["code"] == "E-INFERENCE"


@pytest.mark.parametrize("length", ["x", "-1", "0", "99999999", "1e3"])
def test_a_wrong_length_of_the_json_is_refused(length: str, server: Server) -> None:
    headers = {"Inference-Header-Content-Length": length}
    assert ask(server, PATH, b"{}", headers=headers).json["code"] == "E-INFERENCE"


def test_unknown_outputs_are_refused(server: Server, image: np.ndarray) -> None:
    request = {"inputs": [tensor(image)], "outputs": [{"name": "logits"}]}
    assert infer(server, request).status == 422


@pytest.mark.parametrize("binary", [False, True])
def test_tritons_client_is_served(
    binary: bool, server: Server, image: np.ndarray, labels: np.ndarray
) -> None:
    http = pytest.importorskip("tritonclient.http", reason="the extra 'integration' has it")
    with http.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("fake")
        assert client.get_model_metadata("fake")["inputs"][0]["name"] == "image"
        given = http.InferInput("image", list(image.shape), "UINT8")
        given.set_data_from_numpy(image, binary_data=binary)
        wanted = [http.InferRequestedOutput("labels", binary_data=binary)]
        result = client.infer("fake", [given], outputs=wanted)
        np.testing.assert_array_equal(result.as_numpy("labels"), labels)
