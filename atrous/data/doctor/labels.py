"""Checks of a data set's labels: illegal values, misread values, missing classes."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping

from atrous.classes import Color, unlabelled
from atrous.data.doctor.findings import Finding, about_files
from atrous.data.doctor.proposals import Reading, known_palette, mapping_yaml, readings
from atrous.data.doctor.survey import Survey
from atrous.errors import listed

_MOST_VOID = 0.5  # share of a split's pixels that may be unlabelled
_MOST_BLENDED = 0.1  # share of a mask's edges; the worst mask of CamVid has .036, of VOC .006
_RARE_COLOR = 0.001  # share of the pixels below which a colour is taken for a blend of two
_RAW_LAYOUTS = ("Cityscapes", "ADE20K")  # their masks never hold 255


def class_counts(survey: Survey, split: str) -> Counter[int]:
    """Returns the number of pixels of each value in the targets of a split, with unlabelled."""
    return sum((Counter(m.counts) for m in survey.of(split)), Counter())


def check_colors(survey: Survey) -> Iterator[Finding]:
    """Finds masks in unknown colours, and the published table that has these colours."""
    masks = [m for m in survey.measurements if m.unknown_colors]
    if not masks:
        return
    pixels: Counter[Color] = Counter()
    for measurement in masks:  # a sum of counters would copy the many colours each time
        pixels.update(measurement.unknown_colors)
    main = {color for color, count in pixels.items() if count >= _RARE_COLOR * pixels.total()}
    lacking = "that the colour table lacks" if survey.colors else "without a colour table"
    unknown = {color: n for color, n in pixels.most_common() if color not in survey.colors}
    what = f"masks in colours {lacking}: {len(masks)}, in {len(unknown)} colours"
    where = tuple(f"{color}: {count} px" for color, count in unknown.items())
    fix, rows = _naming(main - survey.colors)
    if len(unknown) > len(unknown.keys() & main):
        fix += f"; {len(unknown.keys() - main)} colours on less than {_RARE_COLOR:.1%} of the "
        fix += "pixels each look like smoothed edges: export without anti-aliasing"
    proposal = "\n".join(("colors:", *rows)) if rows else ""
    yield Finding("error", "E-MASK-COLOR", what, fix, where, proposal)


def _naming(colors: Collection[Color]) -> tuple[str, list[str]]:
    """Returns how to name colours, and lines of YAML that do."""
    table = known_palette(colors)
    if table:
        fix = f"these look like the colours of {table.name}: list the colours in a dataset YAML"
        return fix, [f"  {n}: {list(c)}" for n, c in zip(table.classes, table.palette, strict=True)]
    fix = "give each colour's class in a dataset YAML, labelmap.txt or class_dict.csv"
    return fix, [f"  name_{i}: {list(color)}" for i, color in enumerate(sorted(colors)[:30])]


def check_values(survey: Survey) -> Iterator[Finding]:
    """Finds values that are no classes, and proposes a meaning."""
    num_classes, pixels, where = len(survey.table.classes), Counter[int](), []
    legal = {*range(num_classes), unlabelled(num_classes)}
    for measurement in survey.measurements:
        wrong = {value: n for value, n in measurement.counts.items() if value not in legal}
        if wrong:
            pixels.update(wrong)
            where.append(f"{measurement.annotation}: {_counted(wrong)}")
    if where:
        files = f"annotations with values that are none of the {num_classes} classes: {len(where)}"
        what = f"{files}; values {_counted(pixels)}"
        found, proposal = _readings(survey)
        fix = "map these values in label_mapping of a dataset YAML, or add the missing classes"
        fix = "; or ".join(reading.because for reading in found) or fix
        yield Finding("error", "E-DATA-LABEL", what, fix, tuple(where), proposal)


def _counted(values: Mapping[int, int]) -> str:
    return listed(f"{value} ({pixels} px)" for value, pixels in Counter(values).most_common())


def _readings(survey: Survey) -> tuple[list[Reading], str]:
    """Returns what the values of the masks may mean, and lines of YAML that say so."""
    values = sum((Counter(m.values) for m in survey.measurements), Counter[int]())
    found = [] if survey.mapping else readings(values, len(survey.table.classes))
    return found, "\n# or\n".join(mapping_yaml(reading.mapping) for reading in found)


def check_meaning(survey: Survey) -> Iterator[Finding]:
    """Finds legal values that probably mean something else, and splits of a single class."""
    raw = survey.kind in _RAW_LAYOUTS and survey.mapping
    if raw and any(255 in m.values for m in survey.measurements):
        what = (
            f"the masks hold 255, which {survey.kind} never uses: they seem to be mapped already, "
            "and would be mapped a second time"
        )
        fix = "describe the folders in a dataset YAML without label_mapping"
        yield Finding("error", "E-DATA-MAPPED-TWICE", what, fix)
    training = [s for s in survey.splits if s.startswith("train")] or list(survey.splits)
    for split in training:
        classes = survey.table.classes
        present = sorted(class_counts(survey, split).keys() & set(range(len(classes))))
        if len(present) < 2 and survey.splits[split]:
            named = f"one class only, {classes[present[0]]!r}" if present else "no class"
            fix = (
                "check how the masks were exported: a network that can only be right learns nothing"
            )
            what, proposal = f"{split} holds {named}", _readings(survey)[1]
            yield Finding("error", "E-DATA-ONE-CLASS", what, fix, proposal=proposal)


def check_palettes(survey: Survey) -> Iterator[Finding]:
    """Finds palette masks in which an index has several colours: its indices mean no classes."""
    colors: dict[int, Counter[Color]] = defaultdict(Counter)
    for measurement in survey.measurements:
        for value, color in measurement.colors.items():
            colors[value][color] += 1
    where = (
        f"index {value}: {', '.join(f'{c} in {n} masks' for c, n in found.most_common(5))}"
        for value, found in sorted(colors.items())
        if len(found) > 1
    )
    what = "indices that have different colours in different masks"
    fix = "each mask was saved with its own palette, so an index means another class in each: "
    fix += "export the masks again in colour or with one palette"
    return about_files(where, "error", "E-MASK-PALETTES", what, fix)


def check_edges(survey: Survey) -> Iterator[Finding]:
    """Finds masks whose edges were interpolated or smoothed."""
    where = (
        f"{m.annotation}: {m.blended} of {m.edges} changes along its rows"
        for m in survey.measurements
        if m.blended > _MOST_BLENDED * m.edges and m.blended > 20
    )
    what = "masks with blended edges, which pass through values in between"
    fix = "these masks were resized or smoothed like photographs; resize with nearest neighbour"
    return about_files(where, "error", "E-MASK-BLENDED", what, fix)


def check_void(survey: Survey) -> Iterator[Finding]:
    """Finds splits and pictures with few or no labelled pixels."""
    ignore = unlabelled(len(survey.table.classes))
    for split in survey.splits:
        counts = class_counts(survey, split)
        share = counts[ignore] / max(counts.total(), 1)
        if share > _MOST_VOID:
            what = f"{share:.0%} of the pixels of {split} are unlabelled"
            fix = "check whether 255 means unlabelled in these masks"
            yield Finding("warning", "W-DATA-VOID", what, fix)
    empty = (m.annotation for m in survey.measurements if set(m.counts) == {ignore})
    what = "pictures without a labelled pixel"
    fix = "leave these pictures out: training learns nothing from them"
    yield from about_files(empty, "warning", "W-DATA-ALL-VOID", what, fix)


def check_classes(survey: Survey) -> Iterator[Finding]:
    """Finds classes that a split has no pixel of."""
    for split, indices in survey.splits.items():
        counts = class_counts(survey, split)
        absent = [name for k, name in enumerate(survey.table.classes) if not counts[k]]
        if absent and indices and len(absent) < len(survey.table.classes):
            what = f"classes that do not occur in {split}: {', '.join(absent)}"
            fix = (
                "add pictures of these classes, or remove these classes: training cannot learn them"
                if split.startswith("train")
                else "add pictures of these classes: the mean IoU omits classes without pictures"
            )
            yield Finding("warning", "W-DATA-ABSENT", what, fix)


def check_outlines(survey: Survey) -> Iterator[Finding]:
    """Finds outlines that cross themselves: tools disagree on what is inside of them."""
    where = (shape for m in survey.measurements for shape in m.crossings)
    what = "outlines that cross themselves"
    fix = "they are filled by the even-odd rule; correct the outlines if another area is meant"
    return about_files(where, "warning", "W-SHAPE-CROSSING", what, fix)
