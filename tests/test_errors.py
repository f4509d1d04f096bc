import pickle

import pytest

from atrous.errors import (
    AtrousError,
    DataError,
    ExitCode,
    InputError,
    ResourceError,
    missing_extra,
    unknown_name,
)
from atrous.serve.refusals import Busy


def test_errors_say_what_where_and_the_fix():
    error = AtrousError("E-X", "it broke", where="a/b.png", fix="mend it")
    assert str(error) == "a/b.png: it broke [E-X]\n  fix: mend it"
    assert isinstance(error, ValueError)
    assert error.exit_code == ExitCode.USAGE


def test_errors_survive_the_way_out_of_a_worker_process():
    for kind in (AtrousError, DataError, ResourceError, InputError):
        error = kind("E-X", "it broke", where="a", fix="b")
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is kind
        assert str(copy) == str(error)
        assert copy.exit_code == kind.exit_code
    error = AtrousError("E-X", "it broke", exit_code=ExitCode.DATA)
    assert pickle.loads(pickle.dumps(error)).exit_code == ExitCode.DATA
    assert repr(pickle.loads(pickle.dumps(error))) == repr(error)
    assert pickle.loads(pickle.dumps(Busy("requests", 3.0))).retry_after == 4


def test_hostile_names_are_printed_escaped():
    error = AtrousError("E-X", "it broke", where="a\n\x1b[31mb")
    assert str(error).startswith(r"a\n\x1b[31mb:")


def test_P06_unknown_names_get_the_nearest():
    assert "did you mean 'road'?" in unknown_name("class", "raod", ["road", "sky"]).fix
    assert unknown_name("class", "zzz", ["road", "sky"]).fix == "known: road, sky"
    many = unknown_name("class", "no_5", [f"no_{i}" for i in range(1000)]).fix
    assert many.startswith("did you mean 'no_5")
    assert many.endswith("known: 1000 names")


def test_P07_missing_extras_name_the_pip_command():
    error = missing_extra("training", ModuleNotFoundError("No module", name="torch"))
    assert error.fix.startswith("pip install 'atrous[train]'")
    assert error.exit_code == ExitCode.USAGE


def test_a_missing_module_of_our_own_is_a_bug_not_a_missing_extra():
    with pytest.raises(ModuleNotFoundError):
        missing_extra("training", ModuleNotFoundError("No module", name="atrous.training.loop"))
