"""Python in processes of their own, forked from a server that has imported torch already: in 0.1 s instead of 5 s.

They differ from new interpreters in this: the libraries of ``PRELOADED`` are in memory before the first line runs,
whatever an interpreter reads from its environment as it starts (hash seed, encodings, threads of OpenMP) is the server's,
and at the end modules are not taken apart one by one, which would take 2 s. Tests of what is imported, of that
environment, of that end, or of peak memory start an interpreter instead.
"""

import atexit
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import types
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Neither the library nor pytorch_grad_cam: a process may import the package grad-cam in place of ours.
PRELOADED = ["torch", "torchvision", "timm", "cv2", "PIL.Image", "matplotlib.figure", "sklearn.decomposition"]


def start_python(program, *arguments, out=os.devnull, err=os.devnull, cwd=".", env=None, path=None) -> BaseProcess:
    """Start a program.

    Args:
        program: path of a script, or code.
        arguments: of its command line.
        out, err: files for what it prints.
        cwd, env: working directory and environment, by default those of this process.
        path: first entries of ``sys.path``; by default the script's folder, or for code the working directory.
    """
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    context.set_forkserver_preload(PRELOADED)
    for name in (out, err):
        Path(name).open("w").close()
    if path is None:
        path = [program.parent] if isinstance(program, Path) else [""]
    place = Path(cwd).resolve(), dict(os.environ if env is None else env), list(map(str, path))
    streams = Path(out).resolve(), Path(err).resolve()
    process = context.Process(target=_run, args=(program, list(map(str, arguments)), streams, place))
    process.start()
    return process


def run_python(program, *arguments, timeout=600, **options) -> subprocess.CompletedProcess:
    """Run a program to its end, with the options of :func:`start_python`; what it prints is text."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("out", "err")]
        process = start_python(program, *arguments, out=files[0], err=files[1], **options)
        try:
            process.join(timeout)
            if process.exitcode is None:
                raise subprocess.TimeoutExpired(str(program), timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(program, process.exitcode, *(file.read_text() for file in files))


def rank_environments(count: int) -> list[dict[str, str]]:
    """What torchrun adds to the environments of so many processes that work together."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    return [{**common, "RANK": str(r), "LOCAL_RANK": str(r), "LOCAL_WORLD_SIZE": str(count)} for r in range(count)]


def _run(program, arguments, streams, place):
    """Turn this process into one that was started for a program, and run it."""
    for number, name in enumerate(streams, 1):
        with Path(name).open("ab") as file:
            os.dup2(file.fileno(), number)
    folder, environment, path = place
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [str(program) if isinstance(program, Path) else "-c", *arguments]
    installed = [entry for entry in sys.path if "site-packages" in entry or not Path(entry).is_relative_to(ROOT)]
    sys.path[:] = [*path, *filter(None, installed)]
    with suppress(KeyError):
        sys.modules["numpy"].random.seed()  # forked generators would all draw the same numbers
    multiprocessing.set_start_method(None, force=True)  # what it starts is started as usual
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        if isinstance(program, Path):
            runpy.run_path(str(program), run_name="__main__")
        else:
            exec(program, vars(main))
    finally:
        atexit._run_exitfuncs()
