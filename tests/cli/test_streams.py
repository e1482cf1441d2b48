"""Standard streams of any encoding, closed or full: exit codes, and nothing but results on stdout."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

NAMES = "\u732b Br\u00fcche \udcff"
COMMAND = f"""
import logging, sys
from crackcam.cli import console
@console.command
def main(argv=None):
    file = open("written.txt", "w")
    logging.getLogger("crackcam").warning("a message about %s", {NAMES!r})
    if "--json" in sys.argv:
        console.print_json({{"name": {NAMES!r}}})
    else:
        console.say("a result of " + {NAMES!r})
        print("a table of", {NAMES!r})
    file.write("done")
    file.close()
    return 0
raise SystemExit(main())
"""


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """Runs a small command with redirections of the shell: exit code, stdout and stderr as bytes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "command.py").write_text(COMMAND, "utf-8", "surrogatepass")

    def run(redirections="", flags="", encoding="utf-8"):
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
        line = f"{sys.executable} command.py {flags} {redirections}"
        done = subprocess.run(["bash", "-c", line], capture_output=True, env=variables, timeout=60)
        assert b"Traceback" not in done.stderr + done.stdout
        assert b"Exception ignored" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8", "cp1252:strict"])
def test_any_encoding_shows_any_name(shell, encoding):
    code, out, _ = shell(encoding=encoding)
    cat = "\u732b" if encoding == "utf-8" else "\\u732b"
    umlaut = "\\xfc" if encoding == "ascii" else "\u00fc"
    first, second = out.decode(encoding.partition(":")[0]).splitlines()
    assert (code, first) == (0, f"a result of {cat} Br{umlaut}che \\udcff")
    assert second == f"a table of {cat} Br{umlaut}che \\udcff"


@pytest.mark.parametrize("redirections", ["2>&-", "2>/dev/full", "2>/dev/null", "<&- 2>&-"])
def test_stdout_holds_nothing_but_json(shell, tmp_path, redirections):
    code, out, err = shell(redirections, "--json")
    assert (code, err) == (0, b"")
    assert json.loads(out) == {"name": NAMES}
    assert (tmp_path / "written.txt").read_text() == "done"


@pytest.mark.parametrize("flags", ["", "--json"])
@pytest.mark.parametrize("redirections", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error_and_no_file_takes_their_place(shell, tmp_path, redirections, flags):
    code, out, err = shell(redirections, flags)
    assert (code, out) == (0, b"")
    assert err.count(b"\n") == (0 if "2>&-" in redirections else 1)
    assert (tmp_path / "written.txt").read_text() == "done"


def test_a_reader_that_has_enough(shell):
    code, out, err = shell("| head -1; exit ${PIPESTATUS[0]}")
    assert code in (0, 141)
    assert (out.count(b"\n"), err.count(b"\n")) == (1, 1)
    code, _, err = shell("| true; exit ${PIPESTATUS[0]}")
    assert code in (0, 141)
    assert err.count(b"\n") == 1


def test_results_that_a_full_disk_does_not_take(shell):
    code, _, err = shell(">/dev/full")
    assert code == 2
    assert err.splitlines()[-1] == b"error: No space left on device"


def test_messages_that_nobody_reads_do_not_end_the_work(shell, tmp_path):
    code, out, _ = shell("2> >(exit); sleep 0", "--json")
    assert json.loads(out) == {"name": NAMES}
    assert (tmp_path / "written.txt").read_text() == "done"
