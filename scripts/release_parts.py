"""What `scripts/check_release` looks at: version, archives, licences, the bill of materials."""

import json
import re
import subprocess
import tarfile
import uuid
import zipfile
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LARGEST_WHEEL = 40_000_000  # bytes
PICTURES = ("atrous/serve/page/examples/cat.jpg", "atrous/serve/page/examples/astronaut.jpg")
PAGE = ("atrous/serve/page/index.html", "atrous/serve/page/onnxruntime/LICENSE.txt")
LICENCES = ("LICENSE", "LICENSE-WEIGHTS", "NOTICE")
# A meta-package of torch's, which states no licence: it has no files, only dependencies.
WITHOUT_FILES = frozenset({"cuda-toolkit"})
LGPL_EXTRAS = frozenset({"geo", "heif"})
# Extras for working on atrous, with the tools of others that it is compared with. Nobody who uses
# atrous installs them, so their licences are not looked at.
TOOLS = frozenset({"bench", "dev", "docs", "integration"})


class Component(NamedTuple):
    """A distribution that atrous needs, or an extra of atrous."""

    name: str
    version: str  # empty: not installed here
    licence: str
    extras: frozenset[str]  # of atrous; empty: always needed
    needs: tuple[str, ...]


def version(root: Path) -> str:
    """The version in the source."""
    text = (root / "atrous" / "__init__.py").read_text()
    match = re.search(r'^__version__ = "(.+)"', text, re.MULTILINE)
    assert match is not None
    return match[1]


def faults_of_version(root: Path, *, final: bool) -> list[str]:
    """The changelog and CITATION.cff must have the version."""
    here = version(root)
    sections = re.split(r"^## ", (root / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1:]
    titles = {section.split()[0].strip("[]"): section for section in sections}
    faults = [] if here in titles else [f"CHANGELOG.md has no section {here}"]
    if f"\nversion: {here}\n" not in (root / "CITATION.cff").read_text():
        faults.append(f"CITATION.cff has not version {here}")
    if final and "- " in titles.get("Unreleased", ""):
        faults.append(f"CHANGELOG.md: Unreleased has entries, and the version is still {here}")
    return faults


def faults_of_wheel(archive: zipfile.ZipFile, size: int) -> list[str]:
    """Everything that must be in the wheel, and nothing else."""
    names = archive.namelist()
    info = next(name.split("/")[0] for name in names if name.endswith(".dist-info/METADATA"))
    texts = {n: archive.read(f"{info}/licenses/{n}").decode() for n in LICENCES if
             f"{info}/licenses/{n}" in names}  # fmt: skip
    models = [n for n in names if re.fullmatch(r"atrous/trained/[^/]+\.onnx", n)]
    faults = [f"the wheel has no {n}" for n in {*PAGE, *PICTURES} - set(names)]
    faults += [f"the wheel has no licence text {n}" for n in LICENCES if n not in texts]
    faults += [] if models else ["the wheel has no model"]
    faults += [f"NOTICE has no terms of {m}" for m in models if m not in texts.get("NOTICE", "")]
    if "does not cover the weight files" not in texts.get("LICENSE-WEIGHTS", ""):
        faults.append("LICENSE-WEIGHTS does not say that the licence leaves the weights out")
    if "LicenseRef-weights" not in archive.read(f"{info}/METADATA").decode():
        faults.append("the licence expression leaves the weight files out")
    strange = [n for n in names if n.split("/")[0] not in ("atrous", info) or "/test" in n]
    strange += [n for n in names if re.search(r"\.(jpe?g|tiff?|webp|bmp)$", n, re.IGNORECASE)
                and n not in PICTURES]  # fmt: skip
    faults += [f"the wheel has {n}" for n in strange]
    if size > LARGEST_WHEEL:
        faults.append(f"the wheel has {size / 1e6:.1f} MB, more than {LARGEST_WHEEL / 1e6:.0f}")
    return faults


def faults_of_sdist(path: Path, root: Path) -> list[str]:
    """The sdist has files under version control alone."""
    listed = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True,
                            check=True).stdout.split("\n")  # fmt: skip
    with tarfile.open(path) as archive:
        names = {n.partition("/")[2] for n in archive.getnames()}
    return [f"the sdist has {n}" for n in sorted(names - {*listed, "PKG-INFO", ""})]


def dependencies(root: str = "atrous") -> dict[str, Component]:
    """Everything that an installation of atrous or of an extra of it brings, by name.

    Versions and licences are those installed here.
    """
    found: dict[str, Component] = {}
    extras = metadata.metadata(root).get_all("Provides-Extra") or []
    _visit(root, frozenset(), frozenset(), found)
    for extra in sorted(set(extras) - TOOLS):
        _visit(root, frozenset({extra}), frozenset({extra}), found)
    return found


def _visit(
    name: str, asked: frozenset[str], reason: frozenset[str], found: dict[str, Component]
) -> None:
    """Adds a distribution with its `asked` extras; `reason` is the extra of atrous, or nothing."""
    known = found.get(name)
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        found.setdefault(name, Component(name, "", "", reason, ()))
        return
    needs = [Requirement(text) for text in distribution.requires or ()]
    here = [n for n in needs if _holds(n, asked)]
    names = tuple(sorted({canonicalize_name(n.name) for n in here} - {name}))
    if known is not None and set(names) <= set(known.needs) and (
        not known.extras or reason <= known.extras
    ):  # fmt: skip
        return
    extras = reason if known is None else (known.extras | reason if known.extras else known.extras)
    before = () if known is None else known.needs
    found[name] = Component(
        name, distribution.version, licence(distribution), extras,
        tuple(sorted({*before, *names})),
    )  # fmt: skip
    for need in here:
        _visit(canonicalize_name(need.name), frozenset(need.extras), reason, found)


def _holds(need: Requirement, asked: frozenset[str]) -> bool:
    if need.marker is None:
        return True
    return any(need.marker.evaluate({"extra": extra}) for extra in asked or {""})


def licence(distribution: metadata.Distribution) -> str:
    """The licence a distribution states: an expression, a short text, or its classifiers."""
    fields = distribution.metadata
    text = fields.get("License-Expression") or ""
    if not text:
        classifiers = fields.get_all("Classifier") or []
        text = " AND ".join(
            c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License :: OSI")
        )
    stated = (fields.get("License") or "").strip()
    return text or (stated.splitlines()[0][:80] if stated else "")


def faults_of_licences(graph: dict[str, Component]) -> list[str]:
    """No GPL or AGPL; the LGPL in the extras for pictures of other kinds alone; none unknown."""
    faults = []
    for part in graph.values():
        if not part.version:
            print(f"not installed, so its licence was not seen: {part.name} ({_why(part)})")
        elif not part.licence and part.name not in WITHOUT_FILES:
            faults.append(f"{part.name} {part.version} states no licence ({_why(part)})")
        elif part.licence and not permitted(part.licence, part.extras):
            faults.append(f"{part.name} {part.version} is under {part.licence} ({_why(part)})")
    return faults


def permitted(licence: str, extras: frozenset[str]) -> bool:
    """Whether a licence may be among the dependencies of these extras (empty: of the core)."""
    for alternative in re.split(r"\bOR\b", licence):
        text = re.sub(r"GPL\S* WITH \S*exception\S*", "", alternative, flags=re.IGNORECASE)
        lesser = re.search(r"\bLGPL|Lesser General Public", text, re.IGNORECASE)
        text = re.sub(r"\bLGPL\S*|GNU Lesser General Public\S*", "", text, flags=re.IGNORECASE)
        if re.search(r"\bA?GPL|General Public License", text, re.IGNORECASE):
            continue
        if not lesser or (extras and extras <= LGPL_EXTRAS):
            return True
    return False


def _why(part: Component) -> str:
    return "needed" if not part.extras else f"extra {', '.join(sorted(part.extras))}"


def bill_of_materials(graph: dict[str, Component]) -> str:
    """The dependencies in CycloneDX 1.6 (JSON)."""
    parts = {name: part for name, part in graph.items() if part.version}
    entries = {name: _entry(part) for name, part in parts.items()}
    own = entries.pop("atrous")
    own["type"] = "application"
    own["licenses"] = [{"expression": "Apache-2.0 AND MIT AND LicenseRef-weights"}]
    references = {name: str(entry["bom-ref"]) for name, entry in {**entries, "atrous": own}.items()}
    bill = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, ' '.join(references.values()))}",
        "version": 1,
        "metadata": {"component": own},
        "components": [entries[name] for name in sorted(entries)],
        "dependencies": [
            {
                "ref": references[name],
                "dependsOn": [references[n] for n in part.needs if n in references],
            }
            for name, part in sorted(parts.items())
        ],
    }
    return json.dumps(bill, indent=1) + "\n"


def _entry(part: Component) -> dict[str, object]:
    address = f"pkg:pypi/{part.name}@{part.version}"
    entry: dict[str, object] = {
        "type": "library",
        "bom-ref": address,
        "name": part.name,
        "version": part.version,
        "purl": address,
        "scope": "optional" if part.extras else "required",
        "licenses": [{"license": {"name": part.licence}}] if part.licence else [],
    }
    if part.extras:
        value = ", ".join(sorted(part.extras))
        entry["properties"] = [{"name": "atrous:extras", "value": value}]
    return entry


def runtime_blocks(readme: str) -> list[tuple[str, str]]:
    """Language and code of the README's section Predict, without the installation."""
    section = readme.partition("\n## Predict\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"```(bash|python)\n(.*?)```", section, re.DOTALL)
    return [(language, re.sub(r"^.*pip install.*\n", "", code, flags=re.MULTILINE))
            for language, code in blocks]  # fmt: skip
