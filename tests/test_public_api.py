import subprocess
import sys

import pytest

import atrous


def test_public_names_are_sorted_complete_and_documented():
    assert list(atrous.__all__) == sorted(atrous.__all__)
    assert set(atrous.__all__) == set(atrous._PUBLIC)
    for name in atrous.__all__:
        assert getattr(atrous, name).__doc__
        assert name in dir(atrous)


def test_every_public_name_resolves_twice_to_the_same():
    for name in atrous.__all__:
        assert getattr(atrous, name) is getattr(atrous, name)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        atrous.nonsense  # noqa: B018


def test_importing_the_package_and_the_command_line_does_not_import_torch():
    code = "import sys, atrous, atrous.cli, atrous.predict.batch; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_P07_names_of_the_training_half_say_what_to_install_without_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import atrous\n"
        "try: atrous.create_model\n"
        "except atrous.AtrousError as e: assert \"pip install 'atrous[train]'\" in e.fix, e\n"
        "else: raise SystemExit('no error')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_changelog_starts_with_this_version():
    from pathlib import Path

    changelog = (Path(atrous.__file__).parents[1] / "CHANGELOG.md").read_text()
    versions = [line.split()[1] for line in changelog.splitlines() if line.startswith("## ")]
    assert versions[0].strip("[]") in ("Unreleased", atrous.__version__)
    assert atrous.__version__ in " ".join(versions)
