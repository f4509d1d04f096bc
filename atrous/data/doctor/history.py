"""What has changed in a data set since an earlier report."""

import csv
from pathlib import Path

from atrous.data.doctor.findings import Finding
from atrous.data.doctor.survey import Survey
from atrous.errors import AtrousError


def compare(report: Path, survey: Survey) -> tuple[Finding, ...]:
    """Returns a warning if samples differ from those of an earlier ``data_report.csv``.

    Raises:
        AtrousError: The file is no such report.
    """
    try:
        with report.open(encoding="utf-8", newline="") as file:
            before = {
                row["name"]: (row[_PICTURE], row[_ANNOTATION]) for row in csv.DictReader(file)
            }
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise AtrousError(
            "E-DATA-REPORT", f"not a data_report.csv: {error}", where=report
        ) from None
    now = {
        m.name.encode("utf-8", "backslashreplace").decode(): (
            m.digest.hex(),
            m.annotation_digest.hex(),
        )
        for m in survey.measurements
    }
    where = [f"{name}: gone" for name in before if name not in now]
    where += [f"{name}: new" for name in now if name not in before]
    for name, digests in now.items():
        kinds = ("picture", "annotation")
        old = before.get(name, digests)
        changed = [kind for kind, a, b in zip(kinds, old, digests, strict=True) if a != b]
        if changed:
            where.append(f"{name}: {' and '.join(changed)} changed")
    if not where:
        return ()
    what = f"samples that differ from those of {report}: {len(where)}"
    fix = "models trained before and after are not comparable"
    return (Finding("warning", "W-DATA-CHANGED", what, fix, tuple(where)),)


_PICTURE, _ANNOTATION = "picture_sha256", "annotation_sha256"
