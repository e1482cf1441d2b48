"""Python in processes of their own, forked from a server that has imported torch already: in 0.1 s instead of 5 s.

They differ from new interpreters in this: the libraries of ``PRELOADED`` are in memory before the first line runs;
whatever an interpreter reads from its environment as it starts (hash seed, encodings, threads of OpenMP) is the server's;
and at the end modules are not taken apart one by one, which would take 2 s. Tests of what is imported, of that
environment, of that end, or of peak memory start an interpreter instead. So does every function here where processes
are not forked as on Linux.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import io
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
from pathlib import Path

FORKS = sys.platform == "linux"
# Neither the library nor pytorch_grad_cam: a process may import the package grad-cam in place of ours.
PRELOADED = ("torch", "torchvision", "cv2", "PIL.Image", "matplotlib.figure", "sklearn.decomposition")
REQUEST = 2**20  # bytes of the largest one
STARTING = threading.Lock()


class Forked:
    """A started process, used like :class:`subprocess.Popen`."""

    def __init__(self, status: int):
        self._status = open(status, "rb", buffering=0)
        self.returncode: int | None = None
        self.pid = int(self._status.readline())

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            self.returncode = int(self._status.readline())
            self._status.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start_python(program, *arguments, out=None, err=None, cwd=None, env=None, path=None):
    """Start a program.

    Args:
        program: path of a script, or code.
        arguments: of its command line.
        out, err: open files for what it prints; by default nowhere.
        cwd, env: working directory and environment, by default those of this process.
        path: first entries of ``sys.path``; by default the script's folder, or for code the working directory.
    """
    env = dict(os.environ if env is None else env)
    if not FORKS:
        return _interpreter(program, arguments, out, err, cwd, env, path)
    if path is None:
        path = [str(program.parent)] if isinstance(program, Path) else [""]
    words = [str(word) for word in (program if isinstance(program, Path) else "-c", *arguments)]
    code = None if isinstance(program, Path) else program
    reading, writing = os.pipe()
    with Path(os.devnull).open("w") as nowhere:
        descriptors = [(out or nowhere).fileno(), (err or nowhere).fileno(), writing]
        request = pickle.dumps((words, code, str(Path(cwd or ".").resolve()), env, list(map(str, path))))
        socket.send_fds(_server(), [request], descriptors)
    os.close(writing)
    return Forked(reading)


def _interpreter(program, arguments, out, err, cwd, env, path):
    if path is not None:
        env["PYTHONPATH"] = os.pathsep.join([*map(str, path), *filter(None, [env.get("PYTHONPATH")])])
    command = [sys.executable, *([] if path is None else ["-P"])]
    command += [str(program)] if isinstance(program, Path) else ["-c", program]
    streams = {"stdout": out or subprocess.DEVNULL, "stderr": err or subprocess.DEVNULL}
    return subprocess.Popen([*command, *map(str, arguments)], cwd=cwd, env=env, **streams)


def run_python(program, *arguments, timeout=600, **options) -> subprocess.CompletedProcess:
    """Run a program to its end, with the options of :func:`start_python`; what it prints is text."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = start_python(program, *arguments, out=out, err=err, **options)
        try:
            code = process.wait(timeout)
        except BaseException:
            process.kill()
            raise
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(io.TextIOWrapper(io.BytesIO(file.read()), "utf-8").read())
    return subprocess.CompletedProcess([str(program), *map(str, arguments)], code, *texts)


def rank_environments(count: int) -> list[dict[str, str]]:
    """What torchrun adds to the environments of so many processes that work together."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    return [{**common, "RANK": str(r), "LOCAL_RANK": str(r), "LOCAL_WORLD_SIZE": str(count)} for r in range(count)]


# -- the server --------------------------------------------------------------------------------------------------------


def _server() -> socket.socket:
    """The one server of this process; tests may ask for it in threads."""
    with STARTING:
        return _start_server()


@functools.cache
def _start_server() -> socket.socket:
    """Start an interpreter without anything of this process. It ends with this socket."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, REQUEST)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    with its:
        server = subprocess.Popen(
            [sys.executable, "-P", __file__, str(its.fileno())],
            pass_fds=[its.fileno()],
            cwd=Path(__file__).parent,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
    atexit.register(lambda: (ours.close(), server.wait()))
    return ours


def serve(connection: socket.socket):
    """Fork for each request. Returns in the processes forked, with what they are to do."""
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # objects that no collection touches stay in memory that all processes share
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the test, which ends the server
    while True:
        message, descriptors, *_ = socket.recv_fds(connection, REQUEST, 3)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not message:
            os._exit(0)
        if os.fork() == 0:
            connection.close()
            return attend(*descriptors), pickle.loads(message)
        for descriptor in descriptors:
            os.close(descriptor)


def attend(out: int, err: int, status: int) -> None:
    """Fork once more; wait in the parent, and tell the test the end of the child, in which this returns."""
    child = os.fork()
    if child:
        os.write(status, b"%d\n" % child)
        _, ended = os.waitpid(child, 0)
        os.write(status, b"%d\n" % os.waitstatus_to_exitcode(ended))
        os._exit(0)
    for descriptor, number in ((out, 1), (err, 2)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.close(status)


def become_main(words, code, folder, environment, path):
    """Turn this process into one that was started for a program; returns its code and its names."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    more = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.argv, sys.path[:0] = words, [*path, *more]
    main = types.ModuleType("__main__")
    if code is None:
        main.__file__, code = words[0], Path(words[0]).read_text("utf-8")
    sys.modules["__main__"] = main
    sys.modules["numpy"].random.seed()  # forked generators would all draw the same numbers
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return compile(code, getattr(main, "__file__", "<string>"), "exec"), vars(main)


def exit_code(program, names) -> int:
    """Run the code, with the messages and exit codes of an interpreter."""
    try:
        exec(program, names)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def leave(code: int) -> None:
    """End as an interpreter does, but without finalization."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if code == -signal.SIGINT:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
    os._exit(code & 0xFF)


if __name__ == "__main__":
    _, request = serve(socket.socket(fileno=int(sys.argv[1])))
    leave(exit_code(*become_main(*request)))
