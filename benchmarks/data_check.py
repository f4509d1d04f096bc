"""How many pictures a second does ``atrous data check`` read?

    PYTHONPATH=. python benchmarks/data_check.py ../shared/data/camvid

In turns with a plain loop over the same pairs: Pillow decodes picture and mask, NumPy lists the
mask's values, in one process. "check" is all but the start of Python and the report; "command"
is the whole of ``atrous data check DATA``, "report" that with ``--out``. The files are in the
system's cache. Writes results/data_check.PROCESSOR.json.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from measuring import interleave, machine, save
from PIL import Image, features

from atrous.data.dataset import FileDataset
from atrous.data.doctor.diagnosis import examine
from atrous.data.doctor.survey import survey
from atrous.data.opening import recognise
from atrous.engines.machine import usable_processors

ROUNDS = 9


def plain(root: Path) -> int:
    """Decodes every pair once; returns how many there are."""
    layout, count = recognise(root), 0
    for split in layout.splits:
        dataset, _ = layout.open(split)
        assert isinstance(dataset, FileDataset)
        for item in dataset.items:
            assert item.annotation is not None
            with Image.open(item.image) as image, Image.open(item.annotation) as mask:
                np.asarray(image.convert("RGB"))
                np.unique(np.asarray(mask))
        count += len(dataset)
    return count


def command(root: Path, *more: str) -> None:
    call = [sys.executable, "-m", "atrous.cli", "data", "check", str(root), "--json", *more]
    subprocess.run(call, check=True, capture_output=True)


def main(root: Path) -> None:
    pictures, cores = plain(root), usable_processors()
    with tempfile.TemporaryDirectory() as out:
        times = interleave(
            {
                "plain loop, 1 process": lambda: plain(root),
                "check, 1 process": lambda: examine(survey(recognise(root), workers=1)),
                f"check, {cores} processes": lambda: examine(survey(recognise(root))),
                f"command, {cores} processes": lambda: command(root),
                f"report, {cores} processes": lambda: command(root, "--out", out),
            },
            rounds=ROUNDS,
        )
    for row in times.values():
        row["pictures_per_second"] = round(pictures / row["median_ms"] * 1e3, 1)
    about = machine("pillow", "numpy") | {"libjpeg_turbo": features.version("libjpeg_turbo")}
    save(
        "data_check", {"data": root.resolve().name, "pictures": pictures, **times, "machine": about}
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
