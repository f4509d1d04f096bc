import pytest

from atrous.cli import main


def failing(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["serve", *arguments])
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--max-bytes", "0"),
        ("--max-bytes", "many"),
        ("--max-pixels", "-5MP"),
        ("--memory", "2TT"),
        ("--workers", "0"),
        ("--queue", "0"),
        ("--deadline", "0"),
        ("--port", "65536"),
    ],
)
def test_values_that_cannot_be_are_refused(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert arguments[0] in failing(capsys, *arguments)


def test_two_models_of_one_name_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "'street'" in failing(capsys, "--model", "street", "--model", "b/street.safetensors")


def test_a_missing_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "missing.onnx" in failing(capsys, "--model", "missing.onnx")
