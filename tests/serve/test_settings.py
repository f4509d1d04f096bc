import pytest

from atrous.errors import AtrousError
from atrous.serve.costs import Costs
from atrous.serve.settings import Settings, is_loopback


@pytest.mark.parametrize(
    ("processors", "expected"), [(1, (2, 1)), (2, (2, 1)), (4, (2, 2)), (8, (2, 4)), (32, (8, 4))]
)
def test_processors_are_shared_out(processors: int, expected: tuple[int, int]) -> None:
    assert Settings().processes(processors) == expected


def test_the_queue_holds_four_jobs_a_worker_and_64_at_least() -> None:
    assert Settings().queue_bound(2) == 64
    assert Settings().queue_bound(32) == 128
    assert Settings(queue=5).queue_bound(32) == 5


@pytest.mark.parametrize("host", ["127.0.0.1", "127.5.5.5", "::1", "[::1]", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    assert is_loopback(host)
    assert Settings(host=host).token == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org", ""])
def test_other_addresses_need_a_token_or_the_word_insecure(host: str) -> None:
    with pytest.raises(AtrousError) as caught:
        Settings(host=host)
    assert caught.value.code == "E-SERVE-OPEN"
    assert Settings(host=host, token="0123456789abcdef").insecure is False
    assert Settings(host=host, insecure=True).token == ""


@pytest.mark.parametrize(
    "values",
    [
        {"max_bytes": 0},
        {"deadline": -1.0},
        {"precision": "fp8"},
        {"workers": 0},
        {"queue": -1},
        {"port": 70_000},
        {"token": "short"},
        {"token": "with\nline breaks in it"},
    ],
)
def test_values_that_cannot_be_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(AtrousError):
        Settings(**values)  # type: ignore[arg-type]


def test_models_are_called_by_their_stem_in_characters_of_addresses() -> None:
    settings = Settings(models=("street", "a/my model.onnx"))
    assert settings.named_models() == {"street": "street", "my_model": "a/my model.onnx"}


def test_costs_are_learnt_and_outliers_forgotten() -> None:
    costs = Costs()
    costs.begin(seconds=0.1, pixels=100_000, whole_pixels=2_000_000)
    for _ in range(40):
        costs.learn(1_000, 0.01)
        costs.learn(1_000_000, 0.51)
    costs.learn(1_000_000, 50.0)
    assert costs.seconds(1_000) == pytest.approx(0.0105)
    assert costs.seconds(2_000_000) == pytest.approx(1.01)
    assert costs.seconds(4_000_000) == pytest.approx(0.01 + 2.2 * 2.0)  # in tiles
