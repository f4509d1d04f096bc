"""docs/ablations.md shows what the committed results say."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_documents_tables_are_those_of_the_committed_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from ablation_tables import tables

    document = (ROOT / "docs" / "ablations.md").read_text()
    assert document.partition("\n## Tables\n")[2].strip() == "\n".join(tables()).strip()
