"""What many GPUs give, on paper: pictures a second, and an update's traffic against its arithmetic.

python benchmarks/training_costs.py

Only the first two columns of the first table are measured: they are read from the committed results
of engines.py (picture to labels) and training.py. An update on one GPU is estimated from the
network's multiply-adds (`atrous.multiply_adds`): two operations each, and three passes (forward,
and two backward), at the share of the GPU's peak that convolutions reach. Traffic is that of a
ring: each process sends 2 (n - 1) / n of the gradients, 4 bytes a weight. It hides behind the
backward pass, two thirds of the update; what does not fit there is waited for. Synchronised batch
norm, data and the slowest process are left out, so real machines are slower.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from atrous import create_model, multiply_adds

GPU, PEAK, SHARE = "A100, bf16", 312e12, 0.3  # operations a second of its data sheet; assumed share
CROP, BATCH = 513, 8  # per GPU; the pictures of a batch of 16 on two, as in the recipes
NETWORKS = ("mobilenet_v2", "resnet101", "xception65")
# Bytes a second and direction. A ring over GPUs sorted by machine passes each network card once.
LINKS = {
    "8 GPUs, NVLink": (8, 250e9),
    "16, 200 Gbit/s": (16, 25e9),
    "256, 200 Gbit/s": (256, 25e9),
    "16, 10 Gbit/s": (16, 1.25e9),
    "256, 10 Gbit/s": (256, 1.25e9),
}


def update_seconds(multiplies: float) -> float:
    """Returns the estimated time of an update's arithmetic on one GPU."""
    return 3 * 2 * multiplies * BATCH / (PEAK * SHARE)


def efficiency(weights: int, seconds: float, processes: int, link: float) -> float:
    """Returns the share of the time that is arithmetic, 0..1."""
    traffic = 2 * (processes - 1) / processes * 4 * weights / link
    waiting = max(0.0, traffic - 2 / 3 * seconds)
    return seconds / (seconds + waiting)


def measured(network: str) -> tuple[str, str]:
    """Returns pictures a second of prediction and training on two cores, from the results."""
    results = Path(__file__).parent / "results"
    engines = json.loads((results / f"engines_{network}.amd-epyc.json").read_text())
    updates = json.loads((results / "training.amd-epyc.json").read_text())["rows"]
    found = [row for row in updates if (row["backbone"], row["crop"]) == (network, CROP)]
    trained = found[0]["batch"] / found[0]["seconds"]["atrous"] if found else None
    predicted = 1e3 / engines["times"]["ours, fp32"]["median_ms"]
    return f"{predicted:.1f}", "not run" if trained is None else f"{trained:.2f}"


def speeds() -> list[str]:
    """Returns the rows of pictures a second at 513 x 513."""
    cores = "two cores of an AMD EPYC, measured"
    heads = ["pictures a second", f"predict, {cores}", f"train, {cores}"]
    heads += [f"predict, {GPU}, estimated", f"train, {GPU}, estimated"]
    rows = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name in NETWORKS:
        model = create_model(name, num_classes=21)
        multiplies = multiply_adds(model, (CROP, CROP), convention="true")
        predicted = PEAK * SHARE / (2 * multiplies)
        cells = [name, *measured(name), f"{predicted:.0f}"]
        rows.append("| " + " | ".join([*cells, f"{BATCH / update_seconds(multiplies):.0f}"]) + " |")
    return rows


def table() -> list[str]:
    """Returns the rows of arithmetic and traffic."""
    heads = ["network", "weights", "sent an update", "arithmetic", *LINKS]
    rows = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name in NETWORKS:
        model = create_model(name, num_classes=21)
        weights = sum(weight.numel() for weight in model.parameters())
        seconds = update_seconds(multiply_adds(model, (CROP, CROP), convention="true"))
        cells = [name, f"{weights / 1e6:.1f} M", f"{8 * weights / 1e6:.0f} MB"]
        cells += [f"{1e3 * seconds:.0f} ms"]
        cells += [f"{efficiency(weights, seconds, n, speed):.0%}" for n, speed in LINKS.values()]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


if __name__ == "__main__":
    print("\n".join([*speeds(), "", *table()]))
