"""Command-line conventions: exit codes, messages, memory."""

import gc
import json
import logging
import os
import sys
import warnings

import pytest

from crackcam.cli import console
from crackcam.errors import UserError

logger = logging.getLogger("crackcam.somewhere")


def outcome(capsys, raised=None, code=0):
    """Exit code, output and messages of a command that raises something, or returns a code."""

    @console.command
    def main(argv=None):
        if raised:
            raise raised
        return code

    return main([]), *capsys.readouterr()


@pytest.mark.parametrize("body", ["import gc; enabled = gc.isenabled()", "raise ImportError"])
def test_the_garbage_collector_rests_while_a_module_is_imported_and_no_longer(tmp_path, monkeypatch, body):
    (tmp_path / "slow_module.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "slow_module", raising=False)
    assert gc.isenabled()
    if body == "raise ImportError":
        with pytest.raises(ImportError):
            console.import_without_collection("slow_module")
    else:
        assert not console.import_without_collection("slow_module").enabled
    assert gc.isenabled()
    assert gc.get_freeze_count() > 0


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        (UserError("no class 'a'\n  in b"), 2, "error: no class 'a' in b\n"),
        (UserError("\x1b]0;owned\x07"), 2, "error: \\x1b]0;owned\\x07\n"),
        (OSError(28, "No space left on device", "outputs/grid.png"), 2, "error: No space left on device: outputs/grid.png\n"),
        (OSError(28, "No space left on device"), 2, "error: No space left on device\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (MemoryError(), 2, "error: out of memory: try a smaller --batch-size, or smaller images\n"),
        (RuntimeError("DataLoader worker (pid 7) is killed"), 2, "error: a worker process was killed, as where memory runs out: try fewer --workers, and --resume\n"),
        (SystemExit(0), 0, ""),
        (SystemExit(143), 143, ""),
    ],
    ids=repr,
)  # fmt: skip
def test_exit_codes(capsys, raised, code, message):
    assert outcome(capsys, raised) == (code, "", message)


def test_a_missing_system_library_is_named(capsys):
    error = ImportError("libGL.so.1: cannot open shared object file: No such file or directory")
    code, _, err = outcome(capsys, error)
    assert code == 2
    assert err.startswith("error: a system library is missing (libGL.so.1: cannot open shared object file")


@pytest.mark.parametrize(
    "error", [RuntimeError("a bug"), ValueError("a bug"), ImportError("no module"), OSError("a bug")]
)
def test_bugs_show_a_traceback(capsys, error):
    with pytest.raises(type(error)):
        outcome(capsys, error)


def test_messages_have_their_level_and_results_none(capsys):
    @console.command
    def main(argv=None):
        logger.debug("not shown")
        logger.info("a note \x1b[31m")
        logger.warning("%s is odd", "x")
        logging.getLogger("elsewhere").warning("not ours")
        console.say("a result\n")
        console.print_json({"a": 1})
        return 0

    assert main([]) == 0
    out, err = capsys.readouterr()
    assert err == "a note \\x1b[31m\nwarning: x is odd\n"
    assert out.startswith("a result\\n\n")
    assert json.loads(out.splitlines()[1] + "".join(out.splitlines()[2:])) == {"a": 1}
    logger.info("after the command: nobody listens")
    assert capsys.readouterr().err == ""


def test_errors_of_other_processes_name_them(capsys, monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "here"}.items():
        monkeypatch.setenv(name, value)
    assert outcome(capsys, UserError("no")) == (2, "", "error in process 1: no\n")
    assert outcome(capsys, KeyboardInterrupt()) == (130, "", "")


def test_freed_memory_is_kept_unless_the_user_says_otherwise(monkeypatch):
    import ctypes

    asked = []

    class Library:
        def __init__(self, name):
            pass

        def mallopt(self, what, value):
            asked.append((what, value))
            return value <= 2**25 or what == -1  # an old glibc

    monkeypatch.setattr(ctypes, "CDLL", Library)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]:
        monkeypatch.delenv(name)
    console.keep_freed_memory()
    assert asked == [(-1, 2**31 - 1), (-3, 2**30), (-3, 2**25)]
    asked.clear()
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    console.keep_freed_memory()
    assert asked == []


def test_warnings_of_libraries_are_messages_with_a_level(capsys):
    with console.log_to_stderr():
        warnings.warn("a heatmap is 0 everywhere", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "warning: a heatmap is 0 everywhere\n"
