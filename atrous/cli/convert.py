"""``atrous convert``: writes weights of any format as one checked file."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atrous.classes import ADE20K, CAMVID, CITYSCAPES, VOC, ClassTable
from atrous.errors import AtrousError, printable

if TYPE_CHECKING:
    from atrous.model import Model

_SHOWN = 100  # characters of a note
_TABLES = {table.name: table for table in (VOC, CITYSCAPES, ADE20K, CAMVID)}


def _integers(context: click.Context, option: click.Parameter, text: str | None) -> Any:
    try:
        return None if text is None else tuple(int(part) for part in text.split(",") if part)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a list of integers such as 6,12,18") from None


def _mapping(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> Any:
    mapping = {}
    for text in texts:
        new, separator, old = text.partition("=")
        if not (new and separator and old):
            raise click.BadParameter(f"{text!r} is not NEW=OLD or NEW=OLD+OLD")
        mapping[new] = tuple(old.split("+"))
    return mapping


@click.command()
@click.argument("source", metavar="SOURCE")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    metavar="FILE",
    help="The .safetensors file to write.",
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it is there.")
@click.option(
    "--output-stride",
    type=click.Choice(["4", "8", "16", "32"]),
    help="Pixels per step of the encoder's features, which TensorFlow weights do not hold.",
)
@click.option(
    "--atrous-rates",
    callback=_integers,
    metavar="R,R,R",
    help="Rates of ASPP at that stride. Default: 6,12,18 at stride 16, in proportion at others.",
)
@click.option(
    "--multi-grid",
    callback=_integers,
    metavar="R,R,R",
    help="Rates in the last block of a TensorFlow ResNet: 1,2,4 if it was trained with them.",
)
@click.option(
    "--classes",
    metavar="NAMES",
    help="New classes: voc, cityscapes, ade20k, camvid, or a text file with one name per line.",
)
@click.option(
    "--map",
    "mapping",
    multiple=True,
    callback=_mapping,
    metavar="NEW=OLD[+OLD]",
    help="Old class, or classes to merge, for a new class of another name. May be repeated.",
)
@click.option(
    "--head",
    type=click.Choice(["keep", "reinit"]),
    default="keep",
    show_default=True,
    help="Keep the classifier's weights of classes that stay, or start all of them anew.",
)
@click.option(
    "--sha256", metavar="HEX", help="Hash of a published file, if atrous does not know it."
)
@click.option(
    "--backbone",
    metavar="NAME",
    help="Write this backbone alone, of SOURCE or its ImageNet network, for train --weights.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def convert(
    source: str, out: Path, overwrite: bool, classes: str | None, mapping: dict[str, Any],
    head: str, backbone: str | None, sha256: str | None, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    r"""Writes a model of any format as one checked .safetensors file.

    SOURCE is a built-in or published name (see atrous models), an exported float .onnx file, a
    TensorFlow checkpoint's prefix, a frozen .pb, an archive of the authors' model zoo, a .tflite,
    .safetensors or .pth file, or hf:org/name. Nothing in the file is executed. Entries that do not
    belong to the network are listed. Weights of another network are refused, with the differences.

    \b
    Examples:
      atrous convert deeplabv3_pascal_train_aug_2018_01_04.tar.gz --out voc.safetensors
      atrous convert model.ckpt-30000 --out mine.safetensors --output-stride 8
      atrous convert mobilenetv2_voc_quant --out small.safetensors
      atrous convert voc.safetensors --out pets.safetensors --classes pets.txt --map pet=cat+dog
      atrous convert lite0.pth --backbone timm/efficientnet_lite0 --out lite0.safetensors
    """
    if out.exists() and not overwrite:
        raise AtrousError("E-FILE-EXISTS", "the file exists", where=out,
                          fix="name another file, or add --overwrite")  # fmt: skip
    from atrous import loading
    from atrous.build import create_classifier
    from atrous.weights import edit_classes, store, zoo

    given = {name: value for name, value in options.items() if value is not None}
    if "output_stride" in given:
        given["output_stride"] = int(given["output_stride"])
    found = str(zoo.download(source, digest=sha256)) if sha256 else source
    changed = classes is not None or mapping or head == "reinit"
    model: Any
    if backbone:
        if changed or given:
            raise click.UsageError("--backbone goes with --out, --overwrite, --sha256 and --json")
        model = create_classifier(backbone, num_classes=1, pretrained=found)
    else:
        model = loading.convert(found, **given)
    rows: Iterable[object] = ()
    if changed:
        table = _class_table(classes) if classes else ClassTable("", model.classes, model.palette)
        rows = edit_classes.change_classes(model, table, mapping=mapping, reinit=head == "reinit")
    digest = store.save(model, out)
    _check(model, out)
    _report(model, out, digest, [str(row) for row in rows], as_json)


def _class_table(text: str) -> ClassTable | list[str]:
    if text in _TABLES:
        return _TABLES[text]
    path = Path(text)
    if not path.is_file():
        raise AtrousError(
            "E-CLASSES",
            f"{text!r} is neither a file nor one of {', '.join(_TABLES)}",
            fix="write the class names into a text file, one a line",
        )
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _check(model: "Model", out: Path) -> None:
    """Checks that the written file reads back as the same model, bit for bit."""
    from atrous.weights.store import hash_tensors, read

    description, tensors = read(out)
    same = hash_tensors(model.state_dict()) == hash_tensors(tensors)
    assert same, "the written file differs from the model"
    assert tuple(description.classes) == tuple(model.classes)


def _report(model: "Model", out: Path, digest: str, rows: list[str], as_json: bool) -> None:
    a, provenance = model.architecture, model.provenance
    parameters = sum(p.numel() for p in model.parameters())
    if as_json:
        record = {
            "out": str(out),
            "backbone": a.backbone,
            "head": a.head,
            "output_stride": a.output_stride,
            "classes": list(model.classes),
            "parameters": parameters,
            "tensors_sha256": digest,
            "source": provenance.source,
            "source_sha256": provenance.sha256,
            "notes": provenance.notes,
            "class_rows": rows,
        }
        click.echo(json.dumps(record))
        return
    decoder = "decoder" if a.decoder else "no decoder"
    click.echo(
        f"{printable(provenance.source)}: {a.backbone}, {a.head}, {decoder}, output stride "
        f"{a.output_stride}, {len(model.classes)} classes, {parameters / 1e6:.2f} M parameters"
    )
    notes = [note for note in provenance.notes if not note.startswith("classes changed")]
    for line in [*notes, *rows]:
        click.echo(f"  {line if len(line) <= _SHOWN else line[:_SHOWN] + ' ...'}")
    size = out.stat().st_size / 1e6
    click.echo(f"wrote {printable(out)} ({size:.1f} MB), read back bit for bit, sha256 of tensors")
    click.echo(f"  {digest}")
