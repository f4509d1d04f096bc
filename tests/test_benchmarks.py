"""Tables of the documents are those that the scripts print from the committed results."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_the_tables_of_the_ablations_are_those_of_the_committed_results():
    from ablation_tables import tables

    document = (ROOT / "docs" / "ablations.md").read_text()
    assert (
        document.partition("\n## Tables\n")[2].partition("\n## Method\n")[0].strip()
        == "\n".join(tables()).strip()
    )


def test_the_table_of_speed_claims_is_that_of_the_committed_results():
    from tables import BEGIN, END, table

    document = (ROOT / "docs" / "performance.md").read_text()
    assert document.partition(BEGIN)[2].partition(END)[0].strip() == table()


@pytest.mark.parametrize(
    ("processor", "slug"),
    [
        ("AMD EPYC", "amd-epyc"),
        ("Intel(R) Xeon(R) Processor @ 2.60GHz", "intel-xeon-processor"),
        ("Intel(R) Core(TM) i7-1185G7 CPU @ 3.00GHz", "intel-core-i7-1185g7"),
    ],
)
def test_results_are_kept_under_the_name_of_the_processor(processor, slug):
    from measuring import processor_slug

    assert processor_slug(processor) == slug
