"""Processes forked from a server are like those of new interpreters, for all that the tests ask of them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import run_python, start_python

pytestmark = pytest.mark.slow


def test_a_script_has_arguments_folders_and_environment_of_its_own(tmp_path):
    (tmp_path / "beside.py").write_text("name = __name__")
    script = tmp_path / "script.py"
    script.write_text(
        "import beside, os, sys\n"
        "print(__name__, __file__ == sys.argv[0], sys.modules['__main__'].beside.name, *sys.argv[1:])\n"
        "print(os.getcwd(), dict(os.environ), 'crackcam' in sys.modules, 'pytorch_grad_cam' in sys.modules)\n"
        "os.system('echo by a child')\n"
    )
    (tmp_path / "work").mkdir()
    done = run_python(script, "a", 7, cwd=tmp_path / "work", env={"PATH": os.environ["PATH"], "GIVEN": "é"})
    lines = done.stdout.splitlines()
    lines.remove("by a child")  # what Python prints into a file comes at its end
    assert lines[0] == "__main__ True beside a 7"
    assert lines[1] == f"{tmp_path / 'work'} {{'PATH': {os.environ['PATH']!r}, 'GIVEN': 'é'}} False False"
    assert (done.returncode, done.stderr) == (0, "")


def test_code_sees_the_working_directory_unless_a_path_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("beside.py").touch()
    code = "import importlib.util as u, sys; print(__name__, u.find_spec('beside') is not None, *sys.argv)"
    assert run_python(code, "x").stdout == "__main__ True -c x\n"
    assert run_python(code, path=[]).stdout == "__main__ False -c\n"


@pytest.mark.parametrize(
    ("code", "returncode", "error"),
    [
        ("raise SystemExit", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("raise SystemExit('in words')", 1, "in words"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("import os; os.kill(os.getpid(), 15)", -15, ""),
        ("import atexit, sys; atexit.register(print, 'bye', file=sys.stderr)", 0, "bye"),
    ],
)
def test_ends(code, returncode, error):
    done = run_python(code)
    assert (done.returncode, done.stdout) == (returncode, "")
    assert (done.stderr.splitlines() or [""])[-1] == error


def test_signals_and_waiting(tmp_path):
    code = "import time; print('ready', flush=True)\ntry: time.sleep(60)\nexcept KeyboardInterrupt: raise SystemExit(7)"
    first, second = (start_python(code, out=tmp_path / name) for name in "12")
    while any((tmp_path / name).read_text() != "ready\n" for name in "12"):
        time.sleep(0.01)
    assert first.is_alive()
    os.kill(first.pid, signal.SIGINT)
    second.kill()
    for process in (first, second):
        process.join(60)
    assert (first.exitcode, second.exitcode) == (7, -9)
    with pytest.raises(subprocess.TimeoutExpired):
        run_python("import time; time.sleep(60)", timeout=0.01)


def test_processes_draw_numbers_of_their_own():
    code = "import numpy, random; print(numpy.random.random(), random.random())"
    first, second = (run_python(code).stdout.split() for _ in range(2))
    assert not {*first} & {*second}


@pytest.mark.skipif(sys.platform != "linux", reason="started otherwise there")
def test_what_they_start_is_started_as_usual():
    code = "import multiprocessing; print(multiprocessing.get_start_method())"
    assert run_python(code).stdout == subprocess.check_output([sys.executable, "-c", code], text=True)
