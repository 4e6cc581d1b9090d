#!/usr/bin/env python3
"""Tests of pydock, on real engines where they are installed.

    python test_pydock.py                 everything that can run here
    python test_pydock.py -k pull -v      the tests whose name contains "pull", one line each
    python test_pydock.py -f              stop at the first failure
    python test_pydock.py -l              list the tests

It starts private parts in a temporary folder, each on first use and once a run, and ends just those: dockerd
(unix socket, mutual TLS, and ssh:// through a private sshd), docker-registry (open, with passwords, with TLS)
and podman's service. They need root and the programs on PATH; what is missing is skipped, and said so at the end.
Differential tests run one command line through the real docker client and through pydock, against the same
engine, and compare stdout, stderr, exit status, the requests on the wire and the files left behind.

Environment:
    PYDOCK_TEST_ENGINES=0     leave out all that needs a real engine, registry, sshd or docker client
    PYDOCK_TEST_REQUIRE=A,B   fail rather than skip when one of these is missing: docker, dockerd, registry,
                              podman, sshd, openssl
    PYDOCK_TEST_REFERENCE=F   a run with the docker client writes what it did into this file; a run without compares
                              with that, so that every Python is held against docker
    PYDOCK_TEST_KILLS=N       kill the processes that share an image store N times, not just 12
    PYDOCK_TEST_SUBJECT=FILE  test this program in pydock's place (another docker client, to test the tests)

Sections: running · folders and processes · terminals · the wire · real parts · base cases · then the tests, in
the order of pydock.py's sections: names, configuration, endpoints, client, streams, flags, dispatch, commands;
archives, registries, the image store, the embedded engine; and last those on real engines.
"""
import argparse
import atexit
import base64
import collections
import contextlib
import ctypes
import difflib
import fnmatch
import gzip
import hashlib
import http.client
import http.server
import io
import json
import os
import pickle
import pty
import random
import re
import select
import shlex
import shutil
import signal
import socket
import ssl
import stat
import string
import struct
import subprocess
import sys
import tarfile
import tempfile
import termios
import threading
import time
import traceback
import unittest
import unittest.mock
import urllib.parse
import zlib

import fcntl

HERE = os.path.dirname(os.path.abspath(__file__))
PYDOCK = os.path.join(HERE, "pydock.py")
SUBJECT = os.environ.get("PYDOCK_TEST_SUBJECT")
REFERENCE = os.environ.get("PYDOCK_TEST_REFERENCE")
ENGINES = os.environ.get("PYDOCK_TEST_ENGINES", "1") != "0"
REQUIRED = set(re.findall(r"\w+", os.environ.get("PYDOCK_TEST_REQUIRE", "")))
TEST_LIMIT = 180       # seconds that one test may take
NOBODY = 65534

# Differences that are known and wait for their mending: {pattern of test names: why}. A test that matches runs;
# its failure counts as skipped. Empty is the wanted state.
PENDING = {}


# ======================================================================================================
# Running: the report, selection by name, tests made from tables
# ======================================================================================================

class Report(unittest.TestResult):
    """Counts tests by what became of them; prints failures as they come and the skips' reasons at the end."""

    def __init__(self, out, verbose=False, failfast=False):
        super().__init__()
        self.out, self.verbose, self.failfast = out, verbose, failfast
        self.states, self.reasons, self.column = {}, collections.OrderedDict(), 0

    def startTest(self, test):
        super().startTest(test)
        self.began = time.time()

    def note(self, test, state, mark, detail=""):
        name = test.id().replace("__main__.", "")
        self.states[name] = state
        if self.verbose:
            seconds = time.time() - getattr(self, "began", time.time())
            self.out.write("%-7s %6.2fs  %s%s\n" % (state, seconds, name, detail and "  (%s)" % detail))
        else:
            self.out.write(mark)
            self.column += 1
            if self.column % 100 == 0:
                self.out.write("\n")
        self.out.flush()

    def addSuccess(self, test):
        super().addSuccess(test)
        if self.states.get(test.id().replace("__main__.", "")) == "failed":
            return      # one of its subtests failed
        reason = pending_reason(test.id())
        self.note(test, "passed", ".", reason and "take it off PENDING: " + reason)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.reasons.setdefault(reason, []).append(test.id())
        self.note(test, "skipped", "s", reason)

    def failed(self, test, error):
        reason = pending_reason(test.id())
        if reason:
            return self.addSkip(test, "known: " + reason)
        self.note(test, "failed", "F")
        text = "".join(traceback.format_exception(*error, chain=False))
        if issubclass(error[0], AssertionError):
            text = re.sub(r"(?s)^Traceback.*?\n(?=\w)", "", text, count=1)
            at = traceback.extract_tb(error[2])
            here = [frame for frame in at if os.path.basename(frame[0]) == "test_pydock.py"]
            text = "line %s\n%s" % (", ".join(str(frame[1]) for frame in here), text)
        self.out.write("\n%s\nFAILED %s: %s\n" % ("-" * 80, test.id().replace("__main__.", ""), text))
        self.out.flush()
        self.column = 0
        if self.failfast:
            self.stop()

    def addError(self, test, err):
        super().addError(test, err)
        self.failed(test, err)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.failed(test, err)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.failed(test, (err[0], err[0]("%s\n%s" % (subtest._subDescription(), err[1])), err[2])
                        if issubclass(err[0], AssertionError) else err)

    def summary(self):
        """Prints why tests were skipped, then the line that ends a run; returns whether all is well."""
        for reason, names in self.reasons.items():
            self.out.write("skipped %d: %s\n" % (len(names), reason))
        counts = collections.Counter(self.states.values())
        self.out.write("%d passed, %d failed, %d skipped\n"
                       % (counts["passed"], counts["failed"], counts["skipped"]))
        self.out.flush()
        return not counts["failed"]


def pending_reason(name):
    """Why the test of this name is known to fail, or ''."""
    return next((why for pattern, why in PENDING.items() if fnmatch.fnmatch(name, "*" + pattern + "*")), "")


def lines(table):
    """Makes one test of each line of a table of command lines; the test gets the words as arguments.

    A line that starts with "!" is one that must fail; it is called with fails=True. "$name" is replaced by
    self.names["name"] when the test runs. Lines that are empty or start with "#" are left out.
    """
    def mark(function):
        rows = [line.strip() for line in table.splitlines()]
        function.rows = [(line, (line.lstrip("! "),), {"fails": line.startswith("!")})
                         for line in rows if line and not line.startswith("#")]
        function.is_command_line = True
        return function
    return mark


def rows(*table):
    """Makes one test of each row: a tuple of arguments, named by its first member."""
    def mark(function):
        function.rows = [(repr(row[0]) if isinstance(row[0], (bytes, bytearray)) else str(row[0]), row, {})
                         for row in table]
        function.is_command_line = False
        return function
    return mark


class Case(unittest.TestCase):
    """The root of all tests here: tests out of tables, a time limit, temporary folders, named parts."""

    maxDiff = None
    names = {}

    def __init_subclass__(cls, **keywords):
        super().__init_subclass__(**keywords)
        for name, function in list(vars(cls).items()):
            for number, (title, arguments, options) in enumerate(getattr(function, "rows", ())):
                slug = re.sub(r"\W+", "_", title).strip("_")[:50] or "empty"
                setattr(cls, "%s__%02d_%s" % (name, number, slug), cls._row_test(function, arguments, options))
            if hasattr(function, "rows"):
                delattr(cls, name)

    @staticmethod
    def _row_test(function, arguments, options):
        def test(self):
            words = arguments
            if function.is_command_line:
                words = [string.Template(word).safe_substitute(self.names)
                         for word in shlex.split(arguments[0])]
            return function(self, *words, **{k: v for k, v in options.items() if v})
        test.__doc__ = function.__doc__
        return test

    def run(self, result=None):
        """As unittest's, but no test takes longer than TEST_LIMIT."""
        def late(*_):
            raise AssertionError("the test took over %d s" % TEST_LIMIT)

        _CURRENT[:] = [self.id().replace("__main__.", ""), 0]
        before = signal.signal(signal.SIGALRM, late)
        signal.alarm(TEST_LIMIT)
        try:
            return super().run(result)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)

    def folder(self):
        """A new folder that goes when the test ends."""
        path = scratch_folder("test")
        self.addCleanup(shutil.rmtree, path, True)
        return path

    def start(self, thing):
        """Enters a context manager (ScriptedEngine, RecordingProxy, Pty, …) until the test ends; returns it."""
        thing.__enter__()
        self.addCleanup(thing.__exit__, None, None, None)
        return thing


def collect(suite):
    """All test cases in a suite, flat."""
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            for inner in collect(test):
                yield inner
        else:
            yield test


def main(argv=None):
    """Runs the tests that the arguments choose; returns the exit status."""
    parser = argparse.ArgumentParser(description="Tests of pydock; see the top of the file.")
    parser.add_argument("-k", metavar="NAME", action="append", default=[], help="only tests whose name has NAME")
    parser.add_argument("-v", action="store_true", help="one line for each test")
    parser.add_argument("-f", action="store_true", help="stop at the first failure")
    parser.add_argument("-l", action="store_true", help="list the tests, run none")
    parser.add_argument("names", nargs="*", help="the same as -k NAME")
    options = parser.parse_args(argv)
    module = sys.modules[__name__]
    wanted = [word.lower() for word in options.k + options.names]
    loader = unittest.TestLoader()
    classes = [value for value in vars(module).values()
               if isinstance(value, type) and issubclass(value, unittest.TestCase)]
    tests = [test for case in classes for test in collect(loader.loadTestsFromTestCase(case))
             if not wanted or any(word in test.id().lower() for word in wanted)]
    if options.l:
        for test in tests:
            print(test.id().replace("__main__.", ""))
        return 0
    report = Report(sys.stdout, options.v, options.f)
    stopped = []

    def stop(number, _):
        stopped.append(number)
        raise KeyboardInterrupt      # the one exception that unittest lets through

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)       # a shell that starts us behind its back has it ignored
    began = time.time()
    status = 0
    try:
        unittest.TestSuite(tests).run(report)
    except KeyboardInterrupt:
        status = 128 + (stopped or [signal.SIGINT])[0]
    Reference.save()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)      # what follows ends the engines; it must not be cut short
    print("\n%s%s, %s, %.0f s" % ("interrupted: " if status else "", SUBJECT or PYDOCK,
                                  sys.version.replace("\n", " "), time.time() - began))
    if not report.states:
        print("no test has such a name")
        status = status or 1
    return status if report.summary() else status or 1


# ======================================================================================================
# Folders and processes
# ======================================================================================================

_SCRATCH = []
_CURRENT = ["", 0]      # the test that runs, and how many folders it has made


def scratch_folder(name, shared=False):
    """A new folder under this run's temporary folder, which goes at the end of the run.

    But for the temporary folder its path is the same in every run, so that recorded outputs can name it; `shared` is
    for what is made once a run, in whichever test comes first.
    """
    if not _SCRATCH:
        _SCRATCH.append(tempfile.mkdtemp(prefix="pydock-test-"))
        os.chmod(_SCRATCH[0], 0o755)      # the tests as another user pass through it
        atexit.register(remove_tree, _SCRATCH[0])
    if shared:
        path = os.path.join(_SCRATCH[0], name)
    else:
        _CURRENT[1] += 1
        path = os.path.join(_SCRATCH[0],
                            "%s-%x-%d" % (name, zlib.crc32(_CURRENT[0].encode()) & 0xffffffff, _CURRENT[1]))
    os.mkdir(path, 0o755)
    return path


def remove_tree(path):
    """Removes a folder and, first, what engines left mounted below it."""
    path = os.path.realpath(path)
    try:
        with open("/proc/self/mountinfo") as mounts:
            below = [line.split()[4] for line in mounts]
    except OSError:
        below = []
    for point in sorted((p for p in below if p.startswith(path + "/")), reverse=True):
        subprocess.call(["umount", "-l", point], stderr=subprocess.DEVNULL)
    shutil.rmtree(path, ignore_errors=True)


def which(name, path=None):
    """The full path of a program on PATH or in the usual system folders, or None."""
    return shutil.which(name, path=path or os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin")


try:
    _LIBC = ctypes.CDLL(None, use_errno=True)
except (OSError, TypeError):
    _LIBC = None


def _die_with_parent():
    """In a child, before its program starts: SIGTERM for it when this process is killed outright."""
    if _LIBC is not None and hasattr(_LIBC, "prctl"):
        _LIBC.prctl(1, signal.SIGTERM, 0, 0, 0)


def spawn(argv, log, env=None):
    """Starts a long-lived program in a session of its own, its output in the file `log`; returns the Popen."""
    with open(log, "ab") as out:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env,
                                start_new_session=True, preexec_fn=_die_with_parent)


def end(process, patience=15):
    """Ends a process that this run started: politely, then not."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def free_port():
    """A TCP port on 127.0.0.1 that nothing listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(ready, seconds, process=None, pause=0.05):
    """Polls ready() until it is true; False when the time is up or the process has ended."""
    limit = time.time() + seconds
    while time.time() < limit:
        if ready():
            return True
        if process is not None and process.poll() is not None:
            return False
        time.sleep(pause)
    return False


Outcome = collections.namedtuple("Outcome", "status stdout stderr seconds")
Outcome.__doc__ = "What a finished command did: exit status (-N: killed by signal N), text of both outputs, time."


_TOOLS = []


def tools():
    """A folder for PATH that has only what clients may need: a credential helper on PATH would change what they do."""
    if not _TOOLS:
        _TOOLS.append(scratch_folder("bin", shared=True))
        for name in ("sh", "ssh", "env", "cat"):
            if which(name):
                os.symlink(which(name), os.path.join(_TOOLS[0], name))
    return _TOOLS[0]


def clean_env(home, **extra):
    """An environment with nothing of the developer's in it."""
    env = {"PATH": tools(), "HOME": home, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8",
           "TZ": "UTC", "TERM": "xterm", "PYTHONDONTWRITEBYTECODE": "1"}
    env.update(extra)
    return {key: value for key, value in env.items() if value is not None}


def run(argv, env=None, input=b"", timeout=60, cwd=None, user=None, binary=False):
    """Runs a command to its end and returns its Outcome; fails the test when it takes over `timeout` seconds.

    `input` is bytes (or text) for its stdin, or a file, or None for an inherited /dev/null; `user` a uid to run as.
    """
    def become():
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)

    if isinstance(input, str):
        input = input.encode()
    feed = input if isinstance(input, bytes) else None
    began = time.time()
    process = subprocess.Popen(
        argv, env=env, cwd=cwd, stdin=subprocess.PIPE if feed is not None else input or subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=become if user is not None else None)
    try:
        out, err = process.communicate(feed, timeout=timeout)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError("still running after %s s: %s\nstdout so far: %r\nstderr so far: %r"
                             % (timeout, " ".join(argv), out[-2000:], err[-2000:])) from None
    except BaseException:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if not binary:
        out, err = (text.decode("utf-8", "backslashreplace") for text in (out, err))
    return Outcome(process.returncode, out, err, time.time() - began)


class Missing(AssertionError):
    """A part that PYDOCK_TEST_REQUIRE names is not there."""


def lacking(part, why):
    """The exception for a part that is not there: a skip, or a failure where the part is required."""
    return Missing("required, but %s" % why) if part in REQUIRED else unittest.SkipTest(why)


_CLIENTS = {}


class Reference:
    """What docker did in each differential test, kept in a file for the runs without it (PYDOCK_TEST_REFERENCE)."""

    _kept = None

    @classmethod
    def load(cls):
        """{(test, number of the call in it): result of docker}, as it was recorded."""
        if cls._kept is None:
            cls._kept = {}
            if REFERENCE and not ENGINES and os.path.exists(REFERENCE):
                with open(REFERENCE, "rb") as file:
                    cls._kept = pickle.load(file)
        return cls._kept

    @classmethod
    def keep(cls, key, result, changing):
        """Records a result of docker; `changing` are [(text, its placeholder)] for what differs from run to run."""
        if REFERENCE:
            cls.load()[key] = cls.generic(result, changing)

    @classmethod
    def recall(cls, key, changing):
        """A recorded result; SkipTest where there is no record at all."""
        if not cls.load():
            raise unittest.SkipTest("no docker client here, and nothing on record of what it does")
        if key not in cls.load():
            raise AssertionError("the run with docker did not record this test")
        return cls.generic(cls.load()[key], [pair[::-1] for pair in changing])

    @classmethod
    def save(cls):
        """Writes the file, at the end of a run with docker."""
        if REFERENCE and ENGINES:
            with open(REFERENCE, "wb") as file:
                pickle.dump(cls.load(), file, 2)

    @classmethod
    def generic(cls, value, changing):
        """The value with texts replaced, however deep."""
        if isinstance(value, (str, bytes)):
            for old, new in changing:
                value = value.replace(old, new) if isinstance(value, str) else value.replace(old.encode(), new.encode())
            return value
        if isinstance(value, dict):
            return {cls.generic(key, changing): cls.generic(item, changing) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)([cls.generic(item, changing) for item in value])
        return value


def docker_client(major=28):
    """The path of the real docker client of this major version; raises SkipTest (or Missing) without it."""
    if not ENGINES:
        raise unittest.SkipTest("engines and the docker client left out (PYDOCK_TEST_ENGINES=0)")
    if not _CLIENTS:
        _CLIENTS[None] = None
        for folder in os.environ.get("PATH", "").split(":"):
            path = os.path.join(folder, "docker")
            if os.access(path, os.X_OK):
                found = re.search(r"version (\d+)\.", run([path, "--version"], clean_env("/")).stdout)
                if found:
                    _CLIENTS.setdefault(int(found.group(1)), path)
    if not _CLIENTS.get(major):
        raise lacking("docker", "there is no docker client %d on PATH" % major)
    return _CLIENTS[major]


_LAUNCHERS = {}


def pydock_command(name="docker"):
    """The argv that starts pydock under a program name, from cached bytecode as an installed module would."""
    if SUBJECT:
        return [SUBJECT]
    if not os.path.exists(PYDOCK):
        raise unittest.SkipTest("there is no pydock.py yet")
    if not _LAUNCHERS:
        _LAUNCHERS[None] = folder = scratch_folder("launcher", shared=True)
        shutil.copy(PYDOCK, os.path.join(folder, "pydock.py"))      # readable by any user, cache beside it
        subprocess.check_call([sys.executable, "-m", "py_compile", "pydock.py"], cwd=folder)
    if name not in _LAUNCHERS:
        _LAUNCHERS[name] = os.path.join(_LAUNCHERS[None], name)
        with open(_LAUNCHERS[name], "w") as file:
            file.write("import sys\nimport pydock\nsys.exit(pydock.main())\n")
    return [sys.executable, _LAUNCHERS[name]]


_MODULE = []


def module():
    """The module under test, imported from the file beside this one; raises SkipTest while there is none."""
    if not os.path.exists(PYDOCK):
        raise unittest.SkipTest("there is no pydock.py yet")
    if not _MODULE:
        sys.path.insert(0, HERE)
        before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
        import pydock
        sys.dont_write_bytecode = before
        _MODULE.append(pydock)
    return _MODULE[0]


# ======================================================================================================
# Terminals: a real pty, and a small screen to see what a progress display leaves
# ======================================================================================================

class Pty:
    """A command on a terminal of its own: feed it, watch it, resize it, and look at the terminal afterwards.

    with Pty(argv, env, columns=80) as terminal:
        terminal.expect("Username: ")
        terminal.send("me\\n")
        status = terminal.wait()
    """

    def __init__(self, argv, env=None, columns=80, rows=24, cwd=None, stdin=None, stdout=None, stderr=None):
        self.argv, self.env, self.cwd = argv, env, cwd
        self.size, self.streams = (rows, columns), (stdin, stdout, stderr)
        self.output = b""      # all that came so far
        self.seen = 0          # how far expect() has read

    def __enter__(self):
        self.master, self.slave = pty.openpty()
        self.resize(self.size[1], self.size[0])
        self.before = termios.tcgetattr(self.slave)

        def take_terminal():
            fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)

        stdin, stdout, stderr = (self.slave if stream is None else stream for stream in self.streams)
        self.process = subprocess.Popen(
            self.argv, env=self.env, cwd=self.cwd, stdin=stdin, stdout=stdout, stderr=stderr,
            start_new_session=True, preexec_fn=take_terminal, pass_fds=(self.slave,))
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            with contextlib.suppress(OSError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)

    def read(self, seconds):
        """Takes in what comes within the time; returns whether anything came."""
        ready, _, _ = select.select([self.master], [], [], seconds)
        if not ready:
            return False
        with contextlib.suppress(OSError):
            self.output += os.read(self.master, 1 << 16)
        return True

    def expect(self, pattern, timeout=20):
        """Waits until the regular expression matches output that no earlier expect() took; returns the match."""
        pattern = re.compile(pattern.encode() if isinstance(pattern, str) else pattern)
        limit = time.time() + timeout
        while True:
            found = pattern.search(self.output, self.seen)
            if found:
                self.seen = found.end()
                return found
            if time.time() > limit or (self.process.poll() is not None and not self.read(0.1)):
                raise AssertionError("no %r in the terminal's output: %r" % (pattern.pattern, self.output))
            self.read(0.05)

    def send(self, data):
        """Types text or bytes."""
        os.write(self.master, data.encode() if isinstance(data, str) else data)

    def resize(self, columns, rows=24):
        """Gives the terminal a new size; the foreground process gets SIGWINCH."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def signal(self, number):
        """Sends a signal to the command."""
        self.process.send_signal(number)

    def wait(self, timeout=30):
        """Waits for the command's end while taking in its output; returns the exit status."""
        limit = time.time() + timeout
        while self.process.poll() is None:
            if time.time() > limit:
                raise AssertionError("still running after %s s: %s\noutput so far: %r"
                                     % (timeout, " ".join(self.argv), self.output[-2000:]))
            self.read(0.05)
        while self.read(0.02):
            pass
        return self.process.returncode

    @property
    def text(self):
        """All output so far, as text."""
        return self.output.decode("utf-8", "backslashreplace")

    @property
    def modes(self):
        """The terminal's settings now (compare with .before)."""
        return termios.tcgetattr(self.slave)

    @property
    def echo(self):
        """Whether the terminal echoes what is typed."""
        return bool(self.modes[3] & termios.ECHO)


class Screen:
    """A terminal's screen, as far as progress displays use one: text, CR, LF, BS, cursor moves, erasing, wrapping.

    Lines that scroll off the top are kept, so `lines` is all that a user could scroll back to.
    """

    def __init__(self, columns=80, rows=24):
        self.columns, self.rows = columns, rows
        self.grid, self.top, self.row, self.column = [[]], 0, 0, 0
        self.unknown = []      # sequences that this screen doesn't do

    def feed(self, data):
        """Shows output; returns self."""
        if isinstance(data, bytes):
            data = data.decode("utf-8", "replace")
        for text, final, number, letter in re.findall(r"([^\x1b]+)|(\x1b\[([0-9;?]*)([A-Za-z]))|\x1b", data):
            if final:
                self._control(number, letter)
            for char in text:
                self._put(char)
        return self

    def _line(self):
        while len(self.grid) <= self.row:
            self.grid.append([])
        self.top = max(self.top, len(self.grid) - self.rows)
        return self.grid[self.row]

    def _put(self, char):
        if char == "\r":
            self.column = 0
        elif char == "\n":
            self.row += 1
            self._line()
        elif char == "\b":
            self.column = max(0, self.column - 1)
        elif char >= " ":
            if self.column >= self.columns:
                self.row, self.column = self.row + 1, 0
            line = self._line()
            line.extend(" " * (self.column + 1 - len(line)))
            line[self.column] = char
            self.column += 1

    def _control(self, number, letter):
        count = int(number) if number.isdigit() else 0
        line = self._line()
        if letter == "A":
            self.row = max(self.top, self.row - (count or 1))
        elif letter == "B":
            self.row = min(max(self.top + self.rows - 1, 0), self.row + (count or 1))
            self._line()
        elif letter == "C":
            self.column = min(self.columns - 1, self.column + (count or 1))
        elif letter == "D":
            self.column = max(0, self.column - (count or 1))
        elif letter == "G":
            self.column = max(0, (count or 1) - 1)
        elif letter == "K":
            if count == 0:
                del line[self.column:]
            elif count == 1:
                line[:self.column + 1] = " " * min(len(line), self.column + 1)
            else:
                del line[:]
        elif letter == "J":
            if count == 0:
                del line[self.column:]
                del self.grid[self.row + 1:]
            else:
                self.grid, self.top, self.row, self.column = [[]], 0, 0, 0
        elif letter not in "mhl":
            self.unknown.append(number + letter)

    @property
    def lines(self):
        """The text of all lines, trailing blanks and empty lines at the end removed."""
        text = ["".join(line).rstrip() for line in self.grid]
        while text and not text[-1]:
            text.pop()
        return text


# ======================================================================================================
# The wire: requests, an engine that answers from a script, a proxy that writes down what it carries
# ======================================================================================================

class Request:
    """One HTTP request as it was seen.

    method, target (as sent), path (version prefix removed), version ("1.41" or ""), query ({name: [values]}),
    headers (list of pairs), body (bytes), connection (number of its connection), rest (bytes after an upgrade).
    """

    def __init__(self, line, headers, connection=0):
        self.method, self.target = (line.split(" ") + [""])[:2]
        self.headers, self.connection, self.body, self.rest = headers, connection, b"", b""
        path, _, query = self.target.partition("?")
        self.version, self.path = re.match(r"(?:/v(\d+\.\d+)(?=/))?(.*)", path).groups()
        self.version = self.version or ""
        self.query = urllib.parse.parse_qs(query, keep_blank_values=True)

    def header(self, name, default=None):
        """The value of a header (the first), or the default."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), default)

    @property
    def auth(self):
        """The decoded X-Registry-Auth, or None."""
        value = self.header("X-Registry-Auth")
        return None if value is None else json.loads(base64.urlsafe_b64decode(value).decode())

    def __repr__(self):
        return "%s %s" % (self.method, self.target)


def read_head(file, connection=0):
    """Reads a request line and headers off a binary file; None at its end."""
    line = file.readline()
    if not line.strip():
        return None
    headers = []
    while True:
        field = file.readline().decode("latin-1").rstrip("\r\n")
        if not field:
            break
        name, _, value = field.partition(":")
        headers.append((name, value.strip()))
    return Request(line.decode("latin-1").strip(), headers, connection)


def read_body(file, request):
    """Reads the request's body off the file into request.body, piece by piece, so that a cut one is seen too."""
    if "chunked" in (request.header("Transfer-Encoding") or ""):
        while True:
            size = int(file.readline().split(b";")[0].strip() or b"0", 16)
            request.body += file.read(size)
            file.readline()
            if not size:
                break
    else:
        request.body += file.read(int(request.header("Content-Length") or 0))


class Act:
    """Something other than bytes that a scripted answer does."""

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return self.name


CLOSE = Act("CLOSE")          # close the connection
RESET = Act("RESET")          # close it with a TCP reset (unix: just close)
SILENCE = Act("SILENCE")      # say nothing more, keep it open
DIE = Act("DIE")              # the whole engine goes: its socket and all connections


def answer(status=200, body=b"", content_type="application/json", headers=(), length=None, close=False):
    """The bytes of a whole HTTP answer; `body` may be bytes, text or something for JSON. `length` lies about it."""
    if not isinstance(body, (bytes, str)):
        body = json.dumps(body)
    if isinstance(body, str):
        body = body.encode()
    head = ["HTTP/1.1 %d %s" % (status, "Teapot" if status == 418 else http.client.responses[status])]
    if content_type:
        head.append("Content-Type: " + content_type)
    head += ["%s: %s" % pair for pair in headers]
    if length is not False:
        head.append("Content-Length: %d" % (len(body) if length is None else length))
    if close:
        head.append("Connection: close")
    return ("\r\n".join(head) + "\r\n\r\n").encode() + body


def chunk(data):
    """One HTTP chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def chunked(*pieces, status=200, content_type="application/json", end=True, headers=()):
    """A chunked answer as a list of pieces: the head, one chunk for each bytes piece, pauses and acts as they are."""
    head = answer(status, b"", content_type, tuple(headers) + (("Transfer-Encoding", "chunked"),), length=False)
    return ([head] + [chunk(piece) if isinstance(piece, bytes) else piece for piece in pieces]
            + ([b"0\r\n\r\n"] if end else []))


def messages(*objects, **options):
    """A JSON message stream, one chunk each; numbers among the objects are pauses, acts are acts."""
    return chunked(*[thing if isinstance(thing, (int, float, Act, bytes)) else
                     (json.dumps(thing) + "\r\n").encode() for thing in objects], **options)


def pieces_of(thing):
    """An answer as an iterable of pieces."""
    return [thing] if isinstance(thing, (bytes, Act, int, float)) or callable(thing) else thing


def split(thing, size=1, pause=0.0):
    """The same answer in pieces of `size` bytes, each sent alone."""
    for piece in pieces_of(thing):
        if isinstance(piece, bytes):
            for at in range(0, len(piece), size):
                yield piece[at:at + size]
                if pause:
                    yield pause
        else:
            yield piece


def glue(thing):
    """The same answer in one send (pauses left out)."""
    return b"".join(piece for piece in pieces_of(thing) if isinstance(piece, bytes))


def cut(thing, size, act=CLOSE):
    """The first `size` bytes of the answer (negative: all but so many), then the act."""
    return [glue(thing)[:size], act]


class early:
    """Marks an answer that is sent before the request's body is read."""

    def __init__(self, thing):
        self.answer = thing


class ScriptedEngine:
    """An engine that answers from a script, over a unix socket or TCP (tls=(certificate, key, ca or None)).

    with ScriptedEngine(("GET", "/images/json", answer(200, []))) as engine:
        ... engine.host ... engine.requests ...

    The script is a table of (method, regular expression for the whole path without version prefix, answer); the
    first that fits is used; method "*" is any. An answer is bytes, or an iterable of pieces (bytes, a pause in
    seconds, an Act, a function (request, socket, file) → answer or None), or early(answer), or a function
    (request) → answer. An answer that is a list of lists in Turns() is used one after the other. Where nothing fits:
    /_ping is answered as an engine with API version `api` does (None: without the header), all else gets 404.
    """

    def __init__(self, *script, api="1.41", tcp=False, tls=None, ostype="linux", path=None):
        self.script, self.api, self.ostype = list(script), api, ostype
        self.tcp, self.tls, self.path = tcp or bool(tls), tls, path
        self.requests, self.connections, self.errors = [], 0, []
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.open = set()

    def __enter__(self):
        self.stopping.clear()
        if self.tcp:
            self.listener = socket.socket()
            self.listener.bind(("127.0.0.1", 0))
            self.port = self.listener.getsockname()[1]
            self.host = "tcp://127.0.0.1:%d" % self.port
        else:
            self.path = self.path or os.path.join(scratch_folder("engine"), "e.sock")
            self.listener = socket.socket(socket.AF_UNIX)
            self.listener.bind(self.path)
            os.chmod(self.path, 0o666)
            self.host = "unix://" + self.path
        if self.tls:
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if hasattr(ssl, "PROTOCOL_TLS_SERVER")
                                          else ssl.PROTOCOL_TLS)
            self.context.load_cert_chain(self.tls[0], self.tls[1])
            if len(self.tls) > 2 and self.tls[2]:
                self.context.load_verify_locations(self.tls[2])
                self.context.verify_mode = ssl.CERT_REQUIRED
        self.listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        with self.lock:
            for sock in self.open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        if not self.tcp:
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    def restart(self):
        """Comes up again if it is down, on a unix socket under the same name."""
        if self.stopping.is_set():
            self.__enter__()

    def on(self, method, pattern, thing):
        """Puts one more line before the script; returns self."""
        self.script.insert(0, (method, pattern, thing))
        return self

    def calls(self, path=".*"):
        """The recorded requests whose path fits, without the pings."""
        return [r for r in list(self.requests) if r.path != "/_ping" and re.match("(?:%s)$" % path, r.path)]

    def _accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(sock, self.connections), daemon=True).start()

    def _serve(self, sock, number):
        with self.lock:
            self.open.add(sock)
        file = None
        try:
            if self.tls:
                plain, sock = sock, self.context.wrap_socket(sock, server_side=True)
                with self.lock:
                    self.open.discard(plain)
                    self.open.add(sock)
            if self.tcp:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not self.tls and not sock.recv(1, socket.MSG_PEEK).isalpha():
                sock.sendall(answer(400, "not HTTP\n", "text/plain", close=True))      # a TLS hello, say
                return
            file = sock.makefile("rb")
            while True:
                request = read_head(file, number)
                if request is None:
                    break
                self.requests.append(request)
                thing = self._choose(request)
                if isinstance(thing, early):
                    thing = thing.answer
                else:
                    read_body(file, request)
                if callable(thing) and not isinstance(thing, Act):
                    thing = thing(request)
                if not self._send(sock, file, request, thing):
                    break
        except (OSError, ValueError) as error:      # the client went away, or the test ended
            self.errors.append(error)
        finally:
            with self.lock:
                self.open.discard(sock)
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            if file is not None:
                file.close()        # it holds the descriptor, and PyPy collects late
            sock.close()

    def _choose(self, request):
        for method, pattern, thing in self.script:
            if method in ("*", request.method) and re.match("(?:%s)$" % pattern, request.path):
                return thing
        if request.path == "/_ping":
            headers = [("Ostype", self.ostype), ("Docker-Experimental", "false"), ("Server", "Scripted/1.0")]
            if self.api:
                headers.append(("Api-Version", self.api))
            return answer(200, b"" if request.method == "HEAD" else b"OK", "text/plain; charset=utf-8", headers,
                          length=2)
        return answer(404, b"" if request.method == "HEAD" else {"message": "page not found"})

    def _send(self, sock, file, request, thing):
        """Sends an answer; returns whether the connection goes on."""
        for piece in pieces_of(thing):
            if piece is CLOSE:
                return False
            elif piece is RESET:
                if self.tcp:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return False
            elif piece is SILENCE:
                self.stopping.wait(TEST_LIMIT)
                return False
            elif piece is DIE:
                self.__exit__()
                return False
            elif isinstance(piece, (int, float)):
                self.stopping.wait(piece)
            elif callable(piece):
                more = piece(request, sock, file)
                if more is not None and not self._send(sock, file, request, more):
                    return False
            else:
                sock.sendall(piece)
        return True


class Turns:
    """An answer function that gives its answers one after the other, the last one for ever."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def __call__(self, request):
        thing = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return thing(request) if callable(thing) else thing


class RecordingProxy:
    """A unix socket in front of an engine (unix:// or tcp:// without TLS) that keeps what goes through.

    with RecordingProxy(dockerd.host) as proxy:
        ... proxy.host ... proxy.requests ... proxy.clear() ...
    """

    def __init__(self, host):
        self.target, self.connections, self.lock = host, [], threading.Lock()

    def __enter__(self):
        self.path = os.path.join(scratch_folder("proxy"), "p.sock")
        self.host = "unix://" + self.path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def clear(self):
        """Forgets what was recorded."""
        with self.lock:
            self.connections = []

    @property
    def requests(self):
        """All requests so far, in the order in which their connections were made."""
        found = []
        with self.lock:
            sent = [(number, bytes(up)) for number, (up, _) in enumerate(self.connections, 1)]
        for number, data in sent:
            file = io.BytesIO(data)
            while True:
                request = read_head(file, number)
                if request is None:
                    break
                found.append(request)
                with contextlib.suppress(ValueError):
                    read_body(file, request)
                if request.header("Upgrade"):
                    request.rest = file.read()
        return found

    def calls(self, path=".*"):
        """The recorded requests whose path fits, without the pings."""
        return [r for r in self.requests if r.path != "/_ping" and re.match("(?:%s)$" % path, r.path)]

    @property
    def answers(self):
        """The bytes that came back, one item for each connection."""
        with self.lock:
            return [bytes(down) for _, down in self.connections]

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            record = (bytearray(), bytearray())      # bytes to the engine, bytes from it
            with self.lock:
                self.connections.append(record)
            try:
                engine = connect(self.target)
            except OSError:
                client.close()
                continue
            ended = []
            for source, target, memory in ((client, engine, record[0]), (engine, client, record[1])):
                threading.Thread(target=self._copy, args=(source, target, memory, ended), daemon=True).start()

    def _copy(self, source, target, memory, ended):
        with contextlib.suppress(OSError):
            while True:
                data = source.recv(1 << 16)
                if not data:
                    break
                if len(memory) < 1 << 24:
                    memory += data
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
        ended.append(self)
        if len(ended) == 2:
            source.close()
            target.close()


def connect(host):
    """A socket to a unix:// or tcp:// address."""
    scheme, _, rest = host.partition("://")
    if scheme == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(rest)
        return sock
    name, _, port = rest.rpartition(":")
    return socket.create_connection((name, int(port)))


class UnixConnection(http.client.HTTPConnection):
    """http.client over any address that connect() takes."""

    def __init__(self, host):
        super().__init__("localhost", timeout=60)
        self.address = host

    def connect(self):
        self.sock = connect(self.address)
        self.sock.settimeout(60)


def api(host, method, path, body=None, headers=()):
    """One plain request to an engine, past both clients; returns (status, decoded JSON, text or bytes)."""
    connection = UnixConnection(host)
    try:
        headers = dict(headers)
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        data = response.read()
    finally:
        connection.close()
    if "json" in (response.getheader("Content-Type") or ""):
        with contextlib.suppress(ValueError):
            return response.status, json.loads(data.decode())
        return response.status, data.decode()
    return response.status, data


# ======================================================================================================
# Real parts: certificates, dockerd, sshd, registries, podman, a credential helper
# ======================================================================================================

class Part:
    """A real part that a run starts once, on first use, and stops at its end.

    A subclass has `name` (as PYDOCK_TEST_REQUIRE has it), `programs`, `root` (needs root) and start(), which raises
    RuntimeError when it does not come up. get() gives the one instance, or raises SkipTest (or Missing) each time.
    """

    name, programs, root, engine = "", (), True, True
    _made = {}

    @classmethod
    def get(cls):
        if cls not in Part._made:
            Part._made[cls] = cls._make()
        made = Part._made[cls]
        if isinstance(made, str):
            raise lacking(cls.name, made)
        return made

    @classmethod
    def _make(cls):
        """The started part, or the reason why there is none."""
        if cls.engine and not ENGINES:
            return "engines and the docker client left out (PYDOCK_TEST_ENGINES=0)"
        absent = [program for program in cls.programs if not which(program)]
        if absent:
            return "%s: not installed: %s" % (cls.name, ", ".join(absent))
        if cls.root and os.geteuid():
            return "%s: needs root" % cls.name
        part = cls()
        part.processes = []
        part.dir = scratch_folder(cls.__name__.lower(), shared=True)
        atexit.register(part.stop)
        try:
            part.start()
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            part.stop()
            return "%s: does not start: %s" % (cls.name, error)
        return part

    def path(self, *names):
        """A path in the part's folder."""
        return os.path.join(self.dir, *names)

    def write(self, name, text, mode=0o644):
        """Writes a file in the part's folder; returns its path."""
        path = self.path(name)
        with open(path, "wb") as file:
            file.write(text.encode() if isinstance(text, str) else text)
        os.chmod(path, mode)
        return path

    def launch(self, argv, ready, env=None, seconds=30):
        """Starts a program and waits until ready() is true."""
        process = spawn(argv, self.path("log"), env)
        self.processes.append(process)
        if not wait_until(ready, seconds, process):
            with open(self.path("log"), errors="replace") as log:
                raise RuntimeError("%s: %s" % (argv[0], log.read()[-1500:].strip() or "no word from it"))
        return process

    def stop(self):
        """Ends what start() began."""
        for process in reversed(self.processes):
            end(process)
        self.processes = []

    def start(self):
        raise NotImplementedError


def answers(host, path="/_ping"):
    """Whether an engine answers a GET with 200."""
    try:
        return api(host, "GET", path)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


class Certificates(Part):
    """A CA with a server's and a client's certificate, and a second CA that nobody trusts, with the same.

    folder(KIND) is a directory with ca.pem, cert.pem and key.pem for DOCKER_CERT_PATH:
        client    all right           stranger  right CA, a certificate of the other CA
        other-ca  trusts the other CA nocert    only the right ca.pem
        mixed     the key belongs to another certificate
    server(NAME) is (cert, key) for "server" (127.0.0.1, ::1, localhost) or "elsewhere" (another name).
    They are made as Docker's own guide makes them, which leaves out what strict X.509 checks ask for.
    """

    name, programs, root, engine = "openssl", ("openssl",), False, False

    def start(self):
        self._authority("ca")
        self._authority("other")
        self._signed("server", "ca", "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1\nextendedKeyUsage=serverAuth\n")
        self._signed("elsewhere", "ca", "subjectAltName=DNS:elsewhere.example\nextendedKeyUsage=serverAuth\n")
        self._signed("client", "ca", "extendedKeyUsage=clientAuth\n")
        self._signed("stranger", "other", "extendedKeyUsage=clientAuth\n")
        for kind, ca, cert, key in (("client", "ca", "client", "client"), ("stranger", "ca", "stranger", "stranger"),
                                    ("other-ca", "other", "client", "client"), ("nocert", "ca", "", ""),
                                    ("mixed", "ca", "client", "stranger")):
            os.mkdir(self.path(kind))
            shutil.copy(self.path(ca + ".pem"), self.path(kind, "ca.pem"))
            if cert:
                shutil.copy(self.path(cert + ".crt"), self.path(kind, "cert.pem"))
                shutil.copy(self.path(key + ".key"), self.path(kind, "key.pem"))

    def folder(self, kind):
        """The directory of that kind."""
        return self.path(kind)

    def server(self, name="server"):
        """(certificate, key) of a server."""
        return self.path(name + ".crt"), self.path(name + ".key")

    def _openssl(self, *args):
        done = run([which("openssl")] + list(args), clean_env(self.dir), cwd=self.dir)
        if done.status:
            raise RuntimeError(done.stderr)

    def _authority(self, name):
        self._openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3", "-subj", "/CN=pydock-" + name,
                      "-keyout", name + ".key", "-out", name + ".pem")

    def _signed(self, name, ca, extensions):
        self.write(name + ".ext", extensions)
        self._openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=" + name,
                      "-keyout", name + ".key", "-out", name + ".csr")
        self._openssl("x509", "-req", "-days", "3", "-in", name + ".csr", "-CA", ca + ".pem", "-CAkey", ca + ".key",
                      "-CAcreateserial", "-extfile", name + ".ext", "-out", name + ".crt")


APPLETS = ("sh", "ls", "cat", "echo", "sleep", "true", "false", "env", "pwd", "ps", "id", "head", "tail", "seq", "tty",
           "stty", "kill", "touch", "mkdir", "rm", "ln", "dd", "wc", "test", "printf", "date", "hostname", "yes", "od")


def busybox_tar():
    """The files of a small image with a shell, as a tar; raises SkipTest without a busybox."""
    busybox = which("busybox")
    if not busybox:
        raise unittest.SkipTest("not installed: busybox")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.add(busybox, "bin/busybox")
        for name in APPLETS:
            link = tarfile.TarInfo("bin/" + name)
            link.type, link.linkname, link.mode = tarfile.SYMTYPE, "busybox", 0o777
            tar.addfile(link)
        for name in ("tmp", "etc", "dev", "proc", "sys"):
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(directory)
    return out.getvalue()


def layered_image(name, layers=3, size=40000, seed="pydock"):
    """A `docker save` archive of an image with several layers, always the same for the same arguments."""
    def add(tar, path, data):
        member = tarfile.TarInfo(path)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))

    def noise(text):
        blocks = (hashlib.sha256(("%s %d" % (text, at)).encode()).digest() for at in range(size // 32 + 1))
        return b"".join(blocks)[:size]

    parts, out = [], io.BytesIO()
    for number in range(layers):
        layer = io.BytesIO()
        with tarfile.open(fileobj=layer, mode="w") as tar:
            add(tar, "data/%d" % number, noise("%s %s %d" % (seed, name, number)))
        parts.append(layer.getvalue())
    config = json.dumps({
        "architecture": "amd64", "os": "linux", "created": "2024-01-02T03:04:05.678Z",
        "config": {"Cmd": ["/data/0"], "Env": ["PATH=/bin"], "Labels": {"of": "pydock's tests"}},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(p).hexdigest() for p in parts]},
        "history": [{"created": "2024-01-02T03:04:05Z", "created_by": "layer %d" % n} for n in range(layers)],
    }).encode()
    with tarfile.open(fileobj=out, mode="w") as tar:
        config_name = hashlib.sha256(config).hexdigest() + ".json"
        add(tar, config_name, config)
        for number, data in enumerate(parts):
            add(tar, "%d/layer.tar" % number, data)
        add(tar, "manifest.json", json.dumps([{
            "Config": config_name, "RepoTags": [name] if name else None,
            "Layers": ["%d/layer.tar" % number for number in range(layers)]}]).encode())
    return out.getvalue()


def must(result, *good):
    """The value of an api() result whose status is one of the good ones (any below 400 without)."""
    status, value = result
    if status not in good and (good or status >= 400):
        raise RuntimeError("the engine says %d: %s" % (status, value))
    return value


class Dockerd(Part):
    """dockerd on a unix socket (.host) and, with mutual TLS, on TCP (.tls_host); has busybox:latest."""

    name, programs = "dockerd", ("dockerd", "containerd", "runc")

    def start(self):
        self.socket = self.path("d.sock")
        self.host = "unix://" + self.socket
        try:
            certificates = Certificates.get()
        except (unittest.SkipTest, Missing):
            certificates = None
        for driver in ("overlay2", "vfs"):
            argv = [which("dockerd"), "--config-file", self.write("daemon.json", "{}"), "--data-root", self.path("data"),
                    "--exec-root", self.path("exec"), "--pidfile", self.path("pid"), "-H", self.host, "--bridge=none",
                    "--iptables=false", "--ip-masq=false", "--storage-driver=" + driver]
            if certificates:
                self.port = free_port()
                self.tls_host = "tcp://127.0.0.1:%d" % self.port
                cert, key = certificates.server()
                argv += ["-H", self.tls_host, "--tlsverify", "--tlscacert", certificates.path("ca.pem"),
                         "--tlscert", cert, "--tlskey", key]
            try:
                self.launch(argv, lambda: answers(self.host))
                break
            except RuntimeError:
                if driver == "vfs":
                    raise
                self.stop()
        must(api(self.host, "POST", "/images/create?fromSrc=-&repo=busybox&tag=latest", busybox_tar()))

    def load(self, archive):
        """Loads a `docker save` archive."""
        must(api(self.host, "POST", "/images/load?quiet=1", archive, {"Content-Type": "application/x-tar"}))

    def tag(self, source, target):
        """Gives an image one more name."""
        repo, _, tag = target.rpartition(":")
        must(api(self.host, "POST", "/images/%s/tag?repo=%s&tag=%s" % (source, repo, tag)))

    def push(self, name, auth=None):
        """Pushes an image past both clients."""
        repo, _, tag = name.rpartition(":")
        auth = base64.urlsafe_b64encode(json.dumps(auth or {}).encode()).decode()
        text = must(api(self.host, "POST", "/images/%s/push?tag=%s" % (repo, tag), b"", {"X-Registry-Auth": auth}))
        if "errorDetail" in str(text):
            raise RuntimeError("push: %s" % text)

    def remove_image(self, name):
        """Removes an image's name; it need not be there."""
        must(api(self.host, "DELETE", "/images/%s?force=1" % name), 200, 404)

    def container(self, name, *command, start=True, **config):
        """Makes (and starts) a container of busybox, in place of one of the same name; returns its id."""
        self.remove_container(name)
        config = dict({"Image": "busybox:latest", "Cmd": list(command) or ["sleep", "1000"],
                       "HostConfig": {"NetworkMode": "none"}}, **config)
        made = must(api(self.host, "POST", "/containers/create?name=" + name, config))["Id"]
        if start:
            must(api(self.host, "POST", "/containers/%s/start" % made))
        return made

    def remove_container(self, name):
        """Removes a container; it need not be there."""
        must(api(self.host, "DELETE", "/containers/%s?force=1&v=1" % name), 204, 404)


class Podman(Part):
    """podman's Docker-compatible service on a unix socket (.host); has busybox:latest."""

    name, programs = "podman", ("podman", "runc")

    def start(self):
        self.host = "unix://" + self.path("p.sock")
        config = self.write("containers.conf", '[containers]\ndefault_ulimits = ["nofile=1024:1024",'
                            '"nproc=4096:4096"]\n[engine]\ncgroup_manager = "cgroupfs"\nruntime = "runc"\n')
        env = clean_env(self.dir, CONTAINERS_CONF=config, TMPDIR=self.dir, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin")
        self.launch([which("podman"), "--storage-driver=vfs", "--root", self.path("root"), "--runroot", self.path("run"),
                     "--tmpdir", self.path("tmp"), "system", "service", "--time=0", self.host],
                    lambda: answers(self.host), env)
        must(api(self.host, "POST", "/v1.41/images/create?fromSrc=-&repo=busybox&tag=latest", busybox_tar()))


class Registry(Part):
    """The registry, open: .address is HOST:PORT, which dockerd takes as insecure since it is on loopback."""

    name, programs, root = "registry", ("docker-registry",), False
    auth = tls = ""
    user, password = "tester", "s3cret-word"

    def start(self):
        self.port = free_port()
        self.address = "127.0.0.1:%d" % self.port
        config = {"version": "0.1", "log": {"level": "warn"},
                  "storage": {"filesystem": {"rootdirectory": self.path("data")}, "delete": {"enabled": True}},
                  "http": {"addr": self.address}}
        self.configure(config)
        path = self.write("config.yml", json.dumps(config))      # JSON is YAML too
        self.launch([which("docker-registry"), "serve", path], self.listens, clean_env(self.dir))

    def configure(self, config):
        """What a variant adds to the configuration."""

    def listens(self):
        """Whether it takes connections."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class PasswordRegistry(Registry):
    """The registry that asks for .user and .password (htpasswd)."""

    programs = ("docker-registry", "htpasswd")

    def configure(self, config):
        line = run([which("htpasswd"), "-nbB", self.user, self.password], clean_env(self.dir)).stdout
        config["auth"] = {"htpasswd": {"realm": "basic-realm", "path": self.write("htpasswd", line)}}


class TlsRegistry(PasswordRegistry):
    """The registry with passwords and a certificate of the tests' CA."""

    def configure(self, config):
        super().configure(config)
        cert, key = Certificates.get().server()
        config["http"]["tls"] = {"certificate": cert, "key": key}


class Sshd(Part):
    """A private sshd, and an `ssh` in .bin (for PATH) that knows its host key and has a key that it takes.

    .host is ssh://USER@127.0.0.1:PORT; the remote command sees `docker` in .remote_bin and DOCKER_HOST pointing at
    dockerd. .commands() tells the remote command lines; use(argv) chooses what the remote `docker` is.
    """

    name, programs = "sshd", ("sshd", "ssh", "ssh-keygen")

    def start(self):
        import pwd
        user = pwd.getpwuid(os.geteuid()).pw_name
        self.port = free_port()
        self.host = "ssh://%s@127.0.0.1:%d" % (user, self.port)
        self.remote_bin, self.bin = self.path("remote-bin"), self.path("bin")
        os.mkdir(self.remote_bin)
        os.mkdir(self.bin)
        if not os.path.isdir("/run/sshd"):
            os.makedirs("/run/sshd", 0o755)      # sshd will not start without its empty folder
        for key in ("host_key", "user_key"):
            done = run([which("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", self.path(key)], clean_env(self.dir))
            if done.status:
                raise RuntimeError(done.stderr)
        shutil.copy(self.path("user_key.pub"), self.path("authorized_keys"))
        with open(self.path("host_key.pub")) as file:
            self.write("known_hosts", "[127.0.0.1]:%d %s" % (self.port, file.read()))
        self.write("docker-host", Dockerd.get().host)
        command = self.write("command", '#!/bin/sh\nprintf "%%s\\n" "$SSH_ORIGINAL_COMMAND" >> %s\n'
                             'export DOCKER_HOST="$(cat %s)" PATH=%s:/usr/bin:/bin\nexec sh -c "$SSH_ORIGINAL_COMMAND"\n'
                             % (self.path("commands"), self.path("docker-host"), self.remote_bin), 0o755)
        self.write("sshd_config", "\n".join((
            "ListenAddress 127.0.0.1:%d" % self.port, "HostKey " + self.path("host_key"),
            "AuthorizedKeysFile " + self.path("authorized_keys"), "PidFile " + self.path("pid"), "StrictModes no",
            "UsePAM no", "PermitRootLogin yes", "PasswordAuthentication no", "KbdInteractiveAuthentication no",
            "MaxStartups 100", "ForceCommand " + command, "")))
        self.write("ssh_config", "\n".join((
            "UserKnownHostsFile " + self.path("known_hosts"), "GlobalKnownHostsFile none",
            "IdentityFile " + self.path("user_key"), "IdentitiesOnly yes", "BatchMode yes",
            "StrictHostKeyChecking yes", "")))
        os.chmod(self.path("user_key"), 0o600)
        self.write("bin/ssh", '#!/bin/sh\nprintf "%%s\\n" "$*" >> %s\nexec %s -F %s "$@"\n'
                   % (self.path("calls"), which("ssh"), self.path("ssh_config")), 0o755)
        self.launch([which("sshd"), "-D", "-e", "-f", self.path("sshd_config")], self.listens)
        self.use([docker_client()])

    def listens(self):
        """Whether it takes connections."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def use(self, argv):
        """Makes the remote `docker` be this command."""
        self.write("remote-bin/docker", '#!/bin/sh\nexec %s "$@"\n' % " ".join(shlex.quote(w) for w in argv), 0o755)

    def commands(self, which_file="commands"):
        """The remote command lines so far; "calls": the argument lists that the local ssh got."""
        with contextlib.suppress(OSError):
            with open(self.path(which_file)) as file:
                return file.read().splitlines()
        return []

    def env(self):
        """What a client needs in its environment to come here."""
        return {"PATH": self.bin + ":" + tools()}


HELPER = r'''#!%s
import json, os, sys, time
here = os.path.dirname(os.path.abspath(__file__))
path = lambda name: os.path.join(here, name)
action, data = sys.argv[1], sys.stdin.read()
with open(path("log"), "a") as log:
    log.write(json.dumps([action, data]) + "\n")
try:
    mode = open(path("mode")).read()
except OSError:
    mode = ""
if mode == "fail":
    print("the keychain is locked"); sys.exit(1)
if mode == "stderr":
    sys.stderr.write("the keychain wrote this\n"); sys.exit(3)
if mode == "hang":
    time.sleep(600)
if mode == "garbage":
    print("{not json"); sys.exit(0)
if mode == "silent":
    sys.exit(0)
try:
    store = json.load(open(path("store.json")))
except (OSError, ValueError):
    store = {}
if action == "get":
    if data.strip() not in store:
        print("credentials not found in native keychain"); sys.exit(1)
    user, secret = store[data.strip()]
    print(json.dumps({"ServerURL": data.strip(), "Username": user, "Secret": secret}))
elif action == "store":
    entry = json.loads(data)
    store[entry["ServerURL"]] = [entry["Username"], entry["Secret"]]
elif action == "erase":
    if store.pop(data.strip(), None) is None:
        print("credentials not found in native keychain"); sys.exit(1)
elif action == "list":
    print(json.dumps({server: pair[0] for server, pair in store.items()}))
else:
    print("unknown action"); sys.exit(1)
if action in ("store", "erase"):
    json.dump(store, open(path("store.json"), "w"))
'''


class CredentialHelper:
    """A credential helper of the name `suffix` in a folder (.bin) to be put on PATH; its store is a JSON file.

    mode("fail" | "stderr" | "hang" | "garbage" | "silent" | "") changes how it behaves; .calls are [action, stdin].
    """

    def __init__(self, folder, suffix="pydocktest", **entries):
        self.bin, self.suffix = folder, suffix
        path = os.path.join(folder, "docker-credential-" + self.suffix)
        with open(path, "w") as file:
            file.write(HELPER % sys.executable)
        os.chmod(path, 0o755)
        self.store = entries

    def _path(self, name):
        return os.path.join(self.bin, name)

    @property
    def store(self):
        """{server: [user, secret]} as it is now."""
        with open(self._path("store.json")) as file:
            return json.load(file)

    @store.setter
    def store(self, entries):
        with open(self._path("store.json"), "w") as file:
            json.dump(entries, file)

    def mode(self, name):
        """Makes it misbehave."""
        with open(self._path("mode"), "w") as file:
            file.write(name)

    @property
    def calls(self):
        """[[action, what it got on stdin], …] so far."""
        with contextlib.suppress(OSError):
            with open(self._path("log")) as file:
                return [json.loads(line) for line in file]
        return []

    def forget(self):
        """Empties .calls."""
        with contextlib.suppress(OSError):
            os.unlink(self._path("log"))

    def env(self):
        """PATH with the helper in front."""
        return {"PATH": self.bin + ":" + tools()}


# ======================================================================================================
# Base cases: command lines through pydock, and through both clients
# ======================================================================================================

def replaced(pattern, by):
    """A normaliser that replaces a regular expression."""
    return lambda text: re.sub(pattern, by, text)


LOOKUPS = (replaced(r"lookup (\S+?)( on \S+)?: .*", r"lookup \1: ..."),)      # every resolver has its own words
POINTERS = (replaced(r"0xc000[0-9a-f]+", "POINTER"), replaced(r'^time="[^"]*"', "time"))      # of docker's own logs
# the client's block of version and info is its own (README); what follows is compared
OWN_CLIENT = (replaced(r"(?ms)\AClient:.*?(?=^Server:|\Z)", "Client...\n\n"),)
AGES = replaced(r"(?:Less than a|About an?|\d+) (?:second|minute|hour|day)s?( ago)?", r"N time\1")
SORTED = lambda text: "\n".join(sorted(text.split("\n")))      # for what comes in no order from docker or the engine
COLUMNS = replaced(r" {3,}", "   ")      # what a cell of changing width does to its padding


def tree(folder):
    """{path: (mode, contents or link target)} of everything below a folder."""
    found = {}
    for base, dirs, files in os.walk(folder):
        for name in dirs + files:
            path = os.path.join(base, name)
            about = os.lstat(path)
            if stat.S_ISLNK(about.st_mode):
                what = "-> " + os.readlink(path)
            elif stat.S_ISREG(about.st_mode):
                with open(path, "rb") as file:
                    what = file.read()
            else:
                what = None
            found[os.path.relpath(path, folder)] = (oct(stat.S_IMODE(about.st_mode)), what)
    return found


class CliCase(Case):
    """Runs pydock as a command, in a private home."""

    host = None            # DOCKER_HOST for the commands
    extra_env = {}

    def setUp(self):
        super().setUp()
        self.home = self.folder()
        self.names = dict(self.names)

    def config(self, text=None, **keys):
        """Writes ~/.docker/config.json, from text or keys; returns its path."""
        path = os.path.join(self.home, ".docker", "config.json")
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(json.dumps(keys) if text is None else text)
        return path

    def env(self, extra=None):
        """The environment of the commands."""
        base = dict(self.extra_env, DOCKER_HOST=self.host)
        base.update(extra or {})
        return clean_env(self.home, **base)

    def pydock(self, *args, input=b"", env=None, timeout=60, name="docker", user=None, binary=False, cwd=None):
        """Runs pydock under the program name; returns its Outcome."""
        return run(pydock_command(name) + list(args), self.env(env), input, timeout, cwd or self.home, user, binary)

    def check(self, outcome, status=0, stdout=None, stderr=None):
        """Asserts an outcome: the exit status, and each output either equal to a text or found by a compiled regex."""
        shown = "\nstatus %s\nstdout: %s\nstderr: %s" % (outcome.status, outcome.stdout, outcome.stderr)
        self.assertEqual(outcome.status, status, shown)
        for text, wanted in ((outcome.stdout, stdout), (outcome.stderr, stderr)):
            if hasattr(wanted, "search"):
                self.assertTrue(wanted.search(text), "no %r in it:%s" % (wanted.pattern, shown))
            elif wanted is not None:
                self.assertEqual(text, wanted, shown)
        self.assertNotIn("Traceback", str(outcome.stderr))
        return outcome


class DifferentialCase(CliCase):
    """Runs the same command line through docker and pydock, and compares.

    `engine` may be a ScriptedEngine or RecordingProxy, whose requests are compared too; `normalise` lists functions
    applied to the outputs of both clients for the differences that the README lists.
    """

    engine = None
    normalise = ()
    on_record = True       # whether docker's part can be recalled where no engine runs
    #: headers that are compared when wire=True
    wire_headers = ("X-Registry-Auth", "X-Registry-Config", "Content-Type", "X-Meta")

    def setUp(self):
        super().setUp()
        self.compared = 0      # how many command lines this test has compared

    @property
    def docker(self):
        """The real client's path."""
        return docker_client()

    #: pydock speaks one API version more than docker 28.2 (README)
    API_VERSION = staticmethod(replaced(r"/v1\.51/", "/v1.50/"))

    def settle(self, text):
        """Applies the normalisers to one output text."""
        for change in (self.API_VERSION,) + tuple(self.normalise):
            text = change(text)
        return text

    def wire(self):
        """The requests of the client that ran last, in comparable form, and forgets them."""
        if self.engine is None:
            return []
        found = []
        for request in self.engine.calls():
            body = request.body
            if "json" in (request.header("Content-Type") or ""):
                with contextlib.suppress(ValueError):
                    body = json.loads(body.decode())
            elif len(body) > 2000:
                body = "%d bytes, sha256 %s" % (len(body), hashlib.sha256(body).hexdigest())
            headers = {name: request.header(name) for name in self.wire_headers if request.header(name) is not None}
            if request.auth is not None:
                headers["X-Registry-Auth"] = request.auth
            query = {key: json.loads(values[0]) if key == "filters" and values[0] else values
                     for key, values in request.query.items()}
            path = ("/v" + request.version if request.version else "") + request.path
            found.append("%s %s %s %s %s" % (request.method, self.API_VERSION(path),
                                             json.dumps(query, sort_keys=True), json.dumps(headers, sort_keys=True),
                                             body if isinstance(body, (bytes, str))
                                             else json.dumps(body, sort_keys=True)))
        if isinstance(self.engine, RecordingProxy):
            self.engine.clear()
        else:
            del self.engine.requests[:]
        return found

    def both(self, *args, setup=None, input=b"", env=None, timeout=60, runner=None):
        """Runs both clients from the same start: returns {name: (status…, wire, files below home)}.

        setup(name) runs before each; runner(argv, env) → Outcome takes the place of run(), say for a terminal.
        Where there is no docker client, its result may be on record.
        """
        self.compared += 1
        key = self.id().replace("__main__.", ""), self.compared
        changing = [(urllib.parse.quote(_SCRATCH[0], ""), "<QUOTED SCRATCH>"), (_SCRATCH[0], "<SCRATCH>")]
        if isinstance(self.engine, ScriptedEngine) and self.engine.tcp:
            changing.append((":%d" % self.engine.port, ":<PORT>"))
        results = collections.OrderedDict()
        try:
            commands = [("docker", [docker_client()])]
        except unittest.SkipTest:
            outcome, wire, files = Reference.recall(key, changing)
            results["docker"] = (Outcome(*outcome), wire, files)
            commands = []
        started = scratch_folder("home")
        shutil.rmtree(started)
        shutil.copytree(self.home, started, symlinks=True)
        for name, command in commands + [("pydock", pydock_command())]:
            shutil.rmtree(self.home)
            shutil.copytree(started, self.home, symlinks=True)
            if setup:
                setup(name)
            if isinstance(self.engine, ScriptedEngine):
                self.engine.restart()      # a script may have ended it under the client before
            self.wire()
            if runner:
                outcome = runner(command + list(args), self.env(env))
            else:
                outcome = run(command + list(args), self.env(env), input, timeout, self.home)
            results[name] = (outcome, self.wire(), tree(self.home))
            if name == "docker" and self.on_record:
                Reference.keep(key, (tuple(outcome),) + results[name][1:], changing)
        shutil.rmtree(started)
        return results

    def differential(self, *args, fails=False, wire=True, files=True, stdout=True, stderr=True, status=True,
                     **options):
        """Runs both clients and asserts that they did the same; returns docker's Outcome.

        `fails` says whether docker itself ends with a status other than 0, so that a test can't be empty by mistake.
        """
        results = self.both(*args, **options)
        theirs, ours = results["docker"], results["pydock"]
        if fails is not None:
            self.assertEqual(bool(theirs[0].status), fails, "docker itself: %s" % (theirs[0],))
        shown = []
        for what, compared, pick in (
                ("status", status, lambda r: str(r[0].status)),
                ("stdout", stdout, lambda r: self.settle(r[0].stdout)),
                ("stderr", stderr, lambda r: self.settle(r[0].stderr)),
                ("wire", wire, lambda r: "".join(line + "\n" for line in r[1])),
                ("files", files, lambda r: "".join("%s %s\n" % item for item in sorted(r[2].items())))):
            if compared and pick(theirs) != pick(ours):
                shown.append(what + ":\n" + comparison(pick(theirs), pick(ours)))
        if shown:
            self.fail("docker and pydock differ: %s\n%s" % (" ".join(map(shlex.quote, args)), "\n".join(shown)))
        self.assertNotIn("Traceback", ours[0].stderr)
        return theirs[0]


def on_terminal(script=None, columns=80, rows=24, screen=True):
    """A runner for both()/differential(): the command on a terminal; its stdout is what the screen shows at the end.

    script(terminal) types and expects; without `screen` stdout is the terminal's raw output.
    """
    def runner(argv, env):
        with Pty(argv, env, columns, rows, env["HOME"]) as terminal:
            began = time.time()
            if script:
                script(terminal)
            status = terminal.wait()
            text = terminal.text
            if screen:
                text = "\n".join(Screen(columns, rows).feed(terminal.output).lines) + "\n"
            left = "" if terminal.modes == terminal.before else "the terminal is not as it was\n"
            return Outcome(status, text, left, time.time() - began)
    return runner


def inside(argv, env):
    """A runner for both()/differential(): pydock within this process, for tables too long to start it for each line."""
    if SUBJECT or argv[0] != sys.executable:
        return run(argv, env, cwd=env["HOME"])
    before = dict(os.environ), os.getcwd(), sys.stdin, sys.stdout, sys.stderr
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", newline="") for _ in range(3)]
    began = time.time()
    try:
        os.chdir(env["HOME"])
        os.environ.clear()
        os.environ.update(env)
        sys.stdin, sys.stdout, sys.stderr = streams
        status = module().main(["docker"] + argv[2:])
    finally:
        os.environ.clear()
        os.environ.update(before[0])
        os.chdir(before[1])
        sys.stdin, sys.stdout, sys.stderr = before[2:]
    out, err = [stream.buffer.getvalue().decode() for stream in streams[1:]]
    return Outcome(status, out, err, time.time() - began)


def comparison(theirs, ours):
    """A unified diff of two texts, docker's and pydock's."""
    def cells(text):
        return [line.replace("\r", "\\r") + "\n" for line in text.split("\n")]
    return "".join(difflib.unified_diff(cells(theirs), cells(ours), "docker", "pydock", n=2))


def help_layout(text):
    """The skeleton of a help text: usage, headings, command and flag columns, without the prose."""
    kept, section = [], ""
    for line in text.splitlines():
        if re.match(r"\S.*:$", line):
            section = line
            kept.append(line)
        elif line.startswith("Usage:") or line.startswith("Run '") or not line:
            kept.append(line)
        elif section == "Aliases:" or line.startswith("  docker"):
            kept.append(line)
        elif section.endswith("Options:"):
            found = re.match(r"(  (?:-\S,|   ) --\S+(?: \S+)? +)\S|( {30,})", line)
            if found and found.group(1):
                kept.append(found.group(1))
        elif section.endswith("ommands:"):
            kept.append(re.match(r"  \S+ *", line).group(0) if line.startswith("  ") else line)
        elif not section and kept and kept[-1] != "(prose)":
            kept.append("(prose)")
    return "\n".join(kept)


class HarnessTest(Case):
    """The harness itself, where a mistake would make other tests empty."""

    def test_screen(self):
        screen = Screen(10, 3).feed("one\r\ntwo\r\n\x1b[2A\x1b[2K\rONE\x1b[2B\rdone")
        self.assertEqual(screen.lines, ["ONE", "two", "done"])
        self.assertEqual(Screen(4, 3).feed("abcdef\r\nx").lines, ["abcd", "ef", "x"])
        self.assertEqual(Screen(9, 2).feed("1\r\n2\r\n3\r\x1b[9A!").lines, ["1", "!", "3"])

    def test_scripted_engine(self):
        with ScriptedEngine(("GET", "/a", answer(200, {"b": 1})), ("POST", "/p", split(messages({"s": 1}, {"s": 2}), 3)),
                            ("GET", "/cut", cut(answer(200, "12345"), -2))) as engine:
            self.assertEqual(api(engine.host, "GET", "/v1.41/a?x=1&x=2"), (200, {"b": 1}))
            self.assertEqual(api(engine.host, "POST", "/p", {"q": 1})[1].split(), ['{"s":', '1}', '{"s":', '2}'])
            self.assertRaises(http.client.IncompleteRead, api, engine.host, "GET", "/cut")
            self.assertEqual(api(engine.host, "GET", "/_ping"), (200, b"OK"))
            first = engine.calls()[0]
            self.assertEqual((first.method, first.version, first.path, first.query), ("GET", "1.41", "/a", {"x": ["1", "2"]}))
            self.assertEqual(json.loads(engine.calls("/p")[0].body.decode()), {"q": 1})

    def test_recording_proxy(self):
        with ScriptedEngine(("POST", "/p", answer(201))) as engine, RecordingProxy(engine.host) as proxy:
            self.assertEqual(api(proxy.host, "POST", "/v1.30/p?a=b", b"body", {"X-Y": "z"})[0], 201)
            request = proxy.calls("/p")[0]
            self.assertEqual((request.body, request.header("x-y"), request.version), (b"body", "z", "1.30"))
            self.assertIn(b"201 Created", proxy.answers[0])

    def test_pty(self):
        code = ("import os,sys,signal;signal.signal(signal.SIGWINCH,lambda *_: None);"
                "os.write(1,b'%d %s\\n' % (os.get_terminal_size()[0],b'tty' if os.isatty(2) else b''));signal.pause();"
                "print(os.get_terminal_size()[0]);print(input('? '));sys.exit(7)")
        with Pty([sys.executable, "-c", code], clean_env(self.folder()), columns=61) as terminal:
            terminal.expect("61 tty")
            time.sleep(0.2)      # until it waits for the signal
            terminal.resize(33)
            terminal.expect("33")
            terminal.expect(r"\? ")
            self.assertTrue(terminal.echo)
            terminal.send("hi\n")
            self.assertEqual(terminal.wait(), 7)
            self.assertEqual(terminal.modes, terminal.before)

    def test_credential_helper(self):
        helper = CredentialHelper(self.folder(), **{"r.example": ["u", "p"]})
        tool = os.path.join(helper.bin, "docker-credential-pydocktest")
        env = clean_env(self.folder())
        self.assertEqual(json.loads(run([tool, "get"], env, "r.example").stdout)["Secret"], "p")
        self.assertEqual(run([tool, "erase"], env, "r.example").status, 0)
        self.assertEqual(run([tool, "get"], env, "r.example").stdout, "credentials not found in native keychain\n")
        helper.mode("fail")
        self.assertEqual(run([tool, "list"], env, "unused").status, 1)
        self.assertEqual([call[0] for call in helper.calls], ["get", "erase", "get", "list"])

    def test_run_kills_what_takes_too_long(self):
        with self.assertRaisesRegex(AssertionError, "still running after 1 s"):
            run(["sleep", "50"], timeout=1)


class PartsTest(Case):
    """The real parts come up and are what the tests take them for."""

    def test_dockerd(self):
        dockerd = Dockerd.get()
        names = [tag for image in api(dockerd.host, "GET", "/images/json")[1] for tag in image["RepoTags"] or ()]
        self.assertIn("busybox:latest", names)
        self.assertTrue(dockerd.container("parts"))
        dockerd.remove_container("parts")

    def test_dockerd_tls(self):
        dockerd, certificates = Dockerd.get(), Certificates.get()
        command = [docker_client(), "-H", dockerd.tls_host, "--tlsverify", "version"]
        home = self.folder()
        good = run(command, clean_env(home, DOCKER_CERT_PATH=certificates.folder("client")))
        self.assertEqual(good.status, 0, good)
        for kind in ("stranger", "other-ca", "nocert", "mixed"):
            bad = run(command, clean_env(home, DOCKER_CERT_PATH=certificates.folder(kind)))
            self.assertEqual(bad.status, 1, kind)

    def test_sshd(self):
        sshd = Sshd.get()
        done = run([docker_client(), "-H", sshd.host, "version"], clean_env(self.folder(), **sshd.env()))
        self.assertIn("Server:", done.stdout, done)
        self.assertIn("docker system dial-stdio", sshd.commands())

    def test_registries(self):
        dockerd = Dockerd.get()
        for kind in (Registry, PasswordRegistry, TlsRegistry):
            registry = kind.get()
            name = registry.address + "/parts:1"
            dockerd.tag("busybox:latest", name)
            auth = {"username": registry.user, "password": registry.password, "serveraddress": registry.address}
            dockerd.push(name, auth)
            dockerd.remove_image(name)
            if kind is not Registry:
                with self.assertRaisesRegex(RuntimeError, "no basic auth"):
                    dockerd.tag("busybox:latest", name)
                    dockerd.push(name)
                dockerd.remove_image(name)

    def test_podman(self):
        podman = Podman.get()
        self.assertIn("docker.io/library/busybox:latest",
                      [tag for image in api(podman.host, "GET", "/v1.41/images/json")[1] for tag in image["RepoTags"]])


# ======================================================================================================
# The module itself
# ======================================================================================================

class ImportTest(Case):
    """What `import pydock` costs and does."""

    HEAVY = ("ssl tarfile subprocess argparse tempfile threading typing logging inspect urllib.request hashlib shutil "
             "dataclasses asyncio concurrent.futures zipfile ctypes selectors").split()

    def test_imports_nothing_heavy(self):
        code = ("import http.client, json, sys; before = set(sys.modules); import pydock; "
                "print(' '.join(sorted(set(sys.modules) - before)))")
        folder = os.path.dirname(pydock_command()[-1])
        done = run([sys.executable, "-S", "-c", code], clean_env(self.folder()), cwd=folder)
        self.assertEqual((done.status, done.stderr), (0, ""))
        self.assertEqual([name for name in done.stdout.split() if name in self.HEAVY], [])

    def test_imports_without_warnings(self):
        done = run([sys.executable, "-W", "error", "-B", "-c", "import pydock"], clean_env(self.folder()), cwd=HERE)
        self.assertEqual(done[:3], (0, "", ""))

    def test_runs_as_module_script_and_link(self):
        """By the name it was started under: docker through a link or launcher of that name, else pydock."""
        folder = self.folder()
        os.symlink(PYDOCK, os.path.join(folder, "docker"))
        for argv, name in (([os.path.join(HERE, "pydock.py")], "pydock"), (["-m", "pydock"], "pydock"),
                           ([os.path.join(folder, "docker")], "docker"), (pydock_command("docker")[1:], "docker"),
                           (pydock_command("other")[1:], "pydock")):
            done = run([sys.executable, "-B"] + argv + ["pull"], clean_env(folder), cwd=HERE)
            self.assertIn("%s: '%s pull' requires 1 argument" % (name, name), done.stderr, argv)


# ======================================================================================================
# Flags and dispatch: usage errors, help, unknown words (no engine needed)
# ======================================================================================================

class LibraryTest(CliCase):
    """The module as a program imports it."""

    @rows(("busybox", ("busybox", "")), ("busybox:1", ("busybox", "1")), ("a/b:1", ("a/b", "1")),
          ("localhost:5000/a", ("localhost:5000/a", "")), ("localhost:5000/a:1", ("localhost:5000/a", "1")),
          ("[::1]:5000/a", ("[::1]:5000/a", "")), ("[::1]:5000/a:1", ("[::1]:5000/a", "1")),
          ("a@sha256:" + "a" * 64, ("a", "sha256:" + "a" * 64)), ("a:1@sha256:" + "b" * 64, ("a", "sha256:" + "b" * 64)),
          ("", ("", "")), ("a:", ("a", "")))
    def test_parse_repository_tag(self, name, parts):
        self.assertEqual(module().parse_repository_tag(name), parts)

    @rows(("ubuntu", "https://index.docker.io/v1/", "library/ubuntu"), ("a/b", "https://index.docker.io/v1/", "a/b"),
          ("docker.io/a", "https://index.docker.io/v1/", "library/a"),
          ("index.docker.io/a/b", "https://index.docker.io/v1/", "a/b"),
          ("localhost/a", "localhost", "a"), ("localhost:5000/a/b/c", "localhost:5000", "a/b/c"),
          ("r.example/a", "r.example", "a"), ("[::1]:5000/a", "[::1]:5000", "a"), ("HOST/a", "HOST", "a"),
          ("x-y/my-org", "https://index.docker.io/v1/", "x-y/my-org"))
    def test_resolve_repository_name(self, name, registry, remote):
        self.assertEqual(module().resolve_repository_name(name), (registry, remote))

    @rows(("http://x/y", 'Invalid repository name (ex: "registry.domain.tld/myrepos")'),
          ("Foo", "invalid reference format: repository name (library/Foo) must be lowercase"),
          ("r.example/", "invalid reference format"), ("a//b", "invalid reference format"), ("-a", "invalid reference format"),
          ("r.example/" + "a" * 256, "repository name must not be more than 255 characters"))
    def test_names_that_are_none(self, name, words):
        with self.assertRaises(module().DockerError) as caught:
            module().resolve_repository_name(name)
        self.assertEqual(str(caught.exception), words)

    def test_import_is_light(self):
        """Nothing heavy beyond what http.client brings, and no effects."""
        code = ("import http.client, sys; before = set(sys.modules); import pydock; "
                "print(*sorted(set(sys.modules) - before))")
        done = run([sys.executable, "-c", code], cwd=HERE)
        heavy = {"tarfile", "subprocess", "argparse", "tempfile", "typing", "logging", "inspect", "urllib.request", "ssl",
                 "threading", "hashlib", "shutil", "asyncio", "dataclasses"}
        self.check(done, 0, None, "")
        self.assertEqual(heavy & set(done.stdout.split()), set())

    HELLO = b"\x01\0\0\0\0\0\0\x05hello" + b"\x02\0\0\0\0\0\0\x03bye"

    @rows(("101", b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\n"
           b"Upgrade: tcp\r\n\r\n"),
          ("200", b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n"),
          ("200 of HTTP 1.0", b"HTTP/1.0 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n\r\n"))
    def test_hijack_keeps_what_came_along(self, title, head):
        """The first bytes of the stream, in one piece with the head, or cut anywhere."""
        for size in [len(head + self.HELLO), 1, len(head) - 1, len(head) + 3]:
            engine = self.start(ScriptedEngine(("POST", "/containers/x/attach", [early(
                list(split([head + self.HELLO], size)) + [CLOSE])][0])))
            with module().Client(engine.host) as client, client.hijack("/containers/x/attach", {"stream": "1"}) as stream:
                got = b""
                while True:
                    data = stream.recv()
                    if not data:
                        break
                    got += data
            self.assertEqual(got, self.HELLO, (title, size))

    def test_hijack_refused(self):
        """The engine's words, which docker loses."""
        engine = self.start(ScriptedEngine(("POST", "/containers/x/attach", answer(409, {"message": "not now"}))))
        with module().Client(engine.host) as client:
            with self.assertRaises(module().ApiError) as caught:
                client.hijack("/containers/x/attach")
        self.assertEqual((caught.exception.status, str(caught.exception)), (409, "Error response from daemon: not now"))

    def test_an_error_within_a_stream_is_raised(self):
        engine = self.start(ScriptedEngine(("POST", "/images/create", messages({"status": "x"}, {
            "errorDetail": {"message": "it broke", "code": 3}, "error": "it broke"}))))
        with module().Client(engine.host) as client:
            with self.assertRaises(module().StreamFailed) as caught:
                list(client.pull("a", "1"))
        self.assertEqual((str(caught.exception), caught.exception.code), ("it broke", 3))

    @rows(*[(size,) for size in (1, 2, 3, 5, 7, 8, 9, 13, 64, 4096)])
    def test_a_body_to_a_pipe(self, size):
        """Where the kernel moves the chunks, too, every byte arrives, however the answer is cut."""
        pieces = [bytes([65 + n % 26]) * (n * 37 % 500 + 1) for n in range(40)]
        engine = self.start(ScriptedEngine(("GET", "/images/get", list(split(
            chunked(*pieces, content_type="application/x-tar"), size)))))
        read, write = os.pipe()
        got = []
        with module().Client(engine.host) as client, client.get_images(["x"]) as body, open(read, "rb") as file:
            reader = threading.Thread(target=lambda: got.append(file.read()))
            reader.start()
            total = body.copy_to(write)
            os.close(write)
            reader.join()
        self.assertEqual(got[0], b"".join(pieces))
        self.assertEqual(total, sum(map(len, pieces)))

    def test_connection_is_kept(self):
        engine = self.start(ScriptedEngine(("GET", "/images/json", answer(200, [])), ("GET", "/info", answer(200, {}))))
        with module().Client(engine.host) as client:
            client.images()
            client.info()
            client.images()
        self.assertEqual({request.connection for request in engine.requests}, {engine.requests[0].connection})

    def test_an_engine_that_answers_no_ping(self):
        """Silence ends the command, and not only the user's patience."""
        engine = self.start(ScriptedEngine(("*", ".*", [SILENCE])))
        patience, module().PING_TIMEOUT = module().PING_TIMEOUT, 1
        self.addCleanup(setattr, module(), "PING_TIMEOUT", patience)
        with module().Client(engine.host, timeout=1) as client:
            with self.assertRaises(module().ConnectionFailed) as caught:
                client.images()
        self.assertIn("Is the docker daemon running?", str(caught.exception))

    def test_debug_lines_hold_no_secrets(self):
        self.config(auths={"r.example": {"auth": basic("me", "secret-word")}})
        engine = self.start(ScriptedEngine(("POST", "/images/create", messages({"status": "x"}))))
        done = self.pydock("-D", "pull", "r.example/a:1", env={"DOCKER_HOST": engine.host})
        self.check(done, 0, None, re.compile("POST /images/create|/images/create"))
        self.assertNotIn("secret-word", done.stderr)
        self.assertNotIn(basic("me", "secret-word"), done.stderr)


class TemplateTest(CliCase):
    """Go templates: each line of the table tells what docker 28.2.2 prints for a template, on the same canned data."""

    #: of what a line of the table begins with: the command, with TEMPLATE for the template
    COMMANDS = {"c": "container inspect -f TEMPLATE c1", "d": "container inspect -f TEMPLATE c2",
                "i": "image inspect -f TEMPLATE i", "n": "inspect --type network -f TEMPLATE n",
                "v": "inspect --type volume -f TEMPLATE v", "p": "ps --format TEMPLATE", "m": "images --format TEMPLATE",
                "s": "search --format TEMPLATE x", "o": "info -f TEMPLATE", "e": "version -f TEMPLATE"}

    CONTAINER = {
        "Id": "abc123", "Name": "/web", "Created": "2024-01-02T03:04:05.123Z", "RestartCount": 2, "SizeRw": 1234,
        "Args": ["-c", "x y"],
        "State": {"Status": "running", "Running": True, "Pid": 42, "ExitCode": 0, "Health": {
            "Status": "healthy", "FailingStreak": 0, "Log": [{
                "Start": "2024-01-02T03:04:05.5+02:00", "End": "2024-01-02T03:04:06Z", "ExitCode": 0, "Output": "ok"}]}},
        "Config": {"Hostname": "h", "Labels": {"b": "2", "a": "1", "x.y": "z"}, "Env": ["A=1", "B=<2>"], "Cmd": None,
                   "ExposedPorts": {"80/tcp": {}}, "Entrypoint": ["sh", "-c"],
                   "Healthcheck": {"Test": ["CMD", "true"], "Interval": 30000000000, "Timeout": 1500000000,
                                   "StartPeriod": 90061500000000, "Retries": 3}},
        "HostConfig": {"NetworkMode": "bridge", "Memory": 1024, "NanoCpus": 1500000000, "OomKillDisable": False,
                       "RestartPolicy": {"Name": "always", "MaximumRetryCount": 0}, "Binds": ["/a:/b"],
                       "PortBindings": {"80/tcp": [{"HostIp": "", "HostPort": "8080"}]}, "CpuShares": 512,
                       "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}}, "Dns": ["1.1.1.1"],
                       "Ulimits": [{"Name": "nofile", "Hard": 2, "Soft": 1}]},
        "Mounts": [{"Type": "bind", "Source": "/a", "Destination": "/b", "RW": True},
                   {"Type": "volume", "Name": "v", "Destination": "/c"}],
        "NetworkSettings": {"Ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}], "90/udp": None},
                            "Networks": {"bridge": {"IPAddress": "172.17.0.2"}}, "IPAddress": "172.17.0.2"},
        "Extra": {"n": None, "i": 5, "f": 1.5, "big": 12345678901234567890, "s": "a&<b>", "l": [1, "x", None, True, [2]],
                  "m": {"z": 1, "a": {"q": None}}, "e": "", "b": False, "u": "h\u00e9llo"}}
    IMAGE = {
        "Id": "sha256:" + "b" * 64, "RepoTags": ["busybox:latest", "x:1"], "RepoDigests": [], "Size": 1234567,
        "Created": "2024-01-02T03:04:05Z", "Architecture": "amd64", "Os": "linux",
        "Config": {"Cmd": ["sh"], "Env": None, "Labels": {"k": "v"}, "Healthcheck": {"Interval": 1500000}},
        "RootFS": {"Type": "layers", "Layers": ["sha256:1", "sha256:2"]},
        "GraphDriver": {"Name": "overlay2", "Data": {"WorkDir": "/w"}}, "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"}}
    NETWORK = {
        "Name": "n", "Id": "e" * 64, "Created": "2024-01-02T03:04:05.678900Z", "Scope": "local", "Driver": "bridge",
        "EnableIPv6": False, "Labels": {"a": "<1>"}, "Options": {},
        "IPAM": {"Driver": "default", "Options": None, "Config": [{"Subnet": "10.0.0.0/24", "Gateway": "10.0.0.1"}]},
        "Containers": {"abc": {"Name": "web", "IPv4Address": "10.0.0.2/24"}}}
    VOLUME = {"Name": "v", "Driver": "local", "Mountpoint": "/m", "Scope": "local", "Labels": None, "Options": {"o": "bind"},
              "CreatedAt": "2024-01-02T03:04:05Z", "UsageData": {"Size": 5, "RefCount": 1}}
    CONTAINERS = [
        {"Id": "a" * 64, "Names": ["/web", "/x/db"], "Image": "busybox:latest", "ImageID": "sha256:" + "b" * 64,
         "Command": "sh -c '<x>'", "Created": 1700000000, "State": "running", "Status": "Up 1 second", "SizeRw": 5000,
         "Ports": [{"PrivatePort": 80, "PublicPort": 8080, "Type": "tcp", "IP": "0.0.0.0"}],
         "Labels": {"a": "1", "x.y": "z"}, "NetworkSettings": {"Networks": {"host": {}}}, "Mounts": []},
        {"Id": "c" * 64, "Names": ["/two"], "Image": "img", "ImageID": "sha256:" + "d" * 64, "Command": "true",
         "Created": 1700000000, "Ports": [], "Labels": {}, "State": "exited", "Status": "Exited (0)",
         "NetworkSettings": {"Networks": {}}, "Mounts": []}]
    IMAGES = [{"Id": "sha256:" + "b" * 64, "RepoTags": ["busybox:latest"], "RepoDigests": ["busybox@sha256:" + "e" * 64],
               "Created": 1700000000, "Size": 1234567, "SharedSize": -1, "Containers": -1, "Labels": None}]
    FOUND = [{"name": "a/b", "description": "d<>", "star_count": 5, "is_official": True},
             {"name": "c", "description": "", "star_count": 0, "is_official": False}]
    INFO = {"ID": "abc", "NCPU": 4, "Name": "h", "ServerVersion": "28", "DriverStatus": [["a", "b"], ["c", "d"]],
            "Runtimes": {"runc": {"path": "runc"}}, "Swarm": {}, "Labels": []}
    VERSION = {"Version": "28.0", "ApiVersion": "1.41", "MinAPIVersion": "1.24", "Os": "linux", "Arch": "amd64",
               "Components": [{"Name": "Engine", "Version": "28.0", "Details": {"ApiVersion": "1.41"}}]}

    def setUp(self):
        super().setUp()
        paths = {"/containers/c1/json": self.CONTAINER, "/containers/c2/json": {"Id": "d" * 8, "Name": "/two", "State": None},
                 "/images/i/json": self.IMAGE, "/networks/n": self.NETWORK, "/volumes/v": self.VOLUME, "/info": self.INFO,
                 "/containers/json": self.CONTAINERS, "/images/json": self.IMAGES, "/images/search": self.FOUND,
                 "/version": self.VERSION}
        self.engine = self.start(ScriptedEngine(*[("GET", path, answer(200, body)) for path, body in paths.items()]))
        self.host = self.engine.host

    #: command, template, => what is printed; ! and the status and complaint, ~ for "template parsing error: template: "
    TABLE = r"""
        c {{.Id}} {{.ID}} {{.Created}} {{.RestartCount}} => ¶!1 ~:1:10: executing "" at <.ID>: map has no entry for key "ID"
        c {{range .State.Health.Log}}{{.Start}} {{.End}} {{.Output}}{{end}} => 2024-01-02 03:04:05.5 +0200 +0200 2024-01-02 03:04:06 +0000 UTC ok
        c {{json .State.Health}} => {"Status":"healthy","FailingStreak":0,"Log":[{"Start":"2024-01-02T03:04:05.5+02:00","End":"2024-01-02T03:04:06Z","ExitCode":0,"Output":"ok"}]}
        c {{with .State.Health}}{{.Status}}{{end}} => healthy
        c {{.HostConfig.RestartPolicy}} {{.HostConfig.RestartPolicy.Name}} => {always 0} always
        c {{json .HostConfig.RestartPolicy}} {{json .HostConfig.LogConfig}} => {"Name":"always","MaximumRetryCount":0} {"Type":"json-file","Config":{"max-size":"1m"}}
        c {{.HostConfig.OomKillDisable}} {{json .HostConfig.OomKillDisable}} {{.HostConfig.Init}} {{.HostConfig.PidsLimit}} => false false <nil> <nil>
        c {{range .HostConfig.Ulimits}}{{.Name}}={{.Soft}}:{{.Hard}}{{end}} => nofile=1:2
        c {{.HostConfig.DNS}} {{.HostConfig.CPUShares}} => [1.1.1.1] 512
        c {{.HostConfig.Dns}} {{.HostConfig.CpuShares}} => [1.1.1.1] 512
        c {{.HostConfig.NanoCPUs}} {{.HostConfig.Memory}} => 1500000000 1024
        c {{.HostConfig.Resources.Memory}} => 1024
        c {{.HostConfig.ConsoleSize}} {{index .HostConfig.ConsoleSize 1}} {{index .HostConfig.ConsoleSize 2}} => ¶!1 ~:1:13: executing "" at <.HostConfig.ConsoleSize>: map has no entry for key "ConsoleSize"
        c {{.Config.Healthcheck}} {{.Config.Healthcheck.Interval}} => {[CMD true] 30s 1.5s 25h1m1.5s 0s 3} 30s
        c {{.Config.Healthcheck.StartPeriod}} {{.Config.Healthcheck.StartInterval}} {{printf "%d %v %s %T" .Config.Healthcheck.Timeout .Config.Healthcheck.Timeout .Config.Healthcheck.Timeout .Config.Healthcheck.Timeout}} => 25h1m1.5s 0s 1500000000 1.5s 1.5s time.Duration
        c {{json .Config.Healthcheck}} => {"Test":["CMD","true"],"Interval":30000000000,"Timeout":1500000000,"StartPeriod":90061500000000,"Retries":3}
        c {{json .Mounts}} => [{"Type":"bind","Source":"/a","Destination":"/b","Mode":"","RW":true,"Propagation":""},{"Type":"volume","Name":"v","Source":"","Destination":"/c","Mode":"","RW":false,"Propagation":""}]
        c {{printf "%T %T" .SizeRw .SizeRootFs}} => *int64 *int64
        c {{.Config.Entrypoint}} {{join .Config.Entrypoint " "}} {{printf "%T" .Config.Entrypoint}} => [sh -c] sh -c strslice.StrSlice
        c {{range $p, $conf := .NetworkSettings.Ports}}{{$p}} -> {{(index $conf 0).HostPort}} {{end}} => ¶!1 ~:1:58: executing "" at <index $conf 0>: error calling index: index of untyped nil
        c {{(index (index .NetworkSettings.Ports "80/tcp") 0).HostPort}} => 8080
        c {{index .NetworkSettings.Ports "80/tcp" 0}} => map[HostIp:0.0.0.0 HostPort:8080]
        c {{index .NetworkSettings.Ports "81/tcp"}} {{len (index .NetworkSettings.Ports "81/tcp")}} => ¶!1 ~:1:44: executing "" at <len (index .NetworkSettings.Ports "81/tcp")>: error calling len: reflect: call of reflect.Value.Type on zero Value
        c {{with index .NetworkSettings.Ports "80/tcp"}}{{range .}}{{.HostPort}}{{end}}{{end}} => 8080
        c {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}} => 172.17.0.2
        c {{.NetworkSettings.Networks.bridge.IPAddress}} {{.NetworkSettings.IPAddress}} => 172.17.0.2 172.17.0.2
        c {{.NetworkSettings.Networks.foo.IPAddress}} => <no value>
        c {{.NetworkSettings.Ports}} => map[80/tcp:[{0.0.0.0 8080}] 90/udp:[]]
        c {{json .NetworkSettings.Ports}} => {"80/tcp":[{"HostIp":"0.0.0.0","HostPort":"8080"}],"90/udp":null}
        c {{.NetworkSettings.IPAddress}} {{.NetworkSettings.Bridge}}|{{.NetworkSettings.SandboxID}} => 172.17.0.2 |
        c {{range .Mounts}}{{.Type}} {{.Source}} {{.Destination}} {{.RW}};{{end}} => bind /a /b true;volume  /c false;
        c {{(index .Mounts 0).Source}} {{index .Mounts 0}} => /a {bind  /a /b   true }
        c {{len .Mounts}} {{len .Config.Labels}} {{len .Name}} => 2 3 4
        c {{range .Mounts}}{{if eq .Type "volume"}}{{.Name}}{{end}}{{end}} => v
        c {{range .Mounts}}{{if eq .Type "bind"}}{{continue}}{{end}}{{.Name}}{{end}} => v
        c {{range .Config.Env}}{{.}}{{break}}{{end}} => A=1
        c {{range .Config.Env}}{{println .}}{{end}} => A=1¶B=<2>¶
        c {{range $i, $e := .Config.Env}}{{if $i}}, {{end}}{{$e}}{{end}} => A=1, B=<2>
        c {{$first := true}}{{range .Config.Env}}{{if $first}}{{$first = false}}{{else}};{{end}}{{.}}{{end}} => A=1;B=<2>
        c {{range $index, $value := .Config.Env}}{{if eq (index (split $value "=") 0) "B"}}{{range $i, $part := (split $value "=")}}{{if gt $i 0}}{{print $part}}{{end}}{{end}}{{end}}{{end}} => <2>
        c {{.Config.Labels.missing}} {{index .Config.Labels "missing"}}| => <no value> |
        c {{if .State.Running}}up{{else}}down{{end}} {{if .State.Paused}}p{{else if .State.Dead}}d{{else}}ok{{end}} => up ok
        c {{if and .State.Running (eq .State.ExitCode 0)}}yes{{end}} {{if or .State.Paused .State.Dead}}x{{else}}no{{end}} {{not .State.Running}} => yes no false
        c {{eq .State.Status "running"}} {{ne .State.Pid 42}} {{lt .State.Pid 50}} {{le .State.Pid 42}} {{gt .State.Pid 42}} {{ge .State.Pid 42}} => true false true true false true
        c {{eq .State.Status "a" "running"}} {{eq .HostConfig.NetworkMode "bridge"}} {{eq .State.Pid 42.0}} => ¶!1 ~:1:77: executing "" at <eq .State.Pid 42.0>: error calling eq: incompatible types for comparison
        c {{eq .State.Status 1}} => ¶!1 ~:1:2: executing "" at <eq .State.Status 1>: error calling eq: incompatible types for comparison
        c {{lt .State.Pid "x"}} => true
        c {{upper .HostConfig.NetworkMode}} => BRIDGE
        c {{printf "%s" .HostConfig.NetworkMode | upper}} => BRIDGE
        c {{slice .Name 1}} {{slice .Name 0 1}} {{slice .Name 1 20}} => ¶!1 ~:1:40: executing "" at <slice .Name 1 20>: error calling slice: index out of range: 20
        c {{truncate .Name 2}} {{truncate .Name 20}} {{title .Name}} {{upper .Name}} {{lower "ABC"}} => /w /web /Web /WEB abc
        c {{pad .Name 2 3}}|{{pad "" 2 3}}| =>   /web   ||
        c {{join (split "a,b,c" ",") "-"}} {{split "abc" ""}} {{len (split "" ",")}} => a-b-c [a b c] 1
        c {{.Name | printf "%s-%s" "x"}} {{.Name | len}} {{"a" | printf "%s%s" "b" | printf "[%s]"}} => x-/web 4 [ba]
        c {{json "a<b>&\"c\u00e9"}} {{json 1.5}} {{json 1}} {{json true}} {{json nil}} => "a<b>&\"cé" 1.5 1 true null
        c {{json .Config.Env}} {{json .Args}} {{json .Name}} => ["A=1","B=<2>"] ["-c","x y"] "/web"
        c {{printf "%5d|%-5d|%05d|%+d|%x|%X|%o|%b|%c|%U|%q" 42 42 42 42 255 255 8 5 97 97 97}} =>    42|42   |00042|+42|ff|FF|10|101|a|U+0061|'a'
        c {{printf "%8.3f|%-8.2f|%e|%g|%G|%6.1f" 3.14159 2.5 12345.678 0.00001 1e20 2.25}} =>    3.142|2.50    |1.234568e+04|1e-05|1E+20|   2.2
        c {{printf "%s|%10s|%-10s|%.2s|%q|%x|%X|% x" "abc" "abc" "abc" "abc" "a\"b" "abc" "abc" "abc"}} => abc|       abc|abc       |ab|"a\"b"|616263|616263|61 62 63
        c {{printf "%t|%v|%5t|%-6v|" true false true false}} => true|false| true|false |
        c {{printf "%T %T %T %T %T %T" 1 1.5 "a" true 'a' nil}} => int float64 string bool int <nil>
        c {{printf "%v %v %v" .Config.Env .Config.Labels .State.Pid}} => [A=1 B=<2>] map[a:1 b:2 x.y:z] 42
        c {{printf "%+v" .HostConfig.RestartPolicy}} {{printf "%v" .HostConfig.RestartPolicy}} => {Name:always MaximumRetryCount:0} {always 0}
        c {{printf "%+v" .Mounts}} => [{Type:bind Name: Source:/a Destination:/b Driver: Mode: RW:true Propagation:} {Type:volume Name:v Source: Destination:/c Driver: Mode: RW:false Propagation:}]
        c {{printf "%d%%" 5}} {{printf "%%d"}} {{printf "%"}} {{printf "a%z" 1}} => 5% %d %!(NOVERB) a%!z(int=1)
        c {{printf "%d" 1 "x" 2.5 nil}} => 1%!(EXTRA string=x, float64=2.5, <nil>)
        c {{printf "%6d|%-6s|%06.2f|%x" -42 "é" -1.5 -255}} =>    -42|é     |-01.50|-ff
        c {{printf "%d" .Config.Env}} {{printf "%q" .Config.Labels}} {{printf "%x" .Config.Env}} => [%!d(string=A=1) %!d(string=B=<2>)] map["a":"1" "b":"2" "x.y":"z"] [413d31 423d3c323e]
        c {{printf "%s" .State.Pid}} {{printf "%d" .Name}} {{printf "%s" nil}} {{printf "%v" nil}} => %!s(int=42) %!d(string=/web) %!s(<nil>) <nil>
        c {{printf "% d|% d" 5 -5}} {{printf "%+.2e" 12345.678}} {{printf "%v" 1e6}} {{printf "%v" 0.1}} {{printf "%v" 100000.0}} {{printf "%v" 1e-5}} {{printf "%v" 123456.789}} =>  5|-5 +1.23e+04 1e+06 0.1 100000 1e-05 123456.789
        c {{print "a" 1 2 "b"}} {{print 1 2}} {{print "a" "b"}} {{print true false}} {{print nil 1}} {{print}}| => a1 2b 1 2 ab true false <nil> 1 |
        c {{println "a" 1}}{{println}}| => a 1¶¶|
        c {{html .Config.Env}} {{js "a'b\"c\\d\n<"}} {{urlquery "a b" "c/d?é"}} {{html "a" 1 2}} => [A=1 B=&lt;2&gt;] a\'b\"c\\d\u000A\u003C a+bc%2Fd%3F%C3%A9 a1 2
        c {{and 1 0 2}} {{or 0 "" 3}} {{and true}} {{or false}} {{not ""}} {{not "a"}} {{and .State .Name}} => 0 3 true false true false /web
        c {{len "héé"}} {{index "abc" 0}} {{slice "abc" 1 2}} {{slice "héllo" 0 2 | len}} => 5 97 b 2
        c {{0x10}} {{0o17}} {{0b101}} {{1_000}} {{'a'}} {{'\n'}} {{'\''}} {{'é'}} {{1.5}} {{.5}} {{1e3}} {{-3}} {{+3}} {{1e100}} => 16 15 5 1000 97 10 39 233 1.5 0.5 1000 -3 3 1e+100
        c {{"a\tb\\\x41\u00e9\U0001F600\101"}} {{`raw\n"x"`}} {{"\"q\""}} => a	b\Aé😀A raw\n"x" "q"
        c {{true}} {{false}} {{(1)}} {{(print 1 2)}} {{((1))}} {{1.0}} {{100000000.0}} {{1e20}} {{1e21}} => true false 1 1 2 1 1 1e+08 1e+20 1e+21
        c a {{- 1 -}} b {{2 -}} c {{- 3}} d {{- /* x */ -}} e {{/* y */}} f => a1b 2c3 de  f
        c {{- .Name -}} => /web
        c {{.Name}} {{`a`}}{{/*x*/}} => /web a
        c {{$x := 5}}{{$x}} {{$x = 6}}{{$x}} {{if true}}{{$x = 7}}{{$y := 1}}{{end}}{{$x}} => 5 6 7
        c {{$x := "a"}}{{range .Config.Env}}{{$x := .}}{{$x}}{{end}}{{$x}} => A=1B=<2>a
        c {{with $s := .State}}{{$s.Status}} {{.Pid}} {{$.Name}}{{end}} => running 42 /web
        c {{with .Config.Cmd}}x{{else}}none{{end}} {{with 0}}x{{else with "y"}}{{.}}{{else}}z{{end}} {{with ""}}{{else with 0}}{{else}}z{{end}} => none y z
        c {{range $i := .Config.Env}}{{$i}};{{end}} {{range 3}}{{.}}{{end}} {{range $i := 3}}{{$i}}{{end}} {{range 0}}x{{else}}e{{end}} {{range .Config.Cmd}}x{{else}}e{{end}} => A=1;B=<2>; 012 012 e e
        c {{range 5}}{{if eq . 1}}{{continue}}{{end}}{{if eq . 3}}{{break}}{{end}}{{.}}{{end}} => 02
        c {{range $k, $v := .Extra.m}}{{$k}}{{end}} => az
        c {{define "t"}}<{{.}}>{{end}}{{template "t" .Name}}{{template "t" 5}}{{template "t"}}{{template "t" nil}} => ¶!1 ~:1:99: executing "" at <nil>: nil is not a command
        c {{define "t"}}{{$}}{{end}}{{with .State}}{{template "t" .Pid}}{{end}} => 42
        c {{block "b" .State}}{{.Status}}{{end}} {{define "c"}}{{template "d" .}}{{end}}{{define "d"}}[{{.}}]{{end}}{{template "c" 1}} => running [1]
        c {{define "r"}}{{if gt . 0}}{{.}}{{template "r" (slice "abc" 0 .| len | printf "%d" | len | eq 0)}}{{end}}{{end}}{{template "r" 2}} => ¶!1 ~:1:19: executing "r" at <gt . 0>: error calling gt: incompatible types for comparison
        c {{index .Config.Env 0}} {{index .Config.Env 0 0}} {{index .Config.Env -1}} => ¶!1 ~:1:52: executing "" at <index .Config.Env -1>: error calling index: index out of range: -1
        c {{index .Config.Env}} {{index .Config.Labels "a" 0}} => [A=1 B=<2>] 49
        c {{slice .Config.Env 0 1}} {{slice .Config.Env}} {{slice .Config.Env 0 1 2}} {{slice .Config.Env 0 3}} => ¶!1 ~:1:78: executing "" at <slice .Config.Env 0 3>: error calling slice: index out of range: 3
        c {{.State.Pid.Foo}} => ¶!1 ~:1:8: executing "" at <.State.Pid.Foo>: can't evaluate field Foo in type interface {}
        c {{.Name.Foo}} => ¶!1 ~:1:7: executing "" at <.Name.Foo>: can't evaluate field Foo in type interface {}
        c {{.Mounts.Foo}} => ¶!1 ~:1:9: executing "" at <.Mounts.Foo>: can't evaluate field Foo in type interface {}
        c {{.Config.Env.Foo}} => ¶!1 ~:1:9: executing "" at <.Config.Env.Foo>: can't evaluate field Foo in type interface {}
        c {{range .Mounts}}{{.Foo}}{{end}} => ¶!1 ~:1:19: executing "" at <.Foo>: map has no entry for key "Foo"
        c {{range .Mounts}}{{.Foo.Bar}}{{end}} => ¶!1 ~:1:23: executing "" at <.Foo.Bar>: map has no entry for key "Foo"
        c {{with .State}}{{.Foo}}{{end}} => ¶!1 ~:1:17: executing "" at <.Foo>: map has no entry for key "Foo"
        c {{$.Foo}} => ¶!1 ~:1:3: executing "" at <$.Foo>: map has no entry for key "Foo"
        c {{$x := .State}}{{$x.Foo}} => ¶!1 ~:1:20: executing "" at <$x.Foo>: map has no entry for key "Foo"
        c {{.Extra.i.x}}  => ¶!1 ~:1:8: executing "" at <.Extra.i.x>: can't evaluate field x in type interface {}
        c {{.Extra.l.x}} => ¶!1 ~:1:8: executing "" at <.Extra.l.x>: can't evaluate field x in type interface {}
        c {{.Extra.m.a.q}} {{.Extra.m.a.q.r}} => ¶!1 ~:1:25: executing "" at <.Extra.m.a.q.r>: nil pointer evaluating interface {}.r
        c {{.Extra.m.a}} {{.Extra.m.zz}} => ¶!1 ~:1:23: executing "" at <.Extra.m.zz>: map has no entry for key "zz"
        c {{range .Extra.l}}{{.}},{{end}} => 1,x,<no value>,true,[2],
        c {{range .Extra.l}}{{printf "%T" .}},{{end}} => json.Number,string,<nil>,bool,[]interface {},
        c {{json .Extra.l}} {{json .Extra.big}} {{.Extra.big}} {{.Extra.f}} {{json .Extra.s}} {{.Extra.u}} => [1,"x",null,true,[2]] 12345678901234567890 12345678901234567890 1.5 "a&<b>" héllo
        c {{len .Extra.l}} {{len .Extra.u}} {{index .Extra.l 1}} {{index .Extra.l 4 0}} {{index .Extra.m "a" "q"}} => 5 6 x 2 <no value>
        c {{eq .Extra.s "a&<b>"}} {{eq .Extra.b false}} {{eq .Extra.n nil}} {{if .Extra.e}}x{{else}}empty{{end}} {{if .Extra.i}}y{{end}} {{not .Extra.l}} => true true true empty y false
        c {{eq .Extra.i "5"}} {{.Extra.i | printf "%s"}} {{printf "%v %q" .Extra.i .Extra.f}} => true 5 5 "1.5"
        c {{lower .Extra.s}} {{split .Extra.s "&"}} {{upper .Extra.i}} => ¶!1 ~:1:56: executing "" at <.Extra.i>: wrong type for value; expected string; got json.Number
        c {{upper nil}} => ¶!1 ~:1:8: executing "" at <nil>: cannot assign nil to string
        c {{upper true}} => ¶!1 ~:1:8: executing "" at <true>: expected string; found true
        c {{upper .Extra.n}} => ¶!1 ~:1:14: executing "" at <.Extra.n>: wrong type for value; expected string; got interface {}
        c {{upper .Foo}} => ¶!1 ~:1:8: executing "" at <.Foo>: map has no entry for key "Foo"
        c {{truncate "abc" "x"}} => ¶!1 ~:1:17: executing "" at <"x">: expected integer; found "x"
        c {{truncate "abc" 1.5}} => ¶!1 ~:1:17: executing "" at <1.5>: expected integer; found 1.5
        c {{truncate "abc" .State.Pid}} {{truncate "abc" .Name}} => ¶!1 ~:1:23: executing "" at <.State.Pid>: wrong type for value; expected int; got json.Number
        c {{pad "x" 1}} => ¶!1 ~:1:2: executing "" at <pad>: wrong number of args for pad: want 3 got 2
        c {{upper}} => ¶!1 ~:1:2: executing "" at <upper>: wrong number of args for upper: want 1 got 0
        c {{upper "a" "b"}} => ¶!1 ~:1:2: executing "" at <upper>: wrong number of args for upper: want 1 got 2
        c {{json}} => ¶!1 ~:1:2: executing "" at <json>: wrong number of args for json: want 1 got 0
        c {{json 1 2}} => ¶!1 ~:1:2: executing "" at <json>: wrong number of args for json: want 1 got 2
        c {{len}} => ¶!1 ~:1:2: executing "" at <len>: wrong number of args for len: want 1 got 0
        c {{index}} => ¶!1 ~:1:2: executing "" at <index>: wrong number of args for index: want at least 1 got 0
        c {{eq}} => ¶!1 ~:1:2: executing "" at <eq>: wrong number of args for eq: want at least 1 got 0
        c {{ne 1 2 3}} => ¶!1 ~:1:2: executing "" at <ne>: wrong number of args for ne: want 2 got 3
        c {{lt 1}} => ¶!1 ~:1:2: executing "" at <lt>: wrong number of args for lt: want 2 got 1
        c {{split "a"}} => ¶!1 ~:1:2: executing "" at <split>: wrong number of args for split: want 2 got 1
        c {{join "a" ","}} => ¶!1 ~:1:7: executing "" at <"a">: can't handle "a" for arg of type []string
        c {{join nil ","}} =>
        c {{printf}} => ¶!1 ~:1:2: executing "" at <printf>: wrong number of args for printf: want at least 1 got 0
        c {{printf nil}} => ¶!1 ~:1:9: executing "" at <nil>: cannot assign nil to string
        c {{printf .State}} => ¶!1 ~:1:9: executing "" at <.State>: wrong type for value; expected string; got map[string]interface {}
        c {{print .State.Health.Foo}} => ¶!1 ~:1:14: executing "" at <.State.Health.Foo>: map has no entry for key "Foo"
        c {{if .Foo}}x{{end}} => ¶!1 ~:1:5: executing "" at <.Foo>: map has no entry for key "Foo"
        c {{range .Foo}}x{{end}} => ¶!1 ~:1:8: executing "" at <.Foo>: map has no entry for key "Foo"
        c {{with .Foo}}x{{end}} => ¶!1 ~:1:7: executing "" at <.Foo>: map has no entry for key "Foo"
        c {{if eq .Foo "x"}}x{{end}} => ¶!1 ~:1:8: executing "" at <.Foo>: map has no entry for key "Foo"
        c {{range .State}}x{{end}} => xxxxx
        c {{range .Name}}x{{end}} => ¶!1 ~:1:8: executing "" at <.Name>: range can't iterate over /web
        c {{range .State.Pid}}x{{end}} => xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
        c {{template "none"}} => ¶!1 ~:1:11: executing "" at <{{template "none"}}>: template "none" not defined
        c a{{template "none" .}} => ¶!1 ~:1:12: executing "" at <{{template "none" .}}>: template "none" not defined
        c {{.Name 1}} => ¶!1 ~:1:2: executing "" at <.Name>: Name is not a method but has arguments
        c {{.State.Pid 1}} => ¶!1 ~:1:8: executing "" at <.State.Pid>: Pid is not a method but has arguments
        c {{.Name | .State}} => ¶!1 ~:1:10: executing "" at <.State>: State is not a method but has arguments
        c {{$x := 1}}{{$x 2}} => ¶!1 ~:1:13: executing "" at <$x>: can't give argument to non-function $x
        c {{1 2}} => ¶!1 ~:1:2: executing "" at <1>: can't give argument to non-function 1
        c {{"x" 1}} => ¶!1 ~:1:2: executing "" at <"x">: can't give argument to non-function "x"
        c {{true 1}} => ¶!1 ~:1:2: executing "" at <true>: can't give argument to non-function true
        c {{nil}} => ¶!1 ~:1:2: executing "" at <nil>: nil is not a command
        c {{nil 1}} => ¶!1 ~:1:2: executing "" at <nil>: can't give argument to non-function nil
        c {{. 1}} => ¶!1 ~:1:2: executing "" at <.>: can't give argument to non-function .
        c {{(1) 2}} => ¶!1 ~:1:2: executing "" at <(1) 2>: can't give argument to non-function 1
        c {{.Name.}} => !64 ~:1: unexpected <.> in operand
        c {{..}} => !64 ~:1: unexpected <.> in operand
        c {{.Name..Foo}} => !64 ~:1: unexpected <.> in operand
        c {{5.Foo}} => !64 ~:1: bad number syntax: "5.F"
        c {{nil.Foo}} => !64 ~:1: unexpected . after term "nil"
        c {{true.Foo}} => !64 ~:1: unexpected . after term "true"
        c {{"a".Foo}} => !64 ~:1: unexpected . after term "\"a\""
        c {{(nil).Foo}} => ¶!1 ~:1:3: executing "" at <nil>: nil is not a command
        c {{("a").Foo}} => ¶!1 ~:1:3: executing "" at <"a">: can't evaluate field Foo in type string
        c {{foo}} => !64 ~:1: function "foo" not defined
        c {{.Name | foo}} => !64 ~:1: function "foo" not defined
        c {{foo .}} => !64 ~:1: function "foo" not defined
        c {{if foo}}{{end}} => !64 ~:1: function "foo" not defined
        c {{ => !64 ~:1: unclosed action
        c {{.Name => !64 ~:1: unclosed action
        c {{.Name} => !64 ~:1: bad character U+007D '}'
        c {{.Name } => !64 ~:1: unexpected "}" in operand
        c {{.Name}}} => /web}
        c {{.Name }} }} => /web }}
        c {{{.Name}}} => !64 ~:1: unexpected "{" in command
        c {{"abc}} => !64 ~:1: unterminated quoted string
        c {{'a}} => !64 ~:1: unterminated character constant
        c {{`abc}} => !64 ~:1: unterminated raw quoted string
        c {{''}} => !64 ~:1: invalid syntax
        c {{'ab'}} => !64 ~:1: malformed character constant: 'ab'
        c {{"\q"}} => !64 ~:1: invalid syntax
        c {{'\q'}} => !64 ~:1: invalid syntax
        c {{"\xZZ"}} => !64 ~:1: invalid syntax
        c {{"\400"}} => !64 ~:1: invalid syntax
        c {{99999999999999999999}} => !64 ~:1: integer overflow: "99999999999999999999"
        c {{1a}} => !64 ~:1: bad number syntax: "1a"
        c {{0x}} => !64 ~:1: illegal number syntax: "0x"
        c {{0xg}} => !64 ~:1: bad number syntax: "0xg"
        c {{1__0}} => !64 ~:1: illegal number syntax: "1__0"
        c {{1.2.3}} => !64 ~:1: unexpected ".3" in operand
        c {{-}} => !64 ~:1: illegal number syntax: "-"
        c {{+}} => !64 ~:1: illegal number syntax: "+"
        c {{-a}} => !64 ~:1: bad number syntax: "-a"
        c {{1e}} => !64 ~:1: illegal number syntax: "1e"
        c {{.Name&}} => !64 ~:1: bad character U+0026 '&'
        c {{&}} => !64 ~:1: unexpected "&" in command
        c {{.Name, .Id}} => !64 ~:1: unexpected "," in operand
        c {{é}} => !64 ~:1: function "é" not defined
        c {{.é}} => ¶!1 ~:1:2: executing "" at <.é>: map has no entry for key "é"
        c {{☃}} => !64 ~:1: unrecognized character in action: U+2603 '☃'
        c {{.A☃}} => !64 ~:1: bad character U+2603 '☃'
        c {{a-b}} => !64 ~:1: bad character U+002D '-'
        c {{.a-b}} => !64 ~:1: bad character U+002D '-'
        c {{$}}{{$x}} => !64 ~:1: undefined variable "$x"
        c {{$x.y}} => !64 ~:1: undefined variable "$x"
        c {{$x := 1}}{{end}} => !64 ~:1: unexpected {{end}}
        c {{$x := 1 2}} => ¶!1 ~:1:8: executing "" at <1>: can't give argument to non-function 1
        c {{$x:=1}}{{$x}} => 1
        c {{$x =1}} => ¶!1 ~:1:6: executing "" at <1>: undefined variable: $x
        c {{$x: = 1}} => !64 ~:1: undefined variable "$x"
        c {{$x :1}} => !64 ~:1: undefined variable "$x"
        c {{:=}} => !64 ~:1: unexpected ":=" in command
        c {{= 1}} => !64 ~:1: unexpected "=" in command
        c {{1 := 2}} => !64 ~:1: unexpected ":=" in operand
        c {{.Name := 1}} => !64 ~:1: unexpected ":=" in operand
        c {{if}}{{end}} => !64 ~:1: missing value for if
        c {{if true}} => !64 ~:1: unexpected EOF
        c {{if true}}{{else}} => !64 ~:1: unexpected EOF
        c {{if true}}{{else}}{{else}}{{end}} => !64 ~:1: expected end; found {{else}}
        c {{if true}}{{else if}}{{end}} => !64 ~:1: missing value for if
        c {{if true}}{{end}}{{end}} => !64 ~:1: unexpected {{end}}
        c {{if true}}{{else foo}}{{end}} => !64 ~:1: unexpected "foo" in else
        c {{if true}}{{end foo}} => !64 ~:1: unexpected "foo" in end
        c {{else}} => !64 ~:1: unexpected {{else}}
        c {{end}} => !64 ~:1: unexpected {{end}}
        c {{else if true}} => !64 ~:1: unexpected {{else}}
        c {{with}}{{end}} => !64 ~:1: missing value for with
        c {{range}}{{end}} => !64 ~:1: missing value for range
        c {{range $i, $j, $k := .X}}{{end}} => !64 ~:1: too many declarations in range
        c {{range $i, $j .X}}{{end}} => !64 ~:1: undefined variable "$j"
        c {{range $i,}}{{end}} => !64 ~:1: missing value for range
        c {{range $i, 1}}{{end}} => !64 ~:1: range can only initialize variables
        c {{if $i, $j := 1}}{{end}} => !64 ~:1: too many declarations in if
        c {{break}} => !64 ~:1: {{break}} outside {{range}}
        c {{continue}} => !64 ~:1: {{continue}} outside {{range}}
        c {{if true}}{{break}}{{end}} => !64 ~:1: {{break}} outside {{range}}
        c {{range .}}{{define "x"}}{{break}}{{end}}{{end}} => !64 ~:1: unexpected <define> in command
        c {{range 1}}{{break 1}}{{end}} => !64 ~:1: unexpected "1" in {{break}}
        c {{define}}{{end}} => !64 ~:1: unexpected "}}" in define clause
        c {{define "x"}} => !64 ~:1: unexpected EOF
        c {{define "x"}}{{else}}{{end}} => !64 ~:1: unexpected {{else}} in define clause
        c {{define "x" 1}}{{end}} => !64 ~:1: unexpected "1" in define clause
        c {{define x}}{{end}} => !64 ~:1: unexpected "x" in define clause
        c {{define `x`}}a{{end}}{{template `x`}} => a
        c {{if true}}{{define "x"}}{{end}}{{end}} => !64 ~:1: unexpected <define> in command
        c {{define "x"}}a{{end}}{{define "x"}}b{{end}} => !64 ~:1: template: multiple definition of template "x"
        c {{define "x"}}{{end}}{{define "x"}}b{{end}}{{template "x"}} => b
        c {{template}} => !64 ~:1: unexpected "}}" in template clause
        c {{template 1}} => !64 ~:1: unexpected "1" in template clause
        c {{template "x" 1 2}} => ¶!1 ~:1:11: executing "" at <{{template "x" 1 2}}>: template "x" not defined
        c {{template "x" |}} => !64 ~:1: unexpected "|" in template clause
        c {{block "x"}}{{end}} => !64 ~:1: missing value for block clause
        c {{block "x" .}} => !64 ~:1: unexpected EOF
        c {{block "x" .}}{{else}}{{end}} => !64 ~:1: unexpected {{else}} in block clause
        c {{block}}{{end}} => !64 ~:1: unexpected "}}" in block clause
        c {{(1}} => !64 ~:1: unclosed left paren
        c {{(1))}} => !64 ~:1: unexpected right paren
        c {{()}} => !64 ~:1: missing value for parenthesized pipeline
        c {{(}} => !64 ~:1: unclosed left paren
        c {{)}} => !64 ~:1: unexpected right paren
        c {{(.Name}} => !64 ~:1: unclosed left paren
        c {{(.Name).Foo}} => ¶!1 ~:1:3: executing "" at <.Name>: can't evaluate field Foo in type string
        c {{|}} => !64 ~:1: unexpected "|" in command
        c {{.Name |}} => /web
        c {{.Name ||}} => !64 ~:1: unexpected "|" in command
        c {{.Name | | json}} => !64 ~:1: unexpected "|" in command
        c {{| .Name}} => !64 ~:1: unexpected "|" in command
        c {{.Name | 1}} => !64 ~:1: non executable command in pipeline stage 2
        c {{.Name | .}} => !64 ~:1: non executable command in pipeline stage 2
        c {{.Name | nil}} => !64 ~:1: non executable command in pipeline stage 2
        c {{.Name | "x"}} => !64 ~:1: non executable command in pipeline stage 2
        c {{.Name | true}} => !64 ~:1: non executable command in pipeline stage 2
        c {{1 | json | 2}} => !64 ~:1: non executable command in pipeline stage 3
        c {{/*}} => !64 ~:1: unclosed comment
        c {{/* a */ }} => !64 ~:1: comment ends before closing delimiter
        c {{/* a */ => !64 ~:1: comment ends before closing delimiter
        c {{/**/}}x{{- /* b */}} => x
        c {{ /* a */ }} => !64 ~:1: unexpected "/" in command
        c {{-/* a */}} => !64 ~:1: illegal number syntax: "-"
        c {{- -}} => !64 ~:1: illegal number syntax: "-"
        c {{-}}x => !64 ~:1: illegal number syntax: "-"
        c {{--}} => !64 ~:1: bad number syntax: "--"
        c {{- 1}} => 1
        c {{1 -}} x => 1x
        c {{1-}} => !64 ~:1: bad number syntax: "1-"
        c {{-1}} => -1
        c a{{"\n"}}b => a¶b
        c {{"a" -}}    {{- "b"}} => ab
        c {{break}}{{foo}} => !64 ~:1: {{break}} outside {{range}}
        c x\ty\nz => x\ty\nz
        c ¶{{foo}} => !64 ~:2: function "foo" not defined
        c ¶¶{{.Name}}¶{{.Foo}} => ¶!1 ~:4:2: executing "" at <.Foo>: map has no entry for key "Foo"
        c {{if true}}¶{{end => !64 ~:2: unclosed action
        c {{¶.Name¶}} => /web
        c {{.Name¶}} {{foo => !64 ~:2: function "foo" not defined
        d {{.Name}} {{.State}} => /two <nil>
        d {{.State.Running}} => ¶!1 ~:1:8: executing "" at <.State.Running>: nil pointer evaluating interface {}.Running
        d {{.Config.Labels}} => ¶!1 ~:1:9: executing "" at <.Config.Labels>: map has no entry for key "Config"
        d {{.State.Health.Status}} => ¶!1 ~:1:8: executing "" at <.State.Health.Status>: nil pointer evaluating interface {}.Health
        d {{json .State}} {{json .Config}} {{json .Mounts}} => null null null
        d {{if .State}}x{{else}}no state{{end}} {{with .Config}}x{{else}}no config{{end}} {{range .Mounts}}x{{else}}no mounts{{end}} => no state no config no mounts
        d {{.HostConfig.Foo}} => ¶!1 ~:1:13: executing "" at <.HostConfig.Foo>: map has no entry for key "HostConfig"
        d {{.NetworkSettings.Ports}} => ¶!1 ~:1:18: executing "" at <.NetworkSettings.Ports>: map has no entry for key "NetworkSettings"
        i {{.Id}} {{.ID}} {{.RepoTags}} {{.Created}} {{.Size}} {{.Os}}/{{.Architecture}} => ¶!1 ~:1:10: executing "" at <.ID>: map has no entry for key "ID"
        i {{index .RepoTags 0}} {{join .RepoTags ","}} {{.RepoDigests}} {{len .RepoDigests}} => busybox:latest busybox:latest,x:1 [] 0
        i {{.Config.Cmd}} {{.Config.Env}} {{.Config.Labels.k}} {{json .Config}} => [sh] [] v {"Cmd":["sh"],"Labels":{"k":"v"},"Healthcheck":{"Interval":1500000}}
        i {{.Config.Healthcheck.Interval}} {{.Config.Healthcheck}} {{json .Config.Healthcheck}} => 1.5ms {[] 1.5ms 0s 0s 0s 0} {"Interval":1500000}
        i {{.RootFS}} {{.RootFS.Layers}} {{json .RootFS}} {{len .RootFS.Layers}} => {layers [sha256:1 sha256:2]} [sha256:1 sha256:2] {"Type":"layers","Layers":["sha256:1","sha256:2"]} 2
        i {{.GraphDriver}} {{json .GraphDriver}} {{.GraphDriver.Data.WorkDir}} => {map[WorkDir:/w] overlay2} {"Data":{"WorkDir":"/w"},"Name":"overlay2"} /w
        i {{.Metadata}} {{.Metadata.LastTagTime}} {{json .Metadata}} => {0001-01-01 00:00:00 +0000 UTC} 0001-01-01 00:00:00 +0000 UTC {"LastTagTime":"0001-01-01T00:00:00Z"}
        i {{.Config.ImageConfig.Cmd}} => [sh]
        i {{.Parent}}|{{.Variant}}|{{.VirtualSize}} => ||0
        i {{.Descriptor}} {{.Manifests}} {{json .Manifests}} => <nil> [] null
        i {{.Foo}} => ¶!1 ~:1:2: executing "" at <.Foo>: map has no entry for key "Foo"
        i {{.Config.Foo}} => ¶!1 ~:1:9: executing "" at <.Config.Foo>: map has no entry for key "Foo"
        i {{.Config.Hostname}} => ¶!1 ~:1:9: executing "" at <.Config.Hostname>: map has no entry for key "Hostname"
        n {{.Name}} {{.Id}} {{.ID}} {{.Created}} {{.Driver}} {{.EnableIPv6}} {{.Internal}} => ¶!1 ~:1:20: executing "" at <.ID>: map has no entry for key "ID"
        n {{.IPAM}} {{json .IPAM}} {{range .IPAM.Config}}{{.Subnet}} {{.Gateway}}{{end}} => {default map[] [{10.0.0.0/24  10.0.0.1 map[]}]} {"Driver":"default","Options":null,"Config":[{"Subnet":"10.0.0.0/24","Gateway":"10.0.0.1"}]} 10.0.0.0/24 10.0.0.1
        n {{(index .IPAM.Config 0).Gateway}} {{range $k, $v := .Containers}}{{$k}}={{$v.Name}}{{end}} => 10.0.0.1 abc=web
        n {{.Labels}} {{json .Labels}} {{.Labels.a}} {{.Options}} {{.Containers}} => map[a:<1>] {"a":"<1>"} <1> map[] map[abc:{web   10.0.0.2/24 }]
        n {{.Foo}} => ¶!1 ~:1:2: executing "" at <.Foo>: map has no entry for key "Foo"
        n {{.ConfigFrom}} {{.ConfigFrom.Network}}|{{.Peers}} => {} |[]
        v {{.Name}} {{.Driver}} {{.Mountpoint}} {{.Labels}} {{json .Labels}} {{.Options.o}} {{.CreatedAt}} => v local /m map[] null bind 2024-01-02T03:04:05Z
        v {{.UsageData.Size}} {{.UsageData}} {{json .UsageData}} {{.Status}} {{.ClusterVolume}} => 5 {1 5} {"RefCount":1,"Size":5} map[] <nil>
        v {{json .}} => {"CreatedAt":"2024-01-02T03:04:05Z","Driver":"local","Labels":null,"Mountpoint":"/m","Name":"v","Options":{"o":"bind"},"Scope":"local","UsageData":{"RefCount":1,"Size":5}}
        v {{.Foo}} => ¶!1 ~:1:2: executing "" at <.Foo>: map has no entry for key "Foo"
        p {{.ID}} => aaaaaaaaaaaa¶cccccccccccc
        p {{.ID}}\t{{.Names}} => aaaaaaaaaaaa	web¶cccccccccccc	two
        p  {{.Names}} {{.Image}} {{.Command}} => web busybox:latest "sh -c '<x>'"¶two img "true"
        p {{.Ports}} {{.State}} {{.Status}} => 0.0.0.0:8080->80/tcp running Up 1 second¶ exited Exited (0)
        p {{.Labels}} {{.Label "x.y"}} {{.Label "none"}}|{{.Label "a"}} => a=1,x.y=z z |1¶  |
        p {{json .ID}} {{json .Labels}} {{json .Command}} {{json .Platform}} => "aaaaaaaaaaaa" "a=1,x.y=z" "\"sh -c '<x>'\"" null¶"cccccccccccc" "" "\"true\"" null
        p {{.Platform}} => <nil>¶<nil>
        p {{.Foo}} => !1 failed to execute template: template: :1:2: executing "" at <.Foo>: can't evaluate field Foo in type *formatter.ContainerContext
        p {{.ID.Foo}} => !1 failed to execute template: template: :1:5: executing "" at <.ID.Foo>: can't evaluate field Foo in type string
        p {{.Label}} => !1 failed to execute template: template: :1:2: executing "" at <.Label>: wrong number of args for Label: want 1 got 0
        p {{.Label 5}} => !1 failed to execute template: template: :1:9: executing "" at <5>: expected string; found 5
        p {{.Label "a" "b"}} => !1 failed to execute template: template: :1:2: executing "" at <.Label>: wrong number of args for Label: want 1 got 2
        p {{.ID "x"}} => !1 failed to execute template: template: :1:2: executing "" at <.ID>: wrong number of args for ID: want 0 got 1
        p {{.ID | .Label}} => ¶
        p {{"x.y" | .Label}} => z¶
        p {{ => !1 failed to parse template: template: :1: unclosed action
        p {{foo}} => !1 failed to parse template: template: :1: function "foo" not defined
        p {{end}} => !1 failed to parse template: template: :1: unexpected {{end}}
        p x{{if .ID}} => !1 failed to parse template: template: :1: unexpected EOF
        p {{slice .ID 0 3}} => !1 failed to execute template: template: :1:2: executing "" at <slice .ID 0 3>: error calling slice: index out of range: 3
        p {{if .ID}}{{slice .ID 0 3}}{{end}} => aaa¶ccc
        p {{slice .Image 0 3}} => bus¶img
        p {{upper .ID}} {{truncate .ID 3}} {{pad .ID 1 2}}| {{len .ID}} {{printf "%.3s" .ID}} => AAAAAAAAAAAA aaa  aaaaaaaaaaaa  | 12 aaa¶CCCCCCCCCCCC ccc  cccccccccccc  | 12 ccc
        p {{if eq .State "running"}}{{.Names}}{{end}} => web¶
        p {{with .Labels}}{{.}}{{else}}none{{end}} => a=1,x.y=z¶none
        p {{range split .Labels ","}}[{{.}}]{{end}} => [a=1][x.y=z]¶[]
        p {{println .ID}} => aaaaaaaaaaaa¶¶cccccccccccc¶
        p table {{.ID}} => CONTAINER ID¶aaaaaaaaaaaa¶cccccccccccc
        p table {{.ID}}\t{{.Names}}\t{{.State}} => CONTAINER ID   NAMES     STATE¶aaaaaaaaaaaa   web       running¶cccccccccccc   two       exited
        p table{{.ID}} => CONTAINER ID¶aaaaaaaaaaaa¶cccccccccccc
        p table  {{.ID}}  {{.Names}}  => CONTAINER ID  NAMES¶aaaaaaaaaaaa  web¶cccccccccccc  two
        p table {{upper .ID}} {{lower .Names}} {{title .State}}\t{{json .Names}} {{truncate .ID 3}} => CONTAINER ID NAMES STATE   NAMES CONTAINER ID¶AAAAAAAAAAAA web Running   "web" aaa¶CCCCCCCCCCCC two Exited    "two" ccc
        p table {{if eq .State "running"}}{{.ID}}{{end}} => ¶aaaaaaaaaaaa¶
        p table {{.Foo}} => !1 failed to execute template: template: :1:8: executing "" at <.Foo>: can't evaluate field Foo in type *formatter.ContainerContext
        p table {{join .ID "x"}} => !1 failed to execute template: template: :1:13: executing "" at <.ID>: wrong type for value; expected []string; got string
        p table {{.ID}}\n{{.Names}} => CONTAINER ID¶NAMES¶aaaaaaaaaaaa¶web¶cccccccccccc¶two
        p table => CONTAINER ID   IMAGE            COMMAND         CREATED       STATUS        PORTS                  NAMES¶aaaaaaaaaaaa   busybox:latest   "sh -c '<x>'"   3 years ago   Up 1 second   0.0.0.0:8080->80/tcp   web¶cccccccccccc   img              "true"          3 years ago   Exited (0)                           two
        p {{printf "%T" .}} {{printf "%T" .ID}} => *formatter.ContainerContext string¶*formatter.ContainerContext string
        p {{index . "ID"}} => !1 failed to execute template: template: :1:2: executing "" at <index . "ID">: error calling index: can't index item of type formatter.ContainerContext
        p {{len .}} => !1 failed to execute template: template: :1:2: executing "" at <len .>: error calling len: len of type formatter.ContainerContext
        p {{json}} => !1 failed to execute template: template: :1:2: executing "" at <json>: wrong number of args for json: want 1 got 0
        p {{/* nothing */}} => ¶
        p json{{.ID}} => jsonaaaaaaaaaaaa¶jsoncccccccccccc
        m {{.Repository}}:{{.Tag}} {{.ID}} {{.Size}} {{.VirtualSize}} {{.SharedSize}} {{.Containers}} => busybox:latest bbbbbbbbbbbb 1.23MB 1.235MB N/A N/A
        m {{.Digest}} => sha256:eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee
        m table {{.Repository}}\t{{.Tag}}\t{{.Size}} => REPOSITORY   TAG       SIZE¶busybox      latest    1.23MB
        m {{.Names}} => !1 ~:1:2: executing "" at <.Names>: can't evaluate field Names in type *formatter.imageContext
        m {{.Label "x"}} => !1 ~:1:2: executing "" at <.Label>: can't evaluate field Label in type *formatter.imageContext
        m table {{.Foo}} => !1 ~:1:2: executing "" at <.Foo>: can't evaluate field Foo in type *formatter.imageContext
        m {{ => !1 ~:1: unclosed action
        m {{foo}} => !1 ~:1: function "foo" not defined
        m {{json .Repository}} {{printf "%T" .}} => "busybox" *formatter.imageContext
        m {{slice .ID 0 3}} => bbb
        m table {{.ID | printf "%.4s"}} => IMAG¶bbbb
        s {{json .}} => {"Description":"d\u003c\u003e","IsOfficial":"true","Name":"a/b","StarCount":"5"}¶{"Description":"","IsOfficial":"false","Name":"c","StarCount":"0"}
        s {{json .IsOfficial}} => "[OK]"¶""
        s {{json .}}{{.IsOfficial}} => {"Description":"d\u003c\u003e","IsOfficial":"true","Name":"a/b","StarCount":"5"}true¶{"Description":"","IsOfficial":"false","Name":"c","StarCount":"0"}false
        s {{.IsOfficial}}{{json .}}{{.IsOfficial}} => [OK]{"Description":"d\u003c\u003e","IsOfficial":"true","Name":"a/b","StarCount":"5"}true¶{"Description":"","IsOfficial":"false","Name":"c","StarCount":"0"}false
        s {{.Foo}} => !1 ~:1:2: executing "" at <.Foo>: can't evaluate field Foo in type *registry.searchContext
        s {{ => !1 ~:1: unclosed action
        s {{.IsAutomated}} => !1 ~:1:2: executing "" at <.IsAutomated>: can't evaluate field IsAutomated in type *registry.searchContext
        o {{.ID}} {{.NCPU}} {{.Name}} => abc 4 h
        o {{.Foo}} => ¶!1 template: :1:2: executing "" at <.Foo>: can't evaluate field Foo in type system.dockerInfo
        o {{.NCPU}} {{.Foo}} => 4 ¶!1 template: :1:12: executing "" at <.Foo>: can't evaluate field Foo in type system.dockerInfo
        o {{ => !64 ~:1: unclosed action
        o {{foo}} => !64 ~:1: function "foo" not defined
        o {{json .DriverStatus}} {{json .Runtimes}} {{json .Labels}} {{json .Plugins}} => [["a","b"],["c","d"]] {"runc":{"path":"runc"}} [] {"Volume":null,"Network":null,"Authorization":null,"Log":null}
        o {{.Swarm.LocalNodeState}}|{{.Swarm}} => |{   false  [] 0 0 <nil> []}
        o {{.Runtimes}} {{range $k, $v := .Runtimes}}{{$k}}:{{$v.Path}}{{end}} => map[runc:{{runc []  map[]} map[]}] runc:runc
        o {{.RegistryConfig}} {{.RegistryConfig.Mirrors}} => <nil> ¶!1 template: :1:37: executing "" at <.RegistryConfig.Mirrors>: nil pointer evaluating *registry.ServiceConfig.Mirrors
        o {{.ClientInfo.Debug}} {{.ClientInfo.Context}} {{.ServerErrors}} {{.CPUShares}} {{.MemTotal}} => false default [] false 0
        o {{.ID}}\t{{.ID}} => abc\tabc
        o {{.CpuCfsPeriod}} => ¶!1 template: :1:2: executing "" at <.CpuCfsPeriod>: can't evaluate field CpuCfsPeriod in type system.dockerInfo
        o {{.CPUCfsPeriod}} => false
        e {{.Server.Version}} {{.Server.APIVersion}} {{.Client.Context}} => 28.0 1.41 default
        e {{.Foo}} => ¶!1 template: version:1:2: executing "version" at <.Foo>: can't evaluate field Foo in type system.versionInfo
        e {{.Server.Foo}} => ¶!1 template: version:1:9: executing "version" at <.Server.Foo>: can't evaluate field Foo in type *types.Version
        e x{{.Server.Version}}{{.Foo}} => x28.0¶!1 template: version:1:22: executing "version" at <.Foo>: can't evaluate field Foo in type system.versionInfo
        e {{.Server.ApiVersion}} => ¶!1 template: version:1:9: executing "version" at <.Server.ApiVersion>: can't evaluate field ApiVersion in type *types.Version
        e {{ => !64 ~version:1: unclosed action
        e {{foo}} => !64 ~version:1: function "foo" not defined
        e {{.Server.Os}}/{{.Server.Arch}} {{.Server.Components}} => linux/amd64 [{Engine 28.0 map[ApiVersion:1.41]}]
        e {{range .Server.Components}}{{.Name}} {{.Details.ApiVersion}}{{end}} => Engine 1.41
        e {{json .Server}} => {"Platform":{"Name":""},"Components":[{"Name":"Engine","Version":"28.0","Details":{"ApiVersion":"1.41"}}],"Version":"28.0","ApiVersion":"1.41","MinAPIVersion":"1.24","GitCommit":"","GoVersion":"","Os":"linux","Arch":"amd64"}
        e {{.Server}} => {{} [{Engine 28.0 map[ApiVersion:1.41]}] 28.0 1.41 1.24   linux amd64  false }
        e {{define "a"}}{{.Foo}}{{end}}{{template "a" .}} => ¶!1 template: version:1:16: executing "a" at <.Foo>: can't evaluate field Foo in type system.versionInfo
        c {{json .Foo}} {{.Name}} => ¶!1 ~:1:7: executing "" at <.Foo>: map has no entry for key "Foo"
        c {{printf "%5.1f|%-8s|%8s|%05d|%+v|%x" 3.14159 "ab" "cd" -42 5 "hi"}} =>   3.1|ab      |      cd|-0042|5|6869
        c {{printf "%s %s" .Config.Env .Config.Labels}} {{printf "%v" .Config.ExposedPorts}} => [A=1 B=<2>] map[a:1 b:2 x.y:z] map[80/tcp:{}]
        c {{printf "%q %q" .Config.Env .Name}} {{printf "%s" .State.Running}} {{printf "%d" .State.Running}} => ["A=1" "B=<2>"] "/web" %!s(bool=true) %!d(bool=true)
        c {{printf "%s"}} {{printf "%s" "a" "b"}} {{printf "no verbs" 1}} {{printf "%s" nil "x"}} => %!s(MISSING) a%!(EXTRA string=b) no verbs%!(EXTRA int=1) %!s(<nil>)%!(EXTRA string=x)
        c {{printf "%d items" (len .Mounts)}} {{printf "%s has %d" .Name .State.Pid}} => 2 items /web has 42
        c {{range $i, $e := .Args}}{{if $i}} {{end}}{{json $e}}{{end}} => "-c" "x y"
        c {{range .Args}}{{.}}{{else}}none{{end}}{{range .HostConfig.Binds}}{{.}}{{end}} => -cx y/a:/b
        c {{with $x := .Config}}{{with $y := .Labels}}{{$x.Hostname}} {{$y.a}}{{end}}{{end}} => h 1
        c {{if not (eq .State.Status "exited")}}not exited{{end}} {{if and (gt .State.Pid 1) (lt .State.Pid 100)}}in{{end}} => not exited in
        c {{if or (eq .Name "/a") (eq .Name "/web")}}web{{end}} {{(len .Name) | printf "%03d"}} => web 004
        c {{eq (len .Mounts) 2}} {{eq .Config.Hostname .Name}} {{ne "a" "b"}} {{eq true .State.Running}} {{lt 1.5 2.5}} {{lt "a" "b"}} => true false true true true true
        c {{lt true false}}  => ¶!1 ~:1:2: executing "" at <lt true false>: error calling lt: invalid type for comparison
        c {{eq 1 1.0}} => ¶!1 ~:1:2: executing "" at <eq 1 1.0>: error calling eq: incompatible types for comparison
        c {{eq .Config.Labels .Config.Labels}} => ¶!1 ~:1:2: executing "" at <eq .Config.Labels .Config.Labels>: error calling eq: non-comparable type map[a:1 b:2 x.y:z]: map[string]interface {}
        c {{index .Config.Labels}}{{index .Config.Env 1}} => map[a:1 b:2 x.y:z]B=<2>
        c {{index .Config.Env "a"}} => ¶!1 ~:1:2: executing "" at <index .Config.Env "a">: error calling index: cannot index slice/array with type string
        c {{index .Config.Env nil}} => ¶!1 ~:1:2: executing "" at <index .Config.Env nil>: error calling index: cannot index slice/array with nil
        c {{index .Config.Labels nil}} => ¶!1 ~:1:2: executing "" at <index .Config.Labels nil>: error calling index: value is nil; should be of type string
        c {{index nil 1}} => ¶!1 ~:1:2: executing "" at <index nil 1>: error calling index: index of untyped nil
        c {{index 1 1}} => ¶!1 ~:1:2: executing "" at <index 1 1>: error calling index: can't index item of type int
        c {{index .Config.Env 5}} => ¶!1 ~:1:2: executing "" at <index .Config.Env 5>: error calling index: index out of range: 5
        c {{slice .Config.Env 5}} => ¶!1 ~:1:2: executing "" at <slice .Config.Env 5>: error calling slice: index out of range: 5
        c {{slice nil}} => ¶!1 ~:1:2: executing "" at <slice nil>: error calling slice: slice of untyped nil
        c {{slice 5 1}} => ¶!1 ~:1:2: executing "" at <slice 5 1>: error calling slice: can't slice item of type int
        c {{slice "abc" 2 1}} => ¶!1 ~:1:2: executing "" at <slice "abc" 2 1>: error calling slice: invalid slice index: 2 > 1
        c {{slice "abc" "x"}} => ¶!1 ~:1:2: executing "" at <slice "abc" "x">: error calling slice: cannot index slice/array with type string
        c {{len 5}}  => ¶!1 ~:1:2: executing "" at <len 5>: error calling len: len of type int
        c {{len nil}} => ¶!1 ~:1:2: executing "" at <len nil>: error calling len: reflect: call of reflect.Value.Type on zero Value
        c {{len .Extra.n}} => ¶!1 ~:1:2: executing "" at <len .Extra.n>: error calling len: len of nil pointer
        c {{and}} => ¶!1 ~:1:2: executing "" at <and>: wrong number of args for and: want at least 1 got 0
        c {{or}} => ¶!1 ~:1:2: executing "" at <or>: wrong number of args for or: want at least 1 got 0
        c {{not}} => ¶!1 ~:1:2: executing "" at <not>: wrong number of args for not: want 1 got 0
        c {{.HostConfig.CapAdd}} {{.HostConfig.PortBindings}} {{.HostConfig.LogConfig.Config}} {{json .HostConfig.CapAdd}} => [] map[80/tcp:[{ 8080}]] map[max-size:1m] null
        c {{.HostConfig.LogConfig.Type}} {{.HostConfig.Privileged}} {{.HostConfig.ShmSize}} {{.HostConfig.PidMode}}|{{.HostConfig.Runtime}}| => json-file false 0 ||
        c {{json .HostConfig.PortBindings}} {{json .State.Running}} {{json .State.Pid}} => {"80/tcp":[{"HostIp":"","HostPort":"8080"}]} true 42
        c {{.GraphDriver.Name}}|{{.ExecIDs}}|{{.Platform}}|{{.ImageManifestDescriptor}} => |[]||<nil>
        c {{.Config.Volumes}} {{.Config.OnBuild}} {{.Config.StopTimeout}} {{.Config.StopSignal}}|{{.Config.Tty}} => map[] [] <nil> |false
        c {{range $k, $v := .Config.ExposedPorts}}{{$k}} {{$v}}{{end}} => 80/tcp {}
        c {{.ContainerJSONBase.Name}} {{.HostConfig.Resources.Memory}} => /web 1024
        c {{.State.Health.Log}}{{.State.Foo}} => ¶!1 ~:1:29: executing "" at <.State.Foo>: map has no entry for key "Foo"
        c {{(index .State.Health.Log 0).Output}} {{(index .State.Health.Log 0).Start}} => ok 2024-01-02 03:04:05.5 +0200 +0200
    """

    def table(self):
        """The lines of the table, as (words of the command, what is said of it)."""
        for line in self.TABLE.strip().splitlines():
            kind, text = line.strip().split(" ", 1)
            template, _, said = text.rpartition(" =>")
            template = template.replace("\u00b6", "\n")
            yield [template if word == "TEMPLATE" else word for word in self.COMMANDS[kind].split()], said[1:]

    @staticmethod
    def said(status, out, err):
        """What the table says of an outcome."""
        text = out[:-1] if out.endswith("\n") and not status else out
        if status:
            text += "!%d %s" % (status, err.strip().replace("template parsing error: template: ", "~"))
        return text.replace("\n", "\u00b6")

    def compare(self, outcomes):
        """Asserts that the outcomes are what the table says."""
        wrong, count = [], 0
        for (words, said), (status, out, err) in zip(self.table(), outcomes):
            count += 1
            if self.said(status, out, err) != said:
                wrong.append("%s\n  wanted %s\n  got    %s" % (" ".join(words), said, self.said(status, out, err)))
        self.assertGreater(count, 300)
        if wrong:
            self.fail("%d of %d:\n%s" % (len(wrong), count, "\n".join(wrong)))

    def test_docker_prints(self):
        """The table itself, where there is a docker to ask."""
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(4) as pool:
            command = [docker_client()]
            self.compare(pool.map(lambda line: run(command + line[0], self.env())[:3], self.table()))

    def test_pydock_prints(self):
        pydock = module()

        def outcome(words):
            out, err, status = io.StringIO(), io.StringIO(), 0
            cli = pydock.DockerCli(io.StringIO(), out, err, pydock.Endpoint(self.host), pydock.ConfigFile(), "docker")
            try:
                cli.cmd(*words)
            except pydock.DockerError as error:
                status = getattr(error, "status_code", 1)
                err.write(str(error))
            cli.close()
            return status, out.getvalue(), err.getvalue()
        self.compare(outcome(words) for words, _ in self.table())

    EVENT = {"Type": "container", "Action": "start", "Actor": {"ID": "a", "Attributes": {"x": "y"}}, "scope": "local",
             "time": 1, "timeNano": 10 ** 9}

    @rows(("{{.Type}} {{.Actor.Attributes.x}} {{.Actor}} {{.ID}} {{.Time}}", "container y {a map[x:y]}  1"),
          ("{{json .}}", '{"Type":"container","Action":"start","Actor":{"ID":"a","Attributes":{"x":"y"}},"scope":"local",'
           '"time":1,"timeNano":1000000000}'),
          ("{{.Status}}|{{.From}}", "|"), ('{{printf "%T" .}}', "events.Message"), ("table {{.ID}}", "table "))
    def test_events(self, template, text):
        pydock = module()
        self.assertEqual(pydock.Template(template).execute(pydock.Value("events.Message", self.EVENT)), text)

    @rows(("{{", ":1: unclosed action"), ("{{foo}}", ':1: function "foo" not defined'),
          ("{{.Type}}{{.Foo}}", ':1:11: executing "" at <.Foo>: can\'t evaluate field Foo in type *events.Message'))
    def test_example_comes_first(self, template, words):
        """Before a stream begins, its template is tried on nothing."""
        pydock = module()
        cli = pydock.DockerCli(None, io.StringIO(), None, pydock.Endpoint(self.host))
        with self.assertRaises(pydock.StatusError) as caught:
            cli.template(template, example=pydock.Value("*events.Message", {}), complaint="Error parsing format")
        self.assertEqual((str(caught.exception), caught.exception.status_code),
                         ("Error parsing format: template: " + words, 64))


class TemplateFaultTest(DifferentialCase):
    """Templates of `info` and `version`, whose client part needs no engine, at one that fails."""

    def setUp(self):
        super().setUp()
        broken = answer(500, {"message": "boom"})
        self.engine = self.start(ScriptedEngine(("GET", "/info", broken), ("GET", "/version", broken)))
        self.host = self.engine.host

    @lines("""
        info -f {{.ClientInfo.Debug}}
        info -f "{{with .ClientErrors}}x{{end}}"
        info -f {{.ID}}
        info -f "{{json .ServerErrors}} {{len .ServerErrors}}"
        ! info -f {{.Foo}}
        ! info -f {{
        info -f x
        ! -H unix:///nope info -f {{.ID}}
        -H unix:///nope info -f {{.ClientInfo.Debug}}
        ! version -f {{.Client.Context}}
        ! version -f {{.Server}}
        ! version -f {{.Server.Version}}
        ! version -f {{.Foo}}
        ! version -f {{
        ! -H unix:///nope version -f {{.Server}}
    """)
    def test_broken(self, *args, **options):
        self.differential(*args, **options)


class TarStreamTest(CliCase):
    """The writer of tar archives, read back by tarfile."""

    def tree(self):
        """A folder with one of each kind of entry that this user can make."""
        top = os.path.join(self.folder(), "top")
        os.makedirs(os.path.join(top, "sub", "x" * 120))
        for name, data in (("a", b"a"), ("big", os.urandom(700000)), ("empty", b""), ("n" * 150, b"long"), ("\xe9", b"e"),
                           ("old", b"old"), ("sub/" + "x" * 120 + "/" + "y" * 120, b"deep"), ("sub.d", b"1" * 512)):
            with open(os.path.join(top, name), "wb") as file:
                file.write(data)
        os.chmod(os.path.join(top, "a"), 0o4751)
        os.link(os.path.join(top, "a"), os.path.join(top, "hard"))
        os.symlink("a", os.path.join(top, "link"))
        os.symlink("z" * 140, os.path.join(top, "dangling"))
        os.symlink("sub", os.path.join(top, "to-sub"))
        os.mkfifo(os.path.join(top, "pipe"))
        os.utime(os.path.join(top, "old"), (-86400 * 365, -86400 * 365))
        os.utime(os.path.join(top, "sub"), (1.9, 1.9))
        return top

    def packed(self, *args, **options):
        """The archive as TarFile of a TarStream, as it arrives at an engine."""
        engine = self.start(ScriptedEngine(("PUT", "/x", answer(200, b""))))
        with module().Client(engine.host) as client:
            client.call("PUT", "/x", body=module().TarStream(*args, **options))
        return tarfile.open(fileobj=io.BytesIO(engine.calls("/x")[0].body))

    def test_a_tree(self):
        top = self.tree()
        tar = self.packed(top, "name")
        reference = io.BytesIO()
        with tarfile.open(fileobj=reference, mode="w", format=tarfile.GNU_FORMAT) as other:
            for name in tar.getnames():
                other.add(top + name[len("name"):], name.rstrip("/"), recursive=False)
        reference.seek(0)
        def entries(tar):
            return {m.name.rstrip("/"): (m.type, m.mode, m.uid, m.gid, m.size, int(m.mtime // 1), m.linkname,
                             tar.extractfile(m).read() if m.type == tarfile.REGTYPE else None) for m in tar}
        ours, theirs = entries(tar), entries(tarfile.open(fileobj=reference))
        self.assertEqual(sorted(ours), sorted(theirs))
        for name in ours:
            self.assertEqual(ours[name], theirs[name], name)
        self.assertEqual(list(ours), sorted(ours, key=lambda name: name.split("/")))

    def test_without_sendfile(self):
        """Over TLS and ssh, or where Python cannot, the same bytes go out."""
        top, known = self.tree(), module()._sends_files
        self.addCleanup(setattr, module(), "_sends_files", known)
        module()._sends_files = lambda wire: False
        with open(os.path.join(top, "big"), "rb") as file:
            self.assertEqual(self.packed(top, "x").extractfile("x/big").read(), file.read())

    @rows(("", ["sub", "sub/f", "x"]), (".", [".", "./sub", "./sub/f", "./x"]),
          ("a/b", ["a/b", "a/b/sub", "a/b/sub/f", "a/b/x"]))
    def test_names(self, name, wanted):
        top = self.folder()
        os.mkdir(os.path.join(top, "sub"))
        for path in ("sub/f", "x"):
            open(os.path.join(top, path), "w").close()
        for path in (top, top + "/"):
            self.assertEqual([found.rstrip("/") for found in self.packed(path, name).getnames()], wanted)
        self.assertEqual(self.packed(os.path.join(top, "x"), "y").getnames(), ["y"])

    def test_ignore_owner_and_extra(self):
        top, asked = self.folder(), []
        for folder in ("keep", "prune", "skip"):
            os.mkdir(os.path.join(top, folder))
            for name in ("a", "b"):
                open(os.path.join(top, folder, name), "w").close()

        def ignore(path, is_dir):
            asked.append((path, is_dir))
            return module().PRUNE if path == "prune" else path in ("skip", "skip/a", "keep/b")
        tar = self.packed(top, ignore=ignore, owner=(7, 8), extra=[("Dockerfile.x", b"FROM x\n", 0o600)])
        self.assertEqual(tar.getnames(), ["keep", "keep/a", "skip/b", "Dockerfile.x"])
        self.assertEqual([(m.uid, m.gid) for m in tar], [(7, 8)] * 3 + [(0, 0)])
        self.assertEqual((tar.getmember("Dockerfile.x").mode, tar.extractfile("Dockerfile.x").read()), (0o600, b"FROM x\n"))
        self.assertIn(("prune", True), asked)
        self.assertNotIn(("prune/a", False), asked)

    def test_numbers_that_no_octal_field_holds(self):
        head = module().tar_header("a", 0o644, 1 << 22, 1 << 31, 1 << 34, 1 << 35)
        found = tarfile.open(fileobj=io.BytesIO(head + bytes(1024))).next()
        self.assertEqual((found.name, found.uid, found.gid, found.size, found.mtime), ("a", 1 << 22, 1 << 31, 1 << 34, 1 << 35))
        for length in range(80, 120):
            name = "n" * length
            self.assertEqual(tarfile.open(fileobj=io.BytesIO(module().tar_header(name, 0, 0, 0, 0, 0))).next().name, name)

    def test_what_cannot_be_read(self):
        top = self.folder()
        path = os.path.join(top, "s")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path)
        with self.assertRaises(module().DockerError) as caught:
            list(module().TarStream(top))
        self.assertEqual(str(caught.exception), path + ": archive/tar: sockets not supported")
        told = []
        list(module().TarStream(top, skipped=lambda *words: told.append(words)))
        self.assertEqual(told, [(path, "archive/tar: sockets not supported")])

    def test_a_file_that_cannot_be_opened(self):
        """An archive that lacks it does not pass for the whole."""
        if not os.geteuid():
            raise unittest.SkipTest("root reads everything")
        path = os.path.join(self.folder(), "f")
        with open(path, "w") as file:
            file.write("secret")
        os.chmod(path, 0)
        with self.assertRaises(module().DockerError) as caught:
            list(module().TarStream(path, "f", skipped=print))
        self.assertEqual(str(caught.exception), "open %s: permission denied" % path)

    def test_a_file_that_shrinks(self):
        """No archive of the wrong length goes out as if it were whole."""
        path = os.path.join(self.folder(), "f")
        with open(path, "wb") as file:
            file.truncate(20 << 20)

        def blocks():
            for block in module().TarStream(path, "f"):
                yield block
                if isinstance(block, tuple):
                    os.truncate(path, 9 << 20)
        engine = self.start(ScriptedEngine(("PUT", "/x", answer(200, b""))))
        with module().Client(engine.host) as client, self.assertRaises(module().DockerError) as caught:
            client.call("PUT", "/x", body=blocks())
        self.assertEqual(str(caught.exception), "the file became shorter while it was sent")


class UsageTest(DifferentialCase):
    """What is wrong with a command line is said as docker says it, before any engine is asked."""

    host = "unix:///nonexistent/docker.sock"

    @lines("""
        ! pull
        ! pull a b
        ! pull --bogus a
        ! pull -z a
        ! pull -aqz a
        ! pull --platform
        ! pull --all-tags=maybe a
        ! pull --all-tags=yes a
        ! pull --=x a
        ! pull --al a
        ! pull -a=x a
        ! push
        ! push a b
        ! push --bogus
        ! push --platform
        ! login a b
        ! login -u
        ! login --password
        ! login --username
        ! login --bogus
        ! logout a b
        ! logout --bogus
        ! search
        ! search a b
        ! search --limit
        ! search --limit x term
        ! search --limit 1.5 term
        ! search --filter nothing term
        ! version x
        ! version --bogus
        ! version --format
        ! info x
        ! info -z
        ! images a b
        ! images --bogus
        ! images -f nothing
        ! images --digests=no
        ! ps x
        ! ps -n
        ! ps -n x
        ! ps --last=abc
        ! ps --last=9999999999999999999999
        ! ps --filter nothing
        ! ps -H x
        ! ps -aqx
        ! inspect
        ! inspect --bogus x
        ! inspect --type
        ! tag
        ! tag a
        ! tag a b c
        ! tag --bogus a b
        ! rmi
        ! rmi -z x
        ! save
        ! save -o
        ! save --bogus x
        ! load x
        ! load -i
        ! load --bogus
        ! image pull
        ! image push
        ! image ls a b
        ! image tag a
        ! image rm
        ! image save
        ! image load x
        ! image inspect
        ! container ls x
        ! container ls --bogus
        ! container inspect
        ! system info x
    """)
    def test_flags_and_arguments(self, *args, **options):
        self.differential(*args, **options)

    @lines("""
        ! container nosuch
        ! image nosuch
        ! image nosuch a b
        ! system nosuch
        ! help nosuch
        ! help image nosuch
    """)
    def test_unknown_words(self, *args, **options):
        self.differential(*args, **options)

    @rows(("nosuch",), ("nosuch", "a", "b"), ("_private",), ("pull-x",), ("get_method",), ("__init__",), ("cmd_ps",),
          ("",), ("--", "nosuch"), ("p",), ("\u00e4",))
    def test_unknown_command(self, *words):
        """The words of docker 1.2.0 (README), with the help, on stderr."""
        done = self.pydock(*words)
        word = [word for word in words if word != "--"][0]
        self.check(done, 1, "", re.compile(r"\AError: Command not found: %s\n.*Usage:  docker" % re.escape(word), re.S))

    @rows(("PS", "ps"), ("Images", "images"), ("Image LS", "image ls"), ("iNspect x", "inspect x"))
    def test_words_in_any_case(self, typed, word):
        """As the 1.2.0 client, unlike today's."""
        one, other = self.pydock(*typed.split()), self.pydock(*word.split())
        self.assertEqual(one[:3], other[:3])
        self.assertIn("Cannot connect", one.stderr)

    def test_two_hosts(self):
        done = self.pydock("-H", "unix:///a", "-H", "unix:///b", "ps")
        self.check(done, 1, "", "Please specify only one -H\n")

    @lines("""
        ! --bogus ps
        ! -z ps
        ! --bogus
        ! -H
        ! --host
        ! --config
        ! --context
        ! -c
        ! -l
        ! -l bogus ps
        ! --log-level=loud ps
        ! --tlsverify=maybe ps
        ! --debug=2 ps
        ! -Dz ps
        ! --context nope ps
        ! -c nope ps
        ! --context default -H unix:///nonexistent/x.sock ps
        ! --context "" -H unix:///nonexistent/x.sock ps
        ! --context bad/name ps
        ! --tlscacert
    """)
    def test_global_flags(self, *args, **options):
        self.differential(*args, **options)

    @lines("""
        nosuch --help
        image nosuch --help
        container nosuch --help
    """)
    def test_help_beside_an_unknown_word(self, *args, **options):
        results = self.both(*args)
        theirs, ours = results["docker"][0], results["pydock"][0]
        self.assertEqual((ours.status, ours.stdout.split("\n")[0], ours.stderr),
                         (theirs.status, theirs.stdout.split("\n")[0], theirs.stderr))

    @lines("""
        help help
        help pull
        help image pull
        help image ls
        pull --help
        pull -h
        pull x y z --help
        push --help
        login --help
        logout --help
        search --help
        version --help
        info --help
        images --help
        ps --help
        inspect --help
        tag --help
        rmi --help
        save --help
        load --help
        image pull --help
        image ls --help
        image list --help
        image rm --help
        image remove --help
        image inspect --help
        image tag --help
        image save --help
        image load --help
        image push --help
        container ls --help
        container ps --help
        container inspect --help
        create --help
        container create --help
        update --help
        system info --help
        network ls --help
        network list --help
        network create --help
        network connect --help
        network disconnect --help
        network inspect --help
        network prune --help
        volume ls --help
        volume create --help
        volume inspect --help
        volume rm --help
        volume prune --help
        volume update --help
        system df --help
        system prune --help
        system events --help
        events --help
        stats --help
        container stats --help
        commit --help
        diff --help
        export --help
        history --help
        import --help
        kill --help
        pause --help
        port --help
        rename --help
        restart --help
        rm --help
        stop --help
        unpause --help
        wait --help
        container prune --help
        container remove --help
        container top --help
        image import --help
        image prune --help
    """)
    def test_help(self, *args, **options):
        results = self.both(*args)
        theirs, ours = results["docker"][0], results["pydock"][0]
        self.assertEqual((ours.status, bool(ours.stdout), bool(ours.stderr)),
                         (theirs.status, bool(theirs.stdout), bool(theirs.stderr)))
        for one, other in ((theirs.stdout, ours.stdout), (theirs.stderr, ours.stderr)):
            self.assertEqual(help_layout(one), help_layout(other), "\n" + comparison(help_layout(one), help_layout(other)))


    @lines("""
        --help
        help
        image
        image --help
        help image
        container
        container --help
        system
        network
        network --help
        volume
        help volume
        builder
    """)
    def test_help_of_groups(self, *args, **options):
        """What pydock has yet is laid out as docker has it."""
        results = self.both(*args)
        theirs, ours = results["docker"][0], results["pydock"][0]
        self.assertEqual((ours.status, bool(ours.stdout), bool(ours.stderr)),
                         (theirs.status, bool(theirs.stdout), bool(theirs.stderr)))
        for one, other in ((theirs.stdout, ours.stdout), (theirs.stderr, ours.stderr)):
            there = help_layout(other).splitlines()
            for own in ("  -d, --daemon             ", "  -G, --group string       "):      # of 1.2.0
                if own in there:
                    there.remove(own)
            there = [line for line in there if line]
            known = [line for line in help_layout(one).splitlines() if line in there]
            self.assertEqual(known, there, "\n" + comparison("\n".join(known), "\n".join(there)))


# ======================================================================================================
# Endpoints: hosts, contexts, TLS, what cannot be reached
# ======================================================================================================

class EndpointTest(DifferentialCase):
    """Every wrong address and every engine that cannot be reached is told as docker tells it."""

    host = "unix:///nonexistent/docker.sock"
    normalise = (replaced(r"127\.0\.0\.1:\d+->", "LOCAL->"),) + POINTERS + OWN_CLIENT + LOOKUPS

    @lines("""
        ! ps
        ! -H unix:///nonexistent/x.sock ps
        ! -H unix:///nonexistent/with%20space.sock images
        ! --host=unix:///nonexistent/x.sock version
        ! -H unix:///nonexistent/x.sock info
        ! -H unix:///nonexistent/x.sock pull busybox
        ! -H unix:///nonexistent/x.sock push busybox
        ! -H unix:///nonexistent/x.sock search busybox
        ! -H unix:///nonexistent/x.sock inspect busybox
        ! -H unix:///nonexistent/x.sock inspect --type image busybox
        ! -H unix:///nonexistent/x.sock tag a b
        ! -H unix:///nonexistent/x.sock rmi a b
        ! -H unix:///nonexistent/x.sock save a
        ! -H unix:///nonexistent/x.sock load
        ! -H tcp://127.0.0.1:1 ps
        ! -H 127.0.0.1:1 ps
        ! -H tcp://127.0.0.1:1/some/path ps
        ! -H tcp://[::1]:1 ps
        ! -H tcp://localhost:1 ps
        ! -H bad://x ps
        ! -H http://127.0.0.1:1 ps
        ! -H https://127.0.0.1:1 ps
        ! -H tcp://tcp://x ps
        ! -H tcp://127.0.0.1:port ps
        ! -H tcp://127.0.0.1:99999 ps
        ! -H "tcp://a b:1" ps
        ! -H tcp://[::1 ps
        ! -H tcp://127.0.0.1:1?x=y ps
        ! -H unix:///tmp ps
        ! -H unix:///etc/passwd ps
        ! -H unix://relative.sock ps
        ! -H ssh:// ps
        ! -H ssh://user:word@host ps
        ! -H ssh://host?x=1 ps
        ! -H ssh://host#f ps
        ! -H npipe:////./pipe/docker ps
    """)
    def test_wrong_hosts(self, *args, **options):
        self.differential(*args, **options)

    @rows(
        ("DOCKER_HOST", {"DOCKER_HOST": "tcp://127.0.0.1:1"}),
        ("empty DOCKER_HOST", {"DOCKER_HOST": "", "DOCKER_CONTEXT": "nope"}),
        ("DOCKER_CONTEXT", {"DOCKER_HOST": None, "DOCKER_CONTEXT": "nope"}),
        ("DOCKER_CONTEXT but DOCKER_HOST", {"DOCKER_CONTEXT": "nope"}),
        ("TLS without files", {"DOCKER_HOST": "tcp://127.0.0.1:1", "DOCKER_TLS_VERIFY": "1"}),
        ("TLS verify 0 is on", {"DOCKER_HOST": "tcp://127.0.0.1:1", "DOCKER_TLS_VERIFY": "0"}),
        ("TLS verify empty is off", {"DOCKER_HOST": "tcp://127.0.0.1:1", "DOCKER_TLS_VERIFY": ""}),
        ("TLS", {"DOCKER_HOST": "tcp://127.0.0.1:1", "DOCKER_TLS": "1"}),
        ("cert path", {"DOCKER_HOST": "tcp://127.0.0.1:1", "DOCKER_TLS": "1", "DOCKER_CERT_PATH": "/nonexistent/c"}),
        ("blanks", {"DOCKER_HOST": "  tcp://127.0.0.1:1  "}),
        ("headers", {"DOCKER_CUSTOM_HEADERS": "nothing"}),
        ("empty header key", {"DOCKER_CUSTOM_HEADERS": "=x"}),
        ("bad header quotes", {"DOCKER_CUSTOM_HEADERS": '"x'}),
    )
    def test_environment(self, title, env):
        self.differential("ps", env=env, fails=True)

    def test_forms_that_pydock_refuses(self):
        self.check(self.pydock("-H", "fd://3", "ps"), 1, "", "Failed to initialize: protocol not available\n")

    def test_tls_is_off_for_a_unix_socket(self):
        """Docker wants certificates there, too, and does not use them."""
        self.check(self.pydock("ps", env={"DOCKER_TLS_VERIFY": "1"}), 1, "", "Cannot connect to the Docker daemon at "
                   "unix:///nonexistent/docker.sock. Is the docker daemon running?\n")

    @lines("""
        ! --tls -H tcp://127.0.0.1:1 ps
        ! --tlsverify -H tcp://127.0.0.1:1 ps
        ! --tlsverify --tlscacert /nonexistent/ca.pem -H tcp://127.0.0.1:1 ps
        ! --tls --tlscert /nonexistent/cert.pem -H tcp://127.0.0.1:1 ps
        ! --tlscacert /nonexistent/ca.pem -H tcp://127.0.0.1:1 ps
        ! --tlscert /nonexistent/c.pem --tlskey /nonexistent/k.pem -H tcp://127.0.0.1:1 ps
        ! --tlskey /nonexistent/k.pem --tlsverify -H tcp://127.0.0.1:1 ps
        ! --tlsverify=false --tlskey=/nonexistent/k.pem -H tcp://127.0.0.1:1 ps
        ! --tls=false -H tcp://127.0.0.1:1 ps
    """)
    def test_tls_flags(self, *args, **options):
        self.differential(*args, **options)

    @rows(("client", "--tlsverify", 1), ("stranger", "--tlsverify", 1), ("other-ca", "--tlsverify", 1),
          ("nocert", "--tlsverify", 1), ("mixed", "--tlsverify", 1), ("client", "--tls", 1), ("nocert", "--tls", 1),
          ("client", "--tls=false", 1))
    def test_files_but_nobody_listens(self, kind, flag, _):
        folder = Certificates.get().folder(kind)
        self.differential(flag, "-H", "tcp://127.0.0.1:1", "ps", env={"DOCKER_CERT_PATH": folder}, fails=True)

    @rows(("not a certificate", "cert.pem", "nonsense"), ("not a key", "key.pem", "nonsense"),
          ("not a CA", "ca.pem", "nonsense"), ("empty CA", "ca.pem", ""), ("empty key", "key.pem", ""),
          ("encrypted key", "key.pem", "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"
           "DEK-Info: DES-EDE3-CBC,96CF3A5BD0F6FC7A\n\nAAAA\n-----END RSA PRIVATE KEY-----\n"))
    def test_broken_files(self, title, name, text):
        folder = os.path.join(self.folder(), "certs")
        shutil.copytree(Certificates.get().folder("client"), folder)
        with open(os.path.join(folder, name), "w") as file:
            file.write(text)
        self.differential("--tlsverify", "-H", "tcp://127.0.0.1:1", "ps", env={"DOCKER_CERT_PATH": folder}, fails=True)

    def test_not_a_socket_of_ours(self):
        """A socket that may not be opened."""
        if os.geteuid():
            raise unittest.SkipTest("needs root to become another user")
        docker_client()
        try:
            run([sys.executable, "-c", ""], user=NOBODY, cwd="/")
        except PermissionError:
            raise unittest.SkipTest("other users may not run this Python")
        with ScriptedEngine() as engine:
            os.chmod(engine.path, 0o600)
            shown = {}
            for name, command in (("docker", [self.docker]), ("pydock", pydock_command())):
                for args in (["ps"], ["version"], ["pull", "busybox"], ["save", "busybox"]):
                    done = run(command + args, self.env({"DOCKER_HOST": engine.host}), cwd="/", user=NOBODY)
                    text = self.settle(done.stderr)
                    shown.setdefault(name, []).append((args, done.status, done.stdout if args != ["version"] else "", text))
            self.assertEqual(shown["docker"], shown["pydock"])


class ContextTest(DifferentialCase):
    """Contexts are read from the store on disk."""

    normalise = LOOKUPS

    def setUp(self):
        super().setUp()
        self.engine = self.start(ScriptedEngine(("GET", "/containers/json", answer(200, []))))

    def context(self, name, host, endpoint=None, metadata=None, meta=None):
        """Writes a context into the store."""
        key = hashlib.sha256(name.encode()).hexdigest()
        folder = os.path.join(self.home, ".docker", "contexts", "meta", key)
        os.makedirs(folder)
        with open(os.path.join(folder, "meta.json"), "w") as file:
            file.write(meta if meta is not None else json.dumps(
                {"Name": name, "Metadata": metadata or {},
                 "Endpoints": {"docker": dict({"Host": host, "SkipTLSVerify": False}, **(endpoint or {}))}}))
        return key

    @rows(("flag", ["--context", "one", "ps"], {}, {}),
          ("environment", ["ps"], {"DOCKER_CONTEXT": "one"}, {}),
          ("config", ["ps"], {}, {"currentContext": "one"}),
          ("flag over environment", ["-c", "one", "ps"], {"DOCKER_CONTEXT": "two"}, {"currentContext": "two"}))
    def test_chosen_by(self, title, args, env, config):
        self.context("one", self.engine.host)
        self.config(**config)
        self.differential(*args, env=env)

    @rows(("host over context", ["ps"], {"DOCKER_HOST": "unix:///nonexistent/s"}, {"currentContext": "one"}),
          ("flag default", ["--context", "default", "ps"], {"DOCKER_HOST": "unix:///nonexistent/s"},
           {"currentContext": "one"}),
          ("current is gone", ["ps"], {}, {"currentContext": "gone"}),
          ("current is gone, version", ["version"], {}, {"currentContext": "gone"}))
    def test_not_chosen(self, title, args, env, config):
        self.context("one", self.engine.host)
        self.config(**config)
        self.differential(*args, env=env, fails=True)

    @rows(("a list", "[]"), ("endpoints", '{"Name":"one","Endpoints":[]}'), ("host", '{"Endpoints":{"docker":{"Host":5}}}'))
    def test_wrong_types(self, title, meta):
        """Docker shows the type of a Go variable."""
        self.context("one", "", meta=meta)
        self.check(self.pydock("--context", "one", "ps"), 1, "", re.compile(r"\AFailed to initialize: [^\n]+\n\Z"))

    def test_unusable_host(self):
        """Docker looks up a host of that name."""
        self.context("one", "", meta='{"Name":"one","Endpoints":{"docker":{"Host":"bad://x"}}}')
        self.check(self.pydock("--context", "one", "ps"), 1, "", "Failed to initialize: unable to resolve docker endpoint: "
                   "invalid bind address format: bad://x\n")

    @rows(("not JSON", "{"), ("no endpoint", '{"Name":"one","Metadata":{},"Endpoints":{}}'),
          ("empty", ""), ("null", "null"), ("other endpoint", '{"Name":"one","Endpoints":{"k8s":{"Host":"x"}}}'))
    def test_broken_meta(self, title, meta):
        self.context("one", "", meta=meta)
        self.differential("--context", "one", "ps", fails=True)


class UnfriendlyEngineTest(DifferentialCase):
    """Engines that answer in odd ways: the same message and status as docker gives."""

    normalise = (replaced(r"unix:///\S+?/e\.sock", "unix://SOCKET"), replaced(r"%2F\S+?e\.sock", "SOCKET"),
                 replaced(r"unix @->/\S+", "unix @->SOCKET"), replaced(r"dial unix /\S+", "dial unix SOCKET"))

    ANSWERS = (
        ("500 JSON", answer(500, {"message": "broken  "})),
        ("500 empty message", answer(500, {"message": ""})),
        ("500 other JSON", answer(500, {"cause": "x"})),
        ("500 bad JSON", answer(500, "{nope")),
        ("500 text", answer(500, "plain words\n", "text/plain; charset=utf-8")),
        ("500 JSON with charset", answer(500, {"message": "m"}, "application/json; charset=utf-8")),
        ("500 HTML", answer(502, "<html>bad\ngateway</html>", "text/html")),
        ("500 no type", answer(500, "words", "")),
        ("500 empty", answer(500, "")),
        ("418 empty", answer(418, "", "text/plain")),
        ("503 chunked", chunked(b'{"message":', b'"later"}', status=503)),
        ("404 JSON", answer(404, {"message": "page not found"})),
        ("400 control characters", answer(400, {"message": "a\x1b[31mred\x07"})),
        ("400 newlines", answer(400, {"message": "one\ntwo"})),
        ("401", answer(401, {"message": "unauthorized: no"})),
        ("403", answer(403, {"message": "denied"})),
        ("409", answer(409, {"message": "conflict"})),
        ("501", answer(501, {"message": "not here"})),
        ("301", answer(301, "", headers=(("Location", "/elsewhere"),))),
        ("307", answer(307, "", headers=(("Location", "http://127.0.0.1:1/x"),))),
        ("302 with body", answer(302, [], headers=(("Location", "/x"),))),
    )

    @rows(*ANSWERS)
    def test_ps(self, title, thing):
        self.engine = self.start(ScriptedEngine(("GET", "/containers/json", thing)))
        self.differential("ps", env={"DOCKER_HOST": self.engine.host}, fails=None)

    NO_LOGIN = [row for row in ANSWERS if row[0] != "401"]      # LoginPriorTest's; there docker itself hangs

    @rows(*NO_LOGIN)
    def test_pull(self, title, thing):
        self.engine = self.start(ScriptedEngine(("POST", "/images/create", thing)))
        self.differential("pull", "r.example/a:b", env={"DOCKER_HOST": self.engine.host}, fails=None)

    @rows(*NO_LOGIN)
    def test_push(self, title, thing):
        self.engine = self.start(ScriptedEngine(("POST", "/images/r.example/a/push", thing)))
        self.differential("push", "r.example/a:b", env={"DOCKER_HOST": self.engine.host}, fails=None)

    CUT = (
        ("garbage", [b"\x00\x01\x02 not HTTP\r\n\r\n", CLOSE]),
        ("nothing", [CLOSE]),
        ("TLS alert", [b"\x15\x03\x01\x00\x02\x02\x16", CLOSE]),
        ("HTTP/0.9", [b"hello\n", CLOSE]),
        ("half a status line", [b"HTTP/1.1 20", CLOSE]),
        ("half a header", [b"HTTP/1.1 200 OK\r\nContent-Ty", CLOSE]),
        ("bad status", [b"HTTP/1.1 abc OK\r\n\r\n", CLOSE]),
        ("cut body", cut(answer(200, [{"Id": "x" * 64}]), -5)),
        ("cut chunk", cut(chunked(b"[]"), -8)),
        ("bad chunk size", chunked(b"")[:1] + [b"zz\r\n[]\r\n", CLOSE]),
        ("not JSON", answer(200, "<html>", "text/html")),
        ("empty", answer(200, "")),
        ("null", answer(200, "null")),
    )

    @rows(*CUT)
    def test_cut_list(self, title, thing):
        self.engine = self.start(ScriptedEngine(("GET", "/containers/json", thing)))
        self.differential("ps", env={"DOCKER_HOST": self.engine.host}, fails=None, wire=False)

    # Docker shows the type of a Go variable, and takes the last two for good answers.
    @rows(("object", answer(200, {"a": 1})), ("number", answer(200, "7")), ("text", answer(200, '"x"')),
          ("wrong items", answer(200, [1])), ("wrong members", answer(200, [{"Id": 5, "Names": "x", "Labels": []}])),
          ("deep", answer(200, "[" * 100000)),
          ("no end chunk", cut(chunked(b"[]"), -5)), ("trailing words", answer(200, "[] more")))
    def test_answers_of_other_types(self, title, thing):
        """One line that says what is wrong, status 1, nothing on stdout."""
        self.engine = self.start(ScriptedEngine(("GET", "/(containers|images)/json", thing)))
        for command in ("ps", "images"):
            done = self.pydock(command, env={"DOCKER_HOST": self.engine.host})
            self.check(done, 1, "", re.compile(r"\A[^\n]+\n\Z"))
            self.assertNotIn("bug in pydock", done.stderr)

    @rows(("garbage", [b"\x00\x01\x02 not HTTP\r\n\r\n", CLOSE]), ("nothing", [CLOSE]),
          ("an SSH server", [b"SSH-2.0-OpenSSH_9.2\r\n", CLOSE]),
          ("a mail server", [b"220 mail.example ESMTP\r\n", CLOSE]),
          ("a web server", answer(404, "<html>Not found</html>", "text/html", close=True)),
          ("a web server that likes all", answer(200, "<html>Hello</html>", "text/html", close=True)))
    def test_no_engine_at_all(self, title, thing):
        for command in ("ps", "images"):
            engine = self.start(ScriptedEngine(("*", ".*", thing)))
            self.differential(command, env={"DOCKER_HOST": engine.host}, fails=True)


class TlsTest(CliCase):
    """TLS and mutual TLS over TCP, under every Python (whose ssl modules have become stricter over time)."""

    def engine(self, *tls):
        """A scripted engine behind TLS."""
        return self.start(ScriptedEngine(("GET", "/containers/json", answer(200, [])), tls=tls))

    @rows(("client", "--tlsverify", 0), ("client", "--tls", 0), ("nocert", "--tlsverify", 1), ("stranger", "--tls", 1),
          ("other-ca", "--tlsverify", 1), ("other-ca", "--tls", 0), ("client", "--tls=false", 1), ("mixed", "--tls", 1))
    def test_mutual(self, kind, flag, status):
        certificates = Certificates.get()
        engine = self.engine(*certificates.server() + (certificates.path("ca.pem"),))
        done = self.pydock("-H", engine.host, flag, "ps", env={"DOCKER_CERT_PATH": certificates.folder(kind)}, timeout=20)
        self.check(done, status, stderr=re.compile("" if not status else r"\S"))
        self.assertEqual(bool(engine.calls("/containers/json")), not status)

    @rows(("right name", "server", "127.0.0.1", 0), ("by name", "server", "localhost", 0),
          ("wrong name", "elsewhere", "127.0.0.1", 1))
    def test_name(self, title, name, host, status):
        certificates = Certificates.get()
        engine = self.engine(*certificates.server(name))
        done = self.pydock("-H", engine.host.replace("127.0.0.1", host), "--tlsverify", "ps",
                           env={"DOCKER_CERT_PATH": certificates.folder("client")})
        self.check(done, status, stderr=re.compile("" if not status else "certificate"))
        self.assertEqual(bool(engine.calls()), not status)


class NegotiationTest(DifferentialCase):
    """The API version is agreed on as docker does it: the same requests go over the wire."""

    normalise = UnfriendlyEngineTest.normalise

    def wire(self):
        """Without the look at /version with which pydock finds out about engines before 1.24 (README)."""
        return [line for line in super().wire() if "/version" not in line]

    @rows(*[(str(version), version, {}) for version in (None, "1.12", "1.24", "1.30", "1.41", "1.44", "1.50", "")],
          ("pinned", "1.41", {"DOCKER_API_VERSION": "1.33"}), ("pinned with v", "1.41", {"DOCKER_API_VERSION": "v1.35"}),
          ("pinned above", "1.41", {"DOCKER_API_VERSION": "1.99"}))
    def test_version(self, title, version, env):
        self.engine = self.start(ScriptedEngine(("GET", "/containers/json", answer(200, [])), api=version))
        self.differential("ps", env=dict(env, DOCKER_HOST=self.engine.host))

    @rows(("500 with version", answer(500, "", headers=(("Api-Version", "1.30"),)), None),
          ("500 without", answer(500, ""), None),
          ("HEAD is 404", answer(404, ""), answer(200, "OK", headers=(("Api-Version", "1.31"),))),
          ("HEAD is 405", answer(405, ""), answer(200, "OK", headers=(("Api-Version", "1.31"),))),
          ("HEAD closes", [CLOSE], answer(200, "OK", headers=(("Api-Version", "1.31"),))),
          ("both 404", answer(404, ""), answer(404, "")))
    def test_ping(self, title, head, get):
        self.engine = self.start(ScriptedEngine(("HEAD", "/_ping", head), ("GET", "/_ping", get or head),
                                                ("GET", "/containers/json", answer(200, []))))
        self.differential("ps", env={"DOCKER_HOST": self.engine.host}, fails=None)


# ======================================================================================================
# Configuration and credentials
# ======================================================================================================

class ConfigTest(DifferentialCase):
    """config.json: what is read, what is complained about, what is sent because of it."""

    wire_headers = DifferentialCase.wire_headers + ("X-One", "X-Two")
    normalise = UnfriendlyEngineTest.normalise

    def setUp(self):
        super().setUp()
        image = {"Id": "sha256:" + "ab" * 32, "RepoTags": ["a:1"], "RepoDigests": [], "Created": 1700000000,
                 "Size": 1234567, "VirtualSize": 1234567, "SharedSize": -1, "Containers": -1, "Labels": None,
                 "ParentId": ""}
        self.engine = self.start(ScriptedEngine(
            ("GET", "/containers/json", answer(200, [])), ("GET", "/images/json", answer(200, [image])),
            ("POST", "/images/create", messages({"status": "Pulled"}))))
        self.extra_env = {"DOCKER_HOST": self.engine.host}
        self.host = self.engine.host

    @rows(*[(text,) for text in (
        "", "{}", "{", "null", '{"auths": {"r.example": {"auth": "%%%"}}}',
        '{"auths": {"r.example": {"auth": "bm9jb2xvbg=="}}}', '{"auths": {"r.example": null}}', '{"unknown": {"deep": [1]}}',
        '{"psFormat": "{{.ID}}", "psFormat": "{{.Names}}"}', '{} trailing', '\ufeff{}',
        '{"aliases": {"foo": "bar"}}', '{"aliases": {"builder": "buildx"}}',
    )])
    def test_contents(self, text):
        self.config(text)
        self.differential("ps", fails=None)

    @rows(*[(text,) for text in (
        "[]", "7", '"x"', '{"auths": 5}', '{"psFormat": 5}', '{"HttpHeaders": []}', '{"HttpHeaders": {"X-One": 1}}',
        '{"credsStore": 1}', '{"credHelpers": []}', '{"currentContext": 5}', '{"auths": {"r.example": 5}}',
        '{"auths": {"r.example": {"auth": 5}}}', '{"proxies": 5}', '{"detachKeys": {}}', '{"aliases": []}')])
    def test_wrong_types(self, text):
        """A warning with docker's beginning (then docker shows the type of a Go variable), and on it goes."""
        path = self.config(text)
        done = self.pydock("ps")
        self.check(done, 0, re.compile("CONTAINER ID"))
        self.assertRegex(done.stderr, r"\A(WARNING: Error parsing config file \(%s\): [^\n]+\n)?\Z" % re.escape(path))

    @rows(("a folder", "folder"), ("not readable", "secret"), ("a dangling link", "link"), ("no folder", "none"))
    def test_file(self, title, kind):
        path = self.config("{}")
        if kind == "folder":
            os.unlink(path)
            os.mkdir(path)
        elif kind == "link":
            os.unlink(path)
            os.symlink("nowhere.json", path)
        elif kind == "none":
            shutil.rmtree(os.path.dirname(path))
        self.differential("ps", fails=None)

    @rows(("headers", {"HttpHeaders": {"X-One": "1", "x-two": "two words", "User-Agent": "me"}}, {}),
          ("environment headers", {"HttpHeaders": {"X-One": "1"}}, {"DOCKER_CUSTOM_HEADERS": "x-two=2"}),
          ("environment headers quoted", {}, {"DOCKER_CUSTOM_HEADERS": '"X-One=a,b",x-two=3'}))
    def test_headers(self, title, config, env):
        self.config(**config)
        self.differential("ps", env=env)

    @rows(("images", {"imagesFormat": "{{.Repository}} {{.ID}}"}, "images"),
          ("images quiet", {"imagesFormat": "{{.Repository}}"}, "images -q"),
          ("images flag", {"imagesFormat": "{{.Repository}}"}, "images --format {{.Tag}}"),
          ("images table", {"imagesFormat": "table {{.Tag}}\\t{{.Repository}}"}, "images"),
          ("images json", {"imagesFormat": "json"}, "images"),
          ("images raw", {"imagesFormat": "raw"}, "images"))
    def test_formats(self, title, config, line):
        self.config(**config)
        self.differential(*line.split(" "))

    @rows(("flag", ["--config", "CONF"], {}), ("environment", [], {"DOCKER_CONFIG": "CONF"}),
          ("flag over environment", ["--config", "CONF"], {"DOCKER_CONFIG": "/nonexistent"}),
          ("no such folder", ["--config", "/nonexistent/c"], {}))
    def test_folder(self, title, flags, env):
        folder = os.path.join(self.home, "conf")
        os.mkdir(folder)
        with open(os.path.join(folder, "config.json"), "w") as file:
            file.write('{"HttpHeaders": {"X-One": "from the folder"}}')
        self.differential(*[word.replace("CONF", folder) for word in flags + ["ps"]],
                          env={key: value.replace("CONF", folder) for key, value in env.items()})


def basic(user, password):
    """The `auth` member of an entry of config.json."""
    return base64.b64encode(("%s:%s" % (user, password)).encode()).decode()


class CredentialsTest(DifferentialCase):
    """Which credentials go out with a pull: X-Registry-Auth on the wire is compared."""

    normalise = UnfriendlyEngineTest.normalise

    def setUp(self):
        super().setUp()
        self.engine = self.start(ScriptedEngine(("POST", "/images/create", messages({"status": "Pulled"})),
                                                ("POST", "/images/.*/push", messages({"status": "Pushed"}))))
        self.host = self.engine.host

    AUTHS = {
        "https://index.docker.io/v1/": {"auth": basic("hub", "hub-word")},
        "r.example": {"auth": basic("plain", "a:b:c"), "email": "me@r.example"},
        "https://url.example/v2/": {"auth": basic("url", "w")},
        "http://clear.example": {"auth": basic("clear", "w")},
        "port.example:5000": {"auth": basic("port", "w")},
        "token.example": {"auth": basic("token", ""), "identitytoken": "identity"},
        "registry.example": {"registrytoken": "bearer"},
        "separate.example": {"username": "u", "password": "p"},
        "nul.example": {"auth": base64.b64encode(b"u:p\x00\x00").decode()},
        "127.0.0.1:5000": {"auth": basic("loop", "w")},
        "localhost:5000": {"auth": basic("local", "w")},
        "[::1]:5000": {"auth": basic("six", "w")},
    }

    @lines("""
        pull busybox:1
        pull library/busybox:1
        pull docker.io/busybox:1
        pull index.docker.io/busybox:1
        pull registry-1.docker.io/library/busybox:1
        pull r.example/a:1
        pull url.example/a:1
        pull clear.example/a:1
        pull port.example:5000/a:1
        pull port.example/a:1
        pull token.example/a:1
        pull registry.example/a:1
        pull separate.example/a:1
        pull nul.example/a:1
        pull 127.0.0.1:5000/a:1
        pull localhost:5000/a:1
        pull [::1]:5000/a:1
        pull other.example/a:1
        pull R.EXAMPLE/a:1
        push busybox:1
        push r.example/a:1
        push other.example/a:1
    """)
    def test_auths(self, *args, **options):
        self.config(auths=self.AUTHS)
        self.differential(*args, **options)

    HELPERS = {"https://index.docker.io/v1/": ["hub", "hub-word"], "r.example": ["helper", "s"],
               "https://url.example": ["url", "s"], "token.example": ["<token>", "identity"]}

    @rows(*[(config + " " + name, config, name) for config in ("store", "helpers", "both") for name in (
        "busybox:1", "r.example/a:1", "url.example/a:1", "token.example/a:1", "other.example/a:1")])
    def test_helpers(self, title, config, name):
        helper = CredentialHelper(self.folder(), **self.HELPERS)
        keys = {"auths": {"r.example": {"email": "me@r.example"}, "other.example": {"auth": basic("file", "w")}}}
        if config in ("store", "both"):
            keys["credsStore"] = helper.suffix
        if config in ("helpers", "both"):
            keys["credHelpers"] = {"r.example": helper.suffix, "token.example": helper.suffix}
        self.config(**keys)
        self.differential("pull", name, env=helper.env())

    # What docker does in silence is a warning here (issue 2), so stderr is left out.
    @rows(("fail", "pull"), ("stderr", "pull"), ("garbage", "pull"), ("silent", "pull"), ("missing", "pull"))
    def test_failing_helper(self, mode, command):
        helper = CredentialHelper(self.folder(), **self.HELPERS)
        helper.mode(mode)
        self.config(credsStore="nosuchhelper" if mode == "missing" else helper.suffix)
        self.differential(command, "r.example/a:1", env=helper.env(), stderr=False)


# ======================================================================================================
# Streams: progress displays and message streams
# ======================================================================================================

def layer(name, status, current=None, total=None, **more):
    """One progress message as an engine sends it."""
    detail = {key: value for key, value in (("current", current), ("total", total)) if value is not None}
    return dict({"status": status, "progressDetail": detail, "id": name}, **more)


STREAMS = collections.OrderedDict([
    ("two layers", [
        {"status": "Pulling from library/a", "id": "1"}, layer("aaaa", "Pulling fs layer"),
        layer("bbbb", "Pulling fs layer"), layer("aaaa", "Downloading", 10, 1000), layer("bbbb", "Waiting"),
        layer("aaaa", "Downloading", 1000, 1000), layer("aaaa", "Download complete"),
        layer("bbbb", "Downloading", 512, 123456789), layer("aaaa", "Extracting", 500, 1000),
        layer("aaaa", "Pull complete"), layer("bbbb", "Extracting", 123456789, 123456789),
        layer("bbbb", "Pull complete"), {"status": "Digest: sha256:00"},
        {"status": "Status: Downloaded newer image for a:1"}]),
    ("no total", [layer("a", "Downloading", 5), layer("a", "Downloading", 5000000, 0), layer("a", "Downloading", 7, -1)]),
    ("over the total", [layer("a", "Downloading", 50, 10), layer("b", "Downloading", 0, 10)]),
    ("units", [{"id": "a", "status": "Moving", "progressDetail": {"current": 3, "total": 10, "units": "layers"}},
               {"id": "b", "status": "Moving", "progressDetail": {"current": 3, "total": 0, "units": "layers"}},
               {"id": "c", "status": "Hidden", "progressDetail": {"current": 3, "total": 10, "hidecounts": True}}]),
    ("plain between", [layer("a", "Downloading", 1, 10), {"status": "a plain line"}, layer("a", "Downloading", 9, 10),
                       {"status": "with id", "id": "x"}, layer("b", "Downloading", 2, 10), layer("a", "Done")]),
    ("stream text", [{"stream": "no newline"}, {"stream": " end\n"}, {"stream": "Loaded image: a\n"}]),
    ("aux", [{"aux": {"Tag": "1", "Digest": "sha256:00", "Size": 5}}, {"status": "after"}]),
    ("from and time", [{"status": "s", "id": "i", "from": "f", "time": 1700000000, "timeNano": 1700000000123456789},
                       {"status": "s", "from": "f"}, {"status": "s", "time": 1700000000}]),
    ("old progress text", [{"status": "Downloading", "id": "a", "progress": "[==>  ] 5 B/10 B",
                            "progressDetail": {"current": 5, "total": 10}},
                           {"status": "Old", "id": "b", "progress": "[>] 1"}]),
    ("error", [layer("a", "Downloading", 1, 10), {"errorDetail": {"message": "it broke"}, "error": "it broke"},
               {"status": "never"}]),
    ("error with code", [{"errorDetail": {"code": 7, "message": "coded"}, "error": "coded"}]),
    ("empty message", [{}, {"status": ""}, {"id": "x"}, {"status": "x"}]),
    ("unicode", [{"status": "gr\u00fc\u00df \u4e16\u754c"}, layer("\u4e16", "\u754c", 1, 2)]),
    ("many layers", [layer("l%02d" % n, "Waiting") for n in range(30)]
     + [layer("l%02d" % n, "Downloading", n, 30) for n in range(30)] + [layer("l03", "Done"), layer("l29", "Done")]),
])


class MessageStreamTest(DifferentialCase):
    """JSON message streams, on a terminal and elsewhere, however the bytes arrive."""

    normalise = (replaced(r"(B) +\d+h?\d*m?\d*s\n", r"\1 TIME\n"),)

    def play(self, name, *args, shape=lambda thing: thing, **options):
        self.engine = self.start(ScriptedEngine(("POST", "/images/create", shape(messages(*STREAMS[name])))))
        return self.differential("pull", *(args or ("a:1",)), env={"DOCKER_HOST": self.engine.host}, fails=None, **options)

    @rows(*[(name,) for name in STREAMS])
    def test_plain(self, name):
        self.play(name)

    @rows(*[(name,) for name in STREAMS])
    def test_quiet(self, name):
        self.play(name, "-q", "a:1")

    @rows(*[("%s %d" % (name, columns), name, columns) for columns in (40, 80, 150) for name in STREAMS
            if name != "old progress text"])
    def test_terminal(self, title, name, columns):
        self.play(name, runner=on_terminal(columns=columns, rows=40))

    @rows(*[(name,) for name in ("two layers", "unicode", "error")])
    def test_one_byte_at_a_time(self, name):
        self.play(name, shape=lambda thing: list(split(thing, 1)))

    @rows(*[(name,) for name in ("two layers", "unicode", "error")])
    def test_all_at_once(self, name):
        self.play(name, shape=glue)

    @rows(("no separator", b"".join), ("newlines", b"\n".join), ("blanks", b"  ".join))
    def test_separators(self, title, join):
        data = join(json.dumps(thing).encode() for thing in STREAMS["two layers"])
        self.engine = self.start(ScriptedEngine(("POST", "/images/create", chunked(data[:77], data[77:]))))
        self.differential("pull", "a:1", env={"DOCKER_HOST": self.engine.host})

    @rows(("garbage", chunked(b'{"status":"good"}\n<html>')), ("cut JSON", chunked(b'{"status":"good"}\n{"sta')),
          ("wrong type", chunked(b'{"status":5}')),
          ("cut chunk", cut(messages({"status": "good"}, {"status": "never"}), -12)),
          ("no end", cut(messages({"status": "good"}), -5)),
          ("reset", [*messages({"status": "good"}, end=False), RESET]),
          ("dies", [*messages({"status": "good"}, end=False), 0.1, DIE]))
    def test_broken(self, title, thing):
        self.engine = self.start(ScriptedEngine(("POST", "/images/create", thing)))
        self.differential("pull", "a:1", env={"DOCKER_HOST": self.engine.host}, fails=True, wire=False)


# ======================================================================================================
# Streams: frames, raw terminals, signals, on a scripted engine
# ======================================================================================================

UPGRADED = (b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\n"
            b"Upgrade: tcp\r\n\r\n")


def frame(data, stream=1):
    """One frame of a stream that holds both outputs."""
    data = data.encode() if isinstance(data, str) else data
    return struct.pack(">BxxxL", stream, len(data)) + data


def echo(request, sock, file):
    """Sends back what comes in, in frames."""
    while True:
        data = file.read1(1 << 16)
        if not data:
            return None
        sock.sendall(frame(data))


def stream_engine(*pieces, tty=False, status=answer(200, {"StatusCode": 0}), start=answer(204), script=(), **options):
    """An engine with a container `c`, whose attach and exec answer with the pieces."""
    state = {"Running": True, "Paused": False, "Restarting": False}
    container = {"Id": "c" * 64, "State": state, "HostConfig": {"AutoRemove": False},
                 "Config": {"Tty": tty, "OpenStdin": True}}
    return ScriptedEngine(*tuple(script) + (
        ("GET", "/containers/[^/]+/json", answer(200, container)),
        ("POST", "/containers/create", answer(201, {"Id": "c" * 64, "Warnings": []})),
        ("POST", "/containers/[^/]+/(attach)", list(pieces)), ("POST", "/exec/e/start", list(pieces)),
        ("POST", "/containers/c/exec", answer(201, {"Id": "e"})), ("POST", "/containers/[^/]+/start", start),
        ("POST", "/containers/[^/]+/(resize|kill)", answer(200)), ("POST", "/exec/e/resize", answer(200)),
        ("GET", "/exec/e/json", answer(200, {"ID": "e", "Running": False, "ExitCode": 0})),
        ("POST", "/containers/[^/]+/wait", status)), **options)


BOTH = [frame("one\n"), frame("two\n", 2), frame(""), frame("three\n" * 30), frame("in\n", 0), frame("\xfc\n" * 9, 2)]


class FrameTest(Case):
    """The demultiplexer, fed directly."""

    def copy(self, blocks, both=True):
        out, err = [], []
        keep = [lambda pieces, to=to: to.append(b"".join(bytes(piece) for piece in pieces)) for to in (out, err)]
        module().copy_frames(([block] for block in blocks), keep[0], keep[1] if both else None)
        return b"".join(out), b"".join(err)

    @rows(("1", 1), ("2", 2), ("7", 7), ("8", 8), ("9", 9), ("100", 100), ("10000", 10000))
    def test_cut_anywhere(self, title, size):
        data = b"".join(BOTH) * 20
        wanted = self.copy([data])
        self.assertEqual(wanted[0].count(b"three"), 600)
        self.assertEqual(wanted[1].count(b"two"), 20)
        blocks = [data[at:at + size] for at in range(0, len(data), size)]
        self.assertEqual(self.copy(blocks), wanted)
        self.assertEqual(self.copy(memoryview(bytearray(block)) for block in blocks), wanted)
        mixed = self.copy(blocks, both=False)
        self.assertEqual((mixed[0][:13], mixed[1]), (b"one\ntwo\nthree", b""))

    def test_sizes(self):
        data, wanted = [], [b"", b""]
        for size in list(range(300)) + [65535, 65536, 1 << 20]:
            payload = os.urandom(size)
            data.append(frame(payload, 1 + size % 2))
            wanted[size % 2] += payload
        data = b"".join(data)
        for size in (1000, 1 << 17):
            blocks = [memoryview(bytearray(data[at:at + size])) for at in range(0, len(data), size)]
            self.assertEqual(self.copy(blocks), tuple(wanted))

    @rows((5, "Unrecognized input header: 5"), (3, "error from daemon in stream: it broke"))
    def test_complaints(self, stream, words):
        for size in (1, 1000):
            data = frame("good") + frame("it broke", stream)
            with self.assertRaises(module().DockerError) as caught:
                self.copy([data[at:at + size] for at in range(0, len(data), size)])
            self.assertEqual(str(caught.exception), words)

    @rows(("lines", [b"line %d\n" % n for n in range(5000)]), ("with CRLF", [b"line %d\r\n" % n for n in range(5000)]),
          ("CRLF now and then", [b"%d\n" % n + b"\r\n" * (n % 97 == 5) for n in range(5000)]),
          ("chunk-like", [b"a\r\n1\r\n0\r\n\r\n%d" % n for n in range(3000)]), ("empty", [b""] * 3000))
    def test_chunks(self, title, payloads):
        thing = chunked(*[frame(payload) for payload in payloads])
        for shape in (glue(thing), list(split(glue(thing), 5001))):
            with ScriptedEngine(("GET", "/containers/c/logs", shape)) as engine, module().Client(engine.host) as client:
                got = []
                with client.logs("c") as body:
                    module().copy_frames(body.spans(), lambda pieces: got.append(b"".join(map(bytes, pieces))), None)
                self.assertEqual(b"".join(got), b"".join(payloads))
                with client.logs("c") as body:
                    self.assertEqual(len(b"".join(body.blocks())), sum(map(len, payloads)) + 8 * len(payloads))


class DetachKeysTest(Case):
    """The key sequence that detaches, and what only looks like one."""

    @rows(("a", b"a"), ("ctrl-p,ctrl-q", b"\x10\x11"), ("ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_", b"\0\x1b\x1c\x1d\x1e\x1f"),
          ("DEL,x, ", b"\x7fx "), ("ctrl-z,Z", b"\x1aZ"), ("foo", None), ("", None), ("ctrl-A", None), ("ctrl-1", None),
          ("a,,b", None), ("del", None), ("\xe4", None))
    def test_parse(self, text, keys):
        if keys is not None:
            return self.assertEqual(module().parse_detach_keys(text), keys)
        with self.assertRaises(ValueError) as caught:
            module().parse_detach_keys(text)
        self.assertIn("Unknown character: '", str(caught.exception))

    @rows(("abc", b"pq", b"abc", False), ("abpqc", b"pq", b"ab", True), ("abp|qc", b"pq", b"ab", True),
          ("abp|cpq", b"pq", b"abpc", True), ("ppq", b"pq", b"p", True), ("p|p|q", b"pq", b"p", True),
          ("p", b"pq", b"p", False), ("aab|aac|x", b"aabaac", b"", True), ("aab|aab|aac", b"aabaac", b"aab", True),
          ("pq", b"", b"pq", False), ("xq", b"q", b"x", True))
    def test_split(self, typed, keys, sent, found):
        got, held, left = b"", b"", False
        for block in typed.encode().split(b"|"):
            data, held, left = module().split_keys(held + block, keys)
            got += data
            if left:
                break
        self.assertEqual((got + (b"" if left else held), left), (sent, found))


class StreamTest(DifferentialCase):
    """attach, exec, start, logs and run against an engine that answers oddly."""

    normalise = (replaced(r'time="[^"]*" level=error msg="(.*)"', r"\1"),)

    def play(self, engine, *args, **options):
        self.engine = self.start(engine)
        return self.differential(*args, env={"DOCKER_HOST": engine.host}, **dict({"fails": None}, **options))

    @rows(("whole", BOTH), ("glued", [b"".join(BOTH)]), ("bytes", list(split(b"".join(BOTH)))),
          ("in the head", []), ("nothing", []))
    def test_output(self, title, pieces):
        head = UPGRADED
        if title == "in the head":
            head, pieces = UPGRADED + b"".join(BOTH), []
        for args in (("exec", "c", "cmd"), ("run", "image", "cmd"))[:2 if title == "bytes" else 1]:
            self.play(stream_engine(head, *pieces + [CLOSE]), *args)

    @rows(("unknown header", [frame("a"), frame("b", 7), CLOSE]), ("complaint", [frame("a"), frame("it broke", 3), CLOSE]),
          ("dies", [frame("a"), 0.1, DIE]), ("head cut", [frame("a"), b"\1\0\0", CLOSE]))
    def test_broken(self, title, pieces):
        for args in (("exec", "c", "cmd"), ("run", "image", "cmd"), ("attach", "--no-stdin", "c"))[:3 if title == "dies" else 2]:
            silent = title in ("unknown header", "complaint") and args[0] in ("run", "start")     # docker says nothing then
            race = title == "dies" and args[0] == "exec"      # the engine may still tell the status
            self.play(stream_engine(UPGRADED, *pieces), *args, wire=False, status=not silent and not race,
                      stderr=not silent)

    @rows(("3", answer(200, {"StatusCode": 3})), ("late", messages(0.3, {"StatusCode": 125})),
          ("error", answer(200, {"StatusCode": 3, "Error": {"Message": "lost it"}})),
          ("null error", answer(200, {"StatusCode": 3, "Error": None})), ("cut", cut(messages({"StatusCode": 3}), -20)))
    def test_status(self, title, status):
        pieces = [UPGRADED, frame("out\n"), CLOSE]
        for args in (("run", "image"), ("start", "-a", "c"), ("attach", "--no-stdin", "c"))[:3 if title == "error" else 1]:
            self.play(stream_engine(*pieces, status=status), *args)

    @rows(("0", {"ExitCode": 0}), ("42", {"ExitCode": 42}), ("null", {"ExitCode": None}), ("300", {"ExitCode": 300}))
    def test_exec_status(self, title, said):
        engine = stream_engine(UPGRADED, CLOSE, script=[("GET", "/exec/e/json", answer(200, said))])
        self.play(engine, "exec", "c", "cmd")

    @rows(("404", answer(404, {"message": "No such exec instance: e"})), ("closed", [CLOSE]), ("dies", [DIE]))
    def test_exec_status_fails(self, title, thing):
        self.play(stream_engine(UPGRADED, CLOSE, script=[("GET", "/exec/e/json", thing)]), "exec", "c", "cmd", wire=False)

    @rows(("not there", 400, 'exec: "x": executable file not found in $PATH'), ("denied", 400, "x: permission denied"),
          ("folder", 400, "x: is a directory"), ("no file", 500, "stat x: no such file or directory"),
          ("other", 500, "no space"), ("conflict", 409, "removal is in progress"))
    def test_start_fails(self, title, status, words):
        more = (("run", "--rm", "image"), ("run", "-d", "image"), ("start", "-a", "c"), ("start", "c", "d"))
        for args in (("run", "image"),) + (more if title == "conflict" else ()):
            self.play(stream_engine(UPGRADED, 0.3, CLOSE, start=answer(status, {"message": words})), *args)

    @rows(("create", ("POST", "/containers/create", answer(409, {"message": "Conflict."}))),
          ("inspect", ("GET", "/containers/[^/]+/json", answer(404, {"message": "No such container: c"}))),
          ("exec", ("POST", "/containers/[^/]+/exec", answer(409, {"message": "Container c is not running"}))))
    def test_refused(self, title, line):
        every = [["run", "image"], ["start", "-a", "c"], ["attach", "--no-stdin", "c"], ["exec", "c", "cmd"], ["logs", "c"]]
        for args in {"create": every[:1], "inspect": every[1:], "exec": every[3:4]}[title]:
            self.play(stream_engine(UPGRADED, CLOSE, script=[line]), *args)

    @lines("""
        exec -e A=1 -e B -e TERM -e A=2 -u 1:2 -w /tmp --privileged c a -b --c
        exec -d c a
        exec -dit --detach-keys ctrl-a c a
        exec -i c a
        exec -d -e A=1 c a
        ! exec -t -i c a
        run -a stdin image
        run -a stdout -a stderr image a
        run -i image a
        run -i -a stdout image
        run -d image
        run -d --rm image
        run --rm -i image
        run --detach-keys ctrl-a image
        start c
        start c d e
        start -ai c
        start -i --detach-keys a,b c
        attach c
        attach --no-stdin c
        attach --sig-proxy=false --detach-keys x c
        logs c
        logs -ft --details -n 3 c
        logs --since 2024-01-02T03:04:05.678Z --until 1700000000.5 c
        container logs --since 2024-01-02 c
        container exec c a
        container attach --no-stdin c
        container start c
        container run image
    """)
    def test_requests(self, *args, **options):
        logs = chunked(frame("logged\n"), frame("err\n", 2), content_type="application/vnd.docker.raw-stream")
        self.play(stream_engine(UPGRADED, frame("out\n"), CLOSE, script=[
            ("GET", "/containers/[^/]+/logs", logs),
            ("POST", "/exec/e/start", lambda r: answer(200) if b'"Detach":true' in r.body else [UPGRADED, CLOSE])]),
            *args, **options)

    @rows(("1.42", ["exec", "c", "a"]), ("1.50", ["run", "image"]), ("1.50", ["exec", "-t", "c", "a"]), ("1.24", ["run", "image"]),
          ("1.29", ["run", "image"]), ("1.29", ["run", "--rm", "image"]), ("1.29", ["start", "-a", "c"]),
          ("1.24", ["exec", "-e", "A=1", "c", "a"]), ("1.24", ["logs", "--until", "1", "c"]))
    def test_versions(self, version, args):
        events = messages(0.2, {"status": "die", "Actor": {"Attributes": {"exitCode": "7"}}, "id": "c" * 64},
                          {"status": "destroy", "id": "c" * 64, "Actor": {"Attributes": {}}})
        self.play(stream_engine(UPGRADED, CLOSE, api=version, script=[("GET", "/events", events)]), *args,
                  wire=version > "1.30" or args[0] == "exec")

    @rows(("1.24", answer(204), 7), ("1.12", answer(204), 7), ("1.24, no start", answer(500, {"message": "no"}), 125))
    def test_removal_by_the_client(self, title, start, status):
        """Engines before 1.25 leave containers of `--rm`."""
        events = messages(0.2, {"status": "die", "Actor": {"Attributes": {"exitCode": "7"}}, "id": "c" * 64}, SILENCE)
        engine = self.start(stream_engine(UPGRADED, CLOSE, api=title[:4], start=start, script=[
            ("GET", "/events", events), ("DELETE", "/containers/c+", answer(204))]))
        outcome = self.pydock("run", "--rm", "image", env={"DOCKER_HOST": engine.host})
        self.assertEqual((outcome.status, outcome.stdout), (status, ""))
        calls = [(call.method, call.query.get("v")) for call in engine.calls("/containers/c+")]
        self.assertEqual(calls, [("DELETE", ["1"])])
        self.assertNotIn(b'"AutoRemove":true', engine.calls("/containers/create")[0].body)

    @rows(("cut chunk", cut(chunked(*BOTH), -40)), ("no end", cut(chunked(*BOTH), -5)), ("dies", chunked(BOTH[0], 0.1, DIE)),
          ("one byte at a time", list(split(chunked(*BOTH)))), ("complaint", chunked(frame("bad", 3))))
    def test_logs(self, title, thing):
        self.play(stream_engine(script=[("GET", "/containers/[^/]+/logs", thing)]), "logs", "c", wire=False, stdout=title != "cut chunk", stderr=title != "cut chunk")

    def test_logs_of_a_terminal(self):
        thing = chunked(b"raw\r\n", b"\1\0\0\0\0\0\0\3abc", b"\x1b[1m" * 3)
        self.play(stream_engine(tty=True, script=[("GET", "/containers/[^/]+/logs", thing)]), "logs", "c")

    def test_order_in_one_file(self):
        """Both outputs in one file: the engine's order."""
        frames = [frame(b"%d\n" % n, 1 + n % 2) for n in range(300)]
        engine = self.start(stream_engine(UPGRADED, b"".join(frames), CLOSE))
        path = os.path.join(self.home, "out")
        with open(path, "w") as out:
            self.assertEqual(0, subprocess.call(pydock_command() + ["exec", "c", "x"], stdout=out, stderr=out,
                                                stdin=subprocess.DEVNULL, env=self.env({"DOCKER_HOST": engine.host})))
        with open(path) as out:
            self.assertEqual([int(line) for line in out], list(range(300)))

    @rows(("exec",), ("run",))
    def test_slow_reader(self, command):
        """Input goes on while nobody reads the output, and output while nobody reads the input."""
        got = []

        def deaf(request, sock, file):
            sock.sendall(frame(b"x" * 3000000))      # more than any buffer between us
            got.append(len(file.read()))

        engine = self.start(stream_engine(UPGRADED, deaf, CLOSE))
        args = ["exec", "-i", "c", "x"] if command == "exec" else ["run", "-i", "image"]
        outcome = self.pydock(*args, input=b"y" * 5000000, env={"DOCKER_HOST": engine.host}, binary=True)
        self.assertEqual((outcome.status, len(outcome.stdout), got), (0, 3000000, [5000000]))

    def test_input_that_never_ends(self):
        """The command ends when the output does, not when the input does."""
        engine = self.start(stream_engine(UPGRADED, frame("done\n"), CLOSE))
        read, write = os.pipe()
        with os.fdopen(read, "rb") as stdin, os.fdopen(write, "wb"):
            outcome = run(pydock_command() + ["exec", "-i", "c", "x"], self.env({"DOCKER_HOST": engine.host}), stdin)
        self.check(outcome, 0, "done\n", "")

    def test_input_is_no_file(self):
        """As a library: streams without descriptors."""
        engine = self.start(stream_engine(UPGRADED, echo, CLOSE))
        out, err = io.StringIO(), io.TextIOWrapper(io.BytesIO())
        cli = module().DockerCli(io.StringIO("text \xfc"), out, err, module().Endpoint(engine.host))
        cli.cmd("exec", "-i", "c", "x")
        cli.close()
        self.assertEqual(out.getvalue(), "text \xfc")


class TerminalTest(CliCase):
    """Raw terminals, detach keys, sizes and signals, against an engine that echoes."""

    def terminal(self, engine, *args, **options):
        self.engine = self.start(engine)
        return self.start(Pty(pydock_command() + list(args), self.env({"DOCKER_HOST": engine.host}), **options))

    def test_without_termios(self):
        """It is said before a container is made."""
        engine = self.start(stream_engine(UPGRADED, tty=True))
        code = "import sys; sys.modules['termios'] = None; import pydock; sys.exit(pydock.main())"
        for line in ("run -it image", "exec -it c sh", "attach c"):
            terminal = self.start(Pty([sys.executable, "-c", code] + line.split(), self.env({"DOCKER_HOST": engine.host}),
                                      cwd=HERE, columns=200))
            terminal.expect("this Python has no termios module, which -i together with -t needs")
            self.assertEqual(terminal.wait(), 1)
            self.assertNotIn("Traceback", terminal.text)
        self.assertEqual(engine.calls("/containers/create"), [])

    def shell(self, *args, **options):
        """A terminal where the command runs in a process that echoes raw."""
        def mirror(request, sock, file):
            sock.sendall(b"ready ")
            while True:
                data = file.read1(1 << 16)
                if not data or b"!" in data:
                    return [b"bye", CLOSE]
                sock.sendall(b"<%s>" % data)
        terminal = self.terminal(stream_engine(UPGRADED, mirror, tty=True, **options), *args)
        terminal.expect("ready ")
        self.assertTrue(wait_until(lambda: terminal.modes != terminal.before, 5))
        return terminal

    def finish(self, terminal, status, text=None):
        self.assertEqual(terminal.wait(), status, terminal.text)
        self.assertEqual(terminal.modes, terminal.before)
        if text is not None:
            self.assertEqual(terminal.text, text)

    @rows(("exec", "exec -it c sh"), ("run", "run -it image"), ("attach", "attach c"), ("start", "start -ai c"))
    def test_raw(self, title, line):
        terminal = self.shell(*line.split())
        self.assertFalse(terminal.echo)
        for typed in ("a", "\x03", "\x1a", "\r", "\x10x", "\xe4"):
            terminal.send(typed)
            terminal.expect(re.escape("<%s>" % typed))
        terminal.send("!")
        self.finish(terminal, 0)

    @rows(("exec", "exec -it c sh", 1), ("run", "run -it image", 0), ("attach", "attach c", 1), ("start", "start -ai c", 0))
    def test_detach(self, title, line, status):
        for keys, typed in (("", "\x10\x11"), ("ctrl-a", "\x01"))[:2 if title == "exec" else 1]:
            words = line.split()
            words[1:1] = ["--detach-keys", keys] if keys else []
            terminal = self.shell(*words)
            terminal.send("a")
            terminal.expect("<a>")
            for key in typed:
                terminal.send(key)
                time.sleep(0.05)
            self.finish(terminal, status, "ready <a>" + "read escape sequence\r\n" * status)

    def test_detach_keys_of_the_configuration(self):
        self.config(detachKeys="ctrl-e,e")
        terminal = self.shell("run", "-it", "image")
        terminal.send("\x10\x11\x05x")
        terminal.expect("<\x10\x11\x05x>")
        terminal.send("\x05e")
        self.finish(terminal, 0)
        self.assertEqual(self.engine.calls(".*/attach")[0].query["detachKeys"], ["ctrl-e,e"])

    def test_no_tty_no_detach(self):
        def count(request, sock, file):
            return [frame("%r" % file.read()), CLOSE]
        engine = self.start(stream_engine(UPGRADED, count))
        done = self.pydock("exec", "-i", "c", "x", input=b"a\x10\x11b", env={"DOCKER_HOST": engine.host})
        self.check(done, 0, r"b'a\x10\x11b'", "")

    @rows(("exec", "exec -it c sh", "/exec/e/resize"), ("run", "run -it image", ".*/resize"),
          ("attach", "attach c", ".*/resize"), ("start", "start -ai c", ".*/resize"))
    def test_size(self, title, line, path):
        terminal = self.shell(*line.split())

        def sizes():
            return [(call.query["w"], call.query["h"]) for call in self.engine.calls(path)]
        first = [(["81"], ["25"])] if title == "attach" else []
        self.assertTrue(wait_until(lambda: sizes() == first + [(["80"], ["24"])], 5), sizes())
        terminal.resize(132, 50)
        self.assertTrue(wait_until(lambda: sizes()[-1] == (["132"], ["50"]), 5), sizes())
        terminal.send("!")
        self.finish(terminal, 0)

    def test_size_comes_late(self):
        """A process that is not there yet is asked again."""
        turns = Turns(*[answer(500, {"message": "not yet"})] * 3 + [answer(200)])
        terminal = self.shell("exec", "-it", "c", "sh", script=[("POST", "/exec/e/resize", turns)])
        self.assertTrue(wait_until(lambda: len(self.engine.calls("/exec/e/resize")) == 4, 5))
        terminal.send("!")
        self.finish(terminal, 0, "ready bye")

    @rows(("exec SIGTERM", "exec -it c sh", signal.SIGTERM), ("exec SIGINT", "exec -it c sh", signal.SIGINT),
          ("attach SIGHUP", "attach c", signal.SIGHUP), ("run SIGTERM", "run -it --sig-proxy=false image", signal.SIGTERM))
    def test_ended_by_a_signal(self, title, line, number):
        terminal = self.shell(*line.split())
        terminal.signal(number)
        self.finish(terminal, -number)

    @rows(("exec", "exec -it c sh"), ("run", "run -it image"), ("attach", "attach c"))
    def test_stopped(self, title, line):
        """A stop gives the terminal back; going on takes it again."""
        job = ("import os, signal, sys\npid = os.fork()\nif not pid:\n os.setpgid(0, 0)\n"
               " signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])\n os.tcsetpgrp(0, os.getpid())\n"
               " signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTTOU])\n os.execv(sys.argv[1], sys.argv[1:])\n"
               "while True:\n _, status = os.waitpid(pid, os.WUNTRACED | os.WCONTINUED)\n"
               " if os.WIFEXITED(status): sys.exit(os.WEXITSTATUS(status))\n")
        engine = self.start(stream_engine(UPGRADED, lambda r, sock, file: [b"ready ", *iter(
            lambda: file.read1(99), b"!"), b"bye", CLOSE], tty=True))
        terminal = self.start(Pty([sys.executable, "-c", job] + pydock_command() + line.split(),
                                  self.env({"DOCKER_HOST": engine.host})))
        self.assertTrue(wait_until(lambda: not terminal.echo, 10))
        pid = int(subprocess.check_output(["ps", "-o", "pid=", "--ppid", str(terminal.process.pid)]))
        for _ in range(2):
            os.kill(pid, signal.SIGTSTP)
            self.assertTrue(wait_until(lambda: self.state(pid) == "T", 5))
            self.assertEqual(terminal.modes, terminal.before)
            os.kill(pid, signal.SIGCONT)
            self.assertTrue(wait_until(lambda: not terminal.echo, 5))
        terminal.send("!")
        self.finish(terminal, 0)

    @staticmethod
    def state(pid):
        """The state of a process: R, S, T …"""
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rpartition(")")[2].split()[0]

    @rows(("exec", "exec -it c sh"), ("run", "run -it image"))
    def test_engine_ends(self, title, line):
        for act in (DIE, CLOSE):
            terminal = self.terminal(stream_engine(UPGRADED, b"ready ", 0.2, act, tty=True), *line.split())
            terminal.wait()
            self.assertEqual(terminal.modes, terminal.before, terminal.text)

    def test_terminal_hangs_up(self):
        engine = self.start(stream_engine(UPGRADED, lambda r, sock, file: [b"ready ", SILENCE], tty=True))
        master, slave = pty.openpty()
        process = subprocess.Popen(pydock_command() + ["exec", "-it", "c", "sh"], stdin=slave, stdout=slave, stderr=slave,
                                   env=self.env({"DOCKER_HOST": engine.host}), start_new_session=True,
                                   preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        self.addCleanup(process.kill)
        os.close(slave)
        self.assertEqual(os.read(master, 100), b"ready ")
        os.close(master)
        self.assertIn(process.wait(10), (-signal.SIGHUP, 0, 1))

    @rows(("run", "run image"), ("start", "start -a c"), ("attach", "attach --no-stdin c"))
    def test_signals_are_handed_on(self, title, line):
        engine = self.start(stream_engine(UPGRADED, frame("ready"), SILENCE))
        terminal = self.start(Pty(pydock_command() + line.split(), self.env({"DOCKER_HOST": engine.host})))
        terminal.expect("ready")
        names = ["INT", "TERM", "HUP", "QUIT", "USR1", "TSTP", "CONT", "ALRM", "WINCH"]
        for name in names:
            terminal.signal(getattr(signal, "SIG" + name))
            self.assertTrue(wait_until(lambda: [call.query["signal"][0] for call in engine.calls(".*/kill")][-1:] == [name],
                                       5), name)
        self.assertEqual(len(engine.calls(".*/kill")), len(names))
        self.assertIsNone(terminal.process.poll())

    def test_three_interrupts(self):
        engine = self.start(stream_engine(UPGRADED, frame("ready"), SILENCE, script=[
            ("POST", ".*/kill", [SILENCE])]))       # an engine that hangs
        terminal = self.start(Pty(pydock_command() + ["run", "image"], self.env({"DOCKER_HOST": engine.host})))
        terminal.expect("ready")
        for _ in range(3):
            terminal.signal(signal.SIGINT)
            time.sleep(0.2)
        self.assertEqual((terminal.wait(), terminal.text), (1, "ready\r\ngot 3 SIGTERM/SIGINTs, forcefully exiting\r\n"))

    def test_nothing_is_left(self):
        """Many commands in one process, some at once: no thread and no descriptor stays."""
        engine = self.start(stream_engine(UPGRADED, echo, CLOSE, status=answer(200, {"StatusCode": 4})))
        threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))
        outputs = []

        def once():
            cli = module().DockerCli(io.StringIO("in"), io.StringIO(), io.StringIO(), module().Endpoint(engine.host))
            with self.assertRaises(module().StatusError) as caught:
                cli.cmd("run", "-i", "--rm", "image")
            cli.close()
            outputs.append((caught.exception.status_code, cli.out.getvalue(), cli.err.getvalue()))
        for _ in range(20):
            once()
        workers = [threading.Thread(target=once) for _ in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self.assertEqual(outputs, [(4, "in", "")] * 28)
        self.assertTrue(wait_until(lambda: threading.active_count() <= threads and
                                   len(os.listdir("/proc/self/fd")) <= descriptors, 5), threading.enumerate())


# ======================================================================================================
# Commands, on a scripted engine
# ======================================================================================================

class ReferenceTest(DifferentialCase):
    """What a reference on the command line becomes on the wire."""

    def setUp(self):
        super().setUp()
        self.engine = self.start(ScriptedEngine(
            ("POST", "/images/create", messages({"status": "Pulled"})), ("POST", "/images/.*/push", messages({"status": "Pushed"})),
            ("POST", "/images/.*/tag", answer(201, "", "")), ("DELETE", "/images/.*", answer(200, [{"Untagged": "x"}]))))
        self.host = self.engine.host

    NAMES = """
        busybox
        busybox:1.36
        library/busybox
        docker.io/busybox
        docker.io/library/busybox:a
        index.docker.io/busybox
        user/name
        user/name:tag
        r.example/a
        r.example:5000/a/b/c:t
        localhost/a
        localhost:5000/a
        127.0.0.1:5000/a:b
        [::1]:5000/a
        [fe80::1]/a:b
        UPPER/name
        a__b/c--d.e_f
        busybox@sha256:DIGEST
        busybox:tag@sha256:DIGEST
        r.example/a@sha256:DIGEST
        a:TAG-with.all_OF_it
    """.replace("DIGEST", "0123456789abcdef" * 4)
    BAD = """
        ! UPPER
        ! Busybox:1
        ! r.example/Upper
        ! a:
        ! :a
        ! a/
        ! /a
        ! a//b
        ! -a
        ! a@
        ! a@sha256
        ! a@sha256:00
        ! a@sha256:XYZ
        ! a@md5:00
        ! a:b:c
        ! a___b
        ! a..b
        ! a-/b
        ! a:-tag
        ! "a b"
        ! ""
        ! " "
        ! a:%s
        ! https://r.example/a
        ! %s
        ! r.example/%s
        ! ä
        ! a/ä
    """ % ("t" * 129, "ab" * 32, "p" * 256)

    @lines(NAMES + BAD)
    def test_pull(self, name, **options):
        self.differential("pull", name, **options)

    @lines(NAMES.replace("busybox@", "! busybox@").replace("busybox:tag@", "! busybox:tag@")
           .replace("r.example/a@", "! r.example/a@") + BAD)
    def test_push(self, name, **options):
        self.differential("push", name, **options)

    @lines(NAMES.replace("busybox@", "! busybox@").replace("busybox:tag@", "! busybox:tag@")
           .replace("r.example/a@", "! r.example/a@") + BAD)
    def test_tag(self, name, **options):
        self.differential("tag", "source", name, **options)

    @lines("""
        tag busybox target
        tag 0123456789ab target:1
        tag sha256:00 target
        tag r.example/a:b target
        tag a@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef target
        rmi a b:1 r.example:5000/x/y:z
        rmi -f a
        rmi --force --no-prune a
        rmi --no-prune=false a
        ! rmi ""
        rmi a/b@sha256:00
        ! tag "" b
    """)
    def test_sources(self, *args, **options):
        self.differential(*args, **options)

    @lines("""
        pull -a busybox
        pull --all-tags r.example/a
        ! pull -a busybox:1
        ! pull -a busybox@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
        pull -q busybox
        pull -q busybox:1
        pull -aq busybox
        pull busybox -q
        pull --quiet=false busybox
        pull --quiet=T busybox:1
        pull --platform linux/arm64 busybox
        pull --platform=linux/arm/v7 busybox:1
        pull --platform linux busybox:1
        pull --platform "" busybox:1
        pull --platform nonsense/x/y/z busybox:1
        pull --platform LINUX/ARM64 busybox:1
        pull --disable-content-trust busybox:1
        pull --disable-content-trust=true busybox:1
        pull -- busybox:1
        image pull busybox:1
        push busybox
        push busybox:1
        push -a busybox
        ! push -a busybox:1
        push -q busybox:1
        push --quiet busybox
        push -aq r.example/a
        ! push --platform linux/arm64 busybox:1
        image push busybox:1
        push --disable-content-trust busybox:1
    """)
    def test_flags(self, *args, **options):
        self.differential(*args, **options)

    @rows(("DOCKER_DEFAULT_PLATFORM", {"DOCKER_DEFAULT_PLATFORM": "linux/arm64"}, ["pull", "busybox:1"]),
          ("flag over environment", {"DOCKER_DEFAULT_PLATFORM": "linux/arm64"},
           ["pull", "--platform", "linux/386", "busybox:1"]))
    def test_environment(self, title, env, args):
        self.differential(*args, env=env)


class SearchTest(DifferentialCase):
    """search, on an engine that finds something."""

    FOUND = [{"star_count": stars, "is_official": official, "name": name, "is_automated": False, "description": text}
             for stars, official, name, text in (
                 (3012, True, "busybox", "Busybox base image."), (7, False, "user/busy", "two\nlines\r\nhere"),
                 (0, False, "a/b", "x" * 80), (1, False, "w/\u4e16", "\u4e16\u754c" * 30), (12, False, "n/o", ""))]

    def setUp(self):
        super().setUp()
        self.engine = self.start(ScriptedEngine(("GET", "/images/search", answer(200, self.FOUND))))
        self.host = self.engine.host

    @lines("""
        search busybox
        search --no-trunc busybox
        search --limit 3 busybox
        search --limit 0 busybox
        search --limit 0x10 busybox
        search --limit=-1 busybox
        search -f is-official=true busybox
        search --filter stars=3 --filter is-official=false busybox
        search --filter is-automated=true busybox
        search --filter STARS=3 busybox
        search --format json busybox
        search --format {{.Name}} busybox
        search --format "{{.Name}}: {{.StarCount}} {{.IsOfficial}}" busybox
        search --format "table {{.Name}}\\t{{.Description}}" busybox
        search --format table busybox
        search --format "{{json .}}" busybox
        search r.example/busybox
        search r.example:5000/a/b
        search docker.io/busybox
        search localhost:5000/x
        search "two words"
        search ""
    """)
    def test_search(self, *args, **options):
        self.differential(*args, **options)

    def test_nothing_found(self):
        self.engine.on("GET", "/images/search", answer(200, []))
        self.differential("search", "nothing")

    def test_null(self):
        self.engine.on("GET", "/images/search", answer(200, "null"))
        self.differential("search", "nothing")


class LoginTest(DifferentialCase):
    """login and logout: requests, prompts, files and words, on an engine that says yes or no."""

    normalise = UnfriendlyEngineTest.normalise

    def setUp(self):
        super().setUp()
        self.engine = self.start(ScriptedEngine(("POST", "/auth", self.answer_auth)))
        self.host = self.engine.host

    @staticmethod
    def answer_auth(request):
        """Says yes to the password "right" (and gives a token to the user "token")."""
        given = json.loads(request.body.decode())
        if given.get("password") == "right":
            return answer(200, {"Status": "Login Succeeded",
                                "IdentityToken": "identity" if given.get("username") == "token" else ""})
        return answer(401, {"message": "Get \"https://r.example/v2/\": unauthorized: incorrect username or password"})

    @lines("""
        login -u me -p right r.example
        login --username me --password right r.example
        login -u me -p right
        login -u me -p right docker.io
        login -u me -p right https://index.docker.io/v1/
        login -u me -p right https://r.example
        login -u me -p right http://r.example:5000/v2/
        login -u me -p right r.example/some/path
        login -u me -p right R.Example
        login -u token -p right r.example
        ! login -u me -p wrong r.example
        ! login -u me -p wrong
        ! login -u me r.example
        ! login -p right r.example
        ! login r.example
        ! login
        ! login -u me -p right --password-stdin r.example
        ! login --password-stdin r.example
        ! login -u "" -p right r.example
        ! login -u me -p "" r.example
        ! login -u "" --password-stdin r.example
        login -ume -pright r.example
        login -u "  me  " -p right r.example
    """)
    def test_login(self, *args, **options):
        self.differential(*args, **options)

    @rows(("newline", b"right\n"), ("none", b"right"), ("carriage return", b"right\r\n"), ("wrong", b"wrong\n"),
          ("two newlines", b"right\n\n"), ("empty", b""), ("only a newline", b"\n"), ("more", b"right\nmore\n"))
    def test_password_stdin(self, title, data):
        self.differential("login", "-u", "me", "--password-stdin", "r.example", input=data, fails=None)

    @rows(("no file", None), ("empty file", ""), ("others", json.dumps({
        "auths": {"other.example": {"auth": basic("a", "b")}}, "HttpHeaders": {"X-Meta": "1"}, "psFormat": "x",
        "detachKeys": "ctrl-a", "credHelpers": {"z.example": "z", "b.example": "b"}})),
        ("all keys", json.dumps({
            "experimental": "enabled", "features": {"hooks": "false"}, "aliases": {"builder": "buildx"},
            "plugins": {"p": {"k": "v"}}, "cliPluginsExtraDirs": ["/x"], "currentContext": "default",
            "proxies": {"default": {"httpProxy": "http://p:1"}}, "pruneFilters": ["label=a"], "nodesFormat": "n",
            "configFormat": "c", "secretFormat": "s", "tasksFormat": "t", "servicesFormat": "v",
            "serviceInspectFormat": "i", "statsFormat": "st", "volumesFormat": "vo", "pluginsFormat": "pl",
            "networksFormat": "ne", "imagesFormat": "im", "psFormat": "<&>"})))
    def test_saves(self, title, text):
        if text is not None:
            self.config(text)
        results = self.both("login", "-u", "me", "-p", "right", "r.example")
        saved = [json.loads(result[2][".docker/config.json"][1].decode()) for result in results.values()]
        self.assertEqual(*saved)
        self.assertEqual(*[result[2][".docker/config.json"][0] for result in results.values()])
        self.assertEqual(*[result[0][:3] for result in results.values()])

    def test_unknown_keys_are_kept(self):
        """Here docker loses what it does not know; pydock keeps it."""
        path = self.config('{"mine": {"a": [1, 2]}, "auths": {"o.example": {"auth": "%s", "more": 7}}}' % basic("a", "b"))
        self.check(self.pydock("login", "-u", "me", "-p", "right", "r.example", env={"DOCKER_HOST": self.host}))
        with open(path) as file:
            saved = json.load(file)
        self.assertEqual(saved["mine"], {"a": [1, 2]})
        self.assertEqual(sorted(saved["auths"]), ["o.example", "r.example"])
        self.assertEqual(saved["auths"]["r.example"]["auth"], basic("me", "right"))

    @rows(("link", "real.json"), ("dangling link", "nowhere.json"))
    def test_through_a_link(self, title, target):
        path = self.config("{}")
        os.unlink(path)
        os.symlink(target, path)
        if title == "link":
            with open(os.path.join(os.path.dirname(path), target), "w") as file:
                file.write("{}")
            os.chmod(os.path.join(os.path.dirname(path), target), 0o640)
        self.differential("login", "-u", "me", "-p", "right", "r.example")

    @rows(("good", "right"), ("bad", "wrong"))
    def test_stored(self, title, password):
        """With credentials on disk login asks for nothing, unless they are no longer good."""
        self.config(auths={"r.example": {"auth": basic("me", password)}})
        self.differential("login", "r.example", fails=password == "wrong")

    @rows(("user and password", lambda t: (t.expect("Username: "), t.send("me\n"), t.expect("Password: "), t.send("right\n"))),
          ("wrong password", lambda t: (t.expect("Username: "), t.send("me\n"), t.expect("Password: "), t.send("wrong\n"))),
          ("no user", lambda t: (t.expect("Username: "), t.send("\n"))),
          ("no password", lambda t: (t.expect("Username: "), t.send("me\n"), t.expect("Password: "), t.send("\n"))),
          ("blanks", lambda t: (t.expect("Username: "), t.send("  me \n"), t.expect("Password: "), t.send("right\n"))))
    def test_prompts(self, title, script):
        self.differential("login", "r.example", fails=None, runner=on_terminal(script))

    @rows(("user", lambda t: t.expect("Username: ")),
          ("password", lambda t: (t.expect("Username: "), t.send("me\n"), t.expect("Password: "))))
    def test_interrupted(self, title, script):
        """Ctrl-C at a prompt ends it by that signal, with the terminal as it was (docker: with status 0)."""
        with Pty(pydock_command() + ["login", "r.example"], self.env(), cwd=self.home) as terminal:
            script(terminal)
            time.sleep(0.3)
            terminal.send("\x03")
            self.assertIn(terminal.wait(), (-signal.SIGINT, 130))
            self.assertEqual(terminal.modes, terminal.before)
            self.assertNotIn("Traceback", terminal.text)
        self.assertEqual(self.engine.calls(), [])

    @rows(("password", ["-u", "me"], lambda t: (t.expect("Password: "), t.send("right\n"))),
          ("user", ["-p", "right"], lambda t: (t.expect("Username: "), t.send("me\n"))))
    def test_one_prompt(self, title, args, script):
        self.differential("login", *(args + ["r.example"]), runner=on_terminal(script))

    def test_stored_user_is_offered(self):
        self.config(auths={"r.example": {"auth": basic("before", "wrong")}})
        self.differential("login", "r.example", runner=on_terminal(
            lambda t: (t.expect(r"Username \(before\): "), t.send("\n"), t.expect("Password: "), t.send("right\n"))))

    def test_password_is_not_echoed(self):
        def script(terminal):
            terminal.expect("Password: ")
            time.sleep(0.3)
            self.assertFalse(terminal.echo)
            terminal.send("right\n")
        with Pty(pydock_command() + ["login", "-u", "me", "r.example"], self.env(), cwd=self.home) as terminal:
            script(terminal)
            self.assertEqual(terminal.wait(), 0, terminal.text)
            self.assertEqual(terminal.modes, terminal.before)
            self.assertNotIn("right", terminal.text)

    def test_password_is_shown_nowhere(self):
        """Not in debug lines, not in errors; not in a child's arguments (its list is what the helper got)."""
        helper = CredentialHelper(self.folder())
        self.config(credsStore=helper.suffix, auths={"o.example": {"auth": basic("me", "hidden-word")}})
        self.engine.on("POST", "/images/create", answer(401, {"message": "unauthorized: no"}))
        for args in (["login", "-u", "me", "--password-stdin", "r.example"], ["pull", "o.example/a:1"],
                     ["logout", "o.example"]):
            for flags in ([], ["-D"]):
                done = self.pydock(*(flags + args), input="hidden-word\n", env=helper.env())
                for secret in ("hidden-word", basic("me", "hidden-word"), basic("", "hidden-word")[4:-2]):
                    self.assertNotIn(secret, done.stdout + done.stderr)

    @rows(("store", {}), ("token", {"user": "token"}), ("fail", {"mode": "fail"}), ("stderr", {"mode": "stderr"}))
    def test_into_a_helper(self, title, options):
        helper = CredentialHelper(self.folder())
        helper.mode(options.get("mode", ""))
        self.config(credsStore=helper.suffix)
        self.differential("login", "-u", options.get("user", "me"), "-p", "right", "r.example", env=helper.env(),
                          fails="mode" in options, setup=lambda _: (helper.forget(), setattr(helper, "store", {})))
        if "mode" not in options:
            self.assertEqual(helper.store["r.example"], [options.get("user", "me").replace("token", "<token>"),
                                                         "identity" if options else "right"])

    @rows(("hub", [], ["https://index.docker.io/v1/"]), ("one", ["r.example"], ["r.example", "o.example"]),
          ("not there", ["x.example"], ["r.example"]), ("by url", ["https://r.example/v2/"], ["r.example"]),
          ("stored by url", ["r.example"], ["https://r.example", "http://r.example"]), ("nothing", ["r.example"], []))
    def test_logout(self, title, args, stored):
        self.config(auths={name: {"auth": basic("me", "w")} for name in stored})
        self.differential("logout", *args)

    @rows(("docker.io",), ("index.docker.io",))
    def test_names_of_docker_hub(self, name):
        """Docker keeps what belongs to Docker Hub under names that it never looks up."""
        self.config(auths={"https://index.docker.io/v1/": {"auth": basic("me", "w")}})
        self.check(self.pydock("logout", name), 0, "Removing login credentials for https://index.docker.io/v1/\n", "")

    def test_logout_from_a_broken_helper(self):
        """Docker counts one key twice, and so keeps silent."""
        helper = CredentialHelper(self.folder())
        helper.mode("fail")
        self.config(credsStore=helper.suffix, auths={"r.example": {}})
        self.check(self.pydock("logout", "r.example", env=helper.env()), 0, "Removing login credentials for r.example\n",
                   re.compile(r"\AWARNING: could not erase credentials:\nr\.example: error erasing credentials"))

    def test_broken_helper_that_nobody_configured(self):
        """One that only happens to be installed is in the way of no push, and of no pull."""
        folder = self.folder()
        for suffix in ("pass", "secretservice"):
            helper = CredentialHelper(folder, suffix)
        os.symlink("/bin/true", os.path.join(folder, "pass"))
        helper.mode("fail")
        self.engine.on("POST", "/images/.*", answer(200, {"status": "done"}))
        for command in "push", "pull":
            self.differential(command, "r.example/a:1", env=helper.env())
        self.assertIn(["get", "r.example"], helper.calls)

    @rows(("there", "", ["r.example"]), ("not there", "", []))
    def test_logout_from_a_helper(self, title, mode, stored):
        helper = CredentialHelper(self.folder())
        helper.mode(mode)
        self.config(credsStore=helper.suffix, auths={name: {} for name in stored})
        self.differential("logout", "r.example", env=helper.env(),
                          setup=lambda _: setattr(helper, "store", {name: ["me", "w"] for name in stored}))


class LoginPriorTest(CliCase):
    """A 401 to a pull or push: asks on a terminal, once; never waits anywhere else."""

    def setUp(self):
        super().setUp()
        self.good = base64.urlsafe_b64encode(b"x")
        self.engine = self.start(ScriptedEngine(
            ("POST", "/images/create", self.pull), ("POST", "/images/.*/push", self.pull),
            ("POST", "/auth", LoginTest.answer_auth)))
        self.host = self.engine.host

    @staticmethod
    def pull(request):
        """401 until the credentials of the login come along."""
        if request.auth and request.auth.get("password") == "right":
            return messages({"status": "Done"})
        return answer(401, {"message": "unauthorized: authentication required"})

    @rows(("pull",), ("push",))
    def test_on_a_terminal(self, command):
        with Pty(pydock_command() + [command, "r.example/a:1"], self.env(), cwd=self.home) as terminal:
            terminal.expect("Please login prior to %s:" % command)
            terminal.expect("Username: ")
            terminal.send("me\n")
            terminal.expect("Password: ")
            terminal.send("right\n")
            self.assertEqual(terminal.wait(), 0, terminal.text)
            terminal.expect("Done")
        self.assertEqual(len(self.engine.calls("/images/.*")), 2)

    @rows(("pull",), ("push",))
    def test_elsewhere(self, command):
        done = self.pydock(command, "r.example/a:1", timeout=10)
        self.check(done, 1, stderr="Error response from daemon: unauthorized: authentication required\n")
        self.assertEqual(len(self.engine.calls("/images/.*")), 1)
        self.assertNotIn("login", done.stdout.lower())

    def test_once_only(self):
        self.engine.on("POST", "/images/create", answer(401, {"message": "unauthorized: still"}))
        with Pty(pydock_command() + ["pull", "r.example/a:1"], self.env(), cwd=self.home) as terminal:
            terminal.expect("Username: ")
            terminal.send("me\n")
            terminal.expect("Password: ")
            terminal.send("right\n")
            self.assertEqual(terminal.wait(), 1)
            self.assertIn("unauthorized: still", terminal.text)
        self.assertEqual(len(self.engine.calls("/images/create")), 2)


IMAGE_LIST = [
    {"Id": "sha256:%064x" % 1, "RepoTags": ["busybox:latest", "busybox:1"],
     "RepoDigests": ["busybox@sha256:%064x" % 17], "Created": 1500000000, "Size": 1234567, "VirtualSize": 1234567,
     "SharedSize": -1, "Containers": -1, "Labels": None, "ParentId": ""},
    {"Id": "sha256:%064x" % (2 << 200), "RepoTags": ["<none>:<none>"], "RepoDigests": ["<none>@<none>"], "Created": 1400000000,
     "Size": 0, "VirtualSize": 0, "SharedSize": 5, "Containers": 2, "Labels": {"b": "2", "a": "1"}, "ParentId": ""},
    {"Id": "sha256:%064x" % (3 << 200), "RepoTags": None, "RepoDigests": None, "Created": 1300000000, "Size": 999999,
     "VirtualSize": 999999, "SharedSize": 0, "Containers": 0, "Labels": {}, "ParentId": ""},
    {"Id": "sha256:%064x" % (4 << 200), "RepoTags": [], "RepoDigests": ["only/digest@sha256:%064x" % 18],
     "Created": 1600000000, "Size": 123456789012, "VirtualSize": 1, "SharedSize": 1024, "Containers": 7, "Labels": None,
     "ParentId": ""},
    {"Id": "sha256:%064x" % (5 << 200), "RepoTags": ["very/long.name-of/an_image:with-a-long-tag"], "RepoDigests": [],
     "Created": 1600000000, "Size": 98765, "VirtualSize": 98765, "SharedSize": -1, "Containers": -1, "Labels": None,
     "ParentId": "sha256:%064x" % 1},
]

CONTAINER_LIST = [
    {"Id": "%064x" % (1 << 220), "Names": ["/web"], "Image": "busybox:latest", "ImageID": "sha256:%064x" % 1,
     "Command": "sh -c 'while true; do echo \"hello\"; sleep 1; done'", "Created": 1500000000, "State": "running",
     "Status": "Up 3 hours", "Labels": {"b": "2", "a.b-c_d": "x y"}, "SizeRw": 12345, "SizeRootFs": 1234567,
     "Ports": [{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
               {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
               {"PrivatePort": 443, "Type": "tcp"}, {"PrivatePort": 444, "Type": "tcp"},
               {"IP": "127.0.0.1", "PrivatePort": 9000, "PublicPort": 9000, "Type": "udp"},
               {"IP": "127.0.0.1", "PrivatePort": 9001, "PublicPort": 9001, "Type": "udp"}],
     "HostConfig": {"NetworkMode": "default"}, "NetworkSettings": {"Networks": {"bridge": {"NetworkID": "n"}}},
     "Mounts": [{"Type": "volume", "Name": "a-volume-with-a-long-name", "Source": "/v", "Destination": "/d",
                 "Driver": "local", "Mode": "z", "RW": True, "Propagation": ""},
                {"Type": "bind", "Source": "/src", "Destination": "/dst", "Mode": "", "RW": False,
                 "Propagation": "rprivate"}]},
    {"Id": "%064x" % (2 << 220), "Names": ["/web/alias", "/db"], "Image": "sha256:%064x" % (2 << 200),
     "ImageID": "sha256:%064x" % (2 << 200), "Command": "", "Created": 1400000000, "Ports": [], "Labels": {},
     "State": "exited", "Status": "Exited (0) 2 days ago", "HostConfig": {"NetworkMode": "none"},
     "NetworkSettings": {"Networks": {"none": {}}}, "Mounts": []},
    {"Id": "%064x" % (3 << 220), "Names": ["/third"], "Image": "", "ImageID": "", "Command": "caf\u00e9 \u4e16\u754c \t tab",
     "Created": 0, "Ports": None, "Labels": None, "State": "created", "Status": "Created", "HostConfig": {},
     "NetworkSettings": None, "Mounts": None, "SizeRw": 0, "SizeRootFs": 0},
    {"Id": "%064x" % (4 << 220), "Names": ["/fourth"], "Image": "r.example:5000/a/b:c@sha256:%064x" % 17,
     "ImageID": "sha256:%064x" % 1, "Command": "/bin/true", "Created": 1450000000, "Ports": [],
     "Labels": {"only": ""}, "State": "paused", "Status": "Up 1 second (Paused)", "HostConfig": {},
     "NetworkSettings": {"Networks": {}}, "Mounts": [], "SizeRw": 5},
]


class ListTest(DifferentialCase):
    """images and ps: tables, formats and filters over lists with everything that engines send."""

    normalise = (AGES,)

    def setUp(self):
        super().setUp()
        self.engine = self.start(ScriptedEngine(("GET", "/images/json", answer(200, IMAGE_LIST)),
                                                ("GET", "/containers/json", answer(200, CONTAINER_LIST))))
        self.host = self.engine.host

    @lines("""
        images
        images -a
        images -q
        images -aq
        images --no-trunc
        images --digests
        images --digests --no-trunc
        images -q --no-trunc
        images -q --digests
        images busybox
        images busybox:1
        images r.example/*:x
        images -f dangling=true
        images --filter label=a=b --filter label=c
        images -f before=x -f since=y -f reference=z
        images -f DANGLING=true
        images -f "label= a = b "
        images -f "" busybox
        images --format json
        images --format {{.ID}}
        images --format "{{.Repository}}:{{.Tag}} {{.Size}}"
        images --format "{{.ID}} {{.Digest}} {{.CreatedAt}}"
        images --format "{{.CreatedSince}} {{.VirtualSize}} {{.SharedSize}} {{.UniqueSize}} {{.Containers}}"
        images --format table
        images --format "table {{.ID}}\\t{{.Repository}}"
        images --format "{{json .}}"
        images -q --format {{.Repository}}
        images --digests --format "table {{.ID}}"
        image ls
        image list -q
        images --all=false
        images --format ""
    """)
    def test_images(self, *args, **options):
        self.differential(*args, **options)

    @lines("""
        ps
        ps -a
        ps -q
        ps -aq
        ps --no-trunc
        ps -s
        ps -as --no-trunc
        ps -l
        ps -n 2
        ps -n=2
        ps -n2
        ps --last 3 -l
        ps -n -1
        ps -n 0
        ps -n 0x10
        ps -lq
        ps -f status=exited
        ps --filter name=a --filter name=b --filter label=x=y
        ps -f id=1 -f ancestor=busybox -f volume=/v
        ps -f nosuch=1
        ps -f STATUS=exited
        ps --format json
        ps --format {{.ID}}
        ps --format "{{.Names}} {{.Image}} {{.Command}}"
        ps --format "{{.Status}} {{.State}} {{.Ports}}"
        ps --format {{.Size}}
        ps --format "{{.Labels}} {{.Mounts}} {{.LocalVolumes}} {{.Networks}}"
        ps --format "{{.CreatedAt}} {{.RunningFor}}"
        ps --no-trunc --format "{{.Names}} {{.Mounts}} {{.Image}} {{.Command}}"
        ps --format table
        ps --format "table {{.ID}}\\t{{.Names}}"
        ps --format "{{json .}}"
        ps -q --format {{.Names}}
        ps --size=false --format {{.Size}}
        container ls
        container list -q
        container ps -a
        ps --format ""
    """)
    def test_ps(self, *args, **options):
        self.differential(*args, **options)

    @lines("""
        images
        images --digests --no-trunc
        images --format "{{.Repository}} {{.Tag}}"
    """)
    def test_several_repositories(self, *args, **options):
        """Names of one image in several repositories come in no order from docker, sorted from pydock."""
        image = dict(IMAGE_LIST[0], RepoTags=["z:1", "z:2", "r.example:5000/b:x", "a:9", "a:10"],
                     RepoDigests=["z@sha256:%064x" % 17, "z@sha256:%064x" % 16, "other@sha256:%064x" % 17])
        self.engine.on("GET", "/images/json", answer(200, [image]))
        self.normalise = (SORTED,)
        self.differential(*args, **options)

    @lines("""
        ! images --tree -q
        ! images --tree --no-trunc
        ! images --tree --digests
        ! images --tree --format json
    """)
    def test_format_errors(self, *args, **options):
        self.differential(*args, **options)

    @rows(("zero", 0), ("negative", -1), ("absent", None), ("to come", 4000000000))
    def test_created(self, title, when):
        image = {key: value for key, value in dict(IMAGE_LIST[0], Created=when).items() if value is not None}
        container = {key: value for key, value in dict(CONTAINER_LIST[0], Created=when).items() if value is not None}
        self.engine.on("GET", "/images/json", answer(200, [image])).on("GET", "/containers/json", answer(200, [container]))
        for args in (["images"], ["images", "--format", "{{.CreatedAt}}"], ["ps"], ["ps", "--format", "{{.CreatedAt}}"]):
            self.differential(*args)

    @rows(*[(word,) for word in ("build", "history", "import", "inspect", "list", "load", "ls", "prune", "pull", "push",
                                 "rm", "save", "tag", "other")])
    def test_hint(self, word):
        self.engine.on("GET", "/images/json", answer(200, []))
        self.differential("images", word)

    @rows(("empty", []), ("null", None))
    def test_nothing(self, title, value):
        self.engine.on("GET", "/.*/json", answer(200, value))
        for args in (["images"], ["images", "-q"], ["ps"], ["ps", "-q"], ["ps", "--format", "json"]):
            self.differential(*args)


class InspectTest(DifferentialCase):
    """inspect: the order of the tries, the engine's own bytes, what is said of what isn't there."""

    CONTAINER = ('{"Id":"c1","Z":1,"A":[],"Created":"2024-01-02T03:04:05.123456789Z","Nested":{"b":1.50,"a":1e3,"big":'
                 '12345678901234567890},"State":{"Running":true,"Pid":7},"Esc":"<&>\\u003c\\u2028 \u00fc","E":{},'
                 '"Name":"/one","SizeRw":5}')
    KINDS = (("c1", "/containers/{}/json", CONTAINER), ("i1", "/images/{}/json", '{"Id":"sha256:i1","RepoTags":["a:1"]}'),
             ("n1", "/networks/{}", '{"Name":"n1","Id":"n"}'), ("v1", "/volumes/{}", '{"Name":"v1","Driver":"local"}'),
             ("p1", "/plugins/{}/json", '{"Name":"p1","Id":"p"}'))

    def setUp(self):
        super().setUp()
        self.engine = self.start(ScriptedEngine(
            *[("GET", path.format(name), answer(200, text)) for name, path, text in self.KINDS],
            ("GET", "/(containers|images|networks|volumes|plugins)/.*", self.absent),
            ("GET", "/info", answer(200, {"Swarm": {"ControlAvailable": False}}))))
        self.host = self.engine.host

    @staticmethod
    def absent(request):
        """404 as an engine says it."""
        return answer(404, {"message": "No such thing: " + request.path.split("/")[2]})

    @lines("""
        inspect c1
        inspect i1
        inspect n1
        inspect v1
        inspect p1
        inspect c1 i1 v1
        ! inspect nosuch
        ! inspect nosuch other
        ! inspect c1 nosuch i1
        inspect -s c1
        inspect -s i1
        inspect --size c1 v1
        inspect --type container c1
        inspect --type image i1
        inspect --type network n1
        inspect --type volume v1
        inspect --type plugin p1
        ! inspect --type image c1
        ! inspect --type container i1 nosuch
        ! inspect --type bogus c1
        ! inspect --type "" c1
        inspect -f json c1
        inspect -f "" c1
        inspect -f {{.Id}} c1
        inspect -f {{.State.Running}} c1
        inspect -f {{.Id}} c1 i1
        ! inspect -f {{.Id}} nosuch
        ! inspect -f json nosuch
        ! inspect -f {{.Id}} c1 nosuch
        ! inspect -f {{.Nothing}} c1
        ! inspect -f {{.Id c1
        container inspect c1
        ! container inspect i1
        image inspect i1
        ! image inspect c1
        inspect --format={{.Name}} c1
        ! inspect ""
    """)
    def test_inspect(self, *args, **options):
        self.differential(*args, **options)

    @rows(("500", answer(500, {"message": "broken"})), ("not supported", answer(400, {"message": "x not supported here"})),
          ("not JSON", answer(200, "nope")), ("empty", answer(200, "")), ("cut", cut(answer(200, '{"Id":"x"}'), -3)))
    def test_trouble(self, title, thing):
        self.engine.on("GET", "/containers/.*/json", thing)
        self.differential("inspect", "v1", fails=None)


class ServerTest(DifferentialCase):
    """version and info of engines of several kinds. The client's part is pydock's own (README)."""

    VERSION = {"Platform": {"Name": "Docker Engine - Community"}, "Version": "28.2.2", "ApiVersion": "1.50",
               "MinAPIVersion": "1.24", "GitCommit": "45873be", "GoVersion": "go1.24.3", "Os": "linux", "Arch": "amd64",
               "KernelVersion": "6.1", "BuildTime": "2025-05-30T12:07:27.000000000+00:00", "Experimental": True,
               "Components": [
                   {"Name": "Engine", "Version": "28.2.2", "Details": {
                       "ApiVersion": "1.50", "Arch": "amd64", "BuildTime": "2025-05-30T12:07:27.000000000+00:00",
                       "Experimental": "true", "GitCommit": "45873be", "GoVersion": "go1.24.3", "KernelVersion": "6.1",
                       "MinAPIVersion": "1.24", "Os": "linux"}},
                   {"Name": "containerd", "Version": "1.7.27", "Details": {"GitCommit": "05044ec", "A": "b"}},
                   {"Name": "none", "Version": "0", "Details": None}]}
    PODMAN = {"Version": "4.3.1", "ApiVersion": "1.41", "MinAPIVersion": "1.24", "GitCommit": "", "GoVersion": "go1.19.8",
              "Os": "linux", "Arch": "amd64", "KernelVersion": "6.1", "BuildTime": "1970-01-01T00:00:00Z",
              "Platform": {"Name": "linux/amd64/debian-12"},
              "Components": [{"Name": "Podman Engine", "Version": "4.3.1", "Details": {"APIVersion": "4.3.1", "Arch": "amd64"}},
                             {"Name": "OCI Runtime (crun)", "Version": "crun 1.8", "Details": {"Package": "crun"}}]}
    OLD = {"Version": "1.12.6", "ApiVersion": "1.24", "GitCommit": "78d1802", "GoVersion": "go1.6.4", "Os": "linux",
           "Arch": "amd64", "KernelVersion": "4.4", "BuildTime": "2017-01-10T20:38:45.000000000+00:00"}

    normalise = OWN_CLIENT + UnfriendlyEngineTest.normalise

    @rows(("28", VERSION), ("podman", PODMAN), ("old", OLD), ("empty", {}), ("null", None))
    def test_version(self, title, value):
        self.engine = self.start(ScriptedEngine(("GET", "/version", answer(200, value))))
        self.differential("version", env={"DOCKER_HOST": self.engine.host})

    @lines("""
        version --format {{.Server.Version}}
        version -f "{{.Server.Os}}/{{.Server.Arch}} {{.Server.APIVersion}}"
        version -f {{.Client.Context}}
        info --format {{.ServerVersion}}
    """)
    def test_formats(self, *args, **options):
        self.engine = self.start(ScriptedEngine(("GET", "/version", answer(200, self.VERSION)),
                                                ("GET", "/info", answer(200, {"ServerVersion": "28.2.2"}))))
        self.differential(*args, env={"DOCKER_HOST": self.engine.host}, **options)

    INFO = {
        "ID": "abc", "Containers": 3, "ContainersRunning": 1, "ContainersPaused": 1, "ContainersStopped": 1, "Images": 5,
        "Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "extfs"], ["Supports d_type", "true"]],
        "Plugins": {"Volume": ["local"], "Network": ["bridge", "host"], "Authorization": ["authz"], "Log": ["json-file"]},
        "MemoryLimit": True, "SwapLimit": False, "CpuCfsPeriod": True, "CpuCfsQuota": True, "CPUShares": True,
        "CPUSet": True, "PidsLimit": True, "IPv4Forwarding": True, "Debug": True, "NFd": 31, "NGoroutines": 42,
        "SystemTime": "2024-01-02T03:04:05.6789Z", "LoggingDriver": "json-file", "CgroupDriver": "systemd",
        "CgroupVersion": "2", "NEventsListener": 2, "KernelVersion": "6.1.0", "OperatingSystem": "Debian", "OSType": "linux",
        "OSVersion": "12", "Architecture": "x86_64", "IndexServerAddress": "https://index.docker.io/v1/", "NCPU": 8,
        "MemTotal": 16777216000, "DockerRootDir": "/var/lib/docker", "HttpProxy": "http://u:xxxxx@p:1",
        "HttpsProxy": "https://p:2", "NoProxy": "localhost", "Name": "host", "Labels": ["a=b", "c=d"],
        "ExperimentalBuild": True, "ServerVersion": "28.2.2",
        "RegistryConfig": {"InsecureRegistryCIDRs": ["::1/128", "127.0.0.0/8"], "Mirrors": ["https://m.example/"],
                           "IndexConfigs": {"docker.io": {"Name": "docker.io", "Secure": True},
                                            "r.example": {"Name": "r.example", "Secure": False}}},
        "Swarm": {"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": False, "Error": "",
                  "RemoteManagers": None}, "Runtimes": {"runc": {"path": "runc"}},
        "DefaultRuntime": "runc", "LiveRestoreEnabled": True, "Isolation": "", "InitBinary": "docker-init",
        "ContainerdCommit": {"ID": "05044ec", "Expected": "05044ec"}, "RuncCommit": {"ID": "v1.2.5-0", "Expected": "v1.2.5-0"},
        "InitCommit": {"ID": "de40ad0", "Expected": "de40ad0"},
        "SecurityOptions": ["name=apparmor", "name=seccomp,profile=builtin", "name=cgroupns"],
        "DefaultAddressPools": [{"Base": "10.0.0.0/8", "Size": 24}], "ProductLicense": "Community Engine",
        "CDISpecDirs": ["/etc/cdi", "/var/run/cdi"], "Warnings": ["WARNING: No swap limit support", "another"]}

    @rows(("full", INFO), ("empty", {}), ("few", {"ServerVersion": "1.12.6", "Driver": "aufs", "SecurityOptions": ["seccomp"]}),
          ("swarm", dict(INFO, Swarm={"NodeID": "n1", "NodeAddr": "10.0.0.1", "LocalNodeState": "active",
                                      "ControlAvailable": False, "Error": "",
                                      "RemoteManagers": [{"NodeID": "m", "Addr": "10.0.0.2:2377"}]})),
          ("swarm error", dict(INFO, Swarm={"LocalNodeState": "error", "Error": "it is broken"})),
          ("commits differ", dict(INFO, RuncCommit={"ID": "a" * 40, "Expected": "b" * 40}, ContainerdCommit={"ID": "N/A"})),
          ("windows", dict(INFO, OSType="windows", Isolation="process")))
    def test_info(self, title, value):
        self.engine = self.start(ScriptedEngine(("GET", "/info", answer(200, value))))
        self.differential("info", env={"DOCKER_HOST": self.engine.host}, fails=None)

    @rows(("500", answer(500, {"message": "broken"})), ("cut", cut(answer(200, {"ID": "x"}), -3)), ("closed", [CLOSE]))
    def test_trouble(self, title, thing):
        self.engine = self.start(ScriptedEngine(("GET", "/(info|version)", thing)))
        for command in ("info", "version"):
            self.differential(command, env={"DOCKER_HOST": self.engine.host}, fails=True, wire=False)


class SaveLoadTest(DifferentialCase):
    """save and load: bodies, files, and what an engine that fails leaves behind (nothing)."""

    DATA = b"tar" * 100000

    def setUp(self):
        super().setUp()
        self.engine = self.start(ScriptedEngine(
            ("GET", "/images/get", answer(200, self.DATA, "application/x-tar")),
            ("POST", "/images/load", messages({"stream": "Loaded image: a:1\n"}))))
        self.host = self.engine.host

    @lines("""
        save a
        save a b:1 r.example/c@sha256:00
        save -o out.tar a
        save --output=out.tar a
        save -oout.tar a b
        image save a
        ! save -o nowhere/out.tar a
        ! save -o . a
        ! save -o /dev/full a
        ! save -o /dev/null a
        ! save --platform linux/amd64 a
        save ""
    """)
    def test_save(self, *args, **options):
        self.differential(*args, **options)

    @rows(("cut", cut(answer(200, DATA, "application/x-tar"), -1)), ("cut chunk", cut(chunked(DATA, DATA), -9)),
          ("no end", cut(chunked(DATA), -5)), ("404", answer(404, {"message": "No such image: a"})),
          ("dies", [cut(answer(200, DATA), 5000)[0], 0.1, DIE]))
    def test_broken_save(self, title, thing):
        """Nothing is left under the final name, and the status isn't 0."""
        for args in (["save", "-o", "out.tar", "a"], ["save", "a"]):
            self.engine = self.start(ScriptedEngine(("GET", "/images/get", thing)))
            results = self.both(*args, env={"DOCKER_HOST": self.engine.host})
            theirs, ours = results["docker"], results["pydock"]
            self.assertEqual((ours[0].status, self.settle(ours[0].stderr)), (1, self.settle(theirs[0].stderr)))
            self.assertEqual(ours[2], {})      # docker leaves a cut file

    def test_save_to_a_pipe_while_the_engine_waits(self):
        """What has come can be read, also where the kernel hands it on."""
        data = b"x" * 1000
        self.engine.on("GET", "/images/get", [
            answer(200, b"", headers=[("Transfer-Encoding", "chunked")], length=False) + b"%x\r\n" % len(data),
            0.1, data[:400], 3, data[400:] + b"\r\n0\r\n\r\n"])
        child = subprocess.Popen(pydock_command() + ["save", "busybox"], env=self.env(), stdout=subprocess.PIPE)
        with child:
            self.assertTrue(wait_until(lambda: select.select([child.stdout], [], [], 0)[0], 20))
            time.sleep(0.3)
            began = time.time()
            first = os.read(child.stdout.fileno(), 4096)
            self.assertLess(time.time() - began, 1)
            self.assertEqual(first + child.stdout.read(), data)
        self.assertEqual(child.returncode, 0)

    def test_save_over_a_file(self):
        with open(os.path.join(self.home, "out.tar"), "w") as file:
            file.write("before")
        self.differential("save", "-o", "out.tar", "a")

    def test_save_to_a_terminal(self):
        self.differential("save", "a", fails=True, runner=on_terminal())

    @rows(("stdin", [], DATA), ("empty stdin", [], b""), ("file", ["-i", "in.tar"], b""), ("quiet", ["-q", "-i", "in.tar"], b""),
          ("long", ["--input=in.tar", "--quiet"], b""))
    def test_load(self, title, args, data):
        with open(os.path.join(self.home, "in.tar"), "wb") as file:
            file.write(self.DATA)
        self.differential("load", *args, input=data)

    @lines("""
        ! load -i nowhere.tar
        ! load --platform linux/amd64 -i in.tar
        ! load --platform linux
    """)
    def test_load_errors(self, *args, **options):
        self.differential(*args, **options)

    def test_load_of_a_folder(self):
        """Docker begins a request for it."""
        self.check(self.pydock("load", "-i", "."), 1, "", "read .: is a directory\n")

    def test_load_from_a_terminal(self):
        self.differential("load", fails=True, runner=on_terminal())

    @rows(("JSON error", messages({"errorDetail": {"message": "bad tar"}, "error": "bad tar"})),
          ("500", answer(500, {"message": "no room"})), ("plain answer", answer(200, "just words\n", "text/plain")),
          ("progress", messages(layer("a", "Loading layer", 5, 10), layer("a", "Loading layer", 10, 10),
                                                            {"stream": "Loaded image ID: sha256:00\n"})))
    def test_load_answers(self, title, thing):
        self.engine.on("POST", "/images/load", thing)
        self.differential("load", input=self.DATA, fails=None, wire=False)


    @rows(("error", early([answer(400, {"message": "stop it"}, close=True), CLOSE]), "stop it"),
          ("closes", early([CLOSE]), ""), ("resets", early([RESET]), ""))
    def test_load_ends_early(self, title, thing, words):
        """An engine that stops reading: docker's words depend on who is quicker; ours are the engine's, if it has any."""
        self.engine.on("POST", "/images/load", thing)
        done = self.pydock("load", input=self.DATA * 20, timeout=20)
        self.assertNotEqual(done.status, 0)
        self.assertIn(words, done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        self.assertTrue(done.stderr.strip())


class ContainerTest(DifferentialCase):
    """The plain commands on containers and images: requests for every flag, what is printed of the answers, failures."""

    PORTS = {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
             "443/tcp": [{"HostIp": "", "HostPort": "1"}], "53/udp": [{"HostIp": "127.0.0.1", "HostPort": "53"}],
             "9/tcp": None, "10/sctp": [], "8/tcp": [{"HostIp": "1.2.3.4", "HostPort": port}
                                                     for port in ("", "99", "100", "10")]}
    CHANGES = [{"Path": "/x", "Kind": 0}, {"Path": "/y z", "Kind": 1}, {"Path": "/q", "Kind": 2}, {"Path": "/r", "Kind": 3},
               {}]
    LAYERS = [{"Id": "sha256:" + "ab" * 32, "Created": 1700000000, "CreatedBy": "/bin/sh -c #(nop)  CMD [\"sh\"]",
               "Tags": ["a:1", "b:2"]},
              {"Id": "<missing>", "Created": 1600000000, "Size": 123456789, "Comment": "buildkit.dockerfile.v0",
               "CreatedBy": "RUN /bin/sh -c echo\thello\tworld, a text of more than forty-five cells # buildkit"},
              {"Id": "<missing>", "Created": 0, "CreatedBy": "", "Size": 999, "Comment": "Imported from -"},
              {"Id": "a", "Created": -62135596800, "CreatedBy": "\u00e9" + "\u65e5\u672c\u8a9e" * 9, "Size": -1},
              {"Id": "", "Created": 946684799, "CreatedBy": "x\ny"}, {"Id": "z", "Created": 946684800}, {}]
    PROCESSES = {"Titles": ["UID", "PID", "CMD"], "Processes": [
        ["root", "1", "sleep 1000"], ["a very long user name here", "2", "b"], ["x"], []]}

    def setUp(self):
        super().setUp()
        def failure(status, text):
            return answer(status, {"message": text})
        self.engine = self.start(ScriptedEngine(
            ("*", "/containers/b(/.*)?", failure(404, "No such container: b")),
            ("*", "/containers/c(/.*)?", failure(409, "conflict of c")),
            ("POST", "/containers/.*/wait", answer(200, {"StatusCode": 3})),
            ("GET", "/containers/a/json", answer(200, {"Id": "a", "NetworkSettings": {"Ports": self.PORTS}})),
            ("GET", "/containers/n/json", answer(200, {"Id": "n", "NetworkSettings": {"Ports": None}})),
            ("GET", "/containers/a/top", answer(200, self.PROCESSES)),
            ("GET", "/containers/a/changes", answer(200, self.CHANGES)),
            ("GET", "/containers/a/export", answer(200, b"tar" * 1000, "application/x-tar")),
            ("POST", "/commit", answer(201, {"Id": "sha256:abc"})),
            ("POST", "/images/create", messages({"status": "Importing", "progressDetail": {"current": 1, "total": 2}},
                                                {"status": "sha256:00"})),
            ("GET", "/images/a/history", answer(200, self.LAYERS)),
            ("*", "/containers/.*", answer(204, b""))))
        self.host = self.engine.host
        with open(os.path.join(self.home, "in.tar"), "wb") as file:
            file.write(b"a tar")
        self.names = {"zeros": "0" * 64}

    def wire(self):
        return sorted(super().wire())      # both clients ask for several containers at once

    @lines("""
        stop -t 3 a
        stop --timeout=3 -s INT a
        ! stop -t 3 --time 4 a
        ! stop a b d c
        ! stop "" a
        stop /a d/e " f " d//e
        ! stop
        restart a d
        restart -t 3 --signal INT a
        restart --time 3 a
        ! restart a b d c
        kill -s INT a d
        kill a?d#e
        ! kill a b d c
        ! pause a b d c
        ! unpause c a
        wait a
        ! wait a b d c
        rm -fvl a
        rm --link d/e
        ! rm a b d c
        ! rm " "
        rm -f b
        rm -f a b d
        ! rm -f b c
        remove a
        rename a " d "
        rename /a /d
        ! rename b a
        ! rename "" a
    """)
    def test_change(self, *args, **options):
        self.differential(*args, **options)

    @lines("""
        stop -s INT -t 3 a
        restart -s INT --time 2 a
        stop --signal= a
    """)
    def test_signals_of_newer_engines(self, *args, **options):
        self.engine.api = "1.42"
        self.differential(*args, **options)

    def test_names(self):
        """Each command has its place in its group, too."""
        cli = module().DockerCli
        for group, names in (("container", "commit diff export kill pause port rename restart rm stop top unpause wait"),
                             ("image", "history import load pull push save tag")):
            for name in names.split():
                self.assertIs(getattr(cli, "cmd_%s_%s" % (group, name)), getattr(cli, "cmd_" + name))
        self.assertTrue(cli.cmd_container_remove is cli.cmd_remove is cli.cmd_rm)
        self.assertTrue(cli.cmd_image_rm is cli.cmd_image_remove is cli.cmd_image_rmi is cli.cmd_rmi)

    def test_many_at_once(self):
        """Each is reported once and in order, however many there are; some answers take longer."""
        self.engine.on("POST", "/containers/(1|52)/stop", [0.3, answer(204, b"")])
        names = [str(number) for number in range(120)]
        names[60:60] = ["b", "c"]
        self.differential("stop", *names, fails=True)

    def test_at_once(self):
        """Ten that take half a second each are done in less than five."""
        self.engine.on("POST", "/containers/.*/stop", [0.5, answer(204, b"")])
        began = time.time()
        self.check(self.pydock("stop", *"0123456789"), 0, "".join("%d\n" % number for number in range(10)))
        self.assertLess(time.time() - began, 4)

    @lines("""
        top a
        top a -o pid,cmd
        top a -- -x
        top a --help
        ! top b
        port a
        port a 80/tcp
        port a 53/udp
        port a ""
        ! port a 53
        ! port a 10/sctp
        ! port a abc
        ! port a 80-81
        ! port a 65536
        ! port n 80
        diff a
        ! diff b
        export -o out.tar a
        ! export -o out.tar b
        ! export -o nowhere/out.tar a
        ! export -o /dev/null a
        commit a
        commit a x
        commit a localhost:5000/x/y:2
        commit a ""
        commit -a me -m "a b" -c "ENV a=b" --change "CMD x" a x:1
        commit -p=false --pause=true a
        ! commit a x@sha256:$zeros
        ! commit a Upper
        ! commit "" x
        import in.tar x:1
        import - x y z
        import -m "a b" -c "ENV a=b" --change "CMD x" - x
        import --platform Linux/ARM64 -
        import http://h/x.tar x
        ! import nowhere.tar
        ! import http://h/x.tar Upper
        history a
        history --human=false a
        history -H=false --format json a
        history --format "{{.ID}} {{.CreatedSince}} {{.CreatedAt}} {{.CreatedBy}} {{.Size}} {{.Comment}}" a
        history --format "table {{.ID}}\\t{{.CreatedSince}}\\t{{.CreatedAt}}\\t{{.Size}}" -H=false a
        ! history --platform linux/amd64 a
    """)
    def test_show(self, *args, **options):
        self.differential(*args, input=b"the input", **options)

    @rows(("amd64", "linux/amd64"), ("variant", "linux/arm64/v8"), ("none", ""))
    def test_history_of_a_platform(self, title, platform):
        self.engine.api = "1.48"
        self.differential("history", "--platform", platform, "a")

    @rows(("Berlin", "Europe/Berlin"), ("St John's", "America/St_Johns"), ("Kathmandu", "Asia/Kathmandu"))
    def test_history_elsewhere(self, title, zone):
        self.differential("history", "-H=false", "a", env={"TZ": zone})

    def test_several_platforms(self):
        self.engine.api = "1.50"
        self.engine.on("DELETE", "/images/a", answer(200, [{"Deleted": "x"}]))
        self.differential("rmi", "--platform", "linux/amd64,linux/arm64/v8", "--platform=linux/386", "a")

    def test_platform_of_the_environment(self):
        self.differential("import", "-", env={"DOCKER_DEFAULT_PLATFORM": "linux/arm"})

    def test_import_of_a_folder(self):
        """Docker begins a request for it."""
        self.check(self.pydock("import", "."), 1, "", "read .: is a directory\n")

    def test_old_engine(self):
        self.engine.api = "1.31"
        self.differential("import", "--platform", "linux/arm", "-", fails=True)

    @rows(("export", ["export", "a"]), ("import", ["import", "in.tar"]), ("history", ["history", "a"]),
          ("rm", ["rm", "a", "b", "c"]))
    def test_on_terminal(self, title, args):
        self.differential(*args, fails=None, runner=on_terminal(columns=100))

    @rows(("null", answer(200, None)), ("object", answer(200, {})), ("empty", answer(200, b"")),
          ("null lists", answer(200, {"Titles": None, "Processes": None, "StatusCode": None, "Id": None})))
    def test_odd_answers(self, title, thing):
        self.engine.on("*", "/(commit|containers/./(wait|top|stop))", thing)
        for command in ("wait", "top", "commit", "stop"):
            self.differential(command, "a", fails=None)

    @rows(("null", None), ("none", []))
    def test_empty_lists(self, title, value):
        self.engine.on("GET", "/.*/(changes|history)", answer(200, value))
        for args in (["diff", "a"], ["history", "a"], ["history", "-q", "a"]):
            self.differential(*args)

    @lines("""
        diff a
        port a
        top a
        wait a
        commit a
        history a
        image prune -f
    """)
    def test_wrong_answers(self, *args):
        """Whatever comes, it is one line and no traceback."""
        for value in (b"x", [[1]], [{"Created": "x", "Path": 1, "Size": "x", "Kind": "x"}],
                      {"Id": 1, "Titles": [None], "Processes": [[None]], "StatusCode": "x", "NetworkSettings": [1],
                       "SpaceReclaimed": "x", "ImagesDeleted": [1]}):
            self.engine.on("*", "/.*(changes|json|top|wait|commit|history|prune|stop)", answer(200, value))
            done = self.pydock(*args)
            self.assertNotIn("Traceback", done.stderr)
            self.assertLessEqual(done.stderr.count("\n"), 1, done.stderr)
            self.assertIn(done.status, (0, 1))

    @rows(("cut", cut(answer(200, b"tar" * 1000, "application/x-tar"), -1)),
          ("cut chunk", cut(chunked(b"tar" * 1000, content_type="application/x-tar"), -9)))
    def test_broken_export(self, title, thing):
        """Nothing is left under the final name, and the status isn't 0."""
        self.engine.on("GET", "/containers/a/export", thing)
        os.unlink(os.path.join(self.home, "in.tar"))
        results = self.both("export", "-o", "out.tar", "a")
        theirs, ours = results["docker"], results["pydock"]
        self.assertEqual((ours[0].status, self.settle(ours[0].stderr)), (1, self.settle(theirs[0].stderr)))
        self.assertEqual(ours[2], {})      # docker leaves a cut file

    @rows(("error", messages({"errorDetail": {"message": "bad tar"}, "error": "bad tar"})),
          ("500", answer(500, {"message": "no room"})), ("words", answer(200, b"words", "text/plain")),
          ("nothing", answer(200, b"")))
    def test_import_answers(self, title, thing):
        self.engine.on("POST", "/images/create", thing)
        self.differential("import", "in.tar", fails=None, wire=False)

    def test_no_engine(self):
        """Each container's failure is told, as by docker."""
        for args in (["rm", "-f", "a", "d"], ["restart", "a", "d"], ["import", "in.tar"], ["container", "prune", "-f"]):
            self.differential(*args, env={"DOCKER_HOST": "unix:///nowhere.sock"}, fails=True, wire=False)


class PruneTest(DifferentialCase):
    """container prune and image prune: the question, the filters, what is printed of the answer."""

    def setUp(self):
        super().setUp()
        self.engine = self.start(ScriptedEngine(
            ("POST", "/containers/prune", answer(200, {"ContainersDeleted": ["a", "b"], "SpaceReclaimed": 123456789})),
            ("POST", "/images/prune", answer(200, {"SpaceReclaimed": 999999, "ImagesDeleted": [
                {"Untagged": "a:1"}, {"Deleted": "sha256:00"}, {"Untagged": "b", "Deleted": "c"}, {}]}))))
        self.host = self.engine.host

    @lines("""
        container prune -f
        container prune --force --filter label=a --filter until=1h --filter "" --filter LABEL=b
        container prune -f --filter label!=a=b
        image prune -f
        image prune -af
        image prune --all --force --filter dangling=true
        image prune -f --filter dangling=false --filter until=1h
        ! container prune -f --filter x
        ! container prune x
        ! container prune -x
        ! image prune x
    """)
    def test_prune(self, *args, **options):
        self.differential(*args, **options)

    @rows(("Y", b" Y \n"), ("no line end", b"y"), ("yes", b"yes\n"), ("line", b"\ny\n"), ("end", b""))
    def test_question(self, title, data):
        self.differential("container", "prune", input=data)

    @lines("""
        image prune
        image prune -a
        image prune --filter until=1h
    """)
    def test_other_questions(self, *args):
        self.differential(*args, input=b"y\n")

    @rows(("y", "y\n"), ("end", "\x04"), ("interrupt", "\x03"))
    def test_question_on_terminal(self, title, keys):
        def script(terminal):
            terminal.expect("y/N] ")
            terminal.send(keys)
        self.differential("container", "prune", runner=on_terminal(script))

    @rows(("label", ["label=a"], ["label!=b"]), ("against", ["label=a", "until=1h"], ["label!=a"]),
          ("both", ["label!=b", "label=c"], ["label=a", "label!=b"]), ("others", ["until=1h", "foo=bar", "x", ""], []),
          ("twice", ["until=1h", "until="], ["until=2h"]))
    def test_configured_filters(self, title, configured, given):
        self.config(pruneFilters=configured)
        self.differential("container", "prune", "-f", *["--filter=" + text for text in given])

    def test_configured_labels(self):
        """Docker forgets them where no filter of the other sort is given."""
        self.config(pruneFilters=["label=a", "label!=keep"])
        self.check(self.pydock("container", "prune", "-f"))
        self.assertEqual(json.loads(self.engine.calls()[0].query["filters"][0]),
                         {"label": {"a": True}, "label!": {"keep": True}})

    @rows(("null", None), ("null lists", {"ContainersDeleted": None, "ImagesDeleted": None}))
    def test_odd_answers(self, title, value):
        self.engine.on("POST", "/.*/prune", answer(200, value))
        for command in ("container", "image"):
            self.differential(command, "prune", "-f")

    def test_failure(self):
        self.engine.on("POST", "/.*/prune", answer(409, {"message": "a prune operation is already running"}))
        for command in ("container", "image"):
            self.differential(command, "prune", "-f", fails=True)

    def test_old_engine(self):
        self.engine.api = "1.24"
        for command in ("container", "image"):
            self.differential(command, "prune", "-f", fails=True)


NETWORK_LIST = [
    {"Name": "net10", "Id": "a" * 64, "Created": "2024-01-02T03:04:05.123456789Z", "Scope": "local", "Driver": "bridge",
     "EnableIPv4": True, "EnableIPv6": False, "Internal": False, "Labels": {"a.b-c": "1"}},
    {"Name": "net2", "Id": "b" * 64, "Created": "2024-01-02T03:04:05.100000000+02:00", "Scope": "swarm", "Driver": "overlay",
     "EnableIPv6": True, "Internal": True, "Ingress": True, "Labels": None},
    {"Name": "Bridge", "Id": "c" * 64, "Driver": "bridge", "Scope": "local", "Labels": {}}]


class NetworkTest(DifferentialCase):
    """The network commands: each flag's request, what is listed, what is refused before anything is sent."""

    def setUp(self):
        super().setUp()
        self.engine = self.start(ScriptedEngine(
            ("GET", "/networks", answer(200, NETWORK_LIST)),
            ("POST", "/networks/create", answer(201, {"Id": "f" * 64, "Warning": "w"})),
            ("POST", "/networks/prune", answer(200, {"NetworksDeleted": ["n1", "n2"]})),
            ("*", "/networks/.*nosuch.*", answer(404, {"message": "network not found"})),
            ("DELETE", "/networks/bad", answer(403, {"message": "network bad has active endpoints"})),
            ("DELETE", "/networks/.*", answer(204, "")), ("POST", "/networks/.*", answer(200, "")),
            ("GET", "/networks/.*", lambda request: answer(200, {
                "Id": "1", "Name": request.path[10:], "Ingress": "mesh" in request.path, "Z": [], "A": 1.50})), api="1.50"))
        self.host = self.engine.host

    @lines("""
        network ls
        network list
        network ls -q
        network ls --no-trunc
        network ls -f driver=bridge --filter dangling=true --filter driver=null
        network ls --format json
        network ls --format raw
        network ls --format raw -q
        network ls --format "{{.ID}} {{.Name}} {{.CreatedAt}} {{.IPv4}} {{.IPv6}} {{.Internal}} {{.Labels}}"
        network ls -q --format {{.Name}}
        network ls --format "{{.Label \\"a.b-c\\"}}"
        ! network ls --format {{.Foo}}
        ! network ls x
        network inspect a b
        network inspect -v a
        ! network inspect --verbose a nosuch
        ! network inspect ""
        network inspect -f {{.Name}} a
        network create foo
        network create -d null --attachable --internal --label a=b --label c -o x=y -o z --scope swarm foo
        network create --subnet 10.0.0.0/24 --gateway 10.0.0.1 --ip-range 10.0.0.128/25 --aux-address a=10.0.0.5 foo
        network create --subnet 2001:db8::/64 --gateway 2001:db8::1 --ipv6 foo
        network create --subnet 10.0.0.5/24 --gateway 10.0.0.1/24 foo
        network create --ipv6=false --ipv4=false foo
        network create --ipam-driver d --ipam-opt a=b --ipam-opt c=d=e --config-only foo
        network create --config-from bar --ingress foo
        ! network create
        network connect --ip 1.2.3.4 --ip6 2001:db8::5 --link a:b --link c --alias x,y --alias z n c
        network connect --link-local-ip 169.254.1.1,169.254.1.2 --driver-opt a=b,c=d --driver-opt " e = f " --gw-priority 5 n c
        ! network connect --driver-opt a n c
        ! network connect --driver-opt =b n c
        ! network connect --gw-priority x n c
        ! network connect "" c
        ! network connect n ""
        network disconnect -f n c
        ! network disconnect --force nosuch c
        network rm a b
        ! network rm a nosuch b
        ! network rm -f a bad b
        network rm -f a nosuch b
        network rm mesh
        ! network rm ""
        network prune --force --filter label=a --filter until=24h
        network prune
    """)
    def test_network(self, *args, **options):
        self.differential(*args, **options)

    @rows(("--gateway 10.1.0.1",
           "every ip-range or gateway must have a corresponding subnet"),
          ("--ip-range 10.1.0.1/24",
           "every ip-range or gateway must have a corresponding subnet"),
          ("--aux-address a=10.1.0.1",
           "no matching subnet for aux-address 10.1.0.1"),
          ("--subnet 10.0.0.0/24 --gateway 10.1.0.1",
           "no matching subnet for gateway 10.1.0.1"),
          ("--subnet 10.0.0.0/24 --ip-range 10.1.0.0/24",
           "no matching subnet for range 10.1.0.0/24"),
          ("--subnet 10.0.0.0/24 --aux-address a=10.1.0.1",
           "no matching subnet for aux-address 10.1.0.1"),
          ("--subnet 10.0.0.0/24 --subnet 10.0.0.0/16",
           "multiple overlapping subnet configuration is not supported"),
          ("--subnet 10.0.0.0/24 --subnet 10.0.0.0/24",
           "multiple overlapping subnet configuration is not supported"),
          ("--subnet 10.0.0.0/24 --subnet x",
           "invalid subnet: invalid CIDR address: x"),
          ("--subnet 10.0.0.0/24 --subnet 10.1.0.0/24 --gateway 10.0.0.1 --gateway 10.0.0.2",
           "cannot configure multiple gateways (10.0.0.2, 10.0.0.1) for the same subnet (10.0.0.0/24)"),
          ("--subnet 10.0.0.0/24,10.1.0.0/24 --ip-range 10.0.0.0/25,10.0.0.128/25",
           "cannot configure multiple ranges (10.0.0.128/25, 10.0.0.0/25) on the same subnet (10.0.0.0/24)"),
          ("--subnet 10.0.0.0/24 --gateway x",
           "no matching subnet for gateway x"),
          ("--subnet 10.0.0.0/24 --gateway 10.0.0.1/x",
           "invalid CIDR address: 10.0.0.1/x"),
          ("--subnet 10.0.0.0/24 --ip-range 10.0.0.5",
           "invalid CIDR address: 10.0.0.5"),
          ("--subnet 10.0.0.0/255.255.255.0 --gateway 10.0.0.1",
           "invalid subnet: invalid CIDR address: 10.0.0.0/255.255.255.0"))
    def test_addresses_refused(self, flags, complaint):
        """In docker's words, before anything is sent."""
        cli = module().DockerCli(io.StringIO(), io.StringIO(), io.StringIO(), module().Endpoint(self.host))
        with self.assertRaises(module().DockerError) as caught:
            cli.cmd("network", "create", *(flags.split() + ["foo"]))
        self.assertEqual(str(caught.exception), complaint)
        self.assertEqual(self.engine.calls(), [])

    @lines("""
        ! network create --subnet 10.0.0.0/24,10.1.0.0/24 --ip-range 10.0.0.0/25,10.0.0.128/25 foo
        ! network create --subnet 10.0.0.0/24 --aux-address a foo
    """)
    def test_addresses(self, *args, **options):
        self.differential(*args, **options)

    def test_two_subnets(self):
        """Each with its own gateway, in docker's request in no order, in pydock's as they were given."""
        command = ("network", "create", "--subnet", "10.0.0.0/24,10.1.0.0/24", "--gateway", "10.1.0.1", "--gateway",
                   "10.0.0.1", "--aux-address", "a=10.1.0.5", "--aux-address", "b=10.1.0.6", "foo")
        self.differential(*command, wire=False)
        self.check(self.pydock(*command))
        self.assertEqual(json.loads(self.engine.calls()[-1].body.decode())["IPAM"]["Config"], [
            {"Subnet": "10.0.0.0/24", "Gateway": "10.0.0.1"},
            {"Subnet": "10.1.0.0/24", "Gateway": "10.1.0.1", "AuxiliaryAddresses": {"a": "10.1.0.5", "b": "10.1.0.6"}}])

    @rows(("yes", b"y\n"), ("no", b"n\n"))
    def test_ingress(self, title, data):
        self.differential("network", "rm", "mesh", "b", input=data)
        self.differential("network", "prune", input=data)

    @rows(("1.24",), ("1.43",))
    def test_old_engine(self, api):
        self.engine.api = api
        for line in ("create foo", "create --attachable foo", "prune -f"):
            self.differential("network", *line.split(), fails=None)

    def test_configured_format(self):
        self.config(networksFormat="{{.Name}}={{.Driver}}", volumesFormat="{{.Name}}")
        for line in ("ls", "ls -q", "ls --format table", "ls --format json"):
            self.differential("network", *line.split())

    @rows(("null", None), ("empty", []))
    def test_nothing(self, title, value):
        self.engine.on("GET", "/networks", answer(200, value)).on("POST", "/networks/prune", answer(200, {}))
        for line in ("ls", "prune -f"):
            self.differential("network", *line.split())


VOLUME_LIST = [
    {"Name": "v10", "Driver": "local", "Mountpoint": "/v/10", "Scope": "local", "Labels": {"x": "y"},
     "CreatedAt": "2024-01-02T03:04:05Z", "Options": None},
    {"Name": "v2", "Driver": "csi", "Mountpoint": "", "Scope": "global", "Labels": None,
     "UsageData": {"Size": 12345, "RefCount": 2}},
    {"Name": "c1", "Driver": "csi", "Mountpoint": "", "Scope": "", "Labels": {}, "ClusterVolume": {
        "ID": "cid", "Version": {"Index": 7}, "Spec": {"Group": "g", "AccessMode": {}, "Availability": "pause"},
        "Info": {"VolumeID": "x"}, "PublishStatus": []}},
    {"Name": "c2", "Driver": "csi", "ClusterVolume": {"ID": "c", "Spec": {}, "PublishStatus": [{}, {}], "Info": {
        "VolumeID": "y"}}},
    {"Name": "c3", "Driver": "csi", "ClusterVolume": {"ID": "d", "Info": None}}]


class VolumeTest(DifferentialCase):
    """The volume commands: each flag's request and what is shown of the answer."""

    def setUp(self):
        super().setUp()
        self.engine = self.start(ScriptedEngine(
            ("GET", "/volumes", answer(200, {"Volumes": VOLUME_LIST, "Warnings": ["w"]})),
            ("POST", "/volumes/create", lambda request: answer(201, {
                "Name": json.loads(request.body.decode()).get("Name") or "made"})),
            ("POST", "/volumes/prune", answer(200, {"VolumesDeleted": ["v1", "v2"], "SpaceReclaimed": 12345678})),
            ("*", "/volumes/nosuch", answer(404, {"message": "no such volume"})),
            ("DELETE", "/volumes/bad", answer(409, {"message": "volume is in use"})), ("DELETE", "/.*", answer(204, "")),
            ("PUT", "/volumes/.*", answer(200, "")), ("GET", "/volumes/cluster", answer(200, VOLUME_LIST[2])),
            ("GET", "/volumes/one", answer(200, '{"Name":"one","UsageData":{"Size":1.0e3},"Scope":"local","Labels":{}}')),
            ("GET", "/volumes/.*", answer(200, VOLUME_LIST[0])), api="1.50"))
        self.host = self.engine.host

    @lines("""
        volume ls
        volume ls -f dangling=true --filter name=x
        volume ls --format json
        volume ls --format "{{.Name}} {{.Size}} {{.Links}} {{.Mountpoint}} {{.Labels}} {{.Scope}} {{.Driver}}"
        volume ls --format "{{.Group}} {{.Availability}} {{.Status}} {{.Label \\"x\\"}}"
        volume ls --format "table {{.Name}}\\t{{.Group}}\\t{{.Size}}\\t{{.Links}}\\t{{.Availability}}\\t{{.Status}}"
        volume ls --cluster
        volume ls --cluster -q
        volume ls -q --format {{.Driver}}
        ! volume ls --format {{.Foo}}
        volume inspect a b
        ! volume inspect a nosuch
        ! volume inspect ""
        volume inspect -f json a
        volume create
        volume create -d x -o a=b -o c --label d=e --label f --name bar
        ! volume create --name foo bar
        volume create --group g --scope multi --sharing all --availability drain --type mount --limit-bytes 10m foo
        volume create --required-bytes 5k --secret a=b --secret c --topology-required x=y,z=w --topology-preferred q=r foo
        volume create --group g --secret z=1 --secret a=2 --topology-required a --topology-required "" foo
        volume create --secret a=b foo
        volume create --topology-required x foo
        ! volume create --limit-bytes x foo
        ! volume rm a nosuch b bad
        volume rm -f a
        ! volume rm ""
        volume prune -a -f
        volume prune -f --filter label=x --filter all=true
        ! volume prune -a -f --filter all=1
        volume prune
        volume update cluster
        volume update --availability drain cluster
        ! volume update --availability drain a
        ! volume update nosuch --availability drain
    """)
    def test_volume(self, *args, **options):
        self.differential(*args, **options)

    def test_inspect_adds_and_orders(self):
        """As docker: the fields in its order, those that an engine leaves out empty."""
        done = self.check(self.pydock("volume", "inspect", "-f", "json", "one"))
        self.assertEqual(list(json.loads(done.stdout)[0]),
                         ["Driver", "Labels", "Mountpoint", "Name", "Options", "Scope", "UsageData"])

    @rows(("1.24",), ("1.41",))
    def test_old_engine(self, api):
        self.engine.api = api
        for line in ("create --group g foo", "rm -f a", "prune -a -f", "prune", "update a", "ls --cluster"):
            self.differential("volume", *line.split(), fails=None)

    @rows(("null", None), ("no list", {}), ("null list", {"Volumes": None}), ("empty", {"Volumes": []}))
    def test_nothing(self, title, value):
        self.engine.on("GET", "/volumes", answer(200, value)).on("POST", "/volumes/prune", answer(200, {}))
        for line in ("ls", "prune -f"):
            self.differential("volume", *line.split())


def _piece(name, size, in_use=False, shared=False, used=None, **more):
    return dict({"ID": name, "Type": "regular", "Description": "d " + name, "InUse": in_use, "Shared": shared, "Size": size,
                 "CreatedAt": "2024-01-02T03:04:05.123Z", "LastUsedAt": used, "UsageCount": 3}, **more)


DISK_USAGE = {
    "LayersSize": 1092588000, "BuilderSize": 9999,
    "Images": [dict(IMAGE_LIST[0], SharedSize=1000, Containers=1), dict(IMAGE_LIST[1], SharedSize=-1),
               dict(IMAGE_LIST[4], SharedSize=0, Containers=0, RepoTags=["r.example:5000/x/y:tag", "other:1"]),
               dict(IMAGE_LIST[4], SharedSize=7, Containers=2, RepoTags=["latest"])],
    "Containers": CONTAINER_LIST,
    "Volumes": [dict(VOLUME_LIST[0], UsageData={"Size": 1000000, "RefCount": 1}),
                dict(VOLUME_LIST[0], Name="v2", UsageData={"Size": 2000000, "RefCount": 0}),
                dict(VOLUME_LIST[0], Name="v3", UsageData={"Size": -1, "RefCount": 0})],
    "BuildCache": [_piece("z" * 25, 5000, in_use=True, used="2024-01-03T03:04:05.123Z", Parent="p"), _piece("y" * 25, 7000, shared=True),
                   _piece("x" * 25, 9000, used="2024-01-01T03:04:05Z"), _piece("w", 1, used="2024-01-01T03:04:05Z"),
                   _piece("short", 0, CreatedAt="0001-01-01T00:00:00Z")]}


class DiskUsageTest(DifferentialCase):
    """system df, system prune and builder prune."""

    normalise = (AGES,)

    def setUp(self):
        super().setUp()
        self.engine = self.start(ScriptedEngine(
            ("GET", "/system/df", answer(200, DISK_USAGE)),
            ("POST", "/volumes/prune", answer(200, {"VolumesDeleted": ["v1", "v2"], "SpaceReclaimed": 12345678})),
            ("POST", "/networks/prune", answer(200, {"NetworksDeleted": ["n1", "n2"]})),
            ("POST", "/containers/prune", answer(200, {"ContainersDeleted": ["c1"], "SpaceReclaimed": 1000})),
            ("POST", "/images/prune", answer(200, {"ImagesDeleted": [{"Untagged": "a:1"}], "SpaceReclaimed": 99})),
            ("POST", "/build/prune", answer(200, {"CachesDeleted": ["b1", "b2"], "SpaceReclaimed": 5})), api="1.50"))
        self.host = self.engine.host

    @lines("""
        system df
        system df -v
        system df --format json
        system df -v --format json
        system df --format raw
        system df --format "{{.Type}} {{.TotalCount}} {{.Active}} {{.Size}} {{.Reclaimable}}"
        system df --format "table {{.Type}}\\t{{.Reclaimable}}"
        system df -v --format "{{json .Volumes}}"
        system df -v --format "{{range .BuildCache}}{{.ID}} {{.Parent}} {{.CacheType}} {{.LastUsedAt}} {{.InUse}}|{{end}}"
        ! system df --format {{.Foo}}
        system prune
        system prune --volumes
        system prune -a --volumes --filter label=x --filter label=y
        system prune -f
        system prune -a -f --volumes
        system prune -f --filter label=x --filter until=24h
        system prune -f --volumes --filter label=x --filter label!=y
        ! system prune -f --volumes --filter until=1h
    """)
    def test_system(self, *args, **options):
        self.differential(*args, **options)

    @lines("""
        builder prune
        builder prune -f
        builder prune -f --filter until=24h --filter label=a --keep-storage 5g
        ! builder prune -f --keep-storage x
    """)
    def test_builder_prune(self, *args, **options):
        """Docker without buildx says beforehand that its builder is deprecated; pydock needs no buildx."""
        self.differential(*args, stderr=False, **options)

    @rows(("1.24",), ("1.27",), ("1.30",))
    def test_old_engine(self, api):
        self.engine.api = api
        for line in ("df", "prune", "prune -f --filter label=x"):
            self.differential("system", *line.split(), fails=None)
        self.differential("builder", "prune", "-f", stderr=False, fails=None)

    def test_failure_ends_it(self):
        self.engine.on("POST", "/networks/prune", answer(409, {"message": "a prune operation is already running"}))
        self.differential("system", "prune", "-f", fails=True)

    @rows(("yes", b"y\n"), ("no", b"\n"))
    def test_question(self, title, data):
        self.differential("system", "prune", input=data)

    @rows(("nothing", {}), ("nulls", dict.fromkeys(DISK_USAGE)), ("no size", dict(DISK_USAGE, LayersSize=0)))
    def test_odd_answers(self, title, value):
        self.engine.on("GET", "/system/df", answer(200, value))
        for line in ("df", "df -v"):
            self.differential("system", *line.split())

    def test_volumes_of_unknown_size(self):
        """Docker's client crashes within its template."""
        self.engine.on("GET", "/system/df", answer(200, {"Volumes": [{"Name": "v", "Driver": "local"}]}))
        self.assertIn("Local Volumes   1         0         0B", self.check(self.pydock("system", "df")).stdout)
        self.differential("system", "df", "-v")


EVENTS = [
    {"status": "start", "id": "abc", "from": "busybox", "Type": "container", "Action": "start", "Actor": {
        "ID": "abc", "Attributes": {"name": "x", "image": "busybox", "z": "", "b": "q,r"}}, "scope": "local",
     "time": 1700000000, "timeNano": 1700000000123456789},
    {"Type": "network", "Action": "connect", "Actor": {"ID": "n", "Attributes": {}}, "time": 1700000000,
     "timeNano": 1700000000000000001},
    {"Type": "image", "Action": "pull", "Actor": {"ID": "busybox:latest", "Attributes": None}, "time": 1720000001},
    {"Type": "container", "Action": "exec_create: sh -c <x> & \u2028 \u00fc", "Actor": {
        "ID": "q", "Attributes": {"execID": "<&>", "u": "\u00fc\u001b"}}, "time": 0, "timeNano": 0},
    {"status": "x", "Type": "weird", "Action": "x", "unknown": 5},
    {"Type": "a", "Action": "b", "Actor": {"ID": "", "Attributes": {"a": "b"}}, "timeNano": 1}]


class EventsTest(DifferentialCase):
    """events: lines, formats, times, and how the stream ends."""

    def setUp(self):
        super().setUp()
        self.engine = self.start(ScriptedEngine(("GET", "/events", messages(*EVENTS)), api="1.50"))
        self.host = self.engine.host

    @lines("""
        events
        events --format json
        events --format "{{json .}}"
        events --format "{{.Type}} {{.Action}} {{.ID}} {{.Status}} {{.From}} {{.Time}} {{.TimeNano}} {{.Scope}} {{.Actor.ID}}"
        events --format {{.Actor.Attributes.name}}
        events --format "{{.Actor}} {{json .Actor}}"
        ! events --format {{.Foo}}
        ! events --format {{.Foo
        events --format "table {{.Type}}"
        events -f type=container -f event=start --filter label=a=b --since 5 --until 2024-01-02
        ! events -f x
        ! events --until x
        ! events --since 2024-13-01
    """)
    def test_events(self, *args, **options):
        self.differential(*args, **options)

    @rows(("America/New_York",), ("Asia/Kolkata",), ("UTC",))
    def test_time_zone(self, zone):
        self.differential("events", env={"TZ": zone})

    @rows(("0", "0"), ("5", "5"), ("+5", "+5"), ("5.5", "5.5"), ("1700000000.123456789", "1700000000.123456789"),
          ("2024-01-02", "1704133800.000000000"), ("2024-02-29", "1709145000.000000000"),
          ("2024-01-02Z", "1704153600.000000000"), ("2024-01-02+02:00", "1704146400.000000000"),
          ("2024-01-02+01:60", "1704146400.000000000"), ("2024-01-02T15", "1704187800.000000000"),
          ("2024-01-02T5", "1704151800.000000000"), ("2024-01-02T15Z", "1704207600.000000000"),
          ("2024-01-02T15-05:00", "1704225600.000000000"), ("2024-01-02T15:04", "1704188040.000000000"),
          ("2024-01-02T15:04Z", "1704207840.000000000"), ("2024-01-02T15:04-05:00", "1704225840.000000000"),
          ("2024-01-02T15:04:05", "1704188045.000000000"), ("2024-01-02T15:04:05.123", "1704188045.123000000"),
          ("2024-01-02T15:04:05,123", "1704188045.123000000"),
          ("2024-01-02T15:04:05.1234567891234Z", "1704207845.123456789"),
          ("2024-01-02T15:04:05Z", "1704207845.000000000"), ("2024-01-02T15:04:05.5+01:30", "1704202445.500000000"),
          ("0000-01-01", "-62167239000.000000000"), ("0001-01-01", "-62135616600.000000000"),
          ("1969-12-31", "-106200.000000000"), ("9999-12-31", "253402194600.000000000"),
          ("x", 'failed to parse value as time or duration: "x"'),
          ("5.", 'failed to parse value as time or duration: "5."'),
          (".5", 'failed to parse value as time or duration: ".5"'),
          ("5..5", 'failed to parse value as time or duration: "5..5"'),
          ("1e5", 'failed to parse value as time or duration: "1e5"'),
          ("0x10", 'failed to parse value as time or duration: "0x10"'),
          ("-1", 'parsing time "-1" as "2006-01-02": cannot parse "-1" as "2006"'),
          ("1d", 'failed to parse value as time or duration: "1d"'),
          ("1h0", 'failed to parse value as time or duration: "1h0"'),
          ("1.5h5", 'failed to parse value as time or duration: "1.5h5"'),
          (" 5", 'failed to parse value as time or duration: " 5"'),
          ("+-0", 'parsing time "+-0" as "2006-01-02Z07:00": cannot parse "+-0" as "2006"'), ("2024", "2024"),
          ("2024-13-01", 'parsing time "2024-13-01": month out of range'),
          ("2024-00-10", 'parsing time "2024-00-10": month out of range'),
          ("2024-02-30", 'parsing time "2024-02-30": day out of range'),
          ("2023-02-29", 'parsing time "2023-02-29": day out of range'),
          ("2024-1-2", 'parsing time "2024-1-2" as "2006-01-02": cannot parse "1-2" as "01"'),
          ("2024-01-02x", 'parsing time "2024-01-02x": extra text: "x"'),
          ("2024-01-02z", 'parsing time "2024-01-02z" as "2006-01-02Z07:00": cannot parse "z" as "Z07:00"'),
          ("2024-01-02.5", 'parsing time "2024-01-02.5" as "2006-01-02T15:04:05.999999999": cannot parse ".5" as "T"'),
          ("2024-01-02T", 'parsing time "2024-01-02T" as "2006-01-02T15": cannot parse "" as "15"'),
          ("2024-01-02t10", 'parsing time "2024-01-02t10": extra text: "t10"'),
          ("2024-01-02T24", 'parsing time "2024-01-02T24": hour out of range'),
          ("2024-01-02T10:61", 'parsing time "2024-01-02T10:61": minute out of range'),
          ("2024-01-02T15.5", 'parsing time "2024-01-02T15.5" as "2006-01-02T15:04:05.999999999": cannot parse ".5" as ":"'),
          ("2024-01-02T15:04:60", 'parsing time "2024-01-02T15:04:60": second out of range'),
          ("2024-01-02T15:04Zx", 'parsing time "2024-01-02T15:04Zx": extra text: "x"'),
          ("2024-01-02T15:04:05.Z", 'parsing time "2024-01-02T15:04:05.Z" as "2006-01-02T15:04:05.999999999Z07:00": cannot parse ".Z" as "Z07:00"'),
          ("2024-01-02T15:04:05+99:00", 'parsing time "2024-01-02T15:04:05+99:00": time zone offset hour out of range'),
          ("2024-01-02T15:04:05+0100", 'parsing time "2024-01-02T15:04:05+0100" as "2006-01-02T15:04Z07:00": cannot parse ":05+0100" as "Z07:00"'),
          ("2024-01-02 15:04", 'parsing time "2024-01-02 15:04": extra text: " 15:04"'),
          ('a"b-', 'parsing time "a\\"b-" as "2006-01-02": cannot parse "a\\"b-" as "2006"'))
    def test_times(self, text, wanted):
        """What docker makes of them, where the clock is five and a half hours ahead."""
        zone = os.environ.get("TZ")
        os.environ["TZ"] = "Asia/Kolkata"
        time.tzset()
        try:
            found = module().parse_timestamp(text)
        except module().DockerError as error:
            found = str(error)
        finally:
            os.environ.pop("TZ")
            os.environ.update({"TZ": zone} if zone else {})
            time.tzset()
        self.assertEqual(found, wanted)

    @lines("""
        events --since 2024-01-02T5
        events --since 0 --until 2024-01-02T15:04:05.123
        events --until 1700000000.5
        ! events --since 2024-01-02T24
        ! events --until 1d
        ! events --since -1
    """)
    def test_times_on_the_command_line(self, *args, **options):
        self.differential(*args, env={"TZ": "America/New_York"}, **options)

    @rows(("10m", 600), ("1h1.5m", 3690), ("0s", 0), ("-5s", -5), ("+5s", 5), (".5s", 0.5), ("1.h", 3600), ("300ms", 0.3),
          ("1\u00b5s", 0), ("1\u03bcs2ns", 0), ("-0", 0))
    def test_durations(self, text, seconds):
        self.differential("events", "--until=" + text, wire=False)
        began = time.time()
        self.check(self.pydock("events", "--until=" + text))
        sent = int(self.engine.calls()[-1].query["until"][0])
        if text != "-0":
            self.assertTrue(began - seconds - 1 <= sent <= time.time() - seconds, (sent, began))

    @rows(("cut", messages(EVENTS[0], CLOSE)), ("within an event", chunked(b'{"Type":"a', CLOSE)),
          ("glued", chunked(b"".join(json.dumps(event).encode() for event in EVENTS))), ("nothing", messages()),
          ("in pieces", list(split(glue(messages(*EVENTS)), 7))), ("refused", answer(400, {"message": "invalid filter 'x'"})))
    def test_ends(self, title, thing):
        self.engine.on("GET", "/events", thing)
        self.differential("events", fails=None)

    def test_interrupt(self):
        """Each event is there as it comes; Ctrl-C ends it as it ends any program."""
        self.engine.on("GET", "/events", messages(EVENTS[0], 0.3, EVENTS[1], SILENCE))
        with Pty(pydock_command() + ["events"], self.env(), cwd=self.home) as terminal:
            terminal.expect("container start abc")
            terminal.expect("network connect n")
            terminal.send("\x03")
            self.assertEqual(terminal.wait(), -signal.SIGINT)
            self.assertNotIn("Traceback", terminal.text)


def sample(name="/web", **more):
    """What an engine's stats stream sends of a container."""
    return dict({
        "read": "2024-01-02T03:04:05Z", "preread": "2024-01-02T03:04:04Z", "name": name, "id": "a" * 64,
        "pids_stats": {"current": 3, "limit": 100}, "blkio_stats": {"io_service_bytes_recursive": [
            {"major": 8, "op": "Read", "value": 12345}, {"major": 8, "op": "write", "value": 999999},
            {"major": 9, "op": "read", "value": 5}, {"major": 8, "op": "Total", "value": 7}]},
        "cpu_stats": {"cpu_usage": {"total_usage": 3000000000, "percpu_usage": [1, 2, 3]}, "online_cpus": 4,
                      "system_cpu_usage": 20000000000},
        "precpu_stats": {"cpu_usage": {"total_usage": 2000000000}, "system_cpu_usage": 10000000000},
        "memory_stats": {"usage": 104857600, "limit": 1073741824, "stats": {
            "total_inactive_file": 4857600, "inactive_file": 100}},
        "networks": {"eth0": {"rx_bytes": 1000, "tx_bytes": 2000}, "eth1": {"rx_bytes": 5, "tx_bytes": 70000}}}, **more)


class StatsTest(DifferentialCase):
    """stats: the figures, the errors, and the display as containers come and go."""

    SERVER = (("Server", "Docker/28.2.2 (linux)"),)

    def setUp(self):
        super().setUp()
        self.engine = self.start(ScriptedEngine(
            ("GET", "/containers/(one|1{12})/stats", answer(200, sample("/one"), headers=self.SERVER)),
            ("GET", "/containers/two/stats", answer(200, sample("/two", id="b" * 64), headers=self.SERVER)),
            ("GET", "/containers/nosuch/stats", answer(404, {"message": "No such container: nosuch"})),
            ("GET", "/containers/empty/stats", answer(200, "", headers=self.SERVER)),
            ("GET", "/events", messages(SILENCE)),
            ("GET", "/containers/json", answer(200, [{"Id": "1" * 64}])), api="1.50"))
        self.host = self.engine.host

    def wire(self):
        """Requests are made at the same time, so in no order."""
        return sorted(super().wire())

    @lines("""
        stats --no-stream one
        stats --no-stream one two
        stats --no-stream --no-trunc one
        stats --no-stream --format json one
        stats --no-stream --format "{{.Container}} {{.ID}} {{.Name}} {{.MemUsage}}" one
        stats --no-stream --format "table {{.Container}}\\t{{.CPUPerc}}" one
        stats --no-stream
        stats --no-stream --all
        stats --no-stream -- one
        ! stats --no-stream one nosuch
        ! stats nosuch
        ! stats --no-stream empty
        ! stats --no-stream ""
        ! stats --no-stream --format {{.Foo}} one
    """)
    def test_once(self, *args, **options):
        self.differential(*args, **options)

    FIGURES = (("all", {}), ("first sample", {"precpu_stats": {}}), ("precpu null", {"precpu_stats": None}),
               ("no progress", {"precpu_stats": {"cpu_usage": {"total_usage": 3000000000}, "system_cpu_usage": 20000000000}}),
               ("backwards", {"precpu_stats": {"cpu_usage": {"total_usage": 4000000000}, "system_cpu_usage": 1}}),
               ("cpus unknown", {"cpu_stats": dict(sample()["cpu_stats"], online_cpus=0)}),
               ("cgroup v2", {"memory_stats": {"usage": 5000, "limit": 10000, "stats": {"inactive_file": 1000}}}),
               ("cache larger than usage", {"memory_stats": {"usage": 5000, "limit": 10000, "stats": {"inactive_file": 9000}}}),
               ("no limit", {"memory_stats": {"usage": 5000, "stats": {}}}), ("no memory", {"memory_stats": {}}),
               ("no network", {"networks": None}), ("no blocks", {"blkio_stats": {"io_service_bytes_recursive": None}}),
               ("no pids", {"pids_stats": {}}), ("stopped", {"cpu_stats": {"cpu_usage": {"total_usage": 0}}, "id": "", "pids_stats": {},
                                                             "precpu_stats": {"cpu_usage": {}}, "memory_stats": {}}),
               ("huge", {"networks": {"e": {"rx_bytes": 1 << 50, "tx_bytes": 10 ** 15 - 1}}, "pids_stats": {"current": 1 << 62}}))

    def test_figures(self):
        for number, (title, more) in enumerate(self.FIGURES):
            self.engine.on("GET", "/containers/c%d/stats" % number, answer(200, sample("/" + title, **more), headers=self.SERVER))
        self.differential("stats", "--no-stream", *["c%d" % number for number in range(len(self.FIGURES))])

    def test_name_without_slash(self):
        """Docker cuts the first letter, whatever it is; podman has no slash there."""
        self.engine.on("GET", "/containers/one/stats", answer(200, sample("name")))
        self.assertIn(" name ", self.check(self.pydock("stats", "--no-stream", "one")).stdout)

    @rows(("list refused", ("GET", "/containers/json", answer(500, {"message": "bad"}))),
          ("none there", ("GET", "/containers/json", answer(200, []))),
          ("one gone", ("GET", "/containers/1.*/stats", answer(404, {"message": "No such container"}))))
    def test_lists(self, title, line):
        self.engine.on(*line)
        self.differential("stats", "--no-stream", fails=None)

    def test_silence(self):
        self.engine.on("GET", "/containers/one/stats", messages(SILENCE, headers=self.SERVER))
        self.differential("stats", "--no-stream", "one", fails=True)

    @rows(("clean end", messages(0.9)), ("cut", messages(0.9, CLOSE)))
    def test_end_of_events(self, title, thing):
        """As the engine goes: all that is drawn until then, escape sequences included."""
        self.engine.on("GET", "/events", thing)
        self.engine.on("GET", "/containers/1.*/stats", messages(*[sample(), 0.2] * 20, headers=self.SERVER))
        results = self.both("stats")
        (theirs, _, _), (ours, _, _) = results["docker"], results["pydock"]
        self.assertEqual((ours.status, ours.stderr), (theirs.status, theirs.stderr))
        frames = [outcome.stdout.split("\x1b[J")[0] for outcome in (theirs, ours)]
        self.assertEqual(*frames)
        self.assertIn("\x1b[K", frames[0])

    def test_live(self):
        """Containers that start, are created and end while it runs, on a terminal; Ctrl-C ends it."""
        def event(action, letter):
            return {"Type": "container", "Action": action, "Actor": {"ID": letter * 64, "Attributes": {}}}
        happening = messages(0.3, event("start", "b"), event("create", "c"), 0.9, event("die", "a"), SILENCE)
        self.engine.on("GET", "/events", happening).on("GET", "/containers/json", answer(200, [{"Id": "a" * 64}]))
        for letter in "abc":
            stream = messages(*[sample("/name-" + letter, id=letter * 64), 0.2] * 40, headers=self.SERVER)
            self.engine.on("GET", "/containers/%s.*/stats" % letter, stream)
        for flags, after in (([], ["b"]), (["-a"], ["a", "b", "c"])):
            with Pty(pydock_command() + ["stats"] + flags, self.env(), columns=150, cwd=self.home) as terminal:
                terminal.expect("name-a")
                terminal.expect("name-b")
                if not flags:
                    terminal.expect(r"\x1b\[H[^\x1b]*PIDS\r\nb+ +name-b[^\r]*\r\n\x1b")
                else:
                    terminal.expect("name-c")
                terminal.expect(r"\x1b\[J")
                terminal.send("\x03")
                self.assertEqual(terminal.wait(), -signal.SIGINT)
                shown = terminal.text.split("\x1b[J")[-2]
                self.assertEqual(sorted(set(re.findall("name-(.)", shown))), after)
                self.assertNotIn("Traceback", terminal.text)

    def test_gone_while_it_runs(self):
        """A named container that sends no more is shown with nothing in its columns."""
        self.engine.on("GET", "/containers/one/stats", messages(sample("/one"), 0.9, headers=self.SERVER))
        with Pty(pydock_command() + ["stats", "one"], self.env(), columns=150, cwd=self.home) as terminal:
            terminal.expect("40.00%")
            terminal.expect("one +-- +-- / -- +-- +-- +-- +--")
            terminal.send("\x03")
            terminal.wait()


MADE = "c0ffee" * 10 + "beef"


class ValuesTest(Case):
    """The values of create's flags, without docker to compare with."""

    @rows(("parse_size", "1.5GiB", 1610612736), ("parse_size ", "1 k", 1024), ("parse_size  ", "0", 0),
          ("parse_cpus", "3/2", 1500000000), ("parse_csv", 'a,"b,""c""",', ["a", 'b,"c"', ""]),
          ("parse_csv ", ",a", ["", "a"]), ("parse_ip", "0001::1", "1::1"), ("parse_extra_host", "a=[::1]", "a:::1"),
          ("parse_publish", "[::1]:80-81:90-91/UDP", [("90/udp", "::1", "80"), ("91/udp", "::1", "81")]),
          ("parse_publish ", "9000-9010:80", [("80/tcp", "", "9000-9010")]),
          ("restart_policy", "on-failure:3", {"Name": "on-failure", "MaximumRetryCount": 3}),
          ("parse_mount", "dst=/b,volume-nocopy", {"Type": "volume", "Target": "/b",
                                                   "VolumeOptions": {"NoCopy": True, "DriverConfig": {}}}),
          ("normal_platform", "Linux/AArch64", "linux/arm64"), ("normal_platform ", "linux/arm/7", "linux/arm/v7"))
    def test_values(self, name, text, value):
        self.assertEqual(getattr(module(), name.strip())(text), value)

    @rows(("parse_size", "1bb", "invalid suffix: 'bb'"), ("parse_csv", "", "EOF"), ("parse_mount", "a=b", "unexpected key"),
          ("parse_cpus", "x", "failed to parse x as a rational number"), ("parse_uint", "-1", "invalid syntax"),
          ("parse_publish", "80/x", "invalid proto: x"), ("parse_network", "alias=x", "name/id is not specified"),
          ("parse_gpus", "1,1", "can be specified only once"), ("normal_platform", "foo", "unknown operating system"))
    def test_wrong(self, name, text, words):
        with self.assertRaises((ValueError, module().DockerError)) as caught:
            getattr(module(), name)(text)
        self.assertIn(words, str(caught.exception))

    def test_config(self):
        pydock = module()
        words = "-d --rm -m 1g -p 80:80 -v /a -v /b:/c -e A=1 --network x --network-alias y busybox echo hi".split()
        opts = pydock.FlagSet(pydock.RUN_TABLE).parse(words, interspersed=False)
        body = pydock.container_config(opts, proxies={"no_proxy": "b"})
        host = body["HostConfig"]
        self.assertEqual([body["Image"], body["Cmd"], body["Env"], body["Volumes"], body["AttachStdout"]],
                         ["busybox", ["echo", "hi"], ["A=1", "no_proxy=b"], {"/a": {}}, False])
        self.assertEqual([host["Memory"], host["AutoRemove"], host["Binds"], host["NetworkMode"]],
                         [1 << 30, True, ["/b:/c"], "x"])
        self.assertEqual(body["NetworkingConfig"]["EndpointsConfig"]["x"]["Aliases"], ["y"])
        opts = pydock.FlagSet(pydock.RUN_TABLE).parse(["--rm", "--restart", "always", "b"], interspersed=False)
        self.assertRaisesRegex(pydock.DockerError, "both --restart and --rm", pydock.container_config, opts)




class CreateCase(DifferentialCase):
    """create and update on an engine that takes all: what counts is the request."""

    api = "1.51"

    def setUp(self):
        super().setUp()
        self.engine = self.start(ScriptedEngine(
            ("POST", "/containers/create", answer(201, {"Id": MADE, "Warnings": []})),
            ("POST", "/containers/[^/]+/update", answer(200, {"Warnings": []})), api=self.api))
        self.host = self.engine.host
        for name, text in (("env", b"A=1\n# no\n\n  B=2 \nHOME\nNOPE\nC==\r\nA=3"), ("bom", b"\xef\xbb\xbfX=\xc3\xa4\n"),
                           ("blank", b"A B=1\n"), ("nameless", b"a=1\n=x\n"), ("latin", b"a=1\nb=\xff\n"),
                           ("seccomp.json", b'{\n "a": [1, 2.50],\n  "b": "<x> y" }\n')):
            with open(os.path.join(self.home, name), "wb") as file:
                file.write(text)

    def wire(self):
        """The order of -e and of -v is docker's map's, which has none."""
        for request in self.engine.calls("/containers/create") if self.engine else ():
            if request.body:
                body = json.loads(request.body.decode())
                for place, key in ((body, "Env"), (body["HostConfig"], "Binds")):
                    place[key] = place[key] and sorted(place[key])
                request.body = json.dumps(body).encode()
        return super().wire()

    def compare(self, *args, **options):
        return self.differential(*args, **dict({"runner": inside}, **options))


class CreateTest(CreateCase):
    """Each flag of create, and many together, in the request; each wrong value in the complaint."""

    @lines("""
        create b
        create b a "" -c
        create -- b --name x
        container create r.example:5000/a/b:1 sh -c "echo 'x y'"
        create --name n -h host --domainname d.e -u 1:2 -w /w --entrypoint "a b" b
        create -hh -u u -e A=1 -t -i b
        create --entrypoint "" b x
        create --add-host a:1.2.3.4 --add-host b=::1 --add-host c:[::1] --add-host d:host-gateway --add-host=e=[fe80::1] b
        create --annotation a=b --annotation c --annotation "" b
        create -a stdin b
        create -a STDOUT -a stderr b
        create -i b
        create -it b
        create -i -a stdout b
        create -a stdin -i b
        create --blkio-weight 10 --blkio-weight-device /dev/sda:10 --blkio-weight-device /dev/sdb:0 b
        create --device-read-bps /dev/sda:1kb --device-write-bps /dev/sda:1m --device-read-iops /dev/sda:9 b
        create --device-write-iops /dev/sda:1000 --device-write-iops /dev/sdb:1 b
        create --cap-add net_admin --cap-add ALL --cap-add CAP_SYS_ADMIN --cap-drop mknod --cap-drop NET_ADMIN b
        create --cap-drop all --cap-add "" --cap-add cap_kill --cap-add KILL b
        create --cgroup-parent /x --cgroupns host --ipc foo --isolation default b
        create --cgroupns private --ipc host --pid host --uts host --userns host b
        create --pid container:x --userns "" --uts= --cgroupns= b
        create --cpu-period 1000 --cpu-quota 0x10 --cpu-rt-period 1 --cpu-rt-runtime 2 -c 3 --cpuset-cpus 0,1 b
        create --cpuset-mems 0 --cpus 1.5 --cpu-shares=017 b
        create --cpus 3/2 b
        create --cpus 1e-1 b
        create --cpus .5 b
        create --device /dev/null --device /dev/null:/dev/x --device /dev/null:r --device /dev/q:/dev/q:m b
        create --device v.com/class=name --gpus all --device /dev/null:/dev/y:rw --device v.com/cl=0 b
        create --device-cgroup-rule "c 1:2 rwm" --device-cgroup-rule "a *:* r" b
        create --dns 1.1.1.1 --dns-opt a --dns-option b:1 --dns-search x.y --dns-search . --dns-search y. b
        create --dns 127.0.0.1 --dns 0001::1 b
        create -e A=1 -e B -e HOME -e A=2 -e C= -e D=x=y b
        create -e A -e A=1 -e B=1 -e B b
        create --env-file env --env-file bom -e Z=1 -e A=4 b
        create --expose 80 --expose 81/udp --expose 90-92 -p 80:80 --expose 1/foo --expose 1-2-3 b
        create --gpus 2 b
        create --gpus -1 b
        create --gpus device=0 --gpus "count=2,driver=x,capabilities=utility" b
        create --gpus '"device=0,1","capabilities=a,b","options=k=v,z=w,q"' b
        create --gpus 1,2 b
        create --group-add a --group-add "" b
        create --health-cmd x --health-interval 1s --health-retries 3 --health-timeout 1h2m3.5s b
        create --health-start-interval 500ms --health-start-period 1m b
        create --no-healthcheck --health-interval 0s b
        create --health-interval 0s --health-cmd "" b
        create --init --oom-kill-disable --oom-score-adj -5 --pids-limit 7 --shm-size 1g b
        create --init=false --oom-kill-disable=false --pids-limit 0 --stop-timeout 0 b
        create --pids-limit -1 --runtime r --stop-signal X --stop-timeout 3 --storage-opt a=b --storage-opt c= b
        create --runtime "" --stop-signal "" --ipc "" --name "" b
        create --ip 1.2.3.4 --ip6 x b
        create --network x --ip 1.2.3.4 --ip6 ::1 --link a:b --link c --link-local-ip 1.1.1.1 b
        create --network x --mac-address 00:11:22:33:44:55 --network-alias q --net-alias r b
        create --link a:b --mac-address 0011.2233.4455 --link-local-ip "" b
        create --network name=x,alias=A,alias=b,ip=1.1.1.1,ip6=::1,link-local-ip=3.3.3.3,driver-opt=a=b,gw-priority=3 b
        create --network x --network y --network-alias q b
        create --network name=x --network 'name=y,"driver-opt=o=a=b",mac-address=00-11-22-33-44-55' b
        create --network x b
        create --network NAME=X b
        create --net host b
        create --network container:ABC -p 80:80 b
        create --network bridge --ip 1.1.1.1 --link a b
        create -l a=b -l c -l a=d --label x= b
        create --label-file env --label-file bom -l A=x b
        create --log-driver x --log-opt a=b --log-opt c=d --log-opt e b
        create -m 10m --memory-reservation 1.5GiB --memory-swap -1 --memory-swappiness 0 --kernel-memory 1g b
        create --memory-swap "1 g" -m 10b b
        create -m 1T --memory-swap 2Tb b
        create --mount type=bind,src=/a,dst=/b --mount dst=/c --mount type=bind,target=/x b
        create --mount type=bind,source=./a,target=/b,readonly,bind-propagation=RSlave,consistency=Cached b
        create --mount src=v,destination=/b,ro=true,volume-nocopy,volume-label=a=b,volume-label=c,volume-subpath=s b
        create --mount src=v,dst=/b,volume-nocopy=false,volume-driver=d,volume-opt=o=p,volume-opt=q=r b
        create --mount type=tmpfs,dst=/b,tmpfs-size=1m,tmpfs-mode=1777 --mount type=tmpfs,src=/a,dst=/x,tmpfs-size=0 b
        create --mount type=image,src=i,dst=/b,image-subpath=x --mount TYPE=Npipe,src=.,dst=b b
        create --mount type=bind,source=..,target=/a --mount type=bind,source=.a,target=/a,readonly=false b
        create --mount dst=/a,src= --mount "dst=/a,volume-label==b,volume-driver=" --cap-add " a" b
        create --mac-address 0011.2233.4455.6677 -l " a=b" -l " c" b
        create --mount type=bind,src=/a,dst=/b,bind-nonrecursive b
        create --mount type=bind,src=/a,dst=/b,bind-recursive=disabled b
        create --mount type=bind,src=/a,dst=/b,bind-recursive=enabled,ro=1,ro=0 b
        create --mount type=bind,src=/a,dst=/b,readonly,bind-recursive=writable b
        create --mount type=bind,src=/a,dst=/b,readonly,bind-recursive=readonly,bind-propagation=rprivate b
        create --mount type=volume,dst=/b,volume-opt==x,volume-label= b
        create --mount 'dst=/b,"volume-opt=o=a,""b"" c"' b
        create -p 80 -p 1.2.3.4::5 -p [::1]:8:9 -p ::1:10:11/SCTP -p 9000-9010:80 -p 80-82:90-92/udp b
        create -p published=8080,target=80,protocol=udp -p target=90 -p 80-81 -p 80:80/ b
        create -p 80:80 -p 81:80 -p 80:80 -p 1-2-3:5 -P b
        create --platform linux/AMD64 b
        create --platform linux/aarch64 b
        create --platform LINUX/x86_64 b
        create --platform linux/armhf b
        create --platform linux/arm/v7 b
        create --platform linux/arm64/v8 b
        create --platform linux/arm/6 b
        create --platform macos/i386 b
        create --platform arm64 b
        create --privileged --read-only -P --rm --pull never -q b
        create --restart always b
        create --restart on-failure:3 b
        create --restart "" --rm b
        create --restart x:-3 b
        create --restart no --rm b
        create --security-opt seccomp=seccomp.json --security-opt no-new-privileges --security-opt label:x b
        create --security-opt apparmor=y --security-opt seccomp=unconfined --security-opt no-new-privileges=true b
        create --security-opt systempaths=unconfined b
        create --sysctl net.a=b --sysctl kernel.msgmax=1 --sysctl fs.mqueue.x= b
        create --tmpfs /a --tmpfs /b:rw,size=1k --tmpfs "" b
        create --ulimit nofile=1:2 --ulimit cpu=5 --ulimit nofile=3 --ulimit core=5:-1 b
        create -v /a -v name:/b -v ./c:/c:ro -v /d:/d -v /e:/e:z,ro -v ../x:/z -v .:/q -v ~/x:/y b
        create -v c:/d:ro -v a:b:c:d -v aa:bb -v b:/b -v a: -v : -v /a -v /a -v name:/b -v name:/b:ro b
        create --volume-driver d --volumes-from x --volumes-from y:ro b
        create 1234567890123456789012345678901234567890123456789012345678901234
        create sha256:1234567890123456789012345678901234567890123456789012345678901234
        create b:1@sha256:1234567890123456789012345678901234567890123456789012345678901234
        create docker.io/library/b:x
        update -m 10m c1 c2
        update --restart always:2 --kernel-memory 1g --cpus 1.5 --pids-limit -1 c1
        update --blkio-weight 10 --cpu-period 1 --cpu-quota 2 --cpu-rt-period 3 --cpu-rt-runtime 4 c
        container update -c 3 --cpuset-cpus 1 --cpuset-mems 2 --memory-reservation 5m --memory-swap -1 c
        update --memory 0 --restart "" c
    """)
    def test_request(self, *args, **options):
        self.compare(*args, **options)

    @lines("""
        ! create
        ! create --nosuch b
        ! create B
        ! create b:
        ! create ""
        ! create --add-host x b
        ! create --add-host a:b b
        ! create --add-host :1.1.1.1 b
        ! create -a x b
        ! create --blkio-weight 70000 b
        ! create --blkio-weight -1 b
        ! create --blkio-weight-device x b
        ! create --blkio-weight-device /x:10 b
        ! create --blkio-weight-device /dev/x:5 b
        ! create --device-read-bps /dev/x:q b
        ! create --device-write-bps x b
        ! create --device-write-iops /x:1 b
        ! create --device-read-iops /dev/x:-1 b
        ! create --cgroupns x b
        ! create --cpus x b
        ! create --cpus 1/0 b
        ! create --cpus " 1" b
        ! create --cpus 1.12345678901 b
        ! create --cpu-shares x b
        ! create --cpu-count 1 b
        ! create --io-maxbandwidth 1 b
        ! create --device /dev/x:y b
        ! create --device a b
        ! create --device /dev/x:/y:q b
        ! create --device a:b:c:d b
        ! create --device :a b
        ! create --device-cgroup-rule x b
        ! create --dns x b
        ! create --dns-search "a b" b
        ! create --env =x b
        ! create --env-file nosuch b
        ! create --env-file blank b
        ! create --env-file nameless b
        ! create --env-file latin b
        ! create --label-file nosuch b
        ! create --label-file blank b
        ! create -l "" b
        ! create -l "a b=c" b
        ! create -l =c b
        ! create --expose 80:80 b
        ! create --expose x b
        ! create --expose 9-8 b
        ! create --expose "" b
        ! create --gpus a=b b
        ! create --gpus x b
        ! create --gpus 1,1 b
        ! create --gpus "" b
        ! create --gpus 1,count=2 b
        ! create --gpus 'a"b' b
        ! create --gpus 'x,"a"b' b
        ! create --gpus '"a' b
        ! create --mount 'dst="/a"' b
        ! create --network name=x,driver-opt==b b
        ! create --mac-address 00:11-22:33:44:55 b
        ! create --device /dev/a: b
        ! create --ulimit =1 b
        ! create --ulimit nofile= b
        ! create --mount type=tmpfs,dst=/a,tmpfs-mode=-1 b
        ! create --cpus "1 " b
        ! create --health-interval x b
        ! create --health-timeout 5 b
        ! create --health-interval 5y b
        ! create --health-interval -5s b
        ! create --health-retries -1 b
        ! create --health-start-period -1ns b
        ! create --no-healthcheck --health-cmd x b
        ! create --link a:b:c b
        ! create --link "" b
        ! create --log-driver none --log-opt a=b b
        ! create --mac-address x b
        ! create --mac-address 00:11:22:33:44 b
        ! create -m x b
        ! create -m 1x b
        ! create -m 1bb b
        ! create -m -1 b
        ! create -m "" b
        ! create -m 1.5.g b
        ! create --memory-swap -2 b
        ! create --memory-swappiness 200 b
        ! create --memory-swappiness -2 b
        ! create --mount x b
        ! create --mount "" b
        ! create --mount type=bind b
        ! create --mount type=,dst=/x b
        ! create --mount A=b b
        ! create --mount dst=/x,ro=q b
        ! create --mount dst=/x,volume-nocopy=q b
        ! create --mount dst=/x,bind-propagation=q b
        ! create --mount dst=/x,type=bind,volume-nocopy b
        ! create --mount dst=/x,tmpfs-size=q b
        ! create --mount dst=/x,tmpfs-mode=9 b
        ! create --mount dst=/x,type=bind,src=/y,bind-recursive=q b
        ! create --mount dst=/x,type=bind,src=/y,bind-recursive=readonly b
        ! create --mount dst=/x,type=bind,src=/y,bind-recursive=readonly,ro b
        ! create --mount dst=/x,type=bind,src=/y,bind-recursive=writable b
        ! create --network "" b
        ! create --network a=b b
        ! create --network name=x,q b
        ! create --network alias=x b
        ! create --network name=x,driver-opt=a b
        ! create --network name=x,gw-priority=a b
        ! create --network x --network host b
        ! create --network x --network x b
        ! create --network host --network-alias a b
        ! create --network-alias a b
        ! create --network container:x --network-alias a b
        ! create --network name=x,alias=a --network-alias b b
        ! create --network name=x,ip=1.1.1.1 --ip 1.1.1.1 b
        ! create --network name=x,ip6=::1 --ip6 ::1 b
        ! create --network name=x,link-local-ip=1.1.1.1 --link-local-ip 1.1.1.1 b
        ! create --network name=x,mac-address=00:11:22:33:44:55 --mac-address 00:11:22:33:44:55 b
        ! create --network name=x,mac-address=q b
        ! create --pid x b
        ! create --pid container: b
        ! create --uts x b
        ! create --userns x b
        ! create --pids-limit x b
        ! create -p x b
        ! create -p x:80 b
        ! create -p 80:99999 b
        ! create -p 99999:80 b
        ! create -p 1-3:1-2 b
        ! create -p 80/foo b
        ! create -p : b
        ! create -p "" b
        ! create -p 1.2:3:4 b
        ! create -p a=b,c b
        ! create -p /tcp b
        ! create --pull x b
        ! create --restart on-failure:x b
        ! create --restart :3 b
        ! create --rm --restart always b
        ! create --security-opt x b
        ! create --security-opt x= b
        ! create --security-opt seccomp=nosuch b
        ! create --security-opt seccomp=/ b
        ! create --security-opt seccomp=env b
        ! create --storage-opt x b
        ! create --shm-size x b
        ! create --stop-timeout x b
        ! create --sysctl x b
        ! create --sysctl a=b b
        ! create --ulimit x b
        ! create --ulimit x=1 b
        ! create --ulimit nofile=x b
        ! create --ulimit nofile=5:4 b
        ! create --ulimit nofile=1:2:3 b
        ! create --ulimit nofile=-1:4 b
        ! create -v "" b
        ! create -v :/a b
        ! create -v /a: b
        ! create -v /a:/b: b
        ! create -v /a:/b:cc:d b
        ! create --platform foo b
        ! create --platform x/y/z/q b
        ! create --cidfile /nosuch/x b
        ! create --cidfile env b
        ! container create --uts x b
        ! update
        ! update c
        ! update --restart on-failure:x c
        ! update --blkio-weight x c
    """)
    def test_refused(self, *args, **options):
        self.compare(*args, **options)

    @rows(("default", {"default": {"httpProxy": "http://p:1", "noProxy": "a,b", "allProxy": ""}}, []),
          ("given too", {"default": {"httpProxy": "http://p:1", "ftpProxy": "f"}}, ["-e", "HTTP_PROXY=x", "-e", "ftp_proxy"]),
          ("of another host", {"unix:///other": {"httpProxy": "x"}, "default": {"httpsProxy": "y"}}, []),
          ("this host's", {"$HOST": {"httpProxy": "x"}, "default": {"httpProxy": "y"}}, []),
          ("null", None, []))
    def test_proxies(self, title, proxies, args):
        self.config(json.dumps({"proxies": proxies}).replace("$HOST", self.host))
        self.compare("create", *(args + ["b"]))

    def test_relative_path_through_a_link(self):
        link = os.path.join(self.folder(), "link")
        os.symlink(self.home, link)
        self.compare("create", "-v", "./a:/a", "--mount", "type=bind,src=./b,dst=/b", "b", env={"PWD": link})
        self.compare("create", "-v", "./a:/a", "b", env={"PWD": "/"})

    def test_pydock_only_refusals(self):
        """What docker does and pydock does not (README)."""
        self.check(self.pydock("create", "--use-api-socket", "b"), 125, "", re.compile("not offered here"))
        self.check(self.pydock("create", "--disable-content-trust=false", "b"), 1, "", re.compile("content trust is not"))
        self.assertEqual(self.engine.calls(), [])

    def test_size_of_the_terminal(self):
        for args in (["b"], ["--platform", "linux/amd64", "b"]):
            self.differential("create", *args, runner=on_terminal(columns=93, rows=31))


class OldCreateTest(CreateCase):
    """The same for an engine of 20.10, which knows less."""

    api = "1.41"

    @lines("""
        create b
        create --kernel-memory 1g -m 1g b
        create --platform linux/arm64 --gpus all --cgroupns host b
        create --mount type=bind,src=/a,dst=/b,readonly,bind-recursive=writable b
        create --network name=x,alias=y,gw-priority=1 --stop-timeout 3 b
        create --health-cmd x --health-interval 1s -p 80:80 -v /a:/b --rm --init b
        ! create --mount type=bind,src=/a,dst=/b,readonly,bind-recursive=readonly,bind-propagation=rprivate b
        ! create --mac-address 00:11:22:33:44:55 b
        ! create --network name=x,mac-address=00:11:22:33:44:55 b
        ! create --health-start-interval 1s b
        ! create --annotation a=b b
        update --kernel-memory 1g --pids-limit 3 c
    """)
    def test_request(self, *args, **options):
        self.compare(*args, **options)

    def test_size_of_the_terminal(self):
        for args in (["b"], ["--platform", "linux/amd64", "b"]):
            self.differential("create", *args, runner=on_terminal(columns=93, rows=31))

    @rows(("1.39", ["--kernel-memory", "1g", "--rm", "b"]), ("1.24", ["--rm", "b"]), ("1.24 ", ["--init", "b"]),
          ("1.40", ["--platform", "linux/arm64", "--kernel-memory", "1g", "b"]), ("1.40 ", ["--cgroupns", "host", "b"]),
          ("1.42", ["--kernel-memory", "1g", "b"]), ("1.44", ["--mac-address", "00:11:22:33:44:55", "b"]))
    def test_older_and_newer(self, api, args):
        self.engine.api = api.strip()
        self.compare("create", *args, fails=None)


class CreateAnswersTest(CreateCase):
    """What the engine says to create and update: missing images and pulls, warnings, failures, --cidfile."""

    GONE = answer(404, {"message": "No such image: b:latest"})
    GOOD = answer(201, {"Id": MADE, "Warnings": ["careful", "again"]})
    PULLED = messages({"status": "Pulling from library/b", "id": "latest"},
                      {"status": "Downloading", "progressDetail": {"current": 1, "total": 2}, "id": "abc"},
                      {"status": "Status: Downloaded newer image for b:latest"})
    BROKEN = messages({"errorDetail": {"message": "boo"}, "error": "boo"})

    @rows(("missing", [GONE, GOOD], PULLED, ["b"]),
          ("quiet", [GONE, GOOD], PULLED, ["-q", "b"]),
          ("always", [GOOD], PULLED, ["--pull", "always", "b:1"]),
          ("always, an ID", [GOOD], PULLED, ["--pull", "always", "1" * 64]),
          ("always, fails", [GOOD], answer(404, {"message": "no repo"}), ["--pull", "always", "b:1"]),
          ("never", [GONE], PULLED, ["--pull", "never", "b"]),
          ("platform", [GONE, GOOD], PULLED, ["--platform", "linux/AARCH64", "r.example/x/b"]),
          ("still missing", [GONE, GONE], PULLED, ["b"]),
          ("no repository", [GONE], answer(404, {"message": "no repo"}), ["b"]),
          ("unauthorized", [GONE], answer(401, {"message": "unauthorized"}), ["b"]),
          ("broken pull", [GONE], BROKEN, ["b"]),
          ("an ID", [GONE], PULLED, ["1" * 64]),
          ("a digest alone", [GONE], PULLED, ["sha256:" + "1" * 64]),
          ("a digest", [GONE, GOOD], PULLED, ["b@sha256:" + "1" * 64]),
          ("conflict", [answer(409, {"message": "name in use"})], PULLED, ["--name", "n", "b"]),
          ("cidfile", [GOOD], PULLED, ["--cidfile", "cid", "b"]),
          ("cidfile after a pull", [GONE, GOOD], PULLED, ["--cidfile", "cid", "b"]),
          ("cidfile of none", [answer(409, {"message": "name in use"})], PULLED, ["--cidfile", "cid", "b"]),
          ("null", [answer(201, {"Id": MADE, "Warnings": None})], PULLED, ["b"]),
          ("no warnings", [answer(201, {"Id": MADE})], PULLED, ["--dns", "127.0.0.53", "--dns", "127.0.0.1", "b"]),
          ("no JSON", [answer(201, b"nojson")], PULLED, ["b"]),
          ("500", [answer(500, {"message": "boo"})], PULLED, ["b"]))
    def test_create(self, title, answers, pulled, args):
        def setup(_):
            del self.engine.script[:]
            self.engine.on("POST", "/images/create", pulled).on("POST", "/containers/create", Turns(*answers))
        self.compare("create", *args, setup=setup, fails=None)

    def test_default_platform(self):
        self.engine.on("POST", "/images/create", self.PULLED)
        self.compare("create", "--pull", "always", "b", env={"DOCKER_DEFAULT_PLATFORM": "linux/arm64"})

    def test_pull_on_a_terminal(self):
        def setup(_):
            self.engine.on("POST", "/images/create", self.PULLED).on("POST", "/containers/create", Turns(
                self.GONE, self.GOOD))
        self.differential("create", "b", setup=setup, runner=on_terminal())

    @rows(("warnings", answer(200, {"Warnings": ["careful"]}), ["a", "b"]), ("null", answer(200, {"Warnings": None}), ["a"]),
          ("absent", answer(404, {"message": "No such container: a"}), ["a", "b"]),
          ("one of two", lambda request: answer(*((404, {"message": "no"}) if "/a/" in request.path else (200, {}))),
           ["a", "b"]))
    def test_update(self, title, thing, names):
        self.engine.on("POST", "/containers/[^/]+/update", thing)
        self.compare("update", "-m", "1g", *names, fails=None)


def plant(folder, text):
    """Makes a tree: a line each, `path: content` (\\n for a line end), `path/` or `path -> target`."""
    for line in filter(None, (line.strip() for line in text.splitlines())):
        path, _, content = line.partition(": ")
        path, _, target = path.partition(" -> ")
        path = os.path.join(folder, path)
        os.makedirs(path if path.endswith("/") else os.path.dirname(path), exist_ok=True)
        if target:
            os.symlink(target, path)
        elif not path.endswith("/"):
            with open(path, "w") as file:
                file.write(content.replace("\\n", "\n"))


def entries(data):
    """The entries of a tar archive, sorted: name, kind, mode, owner, link target, content."""
    found = []
    with tarfile.open(fileobj=io.BytesIO(data + bytes(1024)), errorlevel=2) as tar:
        for member in tar:
            content = tar.extractfile(member).read() if member.isfile() else b""
            text = "%s %s %o %d:%d %s%s %r" % (member.name, member.type.decode(), member.mode, member.uid, member.gid,
                                               member.linkname, member.uname, content[:3000])
            found.append(re.sub(r"\.dockerfile\.[0-9a-f]{20}", ".dockerfile.HEX", text))
    return sorted(found)


SENT = replaced(r"daemon +[0-9.]+k?B", "daemon SIZE")      # docker leaves out the end of an archive that it has added to
BUILT_ID = "sha256:" + "0123456789ab" * 5 + "0123"
BUILD_TREE = r"""
    Dockerfile: FROM busybox\n
    a.txt: a\n
    b.md: b\n
    sub/a.txt: sub a\n
    sub/keep: kept\n
    sub/deep/a.txt: deep a\n
    sub/deep/keep: deep kept\n
    sub/deep/er/x.go: x\n
    empty/
    link -> a.txt
    dangling -> nowhere
    foobar: x
    dir/foo: x
    .hidden/x: y
    """


@contextlib.contextmanager
def serve_folder(folder):
    """A web server for the files of a folder; its URL."""
    class Handler(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path):
            return os.path.join(folder, urllib.parse.unquote(path.partition("?")[0]).lstrip("/"))

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield "http://127.0.0.1:%d" % server.server_port
    finally:
        server.shutdown()
        server.server_close()


class BuildCase(DifferentialCase):
    """`build` by the classic builder on a scripted engine; what is sent is compared entry by entry."""

    extra_env = {"DOCKER_BUILDKIT": "0"}
    result = messages({"stream": "Step 1/1 : FROM busybox\n"}, {"stream": " ---> 0123456789ab\n"},
                      {"aux": {"ID": BUILT_ID}}, {"stream": "Successfully built 0123456789ab\n"})

    def setUp(self):
        super().setUp()
        self.engine = self.start(ScriptedEngine(("POST", "/build", lambda request: self.result),
                                                ("GET", "/images/.*/json", answer(200, {"Id": "x"}))))
        self.host = self.engine.host
        plant(os.path.join(self.home, "ctx"), BUILD_TREE)
        self.names = {"home": self.home}

    def wire(self):
        sent = []
        for request in self.engine.calls("/build"):
            for values in request.query.values():
                values[:] = [re.sub(r"\.dockerfile\.[0-9a-f]{20}", ".dockerfile.HEX", value) for value in values]
            packed = request.body[:2] == b"\x1f\x8b"
            with contextlib.suppress(tarfile.TarError):
                sent += ["gzipped"] * packed + entries(gzip.decompress(request.body) if packed else request.body)
                request.body = b""
        return super().wire() + sent


class DockerIgnoreTest(BuildCase):
    """What `.dockerignore` keeps from being sent: the entries of the archive, beside docker's."""

    @rows(
        (r"sub/",), (r"./sub/../sub",), (r"/*.txt",), (r"**/a.txt\n!sub/a.txt",), (r"sub\n!sub/keep",),
        (r"sub\n!**/keep",), (r"sub/*\n!sub/deep",), (r"!sub\nsub/keep",), (r"**foo",), (r"**/foo",), (r"**foo*",), (r"**",),
        (r"*\n!sub/deep/er",), (r"sub/**",), (r"sub/**/keep",), (r"sub/**keep",), (r"**/deep/**",), (r"?.txt",),
        (r"[^a].*",), (r"[a-c].*",), (r"[!a].*",), (r"[[a].*",), (r"b\.md",), (r"# comment\n # none\nb.md",),
        (r"\n\n  sub  \n! sub/keep",), (r"Dockerfile\n.dockerignore",), (r"*ockerfile*",), (r"*\n!*.md\nb*",),
        (r"sub/deep\n!sub/deep/keep\nsub/deep/k*",), (r"link\n.*",), (r"a.txt\r\nb.md\r",), (r"/",), (r".",), (r"..",),
        (r"../ctx/sub",), (r"SUB\nsu",), (r"a+txt\n(a|b)*\n{a,b}*\n$a\n^b",), (r"**/deep\n!**/deep/keep",), (r"a]\n]",),
        ("\ufeffsub",), (r"**/.*",), (r"!**",), (r"*/*/*",), (r"**/**/keep",), (r"d*/f*\nfoo\n",),
    )
    def test_patterns(self, text):
        with open(os.path.join(self.home, "ctx", ".dockerignore"), "w") as file:
            file.write(text.replace("\\n", "\n").replace("\\r", "\r"))
        self.differential("build", "-q", "ctx")

    @rows((r"[",), (r"a[",), (r"[]a]",), (r"[a-]",), (r"!",), (r"sub\n!",), ("\\",), (r"[^]",), (r"[b-a]",))
    def test_malformed(self, text):
        with open(os.path.join(self.home, "ctx", ".dockerignore"), "w") as file:
            file.write(text.replace("\\n", "\n"))
        self.differential("build", "ctx", fails=True)

    @rows(("sub\n!**/keep", ["Dockerfile", ".dockerignore", "sub/keep", "sub/deep/keep"]),
          ("**\n!**/*.go", ["Dockerfile", "sub/deep/er/x.go"]),
          (".dockerignore\n.hidden\n*\n!Dockerfile", ["Dockerfile"]))
    def test_as_buildkit_has_it(self, text, wanted):
        """A pattern with wildcards brings back what is below an ignored folder; the file itself needs not be sent."""
        plant(os.path.join(self.home, "ctx"), ".dockerignore: %s" % text.replace("\n", "\\n"))
        self.pydock("build", "ctx", env={"DOCKER_BUILDKIT": "1"})
        with tarfile.open(fileobj=io.BytesIO(self.engine.calls("/build")[0].body)) as tar:
            names = tar.getnames()
        for name in "Dockerfile .dockerignore sub/keep sub/deep/keep sub/deep/er/x.go sub/a.txt".split():
            if name in wanted or "sub" in text or name.endswith(".go"):
                self.assertEqual(name in names, name in wanted, names)

    def test_of_the_dockerfile_itself(self):
        plant(os.path.join(self.home, "ctx"), "x/My.Dockerfile: FROM a\nx/My.Dockerfile.dockerignore: sub\n.dockerignore: *.md")
        for builder, gone, there in (("1", "sub", "b.md"), ("0", "b.md", "sub")):
            self.pydock("build", "-f", "ctx/x/My.Dockerfile", "ctx", env={"DOCKER_BUILDKIT": builder})
            with tarfile.open(fileobj=io.BytesIO(self.engine.calls("/build")[-1].body)) as tar:
                self.assertNotIn(gone, tar.getnames())
                self.assertIn(there, tar.getnames())

    def test_pruning(self):
        """A folder is not looked into where nothing in it can come back."""
        pydock = module()
        ignore = pydock.DockerIgnore(["node_modules", "**/*.pyc", "!keep.pyc", "x/**/y"])
        self.assertEqual(ignore("node_modules", True), pydock.PRUNE)
        self.assertEqual(ignore("a/b.pyc"), True)
        self.assertFalse(ignore("keep.pyc"))
        self.assertEqual(pydock.DockerIgnore(["a", "!a/b/c"])("a", True), True)
        self.assertEqual(pydock.DockerIgnore(["a", "!b"], deep=True)("a", True), pydock.PRUNE)


class BuildTest(BuildCase):
    """Flags, contexts and messages of the classic builder."""

    def setUp(self):
        super().setUp()
        plant(self.home, r"""
            out/Dockerfile: FROM outside\n
            ctx/d/Other: FROM other\n
            lower/dockerfile: FROM lower\n
            none/x: x
            real -> ctx
            ctx/In -> d/Other
            ctx/Out -> ../out/Dockerfile
            file: x
            """)

    @lines("""
        build ctx
        image build ctx
        builder build ctx
        build -q ctx
        build --quiet=true -t a -t b:c ctx
        build -t localhost:5000/a/b:c --tag docker.io/library/x ctx
        ! build -t UPPER ctx
        ! build -t a:b:c ctx
        ! build -t "" ctx
        build --build-arg A=1 --build-arg B= --build-arg C --build-arg SET --build-arg A=2 ctx
        ! build --build-arg =1 ctx
        build --label a=b --label c --label d= --label e=f=g ctx
        build --add-host a:1.2.3.4 --add-host b=::1 --add-host c:host-gateway ctx
        ! build --add-host a ctx
        ! build --add-host a:b ctx
        build --cache-from a,b --cache-from c ctx
        build --cgroup-parent p --cpu-period 1000 --cpu-quota 5 -c 7 --cpuset-cpus 0-1 --cpuset-mems 0 ctx
        build -m 40m --memory-swap -1 --shm-size 64k ctx
        build --memory 1.5g --memory-swap 2GiB --shm-size 5 ctx
        ! build -m zz ctx
        ! build -m -1 ctx
        ! build --memory-swap x ctx
        ! build --cpu-quota x ctx
        build --ulimit nofile=1:2 --ulimit nproc=3 --ulimit core=-1 ctx
        build --ulimit nproc=3 --ulimit nproc=4 ctx
        ! build --ulimit nofile ctx
        ! build --ulimit nofile=2:1 ctx
        build --security-opt a,b --security-opt c=d ctx
        build --isolation default --network host --target x ctx
        build --network default ctx
        build --network none --no-cache --pull --force-rm --rm=false ctx
        build --platform Linux/ARM64 ctx
        ! build --squash ctx
        build --compress ctx
        build --iidfile iid ctx
        build -q --iidfile iid ctx
        build --iidfile file ctx
        build -f ctx/Dockerfile ctx
        build -f ctx/d/Other ctx
        build -f $home/ctx/d/Other ctx
        build -f ctx/In ctx
        build -f out/Dockerfile ctx
        build -f ctx/Out ctx
        build lower
        build real
        build ctx/.
        build ctx/sub/..
        build -f real/Dockerfile ctx
        ! build none
        ! build nosuch
        ! build file
        ! build ctx/Dockerfile
        ! build -f nosuch ctx
        ! build -f Dockerfile ctx
        ! build
        ! build a b
        ! build --nosuch ctx
        ! build ""
        ! build -f - -
        ! build git@127.0.0.1:nosuch
        ! build http://127.0.0.1:1/x
        ! build ftp://127.0.0.1/x
    """)
    def test_flags(self, *args, **options):
        self.normalise += (replaced(r"(?s)(error fetching: ).*", r"\1..."), replaced("dial tcp .* connect: ", ""))
        if "--compress" in args or "out/Dockerfile" in args or "ctx/Out" in args:
            self.normalise += (SENT,)
        self.differential(*args, env={"SET": "from environment"}, **options)

    @rows(("stdin Dockerfile", ["-"], b"FROM x\n"), ("quiet", ["-q", "-"], b"FROM x\n"), ("empty", ["-"], b""),
          ("-f too", ["-f", "x", "-"], b"FROM x\n"), ("Dockerfile -f -", ["-f", "-", "ctx"], b"FROM stdin\n"),
          ("empty -f -", ["-f", "-", "ctx"], b""), ("long", ["-"], b"FROM x\n" + b"RUN echo x\n" * 1000))
    def test_input(self, title, args, data):
        self.normalise += (SENT,) * ("ctx" in args)
        self.differential("build", *args, input=data, fails=None)

    def test_ignore_file_with_a_dockerfile_from_elsewhere(self):
        plant(self.home, r"ctx/.dockerignore: *.md\nDockerfile\n.dockerignore\n")
        self.normalise += (SENT,)
        self.differential("build", "-f", "-", "ctx", input=b"FROM stdin\n")
        self.differential("build", "-f", "out/Dockerfile", "ctx")

    @rows(("plain", "w"), ("gzip", "w:gz"), ("bzip2", "w:bz2"), ("xz", "w:xz"))
    def test_archive_as_input(self, title, mode):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode=mode, format=tarfile.GNU_FORMAT) as tar:
            for name in sorted(os.listdir(os.path.join(self.home, "ctx"))):
                tar.add(os.path.join(self.home, "ctx", name), name)
        self.normalise += (SENT,)
        for args in ([], ["-f", "d/Other"]):
            self.differential("build", "-", *args, input=out.getvalue())
        self.check(self.pydock("build", "-", input=out.getvalue()))
        self.assertEqual(self.engine.calls("/build")[-1].body, out.getvalue())

    def test_empty_variable(self):
        self.differential("build", "ctx", env={"DOCKER_BUILDKIT": "nonsense"}, fails=True)

    def test_environment(self):
        self.config(proxies={"default": {"httpProxy": "http://p", "noProxy": "x"}})
        self.differential("build", "--build-arg", "HTTP_PROXY=mine", "ctx", env={"DOCKER_DEFAULT_PLATFORM": "linux/arm"})

    def test_credentials(self):
        self.config(auths={"r0:5000": {"auth": "dTpw"}, "r1": {"auth": "dTpw", "identitytoken": "tok", "email": "e"},
                           "https://index.docker.io/v1/": {"auth": "dTpw"}})
        self.differential("build", "ctx")

    @rows(("helper", {"credsStore": "pydocktest"}), ("for one", {"credHelpers": {"r9": "pydocktest"}}))
    def test_credentials_of_helpers(self, title, config):
        helper = CredentialHelper(self.home, r9=["u", "s"], r8=["v", "t"])
        self.config(auths={"r8": {}, "r0": {"auth": "dTpw"}}, **config)
        self.differential("build", "ctx", env=helper.env(), files=False)

    def test_on_a_terminal(self):
        plant(self.home, "ctx/big: x")
        with open(os.path.join(self.home, "ctx", "big"), "wb") as file:
            file.write(bytes(3 << 20))
        for args in ([], ["-q"]):
            self.differential("build", "ctx", *args, runner=on_terminal())

    @rows(("RUN fails", messages({"stream": "Step\n"}, {"errorDetail": {"code": 7, "message": "returned 7"}, "error": "x"})),
          ("without code", messages({"stream": "Step\n"}, {"errorDetail": {"message": "no"}, "error": "no"})),
          ("refused", answer(400, {"message": "bad"})),
          ("no ID", messages({"stream": "Step\n"})), ("two IDs", messages({"aux": {"ID": "a"}}, {"aux": {"ID": "b"}})),
          ("pull within", messages({"status": "Pulling from x", "id": "latest"},
                                   {"status": "Downloading", "progressDetail": {"current": 5, "total": 10}, "id": "a"},
                                   {"status": "Pull complete", "progressDetail": {}, "id": "a"}, {"stream": " ---> x\n"})),
          ("odd aux", messages({"aux": None}, {"stream": "x\n"})))
    def test_answers(self, title, thing):
        self.engine.on("POST", "/build", thing)
        for args in (["--iidfile", "iid"], ["-q"], ["-q", "--iidfile", "iid"]):
            self.differential("build", *(args + ["ctx"]), fails=None)

    def test_answer_before_all_is_sent(self):
        with open(os.path.join(self.home, "ctx", "big"), "wb") as file:
            file.truncate(64 << 20)
        self.engine.on("POST", "/build", early(answer(500, {"message": "full"}, close=True)))
        self.check(self.pydock("build", "ctx"), 1, stderr=re.compile("Error response from daemon: full\n$"))

    def test_sockets_are_left_out(self):
        def setup(_):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.bind(os.path.join(self.home, "ctx", "s"))
        self.normalise += (replaced(r"(?m)^time=.*sockets not supported.\n", ""),)
        self.differential("build", "ctx", setup=setup, files=False)

    def test_special_files(self):
        os.mkfifo(os.path.join(self.home, "ctx", "fifo"))
        os.link(os.path.join(self.home, "ctx", "a.txt"), os.path.join(self.home, "ctx", "zz"))
        os.chmod(os.path.join(self.home, "ctx", "b.md"), 0o4751)
        plant(os.path.join(self.home, "ctx"), "long/%s/%s: x\n\u00e9\u4e2d: y" % ("n" * 90, "m" * 90))
        self.check(self.pydock("build", "ctx"))

    def test_unreadable_file(self):
        """The connection is dropped: a cut archive must not look like a whole one."""
        os.chmod(self.home, 0o755)
        os.chmod(os.path.join(self.home, "ctx", "sub", "keep"), 0)
        try:
            run(pydock_command() + ["--version"], user=NOBODY, cwd="/")
        except OSError:
            raise unittest.SkipTest("no other user may run this Python")
        path = os.path.join(os.path.realpath(self.home), "ctx", "sub", "keep")
        self.check(self.pydock("build", "ctx", user=NOBODY), 1,
                   stderr=re.compile("open %s: permission denied\n$" % re.escape(path)))
        wait_until(lambda: self.engine.errors, 10)
        self.assertFalse(self.engine.calls("/build")[0].body.endswith(bytes(1024)))

    @lines("""
        build --secret id=x ctx
        build --ssh default ctx
        build --output out ctx
        build -t x --push ctx
        build --cache-to x ctx
    """)
    def test_what_needs_a_session(self, *args, **_):
        for builder in "01":
            self.check(self.pydock(*args, env={"DOCKER_BUILDKIT": builder}), 1, stderr=re.compile(r"needs a session"))
        self.assertEqual(self.engine.requests, [])

    @rows(("DOCKER_BUILDKIT=0", {"DOCKER_BUILDKIT": "0"}, "2", "1"), ("=1", {"DOCKER_BUILDKIT": "1"}, "1", "2"),
          ("=true", {"DOCKER_BUILDKIT": "true"}, "", "2"), ("ping says 2", {"DOCKER_BUILDKIT": None}, "2", "2"),
          ("ping says 1", {"DOCKER_BUILDKIT": None}, "1", "1"), ("ping says nothing", {"DOCKER_BUILDKIT": None}, "", "1"),
          ("empty", {"DOCKER_BUILDKIT": ""}, "2", "2"))
    def test_choice_of_the_builder(self, title, env, ping, version):
        headers = [("Api-Version", "1.41"), ("Builder-Version", ping), ("Ostype", "linux")]
        self.engine.on("*", "/_ping", lambda request: answer(200, b"" if request.method == "HEAD" else b"OK", headers=headers,
                                                             length=2))
        outcome = self.check(self.pydock("build", "ctx", env=env))
        self.assertEqual(self.engine.calls("/build")[0].query["version"], [version])
        self.assertEqual("DEPRECATED" in outcome.stderr, env["DOCKER_BUILDKIT"] == "0")


def protobuf(**fields):
    """A hand-made protobuf message: f1=…, f2=…; numbers are varints, texts and bytes are strings, lists repeat."""
    def varint(value):
        value &= (1 << 64) - 1
        out = bytearray()
        while value > 127:
            out.append(value & 127 | 128)
            value >>= 7
        return bytes(out) + bytes([value])

    data = b""
    for name, values in fields.items():
        for value in values if isinstance(values, list) else [values]:
            number = int(name[1:])
            if isinstance(value, int):
                data += varint(number << 3) + varint(value)
            else:
                value = value.encode() if isinstance(value, str) else value
                data += varint(number << 3 | 2) + varint(len(value)) + value
    return data


def moment(seconds):
    """A protobuf Timestamp, some seconds after the build began."""
    nanos = 1700000000 * 10 ** 9 + int(seconds * 1000) * 10 ** 6
    return protobuf(f1=nanos // 10 ** 9, f2=nanos % 10 ** 9)


def vertex(name, start=None, end=None, error=None, cached=False, inputs=()):
    fields = {"f1": "sha256:" + name, "f2": list(inputs), "f3": name}
    if cached:
        fields["f4"] = 1
    for key, value in (("f5", start), ("f6", end)):
        if value is not None:
            fields[key] = moment(value)
    if error:
        fields["f7"] = error
    return protobuf(f1=protobuf(**fields))


def vertex_status(step, name, current=0, total=0, start=0, end=None, at=0):
    fields = {"f1": name, "f2": "sha256:" + step, "f4": current, "f5": total, "f6": moment(at), "f7": moment(start)}
    if end is not None:
        fields["f8"] = moment(end)
    return protobuf(f2=protobuf(**fields))


def vertex_log(step, text, at=0):
    return protobuf(f3=protobuf(f1="sha256:" + step, f2=moment(at), f3=1, f4=text))


def vertex_warning(step, text):
    return protobuf(f4=protobuf(f1="sha256:" + step, f2=1, f3=text, f4=["more"], f5="https://x"))


def trace(*parts):
    """A message of the engine's with a trace."""
    return {"id": "moby.buildkit.trace", "aux": base64.b64encode(b"".join(parts)).decode()}


IMAGE_ID = {"id": "moby.image.id", "aux": {"ID": BUILT_ID}}
LOAD, FROM, RUN = "[internal] load x", "[1/2] FROM docker.io/library/a", "[2/2] RUN make all"


class TraceTest(CliCase):
    """The decoder of BuildKit's trace, and the displays made of it."""

    def decoded(self, *parts):
        return module().decode_trace(b"".join(parts))

    def test_decode(self):
        self.assertEqual(self.decoded(vertex("a", 0, 1.5, "no", True, ["x", "y"])), {"vertexes": [{
            "digest": "sha256:a", "inputs": ["x", "y"], "name": "a", "cached": True, "started": 1700000000 * 10 ** 9,
            "completed": 17000000015 * 10 ** 8, "error": "no"}]})
        self.assertEqual(self.decoded(vertex_status("a", "s", 300, -1, at=2)), {"statuses": [{
            "id": "s", "vertex": "sha256:a", "current": 300, "total": -1, "timestamp": 1700000002 * 10 ** 9,
            "started": 1700000000 * 10 ** 9}]})
        self.assertEqual(self.decoded(vertex_log("a", b"\xff\n")), {"logs": [{
            "vertex": "sha256:a", "timestamp": 1700000000 * 10 ** 9, "stream": 1, "data": b"\xff\n"}]})
        self.assertEqual(self.decoded(vertex_warning("a", "w"))["warnings"][0]["detail"], [b"more"])
        self.assertEqual(self.decoded(), {})

    def test_unknown_fields(self):
        unknown = protobuf(f99="x", f98=5) + b"\x99\x06" + bytes(8) + b"\x9d\x06" + bytes(4)
        self.assertEqual(self.decoded(unknown, vertex("a")), {"vertexes": [{"digest": "sha256:a", "name": "a"}]})

    @rows(("cut", vertex("abc")[:-1]), ("a length beyond the end", b"\x0a\x7f"), ("no end", b"\xff" * 20),
          ("only a key", b"\x0a"), ("group", b"\x0b"), ("short fixed", b"\x99\x06\0"))
    def test_malformed(self, title, data):
        with self.assertRaises(ValueError):
            self.decoded(data)

    def play(self, *traces, mode="plain", size=None):
        """What a display writes for traces; numbers between them are seconds to wait."""
        out = []
        with module().BuildDisplay(out.append, mode, size, "docker:default") as display:
            for item in traces:
                if isinstance(item, bytes):
                    display.add(module().decode_trace(item))
                else:
                    time.sleep(item)
        return "".join(out)

    def test_plain(self):
        text = self.play(
            # what comes together, in one message, so that it is shown together however slow the machine is
            vertex(LOAD, 0) + vertex(FROM), 0.3, vertex_status(LOAD, "transferring x:", 31, 0, 0, 0.001) +
            vertex(LOAD, 0, 0.04) + vertex(FROM, 1, 1, cached=True) + vertex(RUN, 1) + vertex_log(RUN, "hello\nwor", 1.5),
            0.3, vertex_log(RUN, "ld\n", 2) + vertex_log(RUN, "late\n", 13.25) + vertex_warning(RUN, "old thing") +
            vertex_status(RUN, "sha256:abc", 500000, 2100000, 1, at=2) + vertex(RUN, 1, 3.5) +
            vertex_status(RUN, "sha256:abc", 2100000, 2100000, 1, 3, at=3))
        self.assertEqual(text, """\
#1 [internal] load x
#1 transferring x: 31B done
#1 DONE 0.0s

#2 [1/2] FROM docker.io/library/a
#2 CACHED

#3 [2/2] RUN make all
#3 0.500 hello
#3 0.500 world
#3 12.25 late
#3 sha256:abc 2.10MB / 2.10MB 2.0s done
#3 WARN: old thing
#3 DONE 2.5s

 1 warning found:
 - old thing
""")

    def test_plain_failure(self):
        text = self.play(vertex(FROM, 0, 1) + vertex("other", 0), 0.3, vertex(RUN, 1),
                         vertex_log(RUN, "".join("line %d\n" % n for n in range(15)), 1),
                         vertex(RUN, 1, 2, "exit code: 1") + vertex("other", 0, 2, "context canceled"))
        self.assertTrue(text.startswith("#1 [1/2] FROM docker.io/library/a\n#1 DONE 1.0s\n\n#2 other\n"), text)
        self.assertIn("#2 CANCELED\n\n#3 [2/2] RUN make all\n#3 0.000 line 0\n", text)
        self.assertTrue(text.endswith("#3 ERROR: exit code: 1\n------\n > [2/2] RUN make all:\n" + "".join(
            "0.000 line %d\n" % n for n in range(5, 15)) + "------\n"), text)

    def test_plain_of_two_at_once(self):
        """The display stays with one step; the news of the other come when that has ended."""
        text = self.play(vertex("a", 0), 0.3, vertex("b", 0) + vertex_log("b", "from b\n"), vertex_log("a", "from a\n"),
                         0.3, vertex_log("a", "more a\n"), vertex("a", 0, 1), 0.3, vertex_log("b", "last\n"),
                         vertex("b", 0, 2))
        self.assertEqual(text, "#1 a\n#1 0.000 from a\n#1 0.000 more a\n#1 DONE 1.0s\n\n"
                               "#2 b\n#2 0.000 from b\n#2 0.000 last\n#2 DONE 2.0s\n")

    def test_plain_loses_patience(self):
        pydock, patience = module(), module()._PATIENCE
        self.addCleanup(setattr, pydock, "_PATIENCE", patience)
        pydock._PATIENCE = 0.2
        text = self.play(vertex("a", 0) + vertex_log("a", "part"), 0.25, vertex("b", 0) + vertex_log("b", "from b\n"), 0.6,
                         vertex_log("a", "ial\n"), vertex("a", 0, 1), vertex("b", 0, 2))
        self.assertEqual(text, "#1 a\n#1 0.000 part\n#1 ...\n\n#2 b\n#2 0.000 from b\n#2 DONE 2.0s\n\n"
                               "#1 a\n#1 ial\n#1 DONE 1.0s\n")

    def screen(self, *traces, columns=60, rows=24, at_the_end=True):
        text = self.play(*traces, mode="tty", size=lambda: (columns, rows))
        if not at_the_end:
            text = text[:text.rindex("\x1b[?25l")]
        screen = Screen(columns, rows).feed(text.replace("\n", "\r\n"))
        self.assertEqual(screen.unknown, [])
        return [re.sub(r"Building [0-9.]+s +", "Building ", re.sub(r"  +", "  ", line)) for line in screen.lines]

    def test_terminal(self):
        self.assertEqual(self.screen(
            vertex(LOAD, 0) + vertex(FROM) + vertex(RUN), 0.2, vertex_status(LOAD, "transferring x:", 31, 0, 0, 0.1),
            vertex(LOAD, 0, 0.2) + vertex(FROM, 1, 1, cached=True), 0.2, vertex(RUN, 1) + vertex_log(RUN, "a\nb\n"), 0.2,
            vertex(RUN, 1, 2.26)), [
            "[+] Building (3/3) FINISHED  docker:default",
            " => [internal] load x  0.2s",
            " => => transferring x: 31B  0.1s",
            " => CACHED [1/2] FROM docker.io/library/a  0.0s",
            " => [2/2] RUN make all  1.3s"])

    def test_terminal_while_it_runs(self):
        lines = self.screen(vertex(FROM, 0, 0) + vertex(RUN, 0) + vertex_log(RUN, "".join(
            "line %d \x1b[31mred\x1b[0m\x07\n" % n for n in range(9))), 0.3, at_the_end=False)
        self.assertEqual(lines[:2], ["[+] Building (1/2)  docker:default",
                                     " => [1/2] FROM docker.io/library/a  0.0s"])
        self.assertTrue(re.match(r" => \[2/2\] RUN make all +0\.[0-9]s$", lines[2]), lines)
        self.assertEqual(lines[3:], [" => => # line %d red\\a" % n for n in range(3, 9)])

    def test_terminal_that_is_small(self):
        steps = b"".join(vertex("[%d/30] RUN step with a name that is far too long for it" % n, 0, 1) for n in range(29))
        lines = self.screen(steps + vertex("[30/30] RUN last", 0), 0.3, columns=40, rows=10, at_the_end=False)
        self.assertEqual(len(lines), 9)
        self.assertTrue(lines[-1].startswith(" => [30/30] RUN last"), lines)
        self.assertEqual(lines[1], " => [22/30] RUN step with a name t 1.0s")
        lines = self.screen(steps + vertex("[30/30] RUN last", 0), 0.3, columns=40, rows=10)
        self.assertEqual(len(lines), 31)

    def test_terminal_failure(self):
        lines = self.screen(vertex(RUN, 0) + vertex_log(RUN, "oops\n", 0.5), vertex(RUN, 0, 1, "exit code: 1"))
        self.assertEqual(lines[1:], [" => ERROR [2/2] RUN make all  1.0s", "------",
                                     " > [2/2] RUN make all:", "0.500 oops", "------"])

    def test_rawjson(self):
        text = self.play(vertex("a", 0, 1.25) + vertex_log("a", b"\xff") + vertex_status("a", "s", 5), mode="rawjson")
        self.assertEqual(json.loads(text), {
            "vertexes": [{"digest": "sha256:a", "name": "a", "started": "2023-11-14T22:13:20Z",
                          "completed": "2023-11-14T22:13:21.25Z"}],
            "statuses": [{"id": "s", "vertex": "sha256:a", "current": 5, "total": 0, "timestamp": "2023-11-14T22:13:20Z",
                          "started": "2023-11-14T22:13:20Z"}],
            "logs": [{"vertex": "sha256:a", "timestamp": "2023-11-14T22:13:20Z", "stream": 1, "data": "/w=="}]})

    def test_quiet(self):
        self.assertEqual(self.play(vertex("a", 0, 1, "no"), mode="quiet"), "")


class DockerfileTest(Case):
    """What is read out of a Dockerfile: its instructions, base images, the lines of a step."""

    TEXT = r'''# syntax=x
ARG BASE=alpine
ARG TAG
from --platform=$P ${BASE}:${TAG:-3} AS Build
RUN one \
  # comment

  two
COPY --from=tools:1 /a /b
RUN <<EOF
FROM nothing
EOF
FROM build as test
RUN --mount=type=bind,from=helper,target=/x t
WORKDIR /x

FROM scratch
COPY --from=build /a /
COPY --from=0 /a /
'''

    def instructions(self, text=None):
        return module().read_dockerfile(self.TEXT if text is None else text)

    def test_instructions(self):
        self.assertEqual(self.instructions()[2:7], [
            (4, 4, "FROM", "--platform=$P ${BASE}:${TAG:-3} AS Build"), (5, 8, "RUN", "one two"),
            (9, 9, "COPY", "--from=tools:1 /a /b"), (10, 12, "RUN", "<<EOF"), (13, 13, "FROM", "build as test")])
        self.assertEqual(self.instructions("# escape=`\nRUN a `\n b\nRUN c:\\\n"), [(2, 3, "RUN", "a b"), (4, 4, "RUN", "c:\\")])
        self.assertEqual(self.instructions(""), [])
        self.assertEqual(self.instructions("FROM x\\"), [(1, 1, "FROM", "x")])

    @rows(("last", {}, "", ["alpine:3", "tools:1"]), ("test", {}, "test", ["helper", "alpine:3", "tools:1"]),
          ("argument", {"BASE": "busybox", "TAG": "9"}, "build", ["busybox:9", "tools:1"]), ("number", {}, "2",
                                                                                       ["alpine:3", "tools:1"]),
          ("no such", {}, "nosuch", ["alpine:3", "tools:1"]))
    def test_base_images(self, title, arguments, target, wanted):
        self.assertEqual(module().base_images(self.instructions(), arguments, target), wanted)

    def test_variables_that_only_buildkit_knows(self):
        text = "ARG V\nARG W=\nFROM --platform=$BUILDPLATFORM a-$TARGETARCH\nFROM b:$V\nFROM $W\nFROM c:${V:-1}\nCOPY --from=0 / /"
        for target in "0123":
            self.assertEqual(module().base_images(self.instructions(text), {}, target), ["c:1"] * (target == "3"))

    def test_no_stage(self):
        self.assertEqual(module().base_images(self.instructions("RUN x"), {}), [])

    @rows(("[build 1/4] FROM docker.io/library/alpine", (4, 4)), ("[build 2/4] RUN one two", (5, 8)),
          ("[build 4/4] RUN <<EOF", (10, 12)), ("[test 3/3] WORKDIR /x", (15, 15)), ("[stage-2 3/3] COPY x", (19, 19)),
          ("[linux/arm64 build 3/4] COPY x", (9, 9)), ("[build 9/9] RUN x", None), ("[internal] load x", None),
          ("[build 3/4] RUN x", None), ("exporting", None))
    def test_failed_line(self, step, wanted):
        self.assertEqual(module().failed_line(self.instructions(), step), wanted)

    def test_excerpt(self):
        text = "".join("line %d\n" % n for n in range(1, 9))
        self.assertEqual(module().excerpt("Dockerfile", text, 4, 4), "Dockerfile:4\n--------------------\n"
                         "   2 |     line 2\n   3 |     line 3\n   4 | >>> line 4\n   5 |     line 5\n   6 |     line 6\n"
                         "--------------------\n")
        self.assertIn("   1 | >>> line 1\n   2 | >>> line 2\n   3 |     line 3\n----", module().excerpt("D", text, 1, 2))


class BuildKitTest(BuildCase):
    """`build` with BuildKit on a scripted engine: requests, outputs, statuses."""

    extra_env = {"DOCKER_BUILDKIT": "1"}
    result = messages(trace(vertex(FROM, 0, 0.1)), trace(vertex(RUN, 1), vertex_log(RUN, "hi\n", 1)),
                      trace(vertex(RUN, 1, 2)), IMAGE_ID)
    failed = messages(trace(vertex("[2/2] COPY nosuch /", 0, 1, "not found")),
                      {"errorDetail": {"message": "solver says no"}, "error": "solver says no"})

    def setUp(self):
        super().setUp()
        plant(self.home, r"ctx/Dockerfile: FROM a\nCOPY nosuch /\n")
        self.engine.on("GET", "/images/.*/json", answer(200, {"Id": "x"}))

    def test_plain(self):
        outcome = self.check(self.pydock("build", "-t", "a", "--build-arg", "X=1", "--iidfile", "iid", "ctx"), 0, "")
        self.assertIn("#1 [internal] load build context\n#1 transferring context: ", outcome.stderr)
        self.assertIn("\n\n#3 [2/2] RUN make all\n#3 0.000 hi\n#3 DONE 1.0s\n", outcome.stderr)
        request = self.engine.calls("/build")[0]
        self.assertEqual(request.query, {"t": ["a"], "version": ["2"], "dockerfile": ["Dockerfile"], "buildargs": ['{"X":"1"}']})
        self.assertIsNone(request.header("X-Registry-Config"))
        with open(os.path.join(self.home, "iid")) as file:
            self.assertEqual(file.read(), BUILT_ID)

    def test_quiet(self):
        self.check(self.pydock("build", "-q", "ctx"), 0, BUILT_ID + "\n", "")
        self.assertNotIn("q", self.engine.calls("/build")[0].query)
        self.result = self.failed
        self.check(self.pydock("build", "-q", "ctx"), 1, "", re.compile(r"\ADockerfile:2\n(.*\n)+ERROR: failed to solve: solver "))

    def test_failure(self):
        self.result = self.failed
        self.check(self.pydock("build", "ctx"), 1, "", re.compile(
            r"#2 ERROR: not found\n------\n > \[2/2\] COPY nosuch /:\n------\nDockerfile:2\n-{20}\n   1 \|     FROM a\n"
            r"   2 \| >>> COPY nosuch /\n-{20}\nERROR: failed to solve: solver says no\n\Z"))

    def test_parse_error(self):
        self.result = messages({"errorDetail": {"message": "failed to solve: dockerfile parse error on line 2: no"}})
        self.check(self.pydock("build", "ctx"), 1, "", re.compile(r"(?s)2 \| >>> COPY.*\nERROR: failed to solve: dockerfile"))

    @rows(("rawjson", r'\A(\{"vertexes":\[\{.*\}\n)+\Z'), ("quiet", r"\A\Z"), ("none", r"\A\Z"), ("auto", r"\A#1 "),
          ("plain", r"\A#1 "))
    def test_progress(self, mode, pattern):
        self.check(self.pydock("build", "ctx", "--progress", mode), 0, "", re.compile(pattern))

    def test_progress_by_the_environment(self):
        for args, wanted in (([], "{\"vertexes\":"), (["--progress=plain"], "#1 [internal")):
            outcome = self.check(self.pydock("build", "ctx", *args, env={"BUILDKIT_PROGRESS": "rawjson"}), 0, "")
            self.assertTrue(outcome.stderr.startswith(wanted), outcome.stderr)

    def test_wrong_progress(self):
        self.check(self.pydock("build", "--progress", "x", "ctx"), 1, "", "ERROR: invalid progress mode x\n")
        self.check(self.pydock("build", "--progress", "tty", "ctx"), 1, "", re.compile("ERROR: failed to get console: "))
        self.assertEqual(self.engine.requests, [])

    def test_terminal(self):
        with Pty(pydock_command() + ["build", "ctx"], self.env(), 70, cwd=self.home) as terminal:
            self.assertEqual(terminal.wait(), 0)
            lines = Screen(70, 24).feed(terminal.output).lines
            self.assertTrue(re.match(r"\[\+\] Building [0-9.]+s \(3/3\) FINISHED +docker:default$", lines[0]), lines)
            self.assertTrue(re.match(r" => \[2/2\] RUN make all +1.0s$", lines[-1]), lines)

    def missing_image(self, *failures):
        """An engine that knows an image once it was pulled, and fails to load what is named."""
        pulled = []

        def create(request):
            pulled.append(request.query["fromImage"][0].rpartition("/")[2])
            return messages({"status": "Pulling from x", "id": "latest"})

        def build(request):
            steps = [vertex("[internal] load metadata for docker.io/library/%s:latest" % name, 0, 1, "401 Unauthorized")
                     for name in failures if name not in pulled]
            return messages(trace(*steps), {"errorDetail": {"message": "401 Unauthorized"}}) if steps else self.__class__.result

        self.engine.on("POST", "/images/create", create)
        self.engine.on("POST", "/build", build)
        self.engine.on("GET", "/images/(.*)/json", lambda request: answer(
            200 if request.path.split("/")[2] in pulled + ["here"] else 404, {"message": "no"}))
        return pulled

    def test_missing_base_is_pulled(self):
        plant(self.home, r"ctx/Dockerfile: FROM away AS x\nFROM here\nCOPY --from=x / /")
        self.config(auths={"https://index.docker.io/v1/": {"auth": "dTpw"}})
        pulled = self.missing_image("away")
        self.check(self.pydock("build", "ctx"), 0, "", re.compile("Pulling docker.io/library/away:latest"))
        self.assertEqual((pulled, len(self.engine.calls("/build"))), (["away"], 1))
        self.assertEqual(self.engine.calls("/images/create")[0].auth["username"], "u")

    def test_what_the_dockerfile_does_not_show_is_pulled(self):
        pulled = self.missing_image("frontend")
        plant(self.home, r"ctx/Dockerfile: FROM here")
        self.check(self.pydock("build", "ctx"))
        self.assertEqual((pulled, len(self.engine.calls("/build"))), (["frontend"], 2))

    def test_pull_that_does_not_help(self):
        self.missing_image("frontend")
        self.engine.on("POST", "/build", lambda request: messages(
            trace(vertex("[internal] load metadata for docker.io/library/x:latest", 0, 1, "no")),
            {"errorDetail": {"message": "still no"}}))
        plant(self.home, r"ctx/Dockerfile: FROM here")
        self.check(self.pydock("build", "ctx"), 1, "", re.compile("ERROR: failed to solve: still no\n$"))
        self.assertEqual(len(self.engine.calls("/build")), 2)

    def test_pull_flag(self):
        pulled = self.missing_image()
        plant(self.home, r"ctx/Dockerfile: FROM here")
        self.check(self.pydock("build", "--pull", "-q", "ctx"), 0, BUILT_ID + "\n", "")
        self.assertEqual(pulled, ["here"])

    def test_platform(self):
        """An image of another platform does not count, and the right one is pulled."""
        pulled = self.missing_image()
        self.engine.on("GET", "/images/.*/json", answer(200, {"Id": "x", "Architecture": "amd64"}))
        plant(self.home, r"ctx/Dockerfile: FROM here")
        for platform, wanted in (("linux/amd64", []), ("linux", []), ("linux/arm64/v8", ["here"])):
            self.check(self.pydock("build", "--platform", platform, "ctx"))
            self.assertEqual(pulled, wanted)
        self.assertEqual(self.engine.calls("/images/create")[0].query["platform"], ["linux/arm64/v8"])

    def test_refused_login(self):
        self.missing_image("x")
        self.engine.on("POST", "/images/create", answer(404, {"message": "pull access denied"}))
        plant(self.home, r"ctx/Dockerfile: FROM private")
        self.check(self.pydock("build", "ctx"), 1, "", re.compile("pull access denied"))

    def test_dockerfile_from_elsewhere(self):
        for args, data in ((["-f", "-"], b"FROM here\n"), (["-f", "out/D"], b"")):
            plant(self.home, "out/D: FROM here")
            self.check(self.pydock("build", "ctx", *args, input=data))
            request = self.engine.calls("/build")[-1]
            name = request.query["dockerfile"][0]
            self.assertTrue(name.startswith(".dockerfile."), name)
            self.assertTrue([line for line in entries(request.body) if "FROM here" in line])

    def test_archive_as_input(self):
        self.result = self.failed
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as tar:
            tar.add(os.path.join(self.home, "ctx", "Dockerfile"), "Dockerfile")
        self.check(self.pydock("build", "-", input=out.getvalue()), 1, "", re.compile("ERROR: failed to solve"))
        self.assertEqual(len(self.engine.calls("/build")), 1)

    @rows(("no base64", {"id": "moby.buildkit.trace", "aux": "%%%"}), ("no text", {"id": "moby.buildkit.trace", "aux": 5}),
          ("no protobuf", {"id": "moby.buildkit.trace", "aux": "////"}), ("unknown", {"id": "moby.other", "aux": {"x": 1}}))
    def test_broken_trace(self, title, message):
        """The build is what counts; of a trace that makes no sense nothing is shown."""
        self.result = messages(message, IMAGE_ID)
        self.check(self.pydock("build", "-q", "ctx"), 0, BUILT_ID + "\n")

    def test_engine_without_buildkit(self):
        self.result = messages({"stream": "STEP 1\n"}, {"aux": {"ID": BUILT_ID}})
        self.check(self.pydock("build", "ctx"), 0, "", re.compile("STEP 1\n"))

    def test_cut_stream(self):
        self.result = cut(messages(trace(vertex(FROM, 0)), IMAGE_ID), -20)
        self.check(self.pydock("build", "ctx"), 1, "", re.compile("unexpected EOF"))


# ======================================================================================================
# Archives, and cp
# ======================================================================================================

# docker's log of how it lets go of an archive that it has begun
CLOSED_PIPE = replaced(r'(?m)^time="[^"]*" level=error msg="Can\'t (?:add|close) .*closed pipe"\n', "")


def tar_of(*entries):
    """An archive of (name, type or contents, {field: value}…) as bytes; TarInfo objects are taken as they are."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, what, *fields in entries:
            info = tarfile.TarInfo(name)
            data = what if len(what) != 1 or what not in b"123456S7Z" else b""
            info.type = tarfile.REGTYPE if data or not what else what
            info.size, info.mtime, info.mode = len(data), 1000000000, 0o755 if info.type == tarfile.DIRTYPE else 0o644
            for key, value in (fields[0] if fields else {}).items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def tar_listing(data):
    """What is in an archive, a line each."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return "".join("%s %s %o %d %d %d %d %s %s\n" % (
            info.name.rstrip("/"), info.type.decode(), info.mode & 0o7777, info.uid, info.gid, info.size, info.mtime, info.linkname,
            hashlib.sha256(tar.extractfile(info).read()).hexdigest()[:8] if info.isreg() else "") for info in tar)


def path_stat(name, mode=0o644, link=""):
    """The header in which an engine tells what is at a path."""
    about = {"name": name, "size": 1, "mode": mode, "mtime": "2020-01-01T00:00:00Z", "linkTarget": link}
    return "X-Docker-Container-Path-Stat", base64.b64encode(json.dumps(about).encode()).decode()


GO_DIRECTORY, GO_SYMLINK, GO_DEVICE, GO_IRREGULAR = 1 << 31, 1 << 27, 1 << 26, 1 << 19


class CopyToTest(DifferentialCase):
    """cp into a container: which archive goes where."""

    PLACES = {"/": (GO_DIRECTORY,), "/dir": (GO_DIRECTORY,), "/file": (), "/to-dir": (GO_SYMLINK, "dir"),
              "/to-file": (GO_SYMLINK, "/file"), "/dangling": (GO_SYMLINK, "nowhere"), "/dir/up": (GO_SYMLINK, "../file"),
              "/null": (GO_DEVICE,), "/odd": (GO_IRREGULAR,), "/twice": (GO_SYMLINK, "to-dir")}
    normalise = (CLOSED_PIPE,)

    def setUp(self):
        super().setUp()
        self.engine = self.start(ScriptedEngine(("HEAD", "/containers/c/archive", self.about),
                                                ("PUT", "/containers/c/archive", answer(200, b""))))
        self.host = self.engine.host
        self.names = {"home": self.home}
        for folder in ("src/d/e", "src/empty", "other"):
            os.makedirs(os.path.join(self.home, folder))
        for path, data in (("src/f", b"f"), ("src/d/x", b"x" * 600), ("src/d/e/deep", b""), ("a:b", b"colon")):
            with open(os.path.join(self.home, path), "wb") as file:
                file.write(data)
        for link, target in (("src/to-d", "d"), ("src/to-f", "f"), ("src/dangling", "nowhere"), ("src/d/up", "../f"),
                             ("other/abs", os.path.join(self.home, "src", "d")), ("in", "src")):
            os.symlink(target, os.path.join(self.home, link))
        os.chmod(os.path.join(self.home, "src/d/x"), 0o4750)
        for base, folders, files in os.walk(self.home, topdown=False):
            for name in folders + files:
                os.utime(os.path.join(base, name), (1e9, 1e9), follow_symlinks=False)
        os.utime(self.home, (1e9, 1e9))

    def about(self, request):
        path = request.query["path"][0]
        name = "/" + os.path.normpath("/" + path).lstrip("/")
        if name not in self.PLACES:
            return answer(404, b"")
        mode, link = (self.PLACES[name] + (0, ""))[:2] if self.PLACES[name] else (0o644, "")
        return answer(200, b"", headers=[path_stat(name, mode | 0o755, link or "")])

    def wire(self):
        for request in self.engine.calls():
            if request.method == "PUT" and request.body:
                request.body = tar_listing(request.body).encode()
        return super().wire()

    @lines("""
        cp src/f c:/
        cp src/f c:/dir
        cp src/f c:/dir/
        cp src/f c:/file
        cp src/f c:/new
        ! cp src/f c:/new/
        ! cp src/f c:/new/.
        cp src/f c:/nodir/new
        cp src/f c:/to-dir
        cp src/f c:/to-dir/
        cp src/f c:/to-file
        cp src/f c:/dangling
        cp src/f c:/dir/up
        cp src/f c:/twice
        ! cp src/f c:/null
        ! cp src/f c:/odd
        cp src/f c:new
        cp src/f c:dir/../new
        cp src/d c:/dir
        cp src/d c:/dir/.
        cp src/d c:/new
        cp src/d c:/new/
        cp src/d c:/
        ! cp src/d c:/file
        ! cp src/d c:/file/
        ! cp src/d c:/to-file
        cp src/d c:/dangling
        cp src/d/ c:/dir
        cp src/d/ c:/new
        cp src/d/. c:/dir
        cp src/d/. c:/new
        ! cp src/d/. c:/file
        cp src/to-d c:/dir
        cp src/to-d c:/new
        cp src/to-d/ c:/dir
        cp src/to-d/ c:/new
        cp src/to-d/. c:/dir
        cp src/to-f c:/dir
        cp src/dangling c:/dir
        cp -L src/to-d c:/dir
        cp -L src/to-d c:/new
        cp -L src/to-d/ c:/dir
        cp -L src/to-d/. c:/dir
        ! cp -L src/to-d c:/file
        cp -L src/to-f c:/dir
        cp -L src/to-f c:/new
        cp -L other/abs c:/dir
        cp other/abs/e c:/dir
        cp in/d c:/dir
        ! cp -L src/dangling c:/dir
        ! cp src/nosuch c:/dir
        ! cp src/nosuch/ c:/dir
        ! cp src/nosuch/x c:/dir
        ! cp src/f/ c:/dir
        ! cp src/f/x c:/dir
        cp -a src/d c:/dir
        container cp src/f c:/dir
        cp -q src/f c:/dir
        cp --quiet=false src/f c:/dir
        cp . c:/dir
        cp src/.. c:/new
        cp ./src/../src/f c:/dir
        cp $home/src/f c:/dir
        cp $home/src/ c:/new
        cp ./a:b c:/dir
        ! cp a:b c:/dir
        ! cp src/f c
        ! cp c:/x d:/y
        ! cp src/f src/d
        ! cp "" c:/
        ! cp src/f ""
        ! cp src/f
        ! cp src/f c:/ x
        ! cp -x src/f c:/
        ! cp src/f /abs:x
        ! cp src/f .c:x
    """)
    def test_cp(self, *args, **options):
        self.differential(*args, **options)

    @lines("""
        cp - c:/dir
        cp - c:/to-dir
        cp -a - c:/
        ! cp - c:/file
        ! cp - c:/new
        ! cp - -
    """)
    def test_from_the_input(self, *args, **options):
        self.differential(*args, input=tar_of(("x", b"data")), **options)

    @rows(("full", answer(500, {"message": "no space left on device"})),
          ("read-only", answer(403, {"message": "container rootfs is marked read-only"})))
    def test_refused(self, title, thing):
        self.engine.script.insert(0, ("PUT", ".*", thing))
        self.differential("cp", "src/d", "c:/dir", fails=True, wire=False)

    @rows(("dies", early([DIE]), r"\A[^\n]+\n\Z"),
          ("knows at once", early(answer(404, {"message": "gone"})), r"\AError response from daemon: gone\n\Z"))
    def test_ended_early(self, title, thing, words):
        with open(os.path.join(self.home, "src", "d", "big"), "wb") as file:
            file.truncate(30 << 20)
        self.engine.script.insert(0, ("PUT", ".*", thing))
        self.check(self.pydock("cp", "src/d", "c:/dir"), 1, "", re.compile(words))

    def test_on_a_terminal(self):
        for words in (["cp", "src/d", "c:/dir"], ["cp", "-q", "src/d", "c:/dir"], ["cp", "src/f", "c:/to-file"]):
            self.differential(*words, runner=on_terminal())

    def test_skipped(self):
        """docker logs what it cannot send, and goes on; the same here, in plain words."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(os.path.join(self.home, "src", "d", "sock"))
            done = self.pydock("cp", "src/d", "c:/dir")
        self.check(done, 0, "", "Can't add file %s/src/d/sock to tar: archive/tar: sockets not supported\n" % self.home)
        self.assertIn("d/x ", tar_listing(self.engine.calls()[-1].body))


class ExtractTest(CliCase):
    """cp out of a container: what becomes of archives, hostile ones among them."""

    def extract(self, *pieces, target="out", size=None, **options):
        """Runs cp on an archive; returns the Outcome."""
        data = b"".join(pieces)
        thing = chunked(*[data[at:at + 32768] for at in range(0, len(data), 32768)], content_type="application/x-tar",
                        headers=[path_stat("top", options.pop("mode", GO_DIRECTORY | 0o755))])
        if size:
            thing = split(thing, size)
        self.engine = self.start(ScriptedEngine(("GET", "/containers/c/archive", options.pop("thing", None) or list(thing))))
        return self.pydock("cp", "c:/top", target, env={"DOCKER_HOST": self.engine.host}, **options)

    def setUp(self):
        super().setUp()
        for path in ("out", "away"):
            os.mkdir(os.path.join(self.home, path))
        with open(os.path.join(self.home, "away", "keep"), "w") as file:
            file.write("mine")
        os.symlink("../away", os.path.join(self.home, "out", "link"))
        self.names = {"home": self.home}

    ESCAPES = (
        ("parent", [("../away/x", b"evil")], '"../away/x" is outside of'),
        ("parents", [("top/../../away/x", b"evil")], '"../away/x" is outside of'),
        ("link there", [("link/x", b"evil")], "mkdir $home/out/link: not a directory"),
        ("own link", [("top", b"5"), ("top/l", b"2", {"linkname": "/"}), ("top/l/tmp/x", b"evil")], "not a directory"),
        ("link out", [("l", b"2", {"linkname": "../away"})], 'invalid symlink "$home/out/l" -> "../away"'),
        ("deep link out", [("a/l", b"2", {"linkname": "../../away/keep"})], "invalid symlink"),
        ("hard link out", [("l", b"1", {"linkname": "../away/keep"}), ("l", b"evil")], "invalid hardlink"),
        ("hard link by link", [("l", b"1", {"linkname": "link/keep"})], "link $home/out/l: not a directory"),
        ("hard link to nothing", [("l", b"1", {"linkname": "nosuch"})], "link $home/out/l: no such file or directory"),
        ("folder over link", [("link", b"5")],
         'cannot overwrite non-directory "$home/out/link" with directory "$home/out"'),
        ("dot dot", [("..", b"5")], '".." is outside of'), ("file for root", [(".", b"evil")], "cannot overwrite directory"),
        ("folder for parent", [("../away", b"5", {"mode": 0})], '"../away" is outside of'),
        ("unknown type", [("x", b"Z")], "unhandled tar header type 90"),
        ("nul", [("x", b"a", {"pax_headers": {"path": "a\0b"}})], "archive/tar: invalid tar header"),
        ("negative", [("x", b"a", {"pax_headers": {"size": "-1"}})], "archive/tar: invalid tar header"),
        ("no number", [("x", b"a", {"pax_headers": {"mtime": "soon"}})], "archive/tar: invalid tar header"),
        ("escape in pax", [("x", b"a", {"pax_headers": {"path": "../../x"}})], '"../../x" is outside of'),
    )

    @rows(*ESCAPES)
    def test_nothing_leaves(self, title, entries, words):
        done = self.extract(tar_of(*entries))
        self.check(done, 1, "")
        self.assertIn(words.replace("$home", self.home), done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1)
        self.assertEqual({key: value[1] for key, value in tree(os.path.join(self.home, "away")).items()}, {"keep": b"mine"})
        self.assertFalse(os.path.exists(os.path.join(self.home, "x")))

    @rows(("absolute", [("/x", b"a")], {"x": b"a"}), ("absolute up", [("/../x", b"a")], {"x": b"a"}),
          ("dots", [("./a/./../b//c", b"a")], {"b": None, "b/c": b"a"}),
          ("over a link", [("link", b"new")], {"link": b"new"}),
          ("absolute link", [("l", b"2", {"linkname": "/nowhere"})], {"l": "-> /nowhere"}),
          ("link within", [("a/l", b"2", {"linkname": "../x"})], {"a": None, "a/l": "-> ../x"}),
          ("twice", [("x", b"1st"), ("x", b"2nd")], {"x": b"2nd"}),
          ("hard link, then another file", [("x", b"1st"), ("y", b"1", {"linkname": "x"}), ("x", b"2nd")],
           {"x": b"2nd", "y": b"1st"}),
          ("shut folder", [("d", b"5", {"mode": 0}), ("d/x", b"a")], {"d": None, "d/x": b"a"}),
          ("late folder", [("d/x", b"a"), ("d", b"5", {"mode": 0o700})], {"d": None, "d/x": b"a"}),
          ("old folder type", [("d/", b"", {"type": b"\0"})], {"d": None}),
          ("long", [("n" * 120 + "/" + "m" * 200, b"a"), ("l", b"2", {"linkname": "t" * 150})],
           {"n" * 120: None, "n" * 120 + "/" + "m" * 200: b"a", "l": "-> " + "t" * 150}))
    def test_what_is_unpacked(self, title, entries, wanted):
        self.check(self.extract(tar_of(*entries), size=700), 0, "", "")
        found = {key: value[1] for key, value in tree(os.path.join(self.home, "out")).items()}
        if "link" not in wanted:
            del found["link"]
        self.assertEqual(found, wanted)

    def test_modes_times_and_kinds(self):
        self.check(self.extract(tar_of(
            ("top", b"5", {"mode": 0o2750}), ("top/f", b"f", {"mode": 0o4711, "pax_headers": {"mtime": "1.5"}}),
            ("top/h", b"1", {"linkname": "top/f"}), ("top/l", b"2", {"linkname": "f", "mtime": 77}),
            ("top/p", b"6", {"mode": 0o622}), ("top/old", b"", {"mtime": -5}), ("top/u", b"u", {"uid": 12345, "gid": 54321})),
            target="new"), 0, "", "")
        def about(name):
            return os.lstat(os.path.join(self.home, "new", name))
        self.assertEqual([stat.S_IMODE(about(name).st_mode) for name in (".", "f", "p")], [0o2750, 0o4711, 0o622])
        self.assertEqual([about(name).st_mtime_ns for name in (".", "f", "l", "old")], [10 ** 18, 1500000000, 77 * 10 ** 9, 0])
        self.assertEqual((about("f").st_ino, about("f").st_nlink), (about("h").st_ino, 2))
        self.assertTrue(stat.S_ISFIFO(about("p").st_mode))
        self.assertEqual((about("u").st_uid, about("u").st_gid), (os.geteuid(), os.getegid()))

    @rows(("GNU", tarfile.GNU_FORMAT), ("ustar", tarfile.USTAR_FORMAT), ("pax", tarfile.PAX_FORMAT))
    def test_formats(self, title, form):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as tar:
            for number in range(100):
                info = tarfile.TarInfo("top/" + "d" * (number + 30) + "/" + "f" * (number // 2 + 30))
                info.size, info.uid = number * 100, 3 if form == tarfile.USTAR_FORMAT else 1 << 21 | number
                tar.addfile(info, io.BytesIO(b"\xff" * info.size))
        self.check(self.extract(out.getvalue(), size=4999), 0, "", "")
        self.assertEqual(sum(len(what or b"") for _, what in tree(os.path.join(self.home, "out", "top")).values()), 495000)

    def test_sparse_entries_are_refused(self):
        """No engine writes them, and their bytes must not pass for the file's own."""
        for entry in (("x", b"S"), ("x", b"abc", {"pax_headers": {"GNU.sparse.major": "1"}})):
            self.check(self.extract(tar_of(entry)), 1, "", re.compile("unhandled tar header type 83|sparse files"))

    @rows(("half a header", -1524, "unexpected EOF"), ("half a file", -1800, "unexpected EOF"), ("cut", None, "unexpected EOF"),
          ("junk", b"\1" * 1024, "archive/tar: invalid tar header"))
    def test_broken(self, title, cut_at, words):
        data = tar_of(("a", b"a" * 9000))[:10240 - 512]
        data = data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512)
        thing = None
        if cut_at is None:
            thing = cut(chunked(data, headers=[path_stat("top")]), -600)
        elif isinstance(cut_at, bytes):
            data += cut_at
        else:
            data = (data + bytes(1024))[:cut_at]
        done = self.extract(data, thing=thing)
        self.check(done, 1, "", words + "\n")

    @rows(("with the root", [("./", b"5"), ("./a.txt", b"a"), ("./d/b", b"1", {"linkname": "./a.txt"})]),
          ("without", [("a.txt", b"a"), ("d/b", b"1", {"linkname": "a.txt"})]))
    def test_contents_into_a_new_folder(self, title, entries):
        engine = self.start(ScriptedEngine(("GET", "/containers/c/archive", chunked(
            tar_of(*entries), headers=[path_stat(".", GO_DIRECTORY | 0o755)]))))
        self.check(self.pydock("cp", "c:/top/.", "out/new", env={"DOCKER_HOST": engine.host}), 0, "", "")
        self.assertEqual({key: value[1] for key, value in tree(os.path.join(self.home, "out", "new")).items()},
                         {"a.txt": b"a", "d": None, "d/b": b"a"})

    def test_no_end_blocks(self):
        self.check(self.extract(tar_of(("a", b"a"))[:1024]), 0, "", "")

    @rows(("none", ()), ("junk", [("X-Docker-Container-Path-Stat", "%%%")]),
          ("no JSON", [("X-Docker-Container-Path-Stat", "AAAA")]), ("list", [("X-Docker-Container-Path-Stat", "W10=")]))
    def test_bad_stat(self, title, headers):
        done = self.extract(thing=answer(200, b"", headers=headers))
        self.check(done, 1, "", re.compile("unable to get resource stat from response: unable to decode container path stat "
                                           "header: [^\n]+\n\\Z"))

    def test_interrupted(self):
        """Ctrl-C ends it by the signal."""
        thing = chunked(tar_of(("a", b"a" * 9000))[:2000], SILENCE, headers=[path_stat("top")])
        engine = self.start(ScriptedEngine(("GET", "/containers/c/archive", thing)))
        with Pty(pydock_command() + ["cp", "c:/top", "out"], self.env({"DOCKER_HOST": engine.host}), cwd=self.home) as terminal:
            self.assertTrue(wait_until(lambda: os.path.exists(os.path.join(self.home, "out", "a")), 10))
            terminal.send(b"\x03")
            self.assertEqual(terminal.wait(), -signal.SIGINT)
            self.assertNotIn("Traceback", terminal.text)

    def test_a_big_tree(self):
        """20,000 files go both ways and come out the same."""
        top = os.path.join(self.home, "top")
        for number in range(20000):
            if number % 100 == 0:
                os.makedirs(os.path.join(top, "d%d" % (number // 100)))
            with open(os.path.join(top, "d%d" % (number // 100), "f%d" % number), "wb") as file:
                file.write(b"%d" % number * (number % 500))
        engine = self.start(ScriptedEngine(("PUT", "/containers/c/archive", answer(200, b"")),
                                           ("HEAD", ".*", answer(404, b""))))
        self.check(self.pydock("cp", "top", "c:/top", env={"DOCKER_HOST": engine.host}), 0, "", "")
        self.check(self.extract(engine.calls()[-1].body), 0, "", "")
        self.assertEqual(tree(os.path.join(self.home, "out", "top")), tree(top))


# ======================================================================================================
# Registries: scripted, and the real one
# ======================================================================================================

OCI = "application/vnd.oci.image."
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"


def sum_of(data):
    """The digest of bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def noise(size, seed=0):
    """Bytes of which no two places look alike, always the same for the same arguments."""
    return b"".join(b"%d %d|" % (seed, at) * 9 for at in range(size // 40))[:size].ljust(size, b".")


class Shelf:
    """What a scripted registry holds, as the answer function of a ScriptedEngine: blobs, manifests, uploads.

    It is a registry at its best; what goes wrong in a test is put before it by `engine.on`.
    """

    def __init__(self):
        self.blobs, self.manifests, self.uploads, self.numbers = {}, {}, {}, iter(range(10 ** 6))
        self.stored = []        # (repository, tag or digest) of manifests and digests of blobs, as they were put

    def blob(self, data):
        self.blobs[sum_of(data)] = data
        return {"digest": sum_of(data), "size": len(data)}

    def manifest(self, value, kind, *names):
        """Adds a manifest under its digest and tags; returns its descriptor."""
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        for name in names + (sum_of(data),):
            self.manifests[name] = data, kind
        return {"mediaType": kind, "digest": sum_of(data), "size": len(data)}

    def image(self, *tags, layers=2, size=300000, architecture="amd64", variant="", seed=0):
        """Adds an image of noise; returns its descriptor with a platform. `self.layers` has the last one's digests."""
        parts = [dict(self.blob(noise(size, seed + number)), mediaType=OCI + "layer.v1.tar+gzip")
                 for number in range(layers)]
        self.layers = [part["digest"] for part in parts]
        platform = dict({"architecture": architecture, "os": "linux"}, **({"variant": variant} if variant else {}))
        config = dict(platform, config={}, rootfs={"type": "layers", "diff_ids": self.layers})
        config = dict(self.blob(json.dumps(config).encode()), mediaType=OCI + "config.v1+json")
        return dict(self.manifest({"schemaVersion": 2, "mediaType": OCI + "manifest.v1+json", "config": config,
                                   "layers": parts}, OCI + "manifest.v1+json", *tags), platform=platform)

    def index(self, *tags, entries, kind=OCI + "index.v1+json"):
        """Adds an index of descriptors; returns its descriptor."""
        return self.manifest({"schemaVersion": 2, "mediaType": kind, "manifests": entries}, kind, *tags)

    def __call__(self, request):
        head = request.method == "HEAD"
        if request.path.partition("?")[0] == "/v2/":
            return answer(200, {})
        repository, kind, name = re.match(r"/v2/(.+?)/(manifests|blobs|tags)/([^?]*)", request.path).groups()
        if kind == "tags":
            return answer(200, {"name": repository, "tags": sorted(t for t in self.manifests if ":" not in t)})
        if name.startswith("uploads/"):
            return self.upload(request, repository, name[len("uploads/"):])
        if request.method == "PUT":
            self.stored.append((repository, name))
            self.manifest(request.body, request.header("Content-Type"), name)
            return answer(201, b"", headers=[("Docker-Content-Digest", sum_of(request.body))])
        found = self.manifests.get(name) if kind == "manifests" else (self.blobs.get(name), "application/octet-stream")
        if not found or found[0] is None:
            code = "MANIFEST_UNKNOWN" if kind == "manifests" else "BLOB_UNKNOWN"
            return refusal(404, code, code.lower().replace("_", " "), head=head)
        data, media = found
        headers = [("Docker-Content-Digest", sum_of(data))] if kind == "manifests" else []
        start = re.match(r"bytes=(\d+)-$", request.header("Range") or "")
        if start:
            at = int(start.group(1))
            headers.append(("Content-Range", "bytes %d-%d/%d" % (at, len(data) - 1, len(data))))
            return answer(206, data[at:], media, headers)
        return answer(200, b"" if head else data, media, headers, length=len(data))

    def upload(self, request, repository, name):
        place = "/v2/%s/blobs/uploads/%s" % (repository, name or "u%d" % next(self.numbers))
        if request.method == "POST":
            if request.query.get("mount", [""])[0] in self.blobs and "from" in request.query:
                return answer(201, b"")
            self.uploads[place] = b""
        elif request.method == "GET":
            if place not in self.uploads:
                return refusal(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
            return answer(204, b"", headers=[("Location", place), ("Range", "0-%d" % (len(self.uploads[place]) - 1))])
        else:
            self.uploads[place] += request.body
            if request.method == "PUT":
                digest, data = request.query["digest"][0], self.uploads.pop(place)
                if sum_of(data) != digest:
                    return refusal(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
                self.blobs[digest] = data
                self.stored.append(digest)
                return answer(201, b"")
        return answer(202, b"", headers=[("Location", place + "?state=a%2Fb" if request.method == "POST" else place),
                                         ("Range", "0-%d" % max(0, len(self.uploads[place]) - 1))])


def wanted(request):
    """The place from which on a blob is asked for."""
    return int(re.match(r"bytes=(\d+)-$", request.header("Range")).group(1))


def refusal(status, code, message, headers=(), head=False):
    """A registry's error."""
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return answer(status, b"" if head else body, headers=headers, length=len(body))


def challenge(text, status=401):
    """A registry's answer to who is not known to it."""
    return refusal(status, "UNAUTHORIZED", "authentication required", [("WWW-Authenticate", text)])


def places(request):
    """METHOD and the end of the path, a blob's or manifest's digest shortened."""
    return "%s %s" % (request.method, re.sub(r"sha256:(\w{6})\w+", r"\1", request.target.partition("?")[0][4:]))


def basic_auth(user, password):
    """The value of an Authorization header."""
    return "Basic " + basic(user, password)


class RegistryCase(Case):
    """The registry client on a scripted registry, `self.engine`, that has what is on `self.shelf`."""

    def setUp(self):
        super().setUp()
        self.pydock = module()
        for name in [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("DOCKER_")]:
            self.set_environ(name, None)
        self.set_environ("XDG_CONFIG_HOME", self.folder())
        self.put(self.pydock.Registry, "backoff", 0.01)
        self.shelf = Shelf()
        self.engine = self.start(ScriptedEngine(("*", "/v2/.*", self.shelf), tcp=True))
        self.address = "127.0.0.1:%d" % self.engine.port
        self.store = self.pydock.ImageStore(self.folder())
        self.messages = []

    def put(self, thing, name, value):
        """Sets an attribute until the test ends."""
        self.addCleanup(setattr, thing, name, getattr(thing, name))
        setattr(thing, name, value)

    def set_environ(self, name, value):
        """Sets a variable of the environment until the test ends; None takes it away."""
        before = os.environ.get(name)

        def assign(value):
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        self.addCleanup(assign, before)
        assign(value)

    def registry(self, host=None, auth=None, **options):
        """A Registry, plain HTTP on the scripted one where nothing else is named."""
        auth = self.pydock.AuthConfig(**auth) if auth else None
        return self.start(self.pydock.Registry(host or "http://" + self.address, auth, settings=options.pop("settings", {}),
                                               certs=options.pop("certs", []), **options))

    def reference(self, name="app:1"):
        return self.pydock.parse_reference(self.address + "/" + name)

    def pull(self, name="app:1", platform="", registry=None, store=None, reference=None):
        """Pulls; returns the image's record."""
        reference = reference or self.reference(name)
        store = store or self.store
        threads = threading.active_count()
        self.pydock.pull_image(registry or self.registry(), reference, platform, store, self.messages.append)
        self.assertLessEqual(len([t for t in threading.enumerate() if "work" in repr(t)]), threads)
        record = store.resolve(str(reference))
        for digest in record.blobs:
            with store.open_blob(digest) as file:
                algorithm, _, value = digest.partition(":")
                self.assertEqual(hashlib.new(algorithm, file.read()).hexdigest(), value)
        return record

    def push(self, name="app:1", registry=None):
        self.pydock.push_image(registry or self.registry(), self.reference(name), self.store, self.messages.append)

    def refused(self, text, action, *args, **options):
        """Asserts that something is refused with words that contain the text."""
        with self.assertRaises(self.pydock.DockerError) as caught:
            action(*args, **options)
        self.assertIn(text, str(caught.exception))
        return caught.exception

    def said(self):
        """The statuses of the messages, without those of the progress."""
        return [m["status"] for m in self.messages if not m.get("progressDetail") and "status" in m]

    def asked(self, pattern=".*"):
        """The requests, short, that fit."""
        return [places(r) for r in list(self.engine.requests) if re.search(pattern, places(r))]


class PlatformTest(RegistryCase):
    """Which image of an index is taken."""

    ALL = ("amd64", "amd64/v2", "amd64/v3", "386", "arm/v5", "arm/v6", "arm/v7", "arm64/v8", "s390x")

    @rows(
        ("linux/amd64", "linux/amd64", ALL, "amd64"),
        ("amd64/v3", "linux/amd64/v3", ALL, "amd64/v3"),
        ("amd64/v4", "linux/amd64/v4", ALL, "amd64/v3"),
        ("amd64/v2 of few", "linux/amd64/v2", ("amd64/v3", "amd64"), "amd64"),
        ("amd64/v1", "linux/amd64/v1", ("386", "amd64/v1"), "amd64/v1"),
        ("amd64 never newer", "linux/amd64", ("amd64/v2",), None),
        ("amd64 on 386", "linux/amd64", ("386", "s390x"), "386"),
        ("arm", "linux/arm", ALL, "arm/v7"),
        ("arm/v6", "linux/arm/v6", ALL, "arm/v6"),
        ("arm/v7 of v5", "linux/arm/v7", ("arm/v5", "arm64"), "arm/v5"),
        ("arm/v5 never newer", "linux/arm/v5", ("arm/v6", "arm/v7"), None),
        ("arm means v7", "linux/arm/v7", ("arm/v6", "arm"), "arm"),
        ("arm64", "linux/arm64", ALL, "arm64/v8"),
        ("arm64/v8 has no name", "linux/arm64/v8", ("arm/v7", "arm64"), "arm64"),
        ("aarch64", "linux/aarch64", ALL, "arm64/v8"),
        ("arm64 on arm", "linux/arm64", ("arm/v6", "arm/v7"), "arm/v7"),
        ("arm64/v9", "linux/arm64/v9", ("arm64/v8", "arm/v7"), "arm64/v8"),
        ("s390x", "linux/s390x", ALL, "s390x"),
        ("none", "linux/riscv64", ALL, None),
        ("another system", "windows/amd64", ALL, None),
    )
    def test_choice(self, title, platform, there, wanted):
        entries = [{"digest": name, "platform": dict(zip(("architecture", "variant"), name.split("/")), os="linux")}
                   for name in there]
        if wanted:
            self.assertEqual(self.pydock.choose_platform({"manifests": entries}, platform)["digest"], wanted)
        else:
            self.refused("no matching manifest for %s in the manifest list entries: there is linux/" % platform,
                         self.pydock.choose_platform, {"manifests": entries}, platform)

    def test_environment_and_host(self):
        entries = [{"digest": n, "platform": {"os": "linux", "architecture": n}} for n in ("arm64", "amd64", "386")]
        self.set_environ("DOCKER_DEFAULT_PLATFORM", "linux/386")
        self.assertEqual(self.pydock.choose_platform({"manifests": entries})["digest"], "386")
        self.set_environ("DOCKER_DEFAULT_PLATFORM", None)
        uname = os.uname()
        for machine, wanted in (("x86_64", "amd64"), ("aarch64", "arm64"), ("i686", "386")):
            self.put(os, "uname", lambda machine=machine: os.uname_result(uname[:4] + (machine,)))
            self.assertEqual(self.pydock.choose_platform({"manifests": entries})["digest"], wanted)
        for machine, wanted in (("armv7l", "arm"), ("armv6l", "arm/v6"), ("loongarch64", "loong64")):
            self.put(os, "uname", lambda machine=machine: os.uname_result(uname[:4] + (machine,)))
            self.assertEqual(self.pydock.host_platform(), "linux/" + wanted)

    def test_attestations(self):
        """What describes another image is no image, whatever it says of its platform."""
        image = {"digest": "image", "platform": {"os": "linux", "architecture": "amd64"}}
        note = dict(image, digest="note", annotations={"vnd.docker.reference.type": "attestation-manifest"})
        unknown = {"digest": "unknown", "platform": {"os": "unknown", "architecture": "unknown"}}
        chart = dict(image, digest="chart", mediaType="application/vnd.cncf.helm.chart")
        there = {"manifests": [unknown, note, chart, image]}
        self.assertEqual(self.pydock.choose_platform(there, "linux/amd64")["digest"], "image")
        self.refused("there is linux/amd64", self.pydock.choose_platform, there, "linux/s390x")
        self.refused("there is none", self.pydock.choose_platform, {"manifests": [unknown, note]}, "linux/amd64")

    def test_without_platforms(self):
        there = {"manifests": [{"digest": "only"}]}
        self.assertEqual(self.pydock.choose_platform(there, "linux/s390x")["digest"], "only")


class PullTest(RegistryCase):
    """What a pull asks of a registry, says, and leaves in the store."""

    def test_pull_and_again(self):
        self.shelf.image("1")
        record = self.pull()
        self.assertEqual(record.names, [self.address + "/app:1"])
        self.assertEqual(record.digests, ["%s/app@%s" % (self.address, record.manifest["digest"])])
        self.assertEqual(sorted(self.asked()), sorted(
            ["GET app/manifests/1"] + ["GET app/blobs/" + d[7:13] for d in record.blobs[1:]]))
        self.assertEqual(self.said()[0], "Pulling from app")
        self.assertEqual(self.said()[-2:], ["Digest: " + record.manifest["digest"],
                                            "Status: Downloaded newer image for %s/app:1" % self.address])
        for status in ("Pulling fs layer", "Verifying Checksum", "Download complete", "Pull complete"):
            self.assertEqual(self.said().count(status), 2, status)
        accept = self.engine.requests[0].header("Accept")
        for kind in ("oci.image.index.v1", "oci.image.manifest.v1", "docker.distribution.manifest.v2",
                     "docker.distribution.manifest.list.v2"):
            self.assertIn("application/vnd.%s+json" % kind, accept)
        del self.engine.requests[:], self.messages[:]
        self.pull()
        self.assertEqual(self.asked(), ["HEAD app/manifests/1"])
        self.assertEqual(self.said(), ["Pulling from app", "Digest: " + record.manifest["digest"],
                                       "Status: Image is up to date for %s/app:1" % self.address])

    def test_index(self):
        """The image for the platform, under the index's digest; the second time it takes one request, too."""
        entries = [self.shelf.image(architecture=a, variant=v, seed=10 * n) for n, (a, v) in enumerate(
            (("arm", "v7"), ("amd64", ""), ("arm64", "v8")))]
        for kind in (OCI + "index.v1+json", DOCKER_LIST):
            top = self.shelf.index("1", entries=entries, kind=kind)
            for entry, platform in ((entries[1], "linux/amd64"), (entries[2], "linux/arm64"), (entries[0], "linux/arm")):
                record = self.pull(platform=platform)
                self.assertEqual(record.manifest["digest"], entry["digest"])
                self.assertIn("%s/app@%s" % (self.address, top["digest"]), record.digests)
                del self.engine.requests[:]
                self.pull(platform=platform)
                self.assertEqual(self.asked(), ["HEAD app/manifests/1"])
            self.set_environ("DOCKER_DEFAULT_PLATFORM", "linux/arm")
            del self.engine.requests[:]
            self.pull()
            self.assertEqual(self.asked(), ["HEAD app/manifests/1"])
            self.set_environ("DOCKER_DEFAULT_PLATFORM", None)
        self.shelf.index("2", entries=entries, kind=DOCKER_LIST)
        del self.engine.requests[:]
        self.pull("app:2", "linux/arm64")       # of which all but the name is here: no blob is asked for
        self.assertEqual(self.asked(), ["GET app/manifests/2", "GET app/manifests/" + entries[2]["digest"][7:13]])
        self.refused("no matching manifest for linux/s390x in the manifest list entries: there is linux/amd64, "
                     "linux/arm/v7, linux/arm64", self.pull, platform="linux/s390x")

    def test_moved_tag(self):
        first = self.shelf.image("1")
        self.pull()
        second = self.shelf.image("1", layers=3)
        del self.messages[:], self.engine.requests[:]
        record = self.pull()
        self.assertEqual(record.manifest["digest"], second["digest"])
        self.assertNotEqual(first["digest"], second["digest"])
        self.assertEqual(self.said().count("Already exists"), 2)
        self.assertEqual(len(self.asked("GET app/blobs")), 2)     # the configuration and the new layer

    def test_by_digest(self):
        digest = self.shelf.image("1")["digest"]
        record = self.pull("app@" + digest)
        self.assertEqual((record.names, record.digests), ([], ["%s/app@%s" % (self.address, digest)]))
        self.assertEqual(self.messages[0], {"status": "Pulling from app", "id": "%s/app@%s" % (self.address, digest)})

    @rows(
        ("another manifest", lambda s: (b"{}", OCI + "manifest.v1+json"), "has no right descriptor in its config"),
        ("no JSON", lambda s: (b"<html>", "text/html"), "is no JSON object"),
        ("a list", lambda s: (b"[]", OCI + "manifest.v1+json"), "is no JSON object"),
        ("schema 1", lambda s: (json.dumps({"schemaVersion": 1, "fsLayers": []}).encode(),
                                "application/vnd.docker.distribution.manifest.v1+prettyjws"), "schema 1"),
        ("no descriptor", lambda s: (json.dumps({"layers": [{"digest": "../../x"}], "config": {}}).encode(),
                                     OCI + "manifest.v1+json"), "has no right descriptor"),
        ("configurations", lambda s: (json.dumps({"layers": [], "config": []}).encode(), OCI + "manifest.v1+json"),
         "has no right descriptor in its config"),
        ("odd platforms", lambda s: (json.dumps({"manifests": [{"digest": sum_of(b""), "size": 0, "platform": "x"}]})
                                     .encode(), DOCKER_LIST), "has no right descriptor in its manifests"),
        ("odder platforms", lambda s: (json.dumps({"manifests": [{"digest": sum_of(b""), "size": 0, "platform": {
            "os": 5, "variant": []}}]}).encode(), DOCKER_LIST), "no matching manifest"),
        ("a chart", lambda s: (json.dumps({"layers": [], "config": {
            "mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": sum_of(b""), "size": 0}}).encode(),
            OCI + "manifest.v1+json"), "no container image"),
        ("too long", lambda s: (b" " * (5 << 20), OCI + "manifest.v1+json"), "longer than"),
        ("long configuration", lambda s: (json.dumps({"layers": [], "config": {
            "mediaType": OCI + "config.v1+json", "digest": sum_of(b""), "size": 5 << 20}}).encode(),
            OCI + "manifest.v1+json"), "the image's configuration is longer than"),
        ("deep configuration", lambda s: (json.dumps({"layers": [], "config": dict(s.blob(
            b"[" * 100000), mediaType=OCI + "config.v1+json")}).encode(), OCI + "manifest.v1+json"), "invalid rootfs"),
        ("deep", lambda s: (b'{"layers": ' + b"[" * 100000, OCI + "manifest.v1+json"), "is no JSON object"),
        ("lies about layers", lambda s: (json.dumps({"layers": [], "config": dict(s.blob(json.dumps(
            {"rootfs": {"diff_ids": ["sha256:1"]}}).encode()), mediaType=OCI + "config.v1+json")}).encode(),
            OCI + "manifest.v1+json"), "layers from manifest don't match image configuration"),
    )
    def test_odd_manifest(self, title, make, text):
        data, kind = make(self.shelf)
        self.engine.on("GET", ".*/manifests/1", answer(200, data, kind))
        self.refused(text, self.pull)

    def test_wrong_size(self):
        """Of a blob that is in the store already: other tools would stumble over such a manifest."""
        self.shelf.image("1")
        self.pull()
        manifest = json.loads(self.shelf.manifests["1"][0].decode())
        for part in manifest["layers"][1], manifest["config"]:
            part["size"] += 1
            self.shelf.manifest(manifest, OCI + "manifest.v1+json", "2")
            self.refused("filesystem layer verification failed for digest " + part["digest"], self.pull, "app:2")
            part["size"] -= 1
        self.assertEqual(len(self.store.images()), 1)
        self.pull()

    def test_sha512(self):
        """Manifests and layers by another digest than the usual one."""
        def by_sha512(data):
            return "sha512:" + hashlib.sha512(data).hexdigest()
        self.shelf.image("1")
        manifest = json.loads(self.shelf.manifests["1"][0].decode())
        layer = noise(5000)
        manifest["layers"][0].update(digest=by_sha512(layer), size=len(layer))
        data = json.dumps(manifest).encode()
        self.shelf.blobs[by_sha512(layer)] = layer
        self.shelf.manifests[by_sha512(data)] = data, OCI + "manifest.v1+json"
        self.shelf.index("2", entries=[{"digest": by_sha512(data), "size": len(data), "platform": {
            "os": "linux", "architecture": "amd64"}}])
        self.pull("app:2", "linux/amd64")
        self.pull("app@" + by_sha512(data))
        self.assertEqual(self.store.read_blob(by_sha512(layer)), layer)
        self.engine.on("GET", ".*/manifests/sha512.*", answer(200, data + b" ", OCI + "manifest.v1+json"))
        self.refused("manifest verification failed for digest sha512:", self.pull, "app@" + by_sha512(data),
                     store=self.pydock.ImageStore(self.folder()))

    def test_manifest_is_verified(self):
        digest = self.shelf.image("1")["digest"]
        self.engine.on("GET", ".*/manifests/.*", answer(200, self.shelf.manifests["1"][0] + b" ", OCI + "manifest.v1+json",
                                                        [("Docker-Content-Digest", digest)]))
        self.refused("manifest verification failed for digest " + digest, self.pull)
        self.refused("manifest verification failed for digest " + digest, self.pull, "app@" + digest)

    @rows(
        ("unknown", refusal(404, "MANIFEST_UNKNOWN", "manifest unknown"),
         "manifest for ADDRESS/app:1 not found: manifest unknown: manifest unknown"),
        ("no repository", refusal(404, "NAME_UNKNOWN", "repository name not known to registry"),
         "repository ADDRESS/app not found: name unknown: repository name not known to registry"),
        ("denied", refusal(403, "DENIED", "requested access to the resource is denied"),
         "pull access denied for ADDRESS/app, repository does not exist or may require 'docker login': denied: requested "
         "access to the resource is denied"),
        ("insufficient scope", challenge('Bearer realm="http://REALM/t",error="insufficient_scope"'),
         "pull access denied for ADDRESS/app, repository does not exist or may require 'docker login': denied: requested "
         "access to the resource is denied"),
        ("rate limit", refusal(429, "TOOMANYREQUESTS", "You have reached your pull rate limit. Log in."),
         "toomanyrequests: You have reached your pull rate limit. Log in."),
        ("rate limit in a header", refusal(429, "TOOMANYREQUESTS", "enough", [("RateLimit-Remaining", "0;w=21600")]),
         "toomanyrequests: enough"),
        ("long pause", refusal(429, "TOOMANYREQUESTS", "later", [("Retry-After", "3600")]), "toomanyrequests: later"),
        ("plain text", answer(404, "nothing here", "text/plain"), "manifest for ADDRESS/app:1 not found: manifest unknown: manifest unknown"),
        ("no error", answer(418, "short and stout", "text/plain"), "received unexpected HTTP status: 418"),
        ("several", answer(400, {"errors": [{"code": "A_B", "message": "c"}, {"code": "D"}]}), "a b: c"),
    )
    def test_refusal(self, title, thing, text):
        thing = thing.replace(b"REALM", self.address.encode())
        self.engine.on("*", "/t.*", answer(200, {"token": "t"})).on("GET", ".*/manifests/.*", thing)
        error = self.refused(text.replace("ADDRESS", self.address), self.pull)
        self.assertEqual(len(self.asked("manifests")), 2 if title == "insufficient scope" else 1)
        self.assertEqual(self.messages, [])
        self.assertNotIn("\n", str(error))
        if title in ("denied", "unknown", "no repository"):
            self.assertEqual(error.status, 404)

    @rows(("address", "127.0.0.1:%d", {}, 'http://127.0.0.1:%d/v2/": dial tcp 127.0.0.1:%d: connect: connection refused'),
          ("name", "localhost:%d", {}, re.compile(r'http://localhost:(\d+)/v2/": dial tcp (127.0.0.1|\[::1\]):\1: connect: ')),
          ("IPv6", "[::1]:%d", {}, 'http://[::1]:%d/v2/": dial tcp [::1]:%d: connect: '),
          ("proxy", "r.example:%d", {"HTTPS_PROXY": "127.0.0.1:1"}, 'https://r.example:%d/v2/": proxyconnect tcp: dial tcp '
           '127.0.0.1:1: connect: connection refused'))
    def test_unreachable(self, title, host, environ, text):
        port = free_port()
        for name, value in environ.items():
            self.set_environ(name, value)
        error = self.refused("", self.pull, registry=self.registry(host % port))
        if isinstance(text, str):
            text = re.escape(text.replace("%d", str(port)))
        self.assertRegex(str(error), text)

    def test_all_tags(self):
        """One after the other, with one status for all."""
        self.shelf.image("1", "2")
        for status in ("Downloaded newer image", "Image is up to date"):
            del self.messages[:]
            pulled = self.pydock.pull_image(self.registry(), self.reference("app"), "", self.store, self.messages.append, True)
            self.assertEqual([one.tag for one in pulled], ["1", "2"])
            self.assertEqual([text for text in self.said() if "Status" in text], [
                "Status: %s for %s/app" % (status, self.address)])
        self.assertEqual(self.store.resolve(self.address + "/app:2").names, [self.address + "/app:" + n for n in "12"])
        self.engine.on("GET", ".*/tags/list", refusal(404, "NAME_UNKNOWN", "repository name not known to registry"))
        self.refused("repository %s/app not found: name unknown" % self.address, self.pydock.pull_image, self.registry(),
                     self.reference("app"), "", self.store, self.messages.append, True)

    def test_tags(self):
        self.shelf.image("1", "2", "latest")
        self.assertEqual(self.registry().tags("app"), ["1", "2", "latest"])
        first, last = answer(200, {"tags": ["a", "b"]}, headers=[("Link", '</v2/app/tags/list?last=b>; rel="next"')]), []
        self.engine.on("GET", "/v2/app/tags/list", lambda r: last[0] if last and r.query.get("last") == ["b"] else first)
        self.assertEqual(self.registry().tags("app"), ["a", "b"])    # a list that does not end
        last.append(answer(200, {"tags": ["c"]}))
        self.assertEqual(self.registry().tags("app"), ["a", "b", "c"])
        self.engine.on("GET", "/v2/app/tags/list", answer(200, {"tags": ["a"]}, headers=[("Link", "<file:///x>; rel=next")]))
        self.refused("no web address", self.registry().tags, "app")

    def test_collected_meanwhile(self):
        """What a pull has brought so far, other processes keep their hands off."""
        self.shelf.image("1", layers=6)
        other = self.pydock.ImageStore(self.store.path)

        def report(message):
            if message["status"] == "Pull complete":
                other.collect()
        self.pydock.pull_image(self.registry(), self.reference(), "", self.store, report)
        self.pull()
        self.assertEqual(self.said()[-1], "Status: Image is up to date for %s/app:1" % self.address)

    def test_search(self):
        found = [{"name": "a", "star_count": 3}]
        self.engine.on("GET", "/v1/search", answer(200, {"results": found}))
        self.assertEqual(self.registry().search("a b", 7), found)
        self.assertEqual(self.engine.requests[0].target, "/v1/search?q=a+b&n=7")

    def test_stopped_by_the_report(self):
        """What the caller raises ends the pull, and its threads with it."""
        self.shelf.image("1", layers=6)
        self.engine.on("GET", ".*/blobs/" + self.shelf.layers[1], [answer(200, b"", length=300000), SILENCE])

        def report(message):
            if message.get("status") == "Pull complete":
                raise BrokenPipeError("gone")
        before = threading.active_count()
        with self.assertRaises(BrokenPipeError):
            self.pydock.pull_image(self.registry(), self.reference(), "", self.store, report)
        self.assertLessEqual(threading.active_count(), before + self.engine.connections)
        self.assertFalse([t for t in threading.enumerate() if "work" in t.name])
        self.engine.script = [("*", "/v2/.*", self.shelf)]
        self.pull()


class FaultTest(RegistryCase):
    """Downloads that go wrong: every byte is right in the end, or the pull fails."""

    def fault(self, *things):
        """Puts faults before the first layer, one after the other; then the right answers follow."""
        self.shelf.image("1", size=3 << 20)
        self.layer = self.shelf.layers[0]
        self.data = self.shelf.blobs[self.layer]
        self.whole = answer(200, self.data, "application/octet-stream")
        faults = [thing(self) if callable(thing) and not isinstance(thing, Act) else thing for thing in things]
        left = list(faults)

        def answers(request):
            thing = left.pop(0) if left else self.shelf
            return thing(request) if callable(thing) and not isinstance(thing, Act) else thing
        self.engine.on("GET", ".*/blobs/" + self.layer, answers)
        return faults

    def ranges(self):
        return [r.header("Range") for r in self.engine.requests if r.path.endswith(self.layer)]

    def part(self, start, end=None, total=None, status=206, data=None):
        """A partial answer, as it claims."""
        size = len(self.data)
        return answer(status, self.data[start:] if data is None else data, "application/octet-stream", [(
            "Content-Range", "bytes %d-%d/%s" % (start, size - 1 if end is None else end, total or size))])

    @rows(
        ("cut", lambda t: cut(t.whole, 1500000), True),
        ("reset", lambda t: cut(t.whole, 1500000, RESET), True),
        ("cut head", lambda t: cut(t.whole, 20), None),
        ("reset at once", RESET, None),
        ("cut, and 200", [lambda t: cut(t.whole, 1500000), lambda t: t.whole], True),
        ("cut twice", [lambda t: cut(t.whole, 1500000), lambda t: cut(t.part(1000000), 100)], True),
        ("cut, and another place", [lambda t: cut(t.whole, 1500000), lambda t: t.part(0)], False),
        ("cut, and a wrong end", [lambda t: cut(t.whole, 1500000), lambda t: lambda r: t.part(wanted(r), end=2000000)], False),
        ("cut, and a wrong size", [lambda t: cut(t.whole, 1500000), lambda t: lambda r: t.part(wanted(r), total=9)], False),
        ("cut, and no size", [lambda t: cut(t.whole, 1500000), lambda t: lambda r: t.part(wanted(r), total="*")], True),
        ("cut, and no place", [lambda t: cut(t.whole, 1500000), lambda t: answer(206, t.data[5:])], False),
        ("cut, and 416", [lambda t: cut(t.whole, 1500000), refusal(416, "RANGE_INVALID", "no")], False),
        ("503", [answer(503, "busy", "text/plain"), answer(502, "busy")], None),
        ("429", refusal(429, "TOOMANYREQUESTS", "slowly", [("Retry-After", "0")]), None),
        ("408", answer(408, "late"), None),
    )
    def test_goes_on(self, title, things, resumes):
        """With a Range where something came before, else from the start; 200 for 206 begins again."""
        self.fault(*(things if isinstance(things, list) else [things]))
        self.pull()
        asked = self.ranges()
        self.assertEqual(bool(asked[-1]), bool(resumes), asked)
        if resumes is not None:
            self.assertTrue(any(asked), asked)
        retries = [m["status"] for m in self.messages if m.get("status", "").startswith("Retrying in 1 second")]
        self.assertIn(len(asked) - 1 - len(retries), (0, 1))     # a kept connection that breaks at once is not told of

    def test_resume_after_a_failed_pull(self):
        """What came before the pull gave up is not asked for again."""
        self.fault(*[lambda t: cut(t.whole, 2000000)] + [RESET] * 5)
        self.refused("", self.pull)
        before = len(self.ranges())
        self.pull()
        self.assertRegex(self.ranges()[before], r"^bytes=1\d{6}-$")
        self.assertEqual(len(self.ranges()), before + 1)

    def test_resumed_bytes_are_verified(self):
        """Other bytes of the right length, in the part that was kept or in what follows: begun again, once."""
        self.fault(lambda t: cut(t.whole.replace(t.data[:1000], b"x" * 1000), 2000000), lambda t: t.part(0, status=418))
        self.refused("418", self.pull)
        self.pull()
        self.assertIsNone(self.ranges()[-1])

    @rows(
        ("other bytes", lambda t: t.whole.replace(t.data[-9:], b"x" * 9), "filesystem layer verification failed for digest"),
        ("shorter", lambda t: answer(200, t.data[:-9]), "filesystem layer verification failed for digest"),
        ("longer", lambda t: answer(200, t.data + b"x"), "is longer than the"),
        ("endless", lambda t: [answer(200, b"", length=False, close=True)] + [t.data[:1 << 20]] * 5, "is longer than the"),
        ("401", lambda t: challenge("Basic realm=x"), "no basic auth credentials"),
        ("404", lambda t: refusal(404, "BLOB_UNKNOWN", "blob unknown"), "blob unknown: blob unknown"),
        ("unasked part", lambda t: t.part(5), None),
        ("chunked", lambda t: chunked(t.data), None),
        ("until the end", lambda t: [answer(200, t.data, length=False, close=True), CLOSE], None),
    )
    def test_wrong(self, title, thing, text):
        self.fault(thing)
        if text:
            self.refused(text, self.pull)
            self.refused("o such image", self.store.resolve, self.address + "/app:1")
            self.assertEqual(len(self.ranges()), 1)
        self.pull()

    @rows(("503", answer(503, "busy")), ("reset", RESET), ("cut", None), ("429", refusal(429, "TOOMANYREQUESTS", "slow")))
    def test_gives_up(self, title, thing):
        self.fault(*[thing or (lambda t: cut(t.whole, 200000))] * 50)
        self.refused("", self.pull)
        self.assertTrue(5 <= len(self.ranges()) <= 10, self.ranges())     # a kept connection that breaks counts for none

    def test_retry_after(self):
        """A number of seconds, and a date."""
        self.shelf.image("1")
        waits = []
        self.put(self.pydock.Registry, "pause", lambda _, error, *rest: waits.append(error.retry))
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
        self.engine.on("GET", ".*/manifests/1", Turns(*[refusal(429, "A", "b", [("Retry-After", value)])
                                                        for value in ("7", date, "soon")] + [self.shelf]))
        self.pull()
        self.assertEqual(waits[0], 7)
        self.assertTrue(25 < waits[1] <= 30, waits)
        self.assertEqual(waits[2], 0)

    def test_pauses(self):
        """They grow, with jitter; one that is asked for is kept to; a failure elsewhere ends them."""
        registry, waits = self.registry(), []
        self.put(self.pydock.Registry, "backoff", 1.0)
        wait = registry._stopped.wait
        registry._stopped.wait = waits.append
        for attempt, least in enumerate((0.5, 1, 2, 4), 1):
            registry.pause(self.pydock.RegistryError("x", retry=0), attempt)
            self.assertTrue(least <= waits.pop() <= 2 * least)
        registry.pause(self.pydock.RegistryError("x", retry=7), 1)
        self.assertEqual(waits, [7])
        registry._stopped.wait = wait
        self.fault(*[refusal(429, "TOOMANYREQUESTS", "slow", [("Retry-After", "30")])] * 5)
        self.engine.on("GET", ".*/blobs/" + self.shelf.layers[1], refusal(404, "BLOB_UNKNOWN", "blob unknown"))
        start = time.monotonic()
        self.refused("blob unknown: blob unknown", self.pull, registry=registry)
        self.assertLess(time.monotonic() - start, 10)

    def test_silent_connection(self):
        """A connection on which nothing comes any more is given up, and the blob goes on."""
        self.put(self.pydock, "_STALL", 0.3)
        self.fault(lambda t: cut(t.whole, 1500000, SILENCE))
        self.pull()
        self.assertEqual([bool(asked) for asked in self.ranges()], [False, True])

    def test_three_at_once(self):
        self.shelf.image("1", layers=6)
        busy, most, lock = [], [], threading.Lock()

        def slow(request):
            with lock:
                busy.append(1)
                most.append(len(busy))
            time.sleep(0.05)
            with lock:
                busy.pop()
            return self.shelf(request)
        self.engine.on("GET", ".*/blobs/.*", slow)
        self.pull()
        self.assertEqual(max(most), 3)
        self.assertEqual(self.said().count("Waiting"), 3)

    def test_a_layer_twice(self):
        part = dict(self.shelf.blob(b"twice"), mediaType=OCI + "layer.v1.tar")
        config = dict(self.shelf.blob(json.dumps({"os": "linux", "architecture": "amd64", "rootfs": {
            "diff_ids": [part["digest"]] * 2}}).encode()), mediaType=OCI + "config.v1+json")
        self.shelf.manifest({"schemaVersion": 2, "config": config, "layers": [part] * 2}, OCI + "manifest.v1+json", "1")
        self.pull()
        self.assertEqual(len(self.asked("GET app/blobs")), 2)
        self.assertEqual(self.said().count("Pulling fs layer"), 1)


class RedirectTest(RegistryCase):
    """Redirects and the addresses that a registry names."""

    def test_to_another_host(self):
        """Blobs come from elsewhere, to which no credentials go; ranges do."""
        self.shelf.image("1")
        seen = []

        def storage(request):
            seen.append(request)
            if request.header("Authorization"):
                return answer(400, "credentials!")
            if request.path.endswith(self.shelf.layers[0]) and not request.header("Range"):
                return cut(self.shelf(request), 200000)
            return self.shelf(request)
        other = self.start(ScriptedEngine(("GET", "/v2/.*", storage), tcp=True))

        def registry(request):
            if not request.header("Authorization"):
                return challenge("Basic realm=x")
            if "/blobs/" in request.path:
                return answer(307, b"", headers=[("Location", "http://127.0.0.1:%d%s" % (other.port, request.path))])
            return self.shelf(request)
        self.engine.on("*", "/v2/.*", registry)
        self.pull(registry=self.registry(auth={"username": "u", "password": "p:q"}))
        self.assertEqual(len(seen), 4)
        self.assertEqual(self.engine.requests[1].header("Authorization"), basic_auth("u", "p:q"))

    def test_within_the_host(self):
        """Credentials stay, at another path."""
        self.shelf.image("1")

        def registry(request):
            if not request.header("Authorization"):
                return challenge("Basic realm=x")
            return self.shelf(request) if "/moved" in request.path else answer(302, b"", headers=[
                ("Location", request.path.replace("/app", "/moved/app"))])
        self.engine.on("*", "/v2/.*", registry)
        self.pull(registry=self.registry(auth={"username": "u", "password": "p"}))

    @rows(
        ("loop", "/v2/app/manifests/1", "stopped after 10 redirects"),
        ("file", "file:///etc/passwd", "no web address"),
        ("nowhere", "http://", "stopped after 10 redirects"),
        ("port", "http://host:99999999/", "no web address"),
        ("user", "http://user:word@host/", "no web address"),
        ("blank", "http://host/a b", "no web address"),
        ("not ASCII", "http://host/\u00e9", "no web address"),
    )
    def test_hostile(self, title, location, text):
        thing = answer(302, b"", headers=[("Location", location)])
        self.engine.on("GET", "/v2/app/manifests/1", thing)
        self.refused(text, self.pull)

    @rows(
        ("within", "https://r.example/x", "/y", None),
        ("elsewhere", "https://r.example/x", "https://cdn.example/y", None),
        ("leaves TLS", "https://r.example/x", "http://r.example/y", "leaves TLS"),
        ("leaves TLS for elsewhere", "https://r.example/x", "http://cdn.example/y", "leaves TLS"),
        ("metadata", "https://r.example/x", "https://169.254.169.254/y", "private network"),
        ("loopback", "https://r.example/x", "https://127.0.0.1/y", "private network"),
        ("localhost", "https://r.example/x", "https://localhost/y", "private network"),
        ("IPv6", "https://r.example/x", "https://[::1]/y", "private network"),
        ("mapped IPv6", "https://r.example/x", "https://[::ffff:10.0.0.1]/y", "private network"),
        ("within a private network", "https://10.0.0.1/x", "https://10.0.0.2/y", None),
        ("itself", "http://127.0.0.1:5/x", "http://127.0.0.1:6/y", None),
        ("bad authority", "https://r.example/x", "https://[::1/y", "no web address"),
    )
    def test_addresses(self, title, base, location, text):
        registry = self.registry("https://r.example")
        if text:
            self.refused(text, registry._checked, location, base)
        else:
            registry._checked(location, base)

    def test_secrets_need_tls(self):
        registry = self.registry("http://r.example", settings={"insecure-registries": ["t.example", "10.1.0.0/16"]})
        base = "http://r.example/v2/"
        registry._checked("http://r.example:99/token", base, True)
        registry._checked("http://t.example/token", base, True)
        registry._checked("https://auth.example/token", base, True)
        registry._checked("http://auth.example/token", base)
        self.refused("unencrypted", registry._checked, "http://auth.example/token", base, True)


class TokenTest(RegistryCase):
    """Who is let in: tokens, passwords, and how often they are asked for."""

    def setUp(self):
        super().setUp()
        self.tokens = []
        self.good = set()
        self.answer = {"expires_in": 300}
        self.engine.on("*", "/token.*", self.token).on("*", "/v2/.*", self.guarded)
        self.challenge = 'Bearer realm="http://%s/token",service="reg",scope="repository:app:pull"' % self.address
        self.shelf.image("1")

    def token(self, request):
        self.tokens.append(request)
        if self.wanted and request.header("Authorization") != self.wanted and request.method == "GET":
            return answer(401, {"details": "incorrect username or password"})
        word = "t%d" % len(self.tokens)
        self.good.add("Bearer " + word)
        return answer(200, dict({"token": word}, **self.answer))

    wanted = None

    def guarded(self, request):
        return self.shelf(request) if request.header("Authorization") in self.good else challenge(self.challenge)

    def test_anonymous(self):
        """One token serves all the requests of a pull."""
        self.pull()
        self.assertEqual([r.query for r in self.tokens], [{"service": ["reg"], "scope": ["repository:app:pull"]}])
        self.assertIsNone(self.tokens[0].header("Authorization"))
        self.assertEqual(self.asked()[:3], ["GET app/manifests/1", "GET en", "GET app/manifests/1"])
        self.assertEqual(len(self.asked("GET app/manifests")), 2)

    def test_password(self):
        self.wanted = basic_auth("u", "p")
        self.pull(registry=self.registry(auth={"username": "u", "password": "p"}))
        self.assertEqual(self.tokens[0].query, {"service": ["reg"], "scope": ["repository:app:pull"], "account": ["u"]})
        self.refused('"http://%s/v2/app/manifests/1": unauthorized: incorrect username or password' % self.address,
                     self.pull, registry=self.registry(auth={"username": "u", "password": "q"}))

    def test_login(self):
        """A password is exchanged for an identity token where the server gives one."""
        self.wanted = basic_auth("u", "p")
        self.assertEqual(self.registry(auth={"username": "u", "password": "p"}).login(), "")
        self.answer["refresh_token"] = "identity"
        self.assertEqual(self.registry(auth={"username": "u", "password": "p"}).login(), "identity")
        self.assertEqual(self.tokens[1].query, {"service": ["reg"], "scope": ["repository:app:pull"], "account": ["u"],
                                                "client_id": ["pydock"], "offline_token": ["true"]})
        error = self.refused('Get "http://%s/v2/": unauthorized: incorrect username or password' % self.address,
                             self.registry(auth={"username": "u", "password": "q"}).login)
        self.assertEqual(error.status, 401)
        self.assertEqual(self.registry(auth={"identitytoken": "identity"}).login(), "identity")

    def test_identity_token(self):
        self.pull(registry=self.registry(auth={"username": "<token>", "identitytoken": "secret+/="}))
        request = self.tokens[0]
        self.assertEqual((request.method, request.query, request.header("Authorization")), ("POST", {}, None))
        self.assertEqual(urllib.parse.parse_qs(request.body.decode()), {
            "grant_type": ["refresh_token"], "refresh_token": ["secret+/="], "service": ["reg"],
            "scope": ["repository:app:pull"], "client_id": ["pydock"]})

    def test_identity_token_is_not_redirected(self):
        other = self.start(ScriptedEngine(("*", ".*", answer(200, {"token": "x"})), tcp=True))
        self.engine.on("POST", "/token.*", answer(307, b"", headers=[("Location", "http://127.0.0.1:%d/" % other.port)]))
        self.refused("307", self.pull, registry=self.registry(auth={"identitytoken": "secret"}))
        self.assertEqual(other.requests, [])

    def test_registry_token(self):
        self.good.add("Bearer mine")
        self.pull(registry=self.registry(auth={"registrytoken": "mine"}))
        self.assertEqual(self.tokens, [])
        self.refused("unauthorized: authentication required", self.pull, "app:2",
                     registry=self.registry(auth={"registrytoken": "other"}))

    def test_refused_token(self):
        """The registry does not take the token: asked once more, not for ever."""
        self.put(self, "good", frozenset())
        self.engine.on("*", "/token.*", answer(200, {"access_token": "t"}))
        self.refused("unauthorized: authentication required", self.pull)
        self.assertEqual(len(self.asked("manifests")), 2)

    def test_expired_token(self):
        """The registry forgets a token in the middle of a pull."""
        def forget(request):
            self.good.clear()
            del self.engine.script[0]
            return self.guarded(request)
        self.engine.on("GET", ".*/blobs/" + self.shelf.layers[1], forget)
        self.pull()
        self.assertTrue(2 <= len(self.tokens) <= 3, len(self.tokens))

    def test_token_times_out(self):
        registry = self.registry()
        self.pull(registry=registry)
        self.assertEqual(len(self.tokens), 1)
        for seconds, least in ((300, 250), (5, 40), ("x", 40)):
            self.answer["expires_in"] = seconds
            registry._tokens.clear()
            registry.manifest("app", "1")
            (_, until), = registry._tokens.values()
            self.assertTrue(least < until - time.monotonic() < least + 30)
        del self.tokens[1:], self.engine.requests[:]
        registry._tokens = {scope: (token, 0) for scope, (token, _) in registry._tokens.items()}
        self.shelf.image("2", seed=50)
        self.pull("app:2", registry=registry)
        self.assertEqual(len(self.tokens), 2)
        self.assertEqual(len([r for r in self.engine.requests if r.path.startswith("/v2") and not r.header(
            "Authorization")]), 0)       # renewed before it was refused

    @rows(
        ("two headers", ["Negotiate", 'Bearer realm="REALM"'], None),
        ("one header", ['Basic realm="x", bearer realm="REALM", service=s'], None),
        ("two of a kind", ['Bearer realm="REALM", Bearer realm="http://127.0.0.1:1/"'], None),
        ("odd spaces", ['Bearer  realm = "REALM" ,service="a\\"b"'], None),
        ("unknown ones", ["Negotiate, Digest realm=x"], "unsupported authentication: digest, negotiate"),
        ("Basic", ["Basic realm=x"], "no basic auth credentials"),
        ("none", [], "unauthorized: authentication required"),
        ("no realm", ["Bearer service=x"], "unsupported authentication: bearer"),
        ("hostile realm", ['Bearer realm="file:///etc/passwd"'], "no web address"),
    )
    def test_challenges(self, title, values, text):
        headers = [("WWW-Authenticate", value.replace("REALM", "http://%s/token" % self.address)) for value in values]
        self.put(self, "guarded", None)
        self.engine.on("*", "/v2/.*", lambda request: self.shelf(request) if request.header("Authorization")
                       in self.good else refusal(401, "UNAUTHORIZED", "authentication required", headers))
        if text:
            self.refused(text, self.pull)
        else:
            self.pull()
        if title == "odd spaces":
            self.assertEqual(self.tokens[0].query["service"], ['a"b'])

    def test_basic_where_there_is_no_token(self):
        """Of several challenges the second serves where the first fails."""
        self.good.add(basic_auth("u", "p"))
        self.engine.on("*", "/token.*", answer(500, "broken"))
        self.put(self, "challenge", self.challenge + ", Basic realm=x")
        self.pull(registry=self.registry(auth={"username": "u", "password": "p"}))

    @rows(("no token", answer(200, {})), ("no JSON", answer(200, "x")), ("long", answer(200, b" " * (2 << 20))),
          ("not ASCII", answer(200, {"token": "\u00e9"})), ("line break", answer(200, {"token": "a\r\nX: y"})))
    def test_odd_token(self, title, thing):
        self.engine.on("*", "/token.*", thing)
        self.refused("", self.pull)
        self.assertFalse([r for r in self.engine.requests if r.header("X")])

    def test_push_scopes(self):
        self.pull()
        del self.tokens[:]
        self.push()
        self.assertEqual([r.query["scope"] for r in self.tokens], [["repository:app:pull,push"]])
        self.store.tag(self.store.resolve(self.address + "/app:1"), self.address + "/other:1")
        self.engine.on("HEAD", ".*/blobs/.*", lambda r: answer(404, b""))
        del self.tokens[:]
        self.push("other:1")
        self.assertEqual(sorted([r.query["scope"] for r in self.tokens]), [
            ["repository:other:pull,push"], ["repository:other:pull,push", "repository:app:pull"]])


class PushTest(RegistryCase):
    """What a push asks of a registry, says, and leaves there."""

    def setUp(self):
        super().setUp()
        shelf, self.shelf = self.shelf, Shelf()
        self.manifest = shelf.image("1", layers=3, size=3 << 20)["digest"]
        self.blobs = dict(shelf.blobs)
        self.layers = shelf.layers
        self.engine.script = [("*", "/v2/.*", shelf)]
        self.pull()
        self.engine.script = [("*", "/v2/.*", self.shelf)]
        del self.messages[:], self.engine.requests[:]

    def test_push(self):
        self.push()
        self.assertEqual(self.shelf.blobs, self.blobs)
        self.assertEqual(self.shelf.stored[-1], ("app", "1"))
        self.assertEqual(sum_of(self.shelf.manifests["1"][0]), self.manifest)
        self.assertEqual(self.said()[0], "The push refers to repository [%s/app]" % self.address)
        self.assertEqual((self.said().count("Preparing"), self.said().count("Pushed")), (3, 3))
        size = len(self.shelf.manifests["1"][0])
        self.assertEqual(self.messages[-2:], [
            {"status": "1: digest: %s size: %d" % (self.manifest, size)},
            {"progressDetail": {}, "aux": {"Tag": "1", "Digest": self.manifest, "Size": size}}])
        self.assertEqual(len(self.asked("PUT")), 5)
        self.assertIn("?state=a%2Fb&digest=sha256%3A", [r for r in self.engine.requests if r.method == "PUT"][0].target)
        del self.messages[:], self.engine.requests[:]
        self.push()
        self.assertEqual(self.said().count("Layer already exists"), 3)
        self.assertEqual({r.method for r in self.engine.requests[:-1]}, {"HEAD"})

    def test_at_once(self):
        """The layers go side by side: each waits until all are asked for."""
        barrier = threading.Barrier(3, timeout=10)
        left = list(self.layers)

        def together(request):
            if request.path[-71:] in left:
                left.remove(request.path[-71:])
                barrier.wait()
            return self.shelf(request)
        self.engine.on("HEAD", ".*/blobs/.*", together)
        self.push()
        self.assertFalse(barrier.broken)

    def test_removed_meanwhile(self):
        def report(message):
            if message.get("status") == "Preparing":
                with contextlib.suppress(self.pydock.DockerError):
                    self.pydock.ImageStore(self.store.path).remove(self.address + "/app:1")
        self.pydock.push_image(self.registry(), self.reference(), self.store, report)
        self.assertEqual(self.shelf.blobs, self.blobs)

    def test_mount(self):
        """From a repository that the image has a name of, here; not from another registry."""
        self.shelf.blobs.update(self.blobs)
        self.engine.on("HEAD", ".*/blobs/.*", lambda r: answer(404, b""))
        image = self.store.resolve(self.address + "/app:1")
        for name in (self.address + "/other:1", "elsewhere.example/app:1"):
            self.store.tag(image, name)
        self.push("other:1")
        self.assertEqual(self.said().count("Mounted from app"), 3)
        self.assertEqual({tuple(r.query["from"]) for r in self.engine.requests if r.method == "POST"}, {("app",)})
        self.assertEqual(len(self.asked("PUT")), 1)

    @rows(("refused", refusal(403, "DENIED", "no")), ("accepted only", None), ("unsupported", answer(404, "x")))
    def test_no_mount(self, title, thing):
        self.store.tag(self.store.resolve(self.address + "/app:1"), self.address + "/other:1")
        if thing:
            self.engine.on("POST", ".*", lambda r: thing if "mount" in r.query else self.shelf(r))
        self.push("other:1")
        self.assertEqual(self.shelf.blobs, self.blobs)
        self.assertEqual(self.said().count("Pushed"), 3)
        self.assertEqual(len(self.asked("POST")), 8 if thing else 4)     # what was begun instead of a mount is gone on with

    def interrupted(self, keeps, spoiled=False):
        """Makes the first PUT of a layer break after so many bytes, of which the registry keeps `keeps`."""
        broken = []

        def put(request, sock, file):
            place = request.path.partition("?")[0]
            data = file.read(2000000)
            with contextlib.suppress(KeyError):
                self.shelf.uploads[place] = b"x" * keeps if spoiled else data[:keeps]
            return [RESET]

        def choose(request):
            if request.method == "PUT" and request.query.get("digest") == self.layers[:1] and not broken:
                broken.append(request)
                return early([put])
            return None
        plain = self.engine._choose
        self.engine._choose = lambda request: choose(request) or plain(request)

    def test_resume(self):
        """A broken upload goes on, in chunks, where the registry says that it is."""
        self.interrupted(1500000)
        self.push()
        self.assertEqual(self.shelf.blobs, self.blobs)
        chunk = [r for r in self.engine.requests if r.method == "PATCH"]
        self.assertEqual([r.header("Content-Range") for r in chunk], ["1500000-%d" % ((3 << 20) - 1)])

    def test_resumed_wrongly(self):
        """A registry that lost a byte on the way: all of it once more."""
        self.interrupted(1500000)
        self.engine.on("GET", ".*/blobs/uploads/.*", lambda r: self.shelf(r).replace(b"0-1499999", b"0-1499998"))
        self.push()
        self.assertEqual(self.shelf.blobs, self.blobs)

    def test_resumed_on_other_bytes(self):
        self.interrupted(1500000, spoiled=True)
        self.push()
        self.assertEqual(self.shelf.blobs, self.blobs)

    def test_resume_after_a_refused_mount(self):
        self.store.tag(self.store.resolve(self.address + "/app:1"), self.address + "/other:1")
        self.interrupted(1500000)
        self.push("other:1")
        self.assertEqual(self.shelf.blobs, self.blobs)

    def test_resume_from_nothing(self):
        self.interrupted(0)
        self.push()
        self.assertEqual(self.shelf.blobs, self.blobs)

    def test_chunks(self):
        """A body that is too large for one request; the registry's least size of a chunk is kept to."""
        self.put(self.pydock, "_CHUNK_SIZE", 1 << 20)
        self.engine.on("PUT", ".*/blobs/.*", lambda r: refusal(413, "SIZE", "too large") if len(r.body) > 1 << 20
                       else self.shelf(r))
        self.push()
        self.assertEqual(self.shelf.blobs, self.blobs)
        self.assertEqual(sorted({r.header("Content-Range") for r in self.engine.requests if r.method == "PATCH"}), [
            "0-1048575", "1048576-2097151", "2097152-3145727"])

        def large(request):
            thing = self.shelf(request)
            return thing.replace(b"\r\nRange", b"\r\nOCI-Chunk-Min-Length: 2000000\r\nRange")
        self.shelf.blobs.clear()
        del self.engine.requests[:]
        self.engine.on("POST", ".*/blobs/.*", large)
        self.push()
        self.assertEqual(sorted({r.header("Content-Range") for r in self.engine.requests if r.method == "PATCH"}), [
            "0-1999999", "2000000-3145727"])

    @rows(
        ("503", "POST", answer(503, "busy")), ("503 for PUT", "PUT", answer(503, "busy")),
        ("lost upload", "PUT", refusal(404, "BLOB_UPLOAD_UNKNOWN", "unknown")), ("reset", "HEAD", RESET),
        ("429", "HEAD", answer(429, b"")), ("manifest", "PUT", None))
    def test_goes_on(self, title, method, thing):
        path = ".*/manifests/.*" if not thing else ".*"
        self.engine.on(method, path, Turns(thing or answer(500, "x"), self.shelf))
        self.push()
        self.assertEqual(self.shelf.blobs, self.blobs)

    @rows(
        ("denied", "POST", refusal(403, "DENIED", "requested access to the resource is denied"), "denied: requested access"),
        ("login", "*", challenge("Basic realm=x"), "no basic auth credentials"),
        ("digest", "PUT", refusal(400, "DIGEST_INVALID", "wrong"), "digest invalid: wrong"),
        ("several", "PUT", answer(400, {"errors": [{"code": "A_B", "message": "c"}, {"code": "D"}]}), "errors:\na b: c\nd: d\n"),
        ("scope", "PUT", challenge('Bearer realm="http://REALM/t",error="insufficient_scope"'),
         "errors:\ndenied: requested access to the resource is denied\nunauthorized: authentication required\n"),
        ("gives up", "PUT", answer(503, "busy"), "503"),
        ("hostile place", "POST", answer(202, b"", headers=[("Location", "file:///x")]), "no web address"),
    )
    def test_refused(self, title, method, thing, text):
        thing = thing.replace(b"REALM", self.address.encode())
        self.engine.on(method, ".*", thing).on("*", "/t.*", answer(200, {"token": "t"}))
        self.assertTrue(str(self.refused(text, self.push)).startswith(("the registry", "received") + (text[:9],)))
        self.assertEqual(self.shelf.manifests, {})

    def test_place_elsewhere(self):
        """An upload may go to another host, without credentials."""
        other = self.start(ScriptedEngine(("*", "/v2/.*", lambda r: answer(400, "secret!") if r.header("Authorization")
                                           else self.shelf(r)), tcp=True))

        def registry(request):
            if not request.header("Authorization"):
                return challenge("Basic realm=x")
            thing = self.shelf(request)
            return thing.replace(b"Location: /", b"Location: http://127.0.0.1:%d/" % other.port)
        self.engine.on("*", "/v2/.*", registry)
        self.push(registry=self.registry(auth={"username": "u", "password": "p"}))
        self.assertEqual(self.shelf.blobs, self.blobs)
        self.assertEqual(len([r for r in other.requests if r.method == "PUT"]), 4)

    def test_names(self):
        self.refused("tag does not exist: %s/app:nosuch" % self.address, self.push, "app:nosuch")
        self.refused("An image does not exist locally with the tag: %s/nosuch" % self.address, self.push, "nosuch:1")
        self.refused("cannot push a digest reference", self.push, "app@" + self.manifest)

    def test_other_digest(self):
        self.engine.on("PUT", ".*/manifests/.*", answer(201, b"", headers=[("Docker-Content-Digest", sum_of(b""))]))
        self.refused("stored another manifest", self.push)


class RegistryHostTest(RegistryCase):
    """How a registry is reached: TLS and its authorities, proxies, mirrors, hosts that may be insecure."""

    def secure(self, name="server"):
        """A scripted registry that speaks TLS under a certificate of the tests' CA; its port."""
        self.certificates = Certificates.get()
        engine = self.start(ScriptedEngine(("*", "/v2/.*", self.shelf), tls=self.certificates.server(name)))
        return engine

    def proxy(self, target):
        """A proxy that sends everything to one port here, whatever it is asked for; its URL. `self.heads` has what
        it was asked."""
        self.heads = []

        def pump(source, sink):
            with contextlib.suppress(OSError):
                for data in iter(lambda: source.recv(65536), b""):
                    sink.sendall(data)
                sink.shutdown(socket.SHUT_WR)

        def serve(request, sock, file):
            self.heads.append((request.target, request.header("Proxy-Authorization")))
            if self.heads[0][1] is None and self.needs:
                return answer(407, "who?", close=True)
            with socket.create_connection(("127.0.0.1", target)) as far:
                sock.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                thread = threading.Thread(target=pump, args=(sock, far), daemon=True)
                thread.start()
                pump(far, sock)
                thread.join()
            return CLOSE
        engine = self.start(ScriptedEngine(("CONNECT", ".*", early([serve])), ("*", "http://.*", self.by_proxy), tcp=True))
        return "127.0.0.1:%d" % engine.port

    needs = False

    def by_proxy(self, request):
        self.heads.append((request.target, request.header("Proxy-Authorization")))
        request.path = re.sub("^http://[^/]*", "", request.path)
        return self.shelf(request)

    def test_proxy_and_authorities(self):
        """CONNECT through the proxy; the CA comes from SSL_CERT_FILE or certs.d."""
        self.shelf.image("1")
        engine = self.secure("elsewhere")
        reference = self.pydock.parse_reference("elsewhere.example/app:1")
        self.set_environ("HTTPS_PROXY", "http://me:se%40cret@" + self.proxy(engine.port))
        self.refused("tls: failed to verify certificate: ", self.pull,
                     registry=self.registry("elsewhere.example"), reference=reference)
        self.assertEqual(self.heads, [("elsewhere.example:443", basic_auth("me", "se@cret"))])
        self.set_environ("SSL_CERT_FILE", self.certificates.path("ca.pem"))
        self.pull(registry=self.registry("elsewhere.example"), reference=reference)
        self.set_environ("SSL_CERT_FILE", os.devnull)
        self.refused("verify", self.pull, registry=self.registry("elsewhere.example"), reference=reference)
        folder = self.folder()
        os.mkdir(os.path.join(folder, "elsewhere.example"))
        shutil.copy(self.certificates.path("ca.pem"), os.path.join(folder, "elsewhere.example", "ca.crt"))
        self.pull(registry=self.registry("elsewhere.example", certs=[folder]), reference=reference)
        self.set_environ("SSL_CERT_FILE", None)
        self.put(ssl.SSLContext, "load_default_certs", lambda *_: None)     # a Python that was built to look elsewhere
        self.put(self.pydock, "_CA_BUNDLES", ("/no/such", self.certificates.path("ca.pem")))
        self.pull(registry=self.registry("elsewhere.example"), reference=reference)
        self.set_environ("NO_PROXY", "other, .example")
        self.refused("elsewhere.example", self.pull, registry=self.registry("elsewhere.example"), reference=reference)

    @rows(("port", "http://127.0.0.1:99999"), ("IPv6", "http://[::1"), ("nowhere", "http://"), ("SOCKS", "socks5://u:p@h"))
    def test_no_proxy(self, title, url):
        self.set_environ("HTTPS_PROXY", url)
        self.refused("a proxy like this is not supported: " + url.replace("u:p@", ""), self.registry("r.example").ping)

    def test_odd_ports(self):
        self.refused('Get "https://r.example:99999/v2/": dial tcp: address 99999: invalid port', self.registry, "r.example:99999")
        self.refused('Get "https://127.0.0.1:0/v2/": dial tcp 127.0.0.1:0: connect: ', self.registry("https://127.0.0.1:0").ping)

    def test_refused_by_the_proxy(self):
        self.needs = True
        self.set_environ("https_proxy", self.proxy(1))
        self.refused("proxyconnect tcp: 407", self.registry("elsewhere.example").ping)

    def test_proxy_of_plain_http(self):
        self.shelf.image("1")
        self.set_environ("HTTP_PROXY", self.proxy(1))
        self.pull(registry=self.registry("http://plain.example:5000"),
                  reference=self.pydock.parse_reference("plain.example:5000/app:1"))
        self.assertEqual(self.heads[0], ("http://plain.example:5000/v2/app/manifests/1", None))

    @rows(
        ("no proxy", "https", "a.example", {}, ""),
        ("host", "https", "a.example", {"HTTPS_PROXY": "p:1"}, "http://p:1"),
        ("small letters", "https", "a.example", {"https_proxy": "http://p:1"}, "http://p:1"),
        ("of http", "http", "a.example", {"HTTP_PROXY": "p:1", "HTTPS_PROXY": "q:1"}, "http://p:1"),
        ("loopback", "http", "127.0.0.5", {"HTTP_PROXY": "p:1"}, ""),
        ("localhost", "http", "localhost", {"HTTP_PROXY": "p:1"}, ""),
        ("excepted", "https", "a.example", {"HTTPS_PROXY": "p:1", "NO_PROXY": "x,a.example"}, ""),
        ("domain", "https", "a.example", {"HTTPS_PROXY": "p:1", "no_proxy": "example"}, ""),
        ("not the domain", "https", "aexample", {"HTTPS_PROXY": "p:1", "NO_PROXY": "example"}, "http://p:1"),
        ("subdomains", "https", "example", {"HTTPS_PROXY": "p:1", "NO_PROXY": ".example"}, "http://p:1"),
        ("network", "https", "10.2.3.4", {"HTTPS_PROXY": "p:1", "NO_PROXY": "10.0.0.0/8"}, ""),
        ("port", "https", "a.example", {"HTTPS_PROXY": "p:1", "NO_PROXY": "a.example:444"}, "http://p:1"),
        ("that port", "https", "a.example", {"HTTPS_PROXY": "p:1", "NO_PROXY": "a.example:443"}, ""),
        ("all", "https", "a.example", {"HTTPS_PROXY": "p:1", "NO_PROXY": "*"}, ""),
    )
    def test_proxy_for(self, title, scheme, host, environ, wanted):
        for name, value in environ.items():
            self.set_environ(name, value)
        self.assertEqual(self.pydock.proxy_for(scheme, host, 443), wanted)

    def test_loopback(self):
        """TLS is tried first, unverified where no authority is named, then plain HTTP."""
        self.shelf.image("1")
        engine = self.secure()
        self.pull(registry=self.registry("127.0.0.1:%d" % engine.port))
        self.pull("app:1", registry=self.registry(self.address))
        self.assertNotIn("https", self.registry(self.address).base.replace("https://" + self.address, ""))
        folder = self.folder()
        os.mkdir(os.path.join(folder, "127.0.0.1:%d" % engine.port))
        path = os.path.join(folder, "127.0.0.1:%d" % engine.port, "ca.crt")
        shutil.copy(self.certificates.path("ca.pem"), path)
        self.registry("127.0.0.1:%d" % engine.port, certs=[folder]).ping()
        shutil.copy(self.certificates.path("other.pem"), path)
        self.refused("failed to verify certificate", self.registry("127.0.0.1:%d" % engine.port, certs=[folder]).ping)
        with open(path, "w") as file:
            file.write("nonsense")
        self.refused("cannot be used", self.registry("127.0.0.1:%d" % engine.port, certs=[folder]).ping)

    def test_insecure_is_one_host(self):
        """Where an insecure registry sends us is verified."""
        registry = self.registry("r.example", insecure=True)
        self.assertEqual([registry._tls(host, 443).verify_mode for host in ("r.example", "cdn.example")],
                         [ssl.CERT_NONE, ssl.CERT_REQUIRED])

    def test_client_certificate(self):
        certificates = Certificates.get()
        engine = self.start(ScriptedEngine(("*", "/v2/.*", self.shelf), tls=certificates.server() + (
            certificates.path("ca.pem"),)))
        folder, host = self.folder(), "127.0.0.1:%d" % engine.port
        os.mkdir(os.path.join(folder, host))
        for source, name in (("ca.pem", "ca.crt"), ("client/cert.pem", "client.cert"), ("client/key.pem", "client.key")):
            shutil.copy(certificates.path(source), os.path.join(folder, host, name))
        self.registry(host, certs=[folder]).ping()
        os.unlink(os.path.join(folder, host, "client.key"))
        self.refused("client.cert cannot be used", self.registry(host, certs=[folder]).ping)

    @rows(
        ("a name", "r.example", False), ("loopback", "127.0.0.9:5000", True), ("IPv6", "[::1]:5000", True),
        ("localhost", "localhost", True), ("named", "plain.example:5000", True), ("other port", "plain.example:5001", False),
        ("network", "10.1.2.3", True), ("not the network", "10.2.2.3", False), ("Hub", "docker.io", False),
    )
    def test_who_may_be_plain(self, title, host, wanted):
        registry = self.registry(host, settings={"insecure-registries": ["plain.example:5000", "10.1.0.0/16"]})
        self.assertEqual(registry.insecure, wanted)

    def test_settings(self):
        folder = os.path.join(os.environ["XDG_CONFIG_HOME"], "docker")
        os.mkdir(folder)
        path = os.path.join(folder, "daemon.json")
        with open(path, "w") as file:
            json.dump({"registry-mirrors": ["http://127.0.0.1:7"], "insecure-registries": ["i.example"]}, file)
        self.assertEqual([m.base for m in self.pydock.Registry("docker.io").mirrors], ["http://127.0.0.1:7"])
        self.assertEqual(self.pydock.Registry("quay.io").mirrors, [])
        self.assertTrue(self.pydock.Registry("i.example").insecure)
        for text in ("{", "5", '{"registry-mirrors": "a"}', '{"registry-mirrors": [5]}', '{"insecure-registries": {}}',
                     '{"max-concurrent-downloads": -1}', '{"max-concurrent-uploads": "x"}'):
            with open(path, "w") as file:
                file.write(text)
            self.refused("unable to read the settings in " + path, self.pydock.Registry, "docker.io")

    def test_mirror(self):
        """Docker Hub's images come from the mirror; from the Hub itself what the mirror has not."""
        digest = self.shelf.image("1")["digest"]
        hub = Shelf()
        hub.image("1", "2", seed=7)
        origin = self.start(ScriptedEngine(("*", "/v2/.*", hub), tcp=True))
        self.pydock._HUB_HOSTS["docker.io"], before = "127.0.0.1:%d" % origin.port, self.pydock._HUB_HOSTS["docker.io"]
        self.addCleanup(self.pydock._HUB_HOSTS.__setitem__, "docker.io", before)

        def pull(tag, mirrors):
            registry = self.registry("docker.io", {"username": "u", "password": "p"}, settings={"registry-mirrors": mirrors})
            return self.pull(registry=registry, reference=self.pydock.parse_reference("app:" + tag))
        self.assertEqual(pull("1", ["http://" + self.address]).manifest["digest"], digest)
        self.assertEqual(origin.requests, [])
        self.assertEqual({r.header("Authorization") for r in self.engine.requests}, {None})
        pull("2", ["http://" + self.address])
        self.assertTrue(origin.requests)
        for tag, thing in (("3", RESET), ("4", lambda r: cut(self.shelf(r), 300))):
            self.engine.on("GET", ".*/blobs/.*", thing)
            self.shelf.image(tag, seed=90 + int(tag))
            hub.image(tag, seed=90 + int(tag))
            pull(tag, ["http://127.0.0.1:%d" % free_port(), "http://" + self.address])

    def test_kept_connections(self):
        """A connection serves many requests; one that the registry closes in between is no error."""
        self.shelf.image("1")
        registry = self.registry()
        for _ in range(5):
            registry.manifest("app", "1")
        self.assertEqual(self.engine.connections, 1)
        self.engine.on("GET", ".*/manifests/1", lambda r: [self.shelf(r), CLOSE])
        for _ in range(3):
            registry.manifest("app", "1")
            time.sleep(0.02)


class TokenServer(Part):
    """A token server, .realm, that signs for .user and, to pull, for anybody; see TokenRegistry."""

    name, programs, root = "openssl", ("openssl",), False
    user, password = "tester", "s3cret-word"

    def start(self):
        self.certificates = Certificates.get()
        with open(self.certificates.path("ca.pem")) as file:
            self.chain = re.sub(r"-----.*?-----|\s", "", file.read())
        self.asked = []
        self.server = ScriptedEngine(("*", "/token.*", self.token), tcp=True)
        self.server.__enter__()
        self.realm = "http://127.0.0.1:%d/token" % self.server.port

    def stop(self):
        self.server.__exit__()

    def token(self, request):
        form = urllib.parse.parse_qs(request.body.decode())
        self.asked.append(request)
        known = request.header("Authorization") == basic_auth(self.user, self.password) or (
            form.get("refresh_token") == ["identity"])
        if request.header("Authorization") and not known or form and not known:
            return answer(401, {"details": "incorrect username or password"})
        access = []
        for scope in " ".join(form.get("scope", []) + request.query.get("scope", [])).split():
            kind, name, actions = scope.split(":")
            access.append({"type": kind, "name": name, "actions": [
                action for action in actions.split(",") if known or action == "pull" and name != "private"]})

        def encode(value):
            value = value if isinstance(value, bytes) else json.dumps(value).encode()
            return base64.urlsafe_b64encode(value).rstrip(b"=")
        text = encode({"typ": "JWT", "alg": "RS256", "x5c": [self.chain]}) + b"." + encode({
            "iss": "pydock-tests", "sub": "", "aud": "reg", "exp": int(time.time()) + 60, "nbf": int(time.time()) - 5,
            "iat": int(time.time()), "jti": "1", "access": access})
        signed = run([which("openssl"), "dgst", "-sha256", "-sign", self.certificates.path("ca.key")],
                     clean_env(self.dir), text, binary=True)
        return answer(200, dict({"access_token": (text + b"." + encode(signed.stdout)).decode(), "expires_in": 60},
                                **({"refresh_token": "identity"} if "offline_token" in request.query else {})))


class TokenRegistry(Registry):
    """The registry that wants tokens of TokenServer."""

    def configure(self, config):
        server = TokenServer.get()
        config["auth"] = {"token": {"realm": server.realm, "service": "reg", "issuer": "pydock-tests",
                                    "rootcertbundle": server.certificates.path("ca.pem")}}


class RealRegistryTest(RegistryCase):
    """Push to and pull from real registries, with large layers; what skopeo makes of it."""

    def setUp(self):
        super().setUp()
        self.shelf.image("1", layers=4, size=2 << 20)
        self.image = self.pull()

    def round(self, part, **options):
        """Pushes the image, pulls it into another store, pushes it once more to a second repository."""
        address = part.address
        for name in ("one", "two"):
            reference = self.pydock.parse_reference("%s/%s:1" % (address, name))
            self.store.tag(self.image, str(reference))
            self.pydock.push_image(self.registry(address, **options), reference, self.store, self.messages.append)
        other = self.pydock.ImageStore(self.folder())
        for name in ("one", "two"):
            record = self.pull(registry=self.registry(address, **options), store=other,
                               reference=self.pydock.parse_reference("%s/%s:1" % (address, name)))
            self.assertEqual(record.manifest, self.image.manifest)
        self.assertEqual(self.said().count("Mounted from one"), 4)
        self.assertEqual(self.registry(address, **options).tags("one"), ["1"])
        return other

    def test_open(self):
        part = Registry.get()
        self.round(part)
        if which("skopeo"):
            done = run([which("skopeo"), "inspect", "--raw", "--tls-verify=false", "docker://%s/one:1" % part.address],
                       clean_env(self.folder()))
            self.assertEqual(sum_of(done.stdout.encode()), self.image.manifest["digest"])
        self.refused("manifest for %s/nosuch:1 not found: manifest unknown: manifest unknown" % part.address, self.pull,
                     registry=self.registry(part.address),
                     reference=self.pydock.parse_reference(part.address + "/nosuch:1"))

    @rows(("password", PasswordRegistry), ("TLS", TlsRegistry))
    def test_password(self, title, kind):
        part = kind.get()
        self.round(part, auth={"username": part.user, "password": part.password})
        self.refused("no basic auth credentials", self.registry(part.address).ping)
        self.refused("unauthorized: authentication required",
                     self.registry(part.address, auth={"username": part.user, "password": "no"}).ping)

    def test_verified_tls(self):
        part, folder = TlsRegistry.get(), self.folder()
        os.mkdir(os.path.join(folder, part.address))
        shutil.copy(Certificates.get().path("ca.pem"), os.path.join(folder, part.address, "ca.crt"))
        self.registry(part.address, {"username": part.user, "password": part.password}, certs=[folder]).ping()

    def test_token(self):
        part, server = TokenRegistry.get(), TokenServer.get()
        self.round(part, auth={"username": server.user, "password": server.password})
        reference = self.pydock.parse_reference(part.address + "/one:1")
        self.pull(registry=self.registry(part.address), reference=reference, store=self.pydock.ImageStore(self.folder()))
        self.pull(registry=self.registry(part.address, {"username": "<token>", "identitytoken": "identity"}),
                  reference=reference, store=self.pydock.ImageStore(self.folder()))
        self.refused("pull access denied", self.pull, registry=self.registry(part.address),
                     reference=self.pydock.parse_reference(part.address + "/private:1"))
        self.refused("denied: requested access to the resource is denied", self.pydock.push_image,
                     self.registry(part.address), reference, self.store, self.messages.append)
        self.refused("incorrect username or password", self.registry(
            part.address, {"username": "tester", "password": "no"}).ping)


# ======================================================================================================
# The image store
# ======================================================================================================

class StoreCase(Case):
    """An image store of its own, and images to put in."""

    def setUp(self):
        super().setUp()
        self.pydock = module()
        self.path = os.path.join(self.folder(), "store")
        self.store = self.pydock.ImageStore(self.path)
        self.said = []

    def load(self, archive, size=65536):
        """Loads an archive from bytes; the ids."""
        return self.store.load(iter([archive[at:at + size] for at in range(0, len(archive), size)]), self.said.append)

    def saved(self, *names):
        """What save yields, as bytes."""
        return b"".join(self.store.save(names))

    def words(self):
        """What load has said, but for its progress."""
        return "".join(message.get("stream", "") for message in self.said)

    def write(self, name, *parts):
        """A file in the test's folder; its path."""
        path = os.path.join(os.path.dirname(self.path), name)
        with open(path, "wb") as file:
            for part in parts:
                file.write(part)
        return path

    def blobs(self):
        """The digests of the blobs in the store."""
        return {"sha256:" + name for name in os.listdir(os.path.join(self.path, "blobs", "sha256"))}

    def refused(self, words, function, *args, **options):
        """Asserts that a call raises DockerError with these words in it; the error."""
        with self.assertRaises(self.pydock.DockerError) as caught:
            function(*args, **options)
        self.assertIn(words, str(caught.exception))
        return caught.exception

    def verify(self, path=None):
        """Asserts that a store is whole: each reference leads to blobs with the right digests; the names."""
        store = self.pydock.ImageStore(path or self.path)
        names = []
        for image in store.images():
            names += image.names
            for digest in image.blobs:
                with store.open_blob(digest) as file:
                    self.assertEqual(digest, "sha256:" + hashlib.sha256(file.read()).hexdigest())
        if os.path.exists(os.path.join(store.path, "index.json")):
            with open(os.path.join(store.path, "index.json")) as file:
                for entry in json.load(file)["manifests"]:
                    self.assertTrue(store.has_blob(entry["digest"]))
        return sorted(names)


def digest_of(data):
    """A digest as manifests have it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


class StoreTest(StoreCase):
    """The image store, without any engine."""

    def test_nothing_is_made_by_looking(self):
        self.assertEqual(self.store.images(), [])
        self.refused("No such image: busybox:latest", self.store.resolve, "busybox")
        self.assertFalse(os.path.exists(self.path))

    @rows(("busybox", 404, "No such image: busybox:latest"), ("x/y:1", 404, "No such image: x/y:1"),
          ("sha256:12", 404, "No such image: sha256:12"), ("f" * 64, 404, "No such image: sha256:" + "f" * 64),
          ("Upper", 400, "invalid reference format"), ("", 400, "invalid reference format"),
          ("a@sha256:" + "0" * 64, 404, "No such image: a@sha256:" + "0" * 64))
    def test_unknown(self, name, status, words):
        self.load(layered_image("app:1"))
        error = self.refused(words, self.store.resolve, name)
        self.assertEqual(error.status, status)

    def test_references(self):
        identifier, = self.load(layered_image("app:1"))
        for name in ("app:1", "docker.io/library/app:1", identifier, identifier[7:], identifier[7:15], identifier[:20]):
            self.assertEqual(self.store.resolve(name).id, identifier)
        image = self.store.resolve("app:1")
        self.assertEqual((image.names, image.digests, image.platform), (["docker.io/library/app:1"], [], "linux/amd64"))
        self.assertEqual(image.labels, {"of": "pydock's tests"})
        self.store.put_image(None, image.manifest, "app@" + image.manifest["digest"])
        self.assertEqual(self.store.resolve("app@" + image.manifest["digest"]).names, image.names)
        self.store.tag(image, "localhost:5000/other")
        self.assertEqual(self.store.resolve(identifier).names, [
            "docker.io/library/app:1", "localhost:5000/other:latest"])
        self.refused("refusing to create an ambiguous tag", self.store.tag, image, "sha256:abc")
        self.refused("", self.store.tag, image, "Upper")

    def test_a_moved_tag_leaves_its_image(self):
        first, = self.load(layered_image("app:1"))
        second, = self.load(layered_image("app:1", seed="other"))
        self.assertEqual(self.words().splitlines()[1:], [
            "The image app:1 already exists, renaming the old one with ID %s to empty string" % first,
            "Loaded image: app:1"])
        self.assertEqual({image.id: image.names for image in self.store.images()},
                         {first: [], second: ["docker.io/library/app:1"]})
        self.store.tag(self.store.resolve(first), "app:2")
        self.assertEqual(self.verify(), ["docker.io/library/app:1", "docker.io/library/app:2"])
        with open(os.path.join(self.path, "index.json")) as file:
            self.assertEqual(len(json.load(file)["manifests"]), 2)

    def test_remove(self):
        first, = self.load(layered_image("app:1"))
        second, = self.load(layered_image("app:2", seed="other"))
        image = self.store.resolve(first)
        for name in ("app:3", "else:1"):
            self.store.tag(image, name)
        self.store.put_image(None, image.manifest, "app@" + image.manifest["digest"])
        self.refused("conflict: unable to delete %s (must be forced) - image is referenced in multiple repositories"
                     % first[7:19], self.store.remove, first)
        self.assertEqual(self.store.remove("app:3"), [{"Untagged": "app:3"}])
        self.assertEqual(self.store.remove("app:1"), [{"Untagged": "app:1"}, {
            "Untagged": "app@" + image.manifest["digest"]}])
        error = self.refused('conflict: unable to remove repository reference "else:1" (must force) - container abcdefabcdef '
                             "is using its referenced image " + first[7:19],
                             self.store.remove, "else:1", users={first: "abcdef" * 10})
        self.assertEqual(error.status, 409)
        self.refused("conflict: unable to delete %s (must be forced) - image is being used by stopped container abcdefabcdef"
                     % first[7:19], self.store.remove, first[7:], users={first: "abcdef" * 10})
        diff, chains = image.config["rootfs"]["diff_ids"], []
        for digest in diff:
            chains.append(digest_of((chains[-1] + " " + digest).encode()) if chains else digest)
        self.assertEqual(self.store.remove("else:1"), [{"Untagged": "else:1"}, {"Deleted": first}] + [
            {"Deleted": chain} for chain in chains[::-1]])
        self.assertEqual(self.blobs(), set(self.store.resolve(second).blobs))
        self.store.tag(self.store.resolve(second), "b:1")
        self.assertEqual(self.store.remove(second, force=True)[:3], [
            {"Untagged": "app:2"}, {"Untagged": "b:1"}, {"Deleted": second}])
        self.assertEqual((self.blobs(), self.store.images()), (set(), []))

    def test_shared_layers_stay(self):
        def archive(name, count):
            return rename_layers(layered_image("base", count), name)

        first, = self.load(archive("one:1", 2))
        second, = self.load(archive("two:1", 3))
        gone = self.store.remove("two:1")
        self.assertEqual(gone[:2], [{"Untagged": "two:1"}, {"Deleted": second}])
        self.assertEqual(len(gone), 3)
        self.assertEqual(self.blobs(), set(self.store.resolve(first).blobs))

    def test_manifests_in_use_by_others(self):
        identifier, = self.load(layered_image("app:1"))
        image = self.store.resolve(identifier)
        blobs = self.blobs()
        users = []
        store = self.pydock.ImageStore(self.path, lambda: users)
        users.append(image.manifest["digest"])
        self.assertEqual(store.remove("app:1", force=True), [{"Untagged": "app:1"}, {"Deleted": identifier}])
        self.assertEqual((store.collect(), self.blobs()), (0, blobs))
        users.clear()
        self.assertGreater(store.collect(), 120000)
        self.assertEqual(self.blobs(), set())

    def test_ingest(self):
        data = os.urandom(300000)
        digest = digest_of(data)
        with self.store.ingest(digest, len(data)) as blob:
            blob.write(data[:100000])
        self.assertFalse(self.store.has_blob(digest))
        with self.store.ingest(digest_of(b"small")) as blob:
            blob.write(b"too much")
        with self.store.ingest(digest_of(b"small"), 5) as blob:
            self.assertEqual(blob.offset, 0)
        with self.store.ingest(digest, len(data)) as blob:
            self.assertEqual(blob.offset, 100000)
            blob.write(data[100000:])
            blob.commit()
        self.assertEqual(self.store.read_blob(digest), data)
        with self.store.ingest(digest, len(data)) as blob:
            self.assertEqual((blob.offset, blob.done), (len(data), True))
            blob.commit()
        self.assertEqual(os.listdir(os.path.join(self.path, "ingest")), [])

    def test_wrong_bytes(self):
        data = b"right" * 1000
        digest = digest_of(data)
        with self.store.ingest(digest, len(data)) as blob:
            blob.write(b"wrong" * 1000)
            self.refused("verification failed for digest " + digest, blob.commit)
            self.assertEqual(blob.offset, 0)
            self.refused("longer", blob.write, data + b"x")
            blob.write(data[:-1])
            self.refused("verification failed", blob.commit)
            blob.write(data)
            blob.commit()
        self.assertEqual(self.store.read_blob(digest), data)
        for damage in (b"W", b""):
            with open(self.store.blob_path(digest), "r+b" if damage else "wb") as file:
                file.write(damage)
            self.refused("damaged", self.store.read_blob, digest)
            self.assertEqual(self.store.add_blob(data), digest)
            self.assertEqual(self.store.read_blob(digest), data)

    def test_a_damaged_image_can_go(self):
        for number in range(2):
            identifier, = self.load(layered_image("app:1"))
            other, = self.load(rename_layers(layered_image("base", 2), "other:1"))
            image = self.store.resolve("app:1")
            self.assertTrue(image.is_whole)
            with open(self.store.blob_path(image.blobs[number]), "r+b") as file:
                file.write(b"X")
            self.assertFalse(image.is_whole)
            self.assertEqual(self.store.remove("other:1")[:2], [{"Untagged": "other:1"}, {"Deleted": other}])
            self.assertEqual(self.store.remove("app:1")[:2], [{"Untagged": "app:1"}, {"Deleted": identifier}])
            self.store.collect()
            self.assertEqual(self.blobs(), set())

    def test_the_disk_has_it_before_it_is_named(self):
        """What is synced, moved and written, in its order."""
        steps = []

        def noted(name, function):
            def wrapper(*args):
                path = args[-1] if name == "replace" else os.readlink("/proc/self/fd/%d" % args[0])
                steps.append((name, os.path.relpath(path, self.path).split("/")[0]))
                return function(*args)
            return unittest.mock.patch.object(os, name, wrapper)

        if not os.path.exists("/proc/self/fd"):
            self.skipTest("no /proc here")
        self.store.prepare()
        with noted("fsync", os.fsync), noted("replace", os.replace), self.store.keep():
            config = self.store.add_blob(b'{"rootfs": {"diff_ids": []}}')
            manifest = json.dumps({"config": {"digest": config, "size": 28}, "layers": []}).encode()
            about = {"digest": self.store.add_blob(manifest), "size": len(manifest)}
            blob = [("fsync", "ingest"), ("replace", "blobs"), ("fsync", "blobs")]
            self.assertEqual(steps, blob * 2)
            self.store.put_image("app:1", about)
        self.assertEqual([name for name, _ in steps[6:]], ["fsync", "replace", "fsync"])
        self.assertEqual((steps[7][1], steps[8][1]), ("index.json", "."))

    @rows(("sha256:../../../etc/passwd",), ("sha256:" + "A" * 64,), ("sha256:",), ("md5:" + "0" * 32,),
          ("sha256:" + "0" * 63,), ("x",), ("/",))
    def test_no_digest(self, digest):
        self.refused("invalid checksum digest format", self.store.blob_path, digest)

    def test_images_must_be_whole(self):
        with self.store.keep():
            text = b'{"rootfs": {"diff_ids": ["sha256:0"]}}'
            config, layer = self.store.add_blob(text), self.store.add_blob(b"layer")
            for part, size, extra, words in ((digest_of(b"none"), 1, 0, "is missing"), (layer, 6, 0, "not of its size"),
                                             (layer, 5, 1, "not of its size"), (layer, -5, 0, "describes no image")):
                manifest = json.dumps({"config": {"digest": config, "size": len(text) + extra}, "layers": [
                    {"digest": part, "size": size}]}).encode()
                about = {"digest": self.store.add_blob(manifest), "size": len(manifest)}
                self.refused(words, self.store.put_image, "app:1", about)
            for wrong in (b"[]", b"{}", b"x", b'{"config": 5, "layers": []}', b'{"config": {}, "layers": {}}'):
                about = {"digest": self.store.add_blob(wrong), "size": len(wrong)}
                self.refused("", self.store.put_image, "app:1", about)
        self.assertEqual(self.store.images(), [])

    def test_what_others_write_into_it(self):
        identifier, = self.load(layered_image("app:1"))
        path = os.path.join(self.path, "index.json")
        with open(path) as file:
            index = json.load(file)
        entry = dict(index["manifests"][0])
        for name in ("busybox:2", "latest", "No Name", None):
            index["manifests"].append(dict(entry, annotations={"org.opencontainers.image.ref.name": name} if name else None))
        index["manifests"].append({"digest": "sha256:" + "0" * 64, "size": 1, "mediaType": "x"})
        with open(path, "w") as file:
            json.dump(index, file)
        image, = self.store.images()
        self.assertEqual(image.names, ["docker.io/library/app:1", "docker.io/library/busybox:2"])
        self.store.remove(identifier, force=True)
        self.assertEqual((self.store.images(), self.blobs()), ([], set()))
        for wrong in ("", "[", "[]", "{}", '{"manifests": [{}]}', '{"manifests": [{"digest": "../x"}]}',
                      '{"manifests": [{"digest": "sha256:%s", "annotations": 5}]}' % ("0" * 64)):
            with open(path, "w") as file:
                file.write(wrong)
            with unittest.mock.patch.object(time, "sleep"):
                self.refused("the image store is damaged", self.store.images)

    def test_an_index_that_is_just_being_written(self):
        self.load(layered_image("app:1"))
        path = os.path.join(self.path, "index.json")
        with open(path, "rb") as file:
            data = file.read()
        self.write("store/index.json", data[:50])
        with unittest.mock.patch.object(time, "sleep", lambda _: self.write("store/index.json", data)):
            self.assertEqual(self.store.resolve("app:1").names, ["docker.io/library/app:1"])

    def test_a_lock_that_leads_elsewhere(self):
        self.store.prepare()
        target = os.path.join(os.path.dirname(self.path), "elsewhere")
        os.symlink(target, os.path.join(self.path, "lock"))
        with self.assertRaises(OSError):
            self.load(layered_image("app:1"))
        self.assertFalse(os.path.exists(target))

    def test_an_index_with_platforms(self):
        one, = self.load(layered_image("one:1"))
        image = self.store.resolve(one)
        foreign = {"digest": "sha256:" + "1" * 64, "size": 5, "platform": {"os": "plan9", "architecture": "vax"}}
        data = json.dumps({"manifests": [foreign, dict(image.manifest, platform={
            "os": "linux", "architecture": "amd64"})]}).encode()
        with self.store.keep():
            digest = self.store.add_blob(data)
        with open(os.path.join(self.path, "index.json"), "w") as file:
            json.dump({"manifests": [{"mediaType": self.pydock.OCI_INDEX, "digest": digest, "size": len(data), "annotations": {
                "org.opencontainers.image.ref.name": "multi:1"}}]}, file)
        self.assertEqual(self.store.resolve("multi:1").manifest, image.manifest)
        with open(os.path.join(self.path, "cache.json")) as file:       # which one it means may change
            self.assertNotIn(digest, json.load(file))
        self.assertEqual(self.store.collect(), 0)
        self.assertEqual(self.verify(), ["docker.io/library/multi:1"])
        self.store.remove("multi:1")
        self.assertEqual(self.blobs(), set())

    def test_a_lost_cache(self):
        identifier, = self.load(layered_image("app:1"))
        self.store.images()
        for text in (None, "", "[]", "{", "null"):
            path = os.path.join(self.path, "cache.json")
            if text is None:
                os.unlink(path)
            else:
                self.write("store/cache.json", text.encode())
            self.assertEqual([image.id for image in self.store.images()], [identifier])
            self.assertTrue(os.path.exists(path))

    def test_a_long_list(self):
        """What the list needs is read from two files, however many images there are."""
        self.load(layered_image("app:1"))
        manifest = self.store.resolve("app:1").manifest_json
        entries, cache = [], {}
        for number in range(1000):
            digest = digest_of(b"%d" % number)
            about = {"mediaType": self.pydock.OCI_MANIFEST, "digest": digest, "size": 500}
            cache[digest] = {"id": digest_of(digest.encode()), "manifest": about, "size": 5, "created": "2024", "labels": {},
                             "platform": "linux/amd64"}
            for name in ("docker.io/library/app%d:latest" % number, "docker.io/library/app%d@%s" % (number, digest)):
                entries.append(dict(about, annotations={"org.opencontainers.image.ref.name": name}))
        self.write("store/index.json", json.dumps({"manifests": entries}).encode())
        self.write("store/cache.json", json.dumps(cache).encode())
        with unittest.mock.patch.object(self.store, "read_blob", side_effect=AssertionError):
            began = time.process_time()
            self.assertEqual(len(self.store.images()), 1000)
            self.assertLess(time.process_time() - began, 0.5)
        self.assertTrue(manifest)

    @rows(("",), ("garbage",), ('{"imageLayoutVersion": "2.0.0"}',))
    def test_another_layout(self, text):
        self.store.prepare()
        self.write("store/oci-layout", text.encode())
        self.refused(os.path.join(self.path, "oci-layout"), self.load, layered_image("app:1"))

    def test_a_read_only_store(self):
        if not os.geteuid():
            self.skipTest("root writes everywhere")
        self.load(layered_image("app:1"))
        os.unlink(os.path.join(self.path, "cache.json"))
        os.chmod(self.path, 0o500)
        self.addCleanup(os.chmod, self.path, 0o700)
        self.assertEqual(len(self.store.images()), 1)
        self.refused("permission denied", self.store.remove, "app:1")

    def test_inspect_and_history(self):
        identifier, = self.load(layered_image("app:1"))
        image = self.store.resolve("app:1")
        self.store.put_image(None, image.manifest, "app@" + image.manifest["digest"])
        shown = self.store.inspect(self.store.resolve("app:1"))
        self.assertEqual((shown["Id"], shown["RepoTags"], shown["RepoDigests"], shown["Created"], shown["Os"]), (
            identifier, ["app:1"], ["app@" + image.manifest["digest"]], "2024-01-02T03:04:05.678Z", "linux"))
        self.assertEqual(shown["Config"]["Cmd"], ["/data/0"])
        self.assertEqual(shown["Config"]["Entrypoint"], None)
        steps = self.store.history(self.store.resolve("app:1"))
        self.assertEqual([(step["Id"], step["CreatedBy"], step["Tags"], step["Created"]) for step in steps], [
            (identifier, "layer 2", ["app:1"], 1704164645), ("<missing>", "layer 1", None, 1704164645),
            ("<missing>", "layer 0", None, 1704164645)])
        self.assertGreater(steps[0]["Size"], 40000)


def rename_layers(archive, name):
    """A `docker save` archive with another name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(archive)) as old, tarfile.open(fileobj=out, mode="w") as new:
        for member in old:
            data = old.extractfile(member).read()
            if member.name == "manifest.json":
                data = json.dumps([dict(json.loads(data.decode())[0], RepoTags=[name])]).encode()
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    return out.getvalue()


def archive_of(*files):
    """A tar archive of (name, bytes) and (name, link, type)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data, *kind in files:
            member = tarfile.TarInfo(name)
            if kind:
                member.type, member.linkname = kind[0], data
                data = b""
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


class StoreArchiveTest(StoreCase):
    """save, load and import."""

    def test_round_trip(self):
        identifier, = self.load(layered_image("app:1"))
        self.store.tag(self.store.resolve("app:1"), "other:2")
        archive = self.saved("app", identifier, "other:2")
        before = self.blobs()
        self.store.remove(identifier, force=True)
        self.said.clear()
        self.assertEqual(self.load(archive), [identifier])
        self.assertEqual(self.words(), "Loaded image: app:1\nLoaded image: other:2\n")
        self.assertEqual(self.blobs(), before)
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            names = tar.getnames()
            self.assertEqual(names[-4:], ["index.json", "manifest.json", "oci-layout", "repositories"])
            self.assertEqual(len(names), len(set(names)))
            manifest, = json.loads(tar.extractfile("manifest.json").read().decode())
            self.assertEqual(manifest["RepoTags"], ["app:1", "other:2"])
            for name in [manifest["Config"]] + manifest["Layers"]:
                self.assertIn(name, names)

    def test_what_is_saved_is_kept(self):
        identifier, = self.load(layered_image("app:1"))
        blocks = self.store.save(["app:1"])
        first = next(blocks)
        self.store.remove("app:1")
        self.store.collect()
        self.assertEqual(self.load(first + b"".join(blocks)), [identifier])
        self.verify()

    def test_what_is_loaded_is_kept(self):
        archive = layered_image("app:1")
        self.store.load(iter([archive]), lambda message: self.store.collect())
        self.assertEqual(self.verify(), ["docker.io/library/app:1"])

    def test_a_failed_load_leaves_nothing(self):
        layer = archive_of(("a", b"b"))
        config = json.dumps({"rootfs": {"diff_ids": [digest_of(layer), "sha256:0"]}}).encode()
        self.refused("invalid diffID for layer 1", self.load, archive_of(
            ("manifest.json", b'[{"Config": "c", "Layers": ["1", "2"]}]'), ("c", config), ("1", layer), ("2", b"x")))
        self.assertEqual(self.blobs(), set())

    def test_by_id_it_has_no_name(self):
        identifier, = self.load(layered_image("app:1"))
        archive = self.saved(identifier[:20])
        self.store.remove("app:1")
        self.assertEqual(self.load(archive), [identifier])
        self.assertEqual(self.words().splitlines()[-1], "Loaded image ID: " + identifier)

    @rows(("nope", "No such image: nope:latest"), ("nope:1", "reference does not exist"), ("Upper", "invalid reference"))
    def test_save_of_nothing(self, name, words):
        self.load(layered_image("app:1"))
        self.refused(words, self.store.save, ["app:1", name])

    def test_save_of_a_damaged_blob(self):
        self.load(layered_image("app:1"))
        path = self.store.blob_path(self.store.resolve("app:1").blobs[-1])
        with open(path, "r+b") as file:
            file.write(b"X")
        self.refused("damaged", self.saved, "app:1")
        os.truncate(path, 5)
        self.refused("the image store lacks parts of app:1", self.store.save, ["app:1"])

    @rows(("gzip",), ("bz2",), ("lzma",), ("two members",))
    def test_packed(self, kind):
        archive = layered_image("app:1")
        packed = gzip.compress(archive[:5000]) + gzip.compress(archive[5000:]) + bytes(700) if kind == "two members" else \
            __import__(kind).compress(archive)
        for size in (1, 7, 100000) if len(packed) < 200000 else (100000,):
            self.load(packed, size)
        self.assertEqual(self.verify(), ["docker.io/library/app:1"])
        self.refused("", self.load, packed[:len(packed) // 2])
        self.refused("", self.load, packed[:20] + b"XXXXXXXXXXXXX" + packed[33:])
        self.assertEqual(os.listdir(os.path.join(self.path, "ingest")), [])

    def test_zstd(self):
        packer = which("zstd")
        if not packer:
            self.skipTest("not installed: zstd")
        packed = subprocess.run([packer, "-c"], input=layered_image("app:1"), stdout=subprocess.PIPE, check=True).stdout
        try:
            import compression.zstd         # noqa: F401
        except ImportError:
            self.refused("this Python cannot unpack zstd", self.load, packed)
        else:
            self.load(packed)
            self.assertEqual(self.verify(), ["docker.io/library/app:1"])

    @rows((b"", "manifest.json"), (b"garbage" * 200, "invalid tar header"), (archive_of(("x", b"y")), "manifest.json"),
          (archive_of(("manifest.json", b"{")), "no JSON"), (archive_of(("manifest.json", b"{}")), "no list"),
          (archive_of(("manifest.json", b"[5]")), "no list of images"), (archive_of(("manifest.json", b"[{}]")), "not describe"),
          (archive_of(("manifest.json", b'[{"Config": "c", "Layers": [5]}]'), ("c", b"{}")), "no list of images"),
          (archive_of(("manifest.json", b'[{"Config": "c"}]')), 'does not contain "c"'),
          (archive_of(("manifest.json", b'[{"Config": "../../etc/passwd"}]')), "does not contain"),
          (archive_of(("manifest.json", b'[{"Config": "c"}]'), ("c", "/etc/passwd", tarfile.SYMTYPE)), "does not contain"),
          (archive_of(("manifest.json", b'[{"Config": "c"}]'), ("c", "c", tarfile.SYMTYPE)), "does not contain"),
          (archive_of(("manifest.json", b'[{"Config": "c"}]'), ("c", b"[]")), "does not describe"),
          (archive_of(("manifest.json", b'[{"Config": "c", "Layers": ["l"]}]'), ("c", b'{"rootfs": {"diff_ids": []}}')),
           "layers length mismatch: expected 0, got 1"),
          (archive_of(("manifest.json", b'[{"Config": "c", "Layers": ["l"]}]'), ("l", b"layer"), (
              "c", b'{"rootfs": {"diff_ids": ["sha256:0"]}}')), 'invalid diffID for layer 0: expected "sha256:0", got'),
          (archive_of(("blobs/sha256/" + "0" * 64, b"x")), "is damaged"), (layered_image("app:1")[:50000], "unexpected EOF"),
          (archive_of(("oci-layout", b"{}"), ("index.json", b'{"manifests": [{"digest": "../../x"}]}')), "names no image"),
          *[(archive_of(("oci-layout", b"{}"), ("index.json", index)), "index.json is no index") for index in (
              b"5", b"[]", b"null", b'{"manifests": 5}', b'{"manifests": [null]}', b'{"manifests": [{"digest": 5}]}',
              b'{"manifests": [{"digest": "x", "annotations": 5}]}')],
          *[(archive_of(("manifest.json", b'[{"Config": "c", "RepoTags": ["x:1"]}]'), ("c", config)), words)
            for config, words in (
                (b'{"rootfs": 5}', "does not describe"), (b'{"rootfs": {"diff_ids": 5}}', "c is no configuration"),
                (b'{"rootfs": {"diff_ids": null}, "config": {"Labels": [1]}}', "c is no configuration"),
                (b'{"rootfs": {"diff_ids": []}, "history": [null]}', "c is no configuration"),
                (b'{"rootfs": {"diff_ids": []}, "config": {"Env": 5}}', "c is no configuration"),
                (b'{"rootfs": {"diff_ids": []}, "history": [{"created_by": [1]}]}', "c is no configuration"))],
          (archive_of(("manifest.json", b'[{"Config": "c", "Layers": ["l"]}]'), ("l", __import__("bz2").compress(b"layer")), (
              "c", b'{"rootfs": {"diff_ids": ["%s"]}}' % digest_of(b"layer").encode())), "packed with bzip2 are not understood"),
          (archive_of(("manifest.json", b'[{"Config": "c", "RepoTags": ["x@sha256:%s"]}]' % (b"0" * 64)), (
              "c", b'{"rootfs": {"diff_ids": []}}')), "invalid tag"))
    def test_bad_archives(self, archive, words):
        self.refused(words, self.load, archive)
        self.assertEqual((self.store.images(), self.blobs()), ([], set()))
        for folder in ("ingest", "leases"):
            self.assertEqual(os.listdir(os.path.join(self.path, folder)), [])

    def test_paths_that_escape(self):
        """Members' names are never paths here."""
        trap = os.path.join(os.path.dirname(self.path), "trap")
        with tarfile.open(fileobj=io.BytesIO(layered_image("app:1"))) as tar:
            files = [(member.name, tar.extractfile(member).read()) for member in tar]
        self.load(archive_of(("../" * 20 + trap, b"x"), (trap, b"x"), ("a", "/", tarfile.SYMTYPE), ("a" + trap, b"x"),
                             ("../../../blobs/sha256/x", b"x"), ("dev", "", tarfile.CHRTYPE), *files))
        self.assertFalse(os.path.exists(trap))
        self.assertEqual(self.blobs(), set(self.store.resolve("app:1").blobs))

    def test_a_bomb(self):
        with unittest.mock.patch.object(self.pydock, "_BOMB_SIZE", 1 << 22):
            bomb = gzip.compress(archive_of(("bomb", bytes(40 << 20))), 9)
            self.refused("the archive is refused", self.load, bomb)
            self.load(gzip.compress(layered_image("app:1", 2, 3 << 20)))
        self.assertEqual(os.listdir(os.path.join(self.path, "ingest")), [])

    def test_packed_layers(self):
        plain = archive_of(("a", b"b"))
        for packed, kind in ((gzip.compress(plain), "+gzip"), (plain, "")):
            config = json.dumps({"rootfs": {"diff_ids": [digest_of(plain)]}, "kind": kind}).encode()
            identifier, = self.load(archive_of(
                ("manifest.json", b'[{"Config": "c", "Layers": ["link"], "RepoTags": ["x:1"]}]'), ("c", config),
                ("sub/layer.tar", packed), ("link", "sub/layer.tar", tarfile.LNKTYPE)))
            layer, = self.store.resolve(identifier).manifest_json["layers"]
            self.assertEqual(layer, {"mediaType": self.pydock.OCI_LAYER + kind, "size": len(packed),
                                     "digest": digest_of(packed)})
        self.assertEqual(self.verify(), ["docker.io/library/x:1"])

    def test_what_an_archive_has_twice(self):
        layer = archive_of(("a", b"b"))
        config = json.dumps({"rootfs": {"diff_ids": [digest_of(layer)] * 2}}).encode()
        manifest = b'{"Config": "c", "Layers": ["1", "2"], "RepoTags": ["x:%d"]}'
        identifier, _ = self.load(archive_of(("manifest.json", b"[%s, %s]" % (manifest % 1, manifest % 2)), ("c", config),
                                             ("1", layer), ("2", layer)))
        self.assertEqual([part["digest"] for part in self.store.resolve("x:2").manifest_json["layers"]],
                         [digest_of(layer)] * 2)
        self.assertEqual(self.words(), "Loaded image: x:1\nLoaded image: x:2\n")
        self.assertEqual(self.store.resolve("x:1").id, identifier)

    @rows(("",), ("gzip",), ("lzma",))
    def test_import(self, kind):
        plain = archive_of(("etc/x", b"y"), ("link", "etc/x", tarfile.SYMTYPE))
        data = __import__(kind).compress(plain) if kind else plain
        image = self.store.import_rootfs(iter([data]), ["ENV A=b", "CMD sh"], "words", "imported:1", "linux/arm64")
        self.assertEqual((image.names, image.platform), (["docker.io/library/imported:1"], "linux/arm64"))
        self.assertEqual(image.config["rootfs"]["diff_ids"], [digest_of(plain)])
        self.assertEqual(image.config["config"], {"Env": ["A=b"], "Cmd": ["/bin/sh", "-c", "sh"]})
        layer, = image.manifest_json["layers"]
        self.assertEqual(layer["digest"], digest_of(data if kind == "gzip" else plain))
        self.assertEqual(self.store.inspect(image)["Comment"], "words")
        with unittest.mock.patch.object(module().time, "time", lambda: 1e9 + 0.5):
            again = self.store.import_rootfs(iter([data]))
        self.assertEqual(again.created, "2001-09-09T01:46:40.5Z")      # as the engine would write it again
        self.store.remove(again.id)
        self.assertEqual(self.verify(), ["docker.io/library/imported:1"])
        for wrong in (b"garbage" * 1000, data[:len(data) - len(data) // 3], archive_of(("a", bytes(5000)))[:3000]):
            if kind or wrong[:1] != b"e":
                self.refused("", self.store.import_rootfs, iter([wrong]))
        self.assertEqual(self.store.collect(), 0)

    @rows(("CMD echo hi", {"Cmd": ["/bin/sh", "-c", "echo hi"]}), ('CMD ["a","b"]', {"Cmd": ["a", "b"]}),
          ('CMD ["a", 3]', "when using JSON array syntax, arrays must be comprised of strings only"), ("cmd []", {"Cmd": []}),
          ("CMD", {"Cmd": ["/bin/sh", "-c"]}), ("ENTRYPOINT x y", {"Entrypoint": ["/bin/sh", "-c", "x y"]}),
          ('ENV a=b c="d e"', {"Env": ["a=b", "c=d e"]}), ("ENV a b c", {"Env": ["a=b c"]}),
          ("ENV a", "ENV must have two arguments"), ("ENV =x", "ENV names can not be blank"),
          ("ENV", "ENV requires at least one argument"), ("ENV a=1 b", "Syntax error - can't find = in \"b\". Must be of the"),
          ("ENV P=$PATH:/x Q=${Z:-d} R=${Z:+d}", {"Env": ["P=:/x", "Q=d", "R="]}),
          ("ENV a=\"x\\\"y\" b='$Q \\n'", {"Env": ['a=x"y', "b=$Q \\n"]}), ("ENV A=1\nENV B=$A-2 A=3", {"Env": ["A=3", "B=1-2"]}),
          ("EXPOSE 80/udp 90-91 1:2", {"ExposedPorts": {"80/udp": {}, "90/tcp": {}, "91/tcp": {}, "2/tcp": {}}}),
          ("EXPOSE foo", "Invalid containerPort: foo"), ("EXPOSE 99999", "Invalid containerPort: 99999"),
          ("EXPOSE 80/foo", "Invalid proto: foo"), ("EXPOSE", "EXPOSE requires at least one argument"),
          ('LABEL a=b "c d"=e o=v\\ 3', {"Labels": {"a": "b", "c d": "e", "o": "v 3"}}), ("LABEL a b", {"Labels": {"a": "b"}}),
          ("LABEL a", "LABEL must have two arguments"), ("USER me", {"User": "me"}), ("USER a b", {"User": "a b"}),
          ("USER", "USER requires exactly one argument"), ("VOLUME /a /b", {"Volumes": {"/a": {}, "/b": {}}}),
          ('VOLUME ["/c"]', {"Volumes": {"/c": {}}}), ("VOLUME", "VOLUME requires at least one argument"),
          ('VOLUME ["", "/d"]', "VOLUME specified can not be an empty string"), ("WORKDIR x", {"WorkingDir": "/x"}),
          ("WORKDIR /a/../b/", {"WorkingDir": "/a/../b/"}), ("WORKDIR /w\nWORKDIR sub", {"WorkingDir": "/w/sub"}),
          ("ONBUILD RUN x", {"OnBuild": ["RUN x"]}), ("ONBUILD from x", "FROM isn't allowed as an ONBUILD trigger"),
          ("ONBUILD ONBUILD x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
          ("ONBUILD", "ONBUILD requires at least one argument"), ("STOPSIGNAL 9", {"StopSignal": "9"}),
          ("HEALTHCHECK NONE", {"Healthcheck": {"Test": ["NONE"]}}),
          ("HEALTHCHECK CMD a b", {"Healthcheck": {"Test": ["CMD-SHELL", "a b"]}}),
          ('HEALTHCHECK --interval=5s --retries=3 CMD ["a"]', {"Healthcheck": {
              "Test": ["CMD", "a"], "Interval": 5000000000, "Retries": 3}}),
          ("HEALTHCHECK --interval=x CMD a", 'time: invalid duration "x"'), ("HEALTHCHECK --foo=1 CMD a", "Unknown flag: foo"),
          ("HEALTHCHECK --interval=1us CMD a", 'Interval "interval" cannot be less than 1ms'),
          ("HEALTHCHECK --retries=0 CMD a", "--retries must be at least 1 (not 0)"),
          ("HEALTHCHECK foo", 'Unknown type "FOO" in HEALTHCHECK (try CMD)'),
          ("HEALTHCHECK NONE x", "HEALTHCHECK NONE takes no arguments"),
          ("HEALTHCHECK", "HEALTHCHECK requires at least one argument"), ("RUN x", "run is not a valid change command"),
          ("", "file with no instructions"), ("# c", "file with no instructions"))
    def test_changes(self, text, wanted):
        if isinstance(wanted, dict):
            self.assertEqual(self.pydock.apply_changes({}, [text]), wanted)
        else:
            self.assertEqual(self.refused(wanted, self.pydock.apply_changes, {}, [text]).status, 400)


# What the processes of the next tests do; sys.argv is: what, the store's path, a number.
WORKER = """
import hashlib, json, os, random, sys, time
sys.path.insert(0, %r)
sys.dont_write_bytecode = True
import pydock
what, path, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = pydock.ImageStore(path)
chance = random.Random(number)

def image(seed, name, size=200000, step=20000):
    data = hashlib.sha256(b"%%d" %% seed).digest() * (size // 32)
    layer = "sha256:" + hashlib.sha256(data).hexdigest()
    config = json.dumps({"os": "linux", "rootfs": {"type": "layers", "diff_ids": [layer]}, "seed": seed}).encode()
    identifier = "sha256:" + hashlib.sha256(config).hexdigest()
    manifest = json.dumps({"config": {"digest": identifier, "size": len(config)},
                           "layers": [{"digest": layer, "size": len(data)}]}).encode()
    digest = "sha256:" + hashlib.sha256(manifest).hexdigest()
    with store.keep([layer, identifier, digest]):
        with store.ingest(layer, len(data)) as blob:
            assert blob.done or data[:blob.offset][-1:] == data[blob.offset - 1:blob.offset]
            for at in range(blob.offset, len(data), step):
                blob.write(data[at:at + step])
            blob.commit()
        store.add_blob(config)
        store.add_blob(manifest)
        store.put_image(name, {"digest": digest, "size": len(manifest)})

def mess():
    while True:
        action = chance.randrange(8)
        try:
            if action < 4:
                image(chance.randrange(6), "mess:%%d" %% chance.randrange(5))
            elif action < 5:
                store.tag(store.resolve("mess:%%d" %% chance.randrange(5)), "mess:%%d" %% chance.randrange(5))
            elif action < 6:
                store.remove("mess:%%d" %% chance.randrange(5), force=True)
            elif action < 7:
                store.collect()
            else:
                store.images()
        except pydock.NotFound:
            pass
        print(action, flush=True)

if what == "mess":
    mess()
elif what == "tag":
    for at in range(8):
        image(number * 100 + at, "tag:%%d-%%d" %% (number, at), 32000)
elif what == "collect":
    for _ in range(30):
        store.collect()
        time.sleep(0.01)
elif what == "remove":
    for at in range(8):
        image(at %% 3, "remove:%%d" %% number, 32000)
        assert all(map(store.has_blob, store.resolve("remove:%%d" %% number).blobs))
        store.remove("remove:%%d" %% number)
        time.sleep(0.01)
elif what == "fill":
    try:
        image(number, "full:1", 3 << 20)
    except pydock.DockerError as error:
        print(error)
"""


class StoreSharingTest(StoreCase):
    """Several processes in one store, some of them killed."""

    def worker(self, what, number):
        """Starts one."""
        child = subprocess.Popen([sys.executable, "-c", WORKER % HERE, what, self.path, str(number)],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(child.wait)
        self.addCleanup(child.kill)
        self.addCleanup(child.stdout.close)
        self.addCleanup(child.stderr.close)
        return child

    def finish(self, *children):
        """Waits until they end; what they said."""
        said = []
        for child in children:
            out, err = child.communicate(timeout=60)
            self.assertEqual((child.returncode, err.decode()), (0, ""))
            said.append(out.decode())
        return "".join(said)

    def test_together(self):
        """Names given at once are all there, while others collect and remove what they share."""
        self.finish(*[self.worker(what, number) for what, number in (
            ("tag", 1), ("tag", 2), ("tag", 3), ("remove", 4), ("remove", 5), ("collect", 0))])
        self.assertEqual(self.verify(), sorted("docker.io/library/tag:%d-%d" % (number, at) for number in (1, 2, 3)
                                               for at in range(8)))
        self.store.collect()
        self.assertEqual(len(self.blobs()), 3 * 8 * 3)

    def test_kills(self):
        """Processes killed at any instant: the store opens, is whole, and serves on."""
        rounds, chance = int(os.environ.get("PYDOCK_TEST_KILLS", 12)), random.Random(5)
        for number in range(rounds):
            children = [self.worker("mess", number * 2 + at) for at in range(2)]
            for child in children:
                child.stdout.readline()             # it is at it
            time.sleep(chance.random() * 0.15)
            for child in children:
                child.kill()
            for child in children:
                self.assertEqual((child.wait(), child.stderr.read().decode()), (-9, ""))
            self.verify()
        self.load(layered_image("app:1"))
        self.store.collect()
        for folder in ("ingest", "leases"):
            self.assertEqual(os.listdir(os.path.join(self.path, folder)), [])
        self.assertEqual(self.blobs(), {digest for image in self.store.images() for digest in image.blobs})
        self.assertEqual(sorted(os.listdir(self.path)), ["blobs", "cache.json", "index.json", "ingest", "leases", "lock",
                                                         "oci-layout"])

    def test_one_downloads_and_the_other_waits(self):
        data = os.urandom(1000)
        digest, seen = digest_of(data), []

        def other():
            with self.store.ingest(digest, len(data)) as blob:
                seen.append((blob.offset, blob.done))

        thread = threading.Thread(target=other)
        with self.store.ingest(digest, len(data)) as blob:
            blob.write(data)
            thread.start()
            time.sleep(0.2)
            self.assertEqual(seen, [])
            blob.commit()
        thread.join(10)
        self.assertEqual(seen, [(1000, True)])

    def test_a_lease(self):
        with self.store.keep() as lease:
            with self.store.keep():
                lease.add(digest_of(b"kept"))
                self.store.add_blob(b"kept")
                self.store.add_blob(b"lost")
            with self.store.ingest(digest_of(b"part"), 4) as blob:
                blob.write(b"pa")
                self.store.collect()                # in the midst of a download
                self.assertEqual(self.blobs(), {digest_of(b"kept")})
                blob.write(b"rt")
                blob.commit()
            self.store.collect()
            self.assertEqual(self.blobs(), {digest_of(b"kept")})
        self.store.collect()
        self.assertEqual(self.blobs(), set())

    def test_without_locks(self):
        """Where there is no fcntl one process has the store for itself."""
        with unittest.mock.patch.dict(sys.modules, fcntl=None):
            self.load(layered_image("app:1"))
            self.store.remove("app:1")
            self.assertEqual(self.store.collect(), 0)
            claim = os.path.join(self.path, "claim")
            self.assertTrue(os.path.exists(claim))
            self.pydock._HELD.pop(claim)            # as in another process
            self.refused("the image store is in use by another process", self.load, layered_image("app:1"))
            self.pydock._HELD[claim] = None

    def test_locks_that_fail(self):
        """As on some network file systems."""
        with unittest.mock.patch.object(fcntl, "flock", side_effect=OSError(37, "no locks available")):
            self.refused("lock %s/lock: no locks available" % self.path, self.load, layered_image("app:1"))

    def test_what_the_dead_have_left(self):
        self.load(layered_image("app:1"))
        with self.store.keep() as lease:
            self.write("store/ingest/%s/1" % os.path.basename(lease.folder()), b"alive")
            for name in ("leases/dead", "ingest/dead/1", "cache.jsonabc", "index.jsonabc", "events.jsonlabc"):
                os.makedirs(os.path.dirname(os.path.join(self.path, name)), exist_ok=True)
                self.write("store/" + name, b"left")
            self.store.remove("app:1")
            self.assertEqual(os.listdir(os.path.join(self.path, "ingest")), [os.path.basename(lease.folder())])
            self.store.collect()
            self.assertEqual(os.listdir(lease.folder()), ["1"])
        self.assertEqual(set(os.listdir(self.path)) - {"cache.json"}, {"blobs", "index.json", "ingest", "leases", "lock",
                                                                       "oci-layout"})

    def test_full_disk(self):
        mount = which("mount")
        self.store.prepare()
        if os.geteuid() or not mount or run([mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", self.path]).status:
            self.skipTest("no small disk to be had")
        try:
            self.load(layered_image("app:1"))
            self.assertIn("no space left on device", self.finish(self.worker("fill", 1)))
            self.assertEqual(self.verify(), ["docker.io/library/app:1"])
            self.refused("no space left on device", self.load, layered_image("big:1", 3, 1 << 20))
            self.refused("no space left on device", self.store.import_rootfs, iter([archive_of(("x", bytes(3 << 20)))]))
            self.load(layered_image("small:1", 1))
            self.assertEqual(self.verify(), ["docker.io/library/app:1", "docker.io/library/small:1"])
            for number in range(2):
                with open(os.path.join(self.path, "filler"), "ab", 0) as file:
                    with contextlib.suppress(OSError):
                        while file.write(bytes(4096)):
                            pass
                if not number:          # what makes room is still possible
                    self.assertEqual(self.store.remove("small:1")[0], {"Untagged": "small:1"})
            self.refused("no space left on device", self.store.tag, self.store.resolve("app:1"), "app:2")
            self.refused("no space left on device", self.store.keep(["x" * 5000]).__enter__)
            self.assertEqual(os.listdir(os.path.join(self.path, "leases")), [])
            self.assertEqual(self.verify(), ["docker.io/library/app:1"])
            self.store.collect()
            self.assertEqual(os.listdir(os.path.join(self.path, "ingest")), [])
            os.unlink(os.path.join(self.path, "filler"))
            self.store.tag(self.store.resolve("app:1"), "app:2")
        finally:
            run([which("umount"), self.path])


class StoreToolsTest(StoreCase):
    """What other tools make of the store and its archives, and it of theirs."""

    def skopeo(self, *args):
        """Runs skopeo; what it says."""
        if not which("skopeo") or not ENGINES:
            raise lacking("skopeo", "no skopeo here")
        outcome = run([which("skopeo"), "--insecure-policy"] + list(args), clean_env(self.folder()))
        self.assertEqual(outcome.status, 0, outcome.stderr)
        return outcome.stdout

    def test_skopeo(self):
        identifier, = self.load(layered_image("app:1"))
        name = "oci:%s:docker.io/library/app:1" % self.path
        image = self.store.resolve("app:1")
        self.assertEqual(json.loads(self.skopeo("inspect", name))["Layers"], image.blobs[2:])
        for kind in ("oci-archive", "docker-archive"):
            target = self.write(kind)
            os.unlink(target)
            self.skopeo("copy", name, "%s:%s:copied:1" % (kind, target))
            with open(target, "rb") as file:
                self.load(file.read())
            self.assertIn("Loaded image: copied:1\n", self.words())
        saved = self.write("saved.tar", self.saved("app:1"))
        self.skopeo("inspect", "docker-archive:%s:app:1" % saved)
        self.skopeo("inspect", "oci-archive:%s:1" % saved)
        self.skopeo("copy", "docker-archive:%s:app:1" % saved, "oci:%s:written:1" % self.path)
        self.assertEqual(self.verify(), ["docker.io/library/" + name for name in ("app:1", "copied:1", "written:1")])
        self.store.remove(self.store.resolve("written:1").id, force=True)
        self.store.collect()
        self.assertNotIn("docker.io/library/written:1", self.verify())
        self.assertTrue(identifier)

    def engine(self, part):
        """Takes what save makes, and load what it saves."""
        engine = part.get()
        plain = layered_image("store:1")
        identifier, = self.load(plain)
        self.store.import_rootfs(iter([gzip.compress(busybox_tar())]), ["CMD sh"], "", "store-imported:1")
        names = ["store:1", "store-imported:1"]
        prefix = "" if part is Dockerd else "localhost/"
        must(api(engine.host, "POST", "/v1.40/images/load", self.saved(*names), {"Content-Type": "application/x-tar"}))
        for name in names:
            self.addCleanup(api, engine.host, "DELETE", "/v1.40/images/%s%s?force=1" % (prefix, name))
            mine = self.store.inspect(self.store.resolve(name))
            theirs = must(api(engine.host, "GET", "/v1.40/images/%s%s/json" % (prefix, name)))
            self.assertEqual(theirs["Id"].rpartition(":")[2], mine["Id"].rpartition(":")[2])
            self.assertEqual(theirs["RootFS"]["Layers"], mine["RootFS"]["Layers"])
            if part is Dockerd:
                for key in set(theirs) - {"Size", "VirtualSize", "GraphDriver", "Metadata"}:
                    self.assertEqual(mine[key], theirs[key], key)
        self.assertTrue(identifier)
        return engine, prefix

    def test_dockerd(self):
        engine, _ = self.engine(Dockerd)
        data = run([docker_client(), "-H", engine.host, "save", "store:1", "store-imported:1"], clean_env(self.folder()),
                   binary=True).stdout
        ids = {image.id for image in self.store.images()}
        self.store.remove("store:1")
        self.store.remove("store-imported:1")
        self.assertEqual(set(self.load(data)), ids)
        self.assertEqual(self.verify(), ["docker.io/library/store-imported:1", "docker.io/library/store:1"])

    def test_podman(self):
        engine, prefix = self.engine(Podman)
        for kind in ("docker-archive", "oci-archive"):
            path = self.write(kind)
            os.unlink(path)
            out = run([which("podman"), "--storage-driver=vfs", "--root", engine.path("root"), "--runroot", engine.path("run"),
                       "--tmpdir", engine.path("tmp"), "save", "--format", kind, "-o", path, prefix + "store:1"],
                      clean_env(engine.dir, TMPDIR=engine.dir))
            self.assertEqual(out.status, 0, out.stderr)
            with open(path, "rb") as file:
                self.load(file.read())
            self.assertEqual(self.store.resolve("localhost/store:1").config["rootfs"],
                             self.store.resolve("store:1").config["rootfs"])


# ======================================================================================================
# The embedded engine: in process, and as a daemon (no other engine needed)
# ======================================================================================================

def image_archive(name, *layers, config=None, pack=None):
    """A `docker save` archive of an image whose layers are these archives; `pack` compresses them."""
    diffs = ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]
    about = json.dumps({"architecture": "amd64", "os": "linux", "created": "2020-01-02T03:04:05Z",
                        "config": config or {"Cmd": ["sh"], "Env": ["PATH=/bin"], "Labels": {"made": "by hand"}},
                        "rootfs": {"type": "layers", "diff_ids": diffs},
                        "history": [{"created": "2020-01-02T03:04:05Z", "created_by": "layer %d" % i}
                                    for i in range(len(layers))]}).encode()
    names = ["%d/layer.tar" % i for i in range(len(layers))]
    entries = [(path, (pack or bytes)(layer)) for path, layer in zip(names, layers)]
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": names}]).encode()
    return tar_of(("config.json", about), ("manifest.json", manifest), *entries)


FOLDER, SYMLINK, HARDLINK = b"5", b"2", b"1"
LAYERS = (
    tar_of(("etc", FOLDER), ("etc/passwd", b"root\n", {"uid": 3, "gid": 7, "mode": 0o4755}), ("etc/old", b"old"),
           ("gone", FOLDER), ("gone/a", b"a"), ("opaque", FOLDER), ("opaque/lower", b"l"), ("keep", FOLDER),
           ("keep/lower", b"l"), ("etc/hard", HARDLINK, {"linkname": "etc/passwd"}), ("turns", b"file")),
    tar_of(("etc/.wh.old", b""), (".wh.gone", b""), ("opaque/new", b"n"), ("opaque/.wh..wh..opq", b""),
           ("keep/upper", b"u"), ("abs", SYMLINK, {"linkname": "/etc"}), ("up", SYMLINK, {"linkname": "../../etc/passwd"}),
           ("chain", SYMLINK, {"linkname": "abs/hard"}), ("loop", SYMLINK, {"linkname": "loop"}), ("pipe", b"6"),
           ("null", b"3", {"devmajor": 1, "devminor": 3}), ("turns", FOLDER), ("turns/into", b"a folder")),
    tar_of(("./etc/passwd", b"newer root\n"), ("implied/by/path", b"x"), ("gone", FOLDER), ("gone/again", b"g"),
           ("big", b"0123456789abcdef" * 40000), ("../../outside", b"stays in"), ("cross", HARDLINK, {"linkname": "keep/upper"}),
           ("dangling", SYMLINK, {"linkname": "no/where"})))


class EmbeddedCase(CliCase):
    """pydock with its own engine, in process, on a store of the test's own."""

    host = "embedded://"

    def setUp(self):
        super().setUp()
        self.root = os.path.join(self.folder(), "store")
        self.extra_env = {"PYDOCK_ROOT": self.root}

    _template = []

    def stock(self):
        """Fills the store: the image app:1 of LAYERS, also as app:2, a later image other:1, the containers box and two."""
        if not self._template:
            root = os.path.join(scratch_folder("stock", shared=True), "store")
            with module().Client("embedded://" + root) as client:
                with client.load_image(iter([image_archive("app:1", *LAYERS)])) as answer:
                    answer.read()
                list(client.import_image(iter([LAYERS[0]]), "other:1"))
                client.tag("app:1", "app", "2")
                client.create_container({"Image": "app:1", "Labels": {"a": "1"}}, "box")
                client.create_container({"Image": "app:1"}, "two")
            self._template.append(root)
        shutil.copytree(self._template[0], self.root)

    def load(self, name="app:1", *layers, **options):
        self.check(self.pydock("load", input=image_archive(name, *(layers or LAYERS), **options)), 0,
                   re.compile("(^|\n)Loaded image: %s\n$" % name))

    def members(self, data):
        """{name: (type, contents or link, mode, uid)} of an archive."""
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            return {info.name.rstrip("/") or "/": (
                info.type, tar.extractfile(info).read() if info.isreg() else info.linkname, info.mode, info.uid)
                for info in tar}


class EmbeddedTest(EmbeddedCase):
    """Images and containers that never run, as the command line sees them."""

    def test_a_day_in_its_life(self):
        self.load()
        self.check(self.pydock("tag", "app:1", "localhost:5000/x/y:2"), 0, "")
        self.check(self.pydock("images", "--format", "{{.Repository}}:{{.Tag}}"), 0, "app:1\nlocalhost:5000/x/y:2\n")
        self.check(self.pydock("history", "--format", "{{.CreatedBy}}", "app:1"), 0, "layer 2\nlayer 1\nlayer 0\n")
        self.check(self.pydock("inspect", "-f", "{{.Os}} {{.Config.Labels}} {{.RepoTags}}", "app:1"), 0,
                   "linux map[made:by hand] [app:1 localhost:5000/x/y:2]\n")
        made = self.check(self.pydock("create", "--name", "box", "-l", "a=b", "-e", "X=1", "app:1", "run", "me"), 0).stdout
        self.check(self.pydock("ps", "-q"), 0, "")
        self.check(self.pydock("ps", "-qf", "since=box"), 0, "")
        self.check(self.pydock("ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.Command}} {{.Status}}"), 0,
                   '%s box "run me" Created\n' % made.strip())
        self.check(self.pydock("inspect", "-f", "{{.Config.Env}} {{.Config.Labels}} {{.Path}} {{.State.Status}}", "box"), 0,
                   "[X=1 PATH=/bin] map[a:b made:by hand] run created\n")
        self.check(self.pydock("rename", "box", "case"), 0, "")
        self.check(self.pydock("rmi", "localhost:5000/x/y:2"), 0, "Untagged: localhost:5000/x/y:2\n")
        self.check(self.pydock("rmi", "app:1"), 1, "", re.compile(
            r'conflict: unable to remove repository reference "app:1" \(must force\) - container %s' % made[:12]))
        self.check(self.pydock("rmi", "-f", "app:1"), 0, re.compile("Untagged: app:1\nDeleted: "))
        self.check(self.pydock("cp", "case:/etc/hard", "-", binary=True), 0)      # its files are still there
        self.check(self.pydock("system", "prune", "-f"), 0, re.compile("Deleted Containers:\n" + made))
        left = [name for base, _, names in os.walk(os.path.join(self.root, "blobs")) for name in names]
        self.assertEqual(left, [])
        actions = self.check(self.pydock("events", "--since", "1", "--until", "-1s", "--format", "{{.Action}}"), 0).stdout
        self.assertEqual(actions.split(), ["load", "tag", "create", "rename", "untag", "untag", "delete", "archive-path",
                                           "destroy", "prune", "prune"])

    def test_names_that_no_system_has(self):
        """Each folder's whole name is in an archive: those of a deep one would fill a disk."""
        for name, link in (("/".join("d" * 3000), ""), ("short", "/".join("d" * 3000))):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE if link else tarfile.REGTYPE, link
            out = io.BytesIO()
            with tarfile.open(fileobj=out, mode="w") as tar:
                tar.addfile(info)
            self.load("deep:1", out.getvalue())
            self.check(self.pydock("create", "--name", "deep", "deep:1", "x"), 0)
            self.check(self.pydock("export", "deep"), 1, "", re.compile("a file name that is too long: d/d/"))
            self.check(self.pydock("rm", "deep"), 0)

    def test_somebody_else_is_faster(self):
        """An image that another process removes while it is loaded, or while this one is about to remove it."""
        pydock, remove = module(), module().ImageStore.remove

        def twice(*args, **options):
            remove(*args, **options)
            return remove(*args, **options)

        def gone(store, name):
            raise pydock.NotFound(404, "No such image")

        with pydock.Client("embedded://" + self.root) as client:
            with unittest.mock.patch.object(pydock.ImageStore, "resolve", gone):
                with client.load_image(iter([image_archive("app:1", *LAYERS)])) as answer:
                    self.assertNotIn(b"error", answer.read())
            with unittest.mock.patch.object(pydock.ImageStore, "remove", twice):
                pruned = client.call("POST", "/images/prune", {"filters": '{"dangling": ["false"]}'})
            self.assertEqual((pruned["ImagesDeleted"], client.images()), (None, []))
            store = pydock.ImageStore(self.root)
            identifier, = store.load(iter([image_archive("app:1", *LAYERS)]), str)
            os.truncate(store.blob_path(store.resolve(identifier).blobs[0]), 5)
            pruned = client.call("POST", "/images/prune", {"filters": '{"dangling": ["false"]}'})
            self.assertIn({"Deleted": identifier}, pruned["ImagesDeleted"])

    def test_events_that_were_cut(self):
        self.load()
        with open(os.path.join(self.root, "events.jsonl"), "ab") as file:
            file.write(b'{"status": "ta\n5\n')
        self.check(self.pydock("tag", "app:1", "app:2"), 0)
        self.check(self.pydock("events", "--since", "0", "--until", str(time.time()), "--format", "{{.Action}}"), 0,
                   "load\ntag\n")

    def test_the_files_of_an_image(self):
        """Whiteouts, opaque folders and links, and nothing from outside."""
        self.stock()
        found = self.members(self.check(self.pydock("export", "box", binary=True), 0).stdout)
        self.assertEqual(sorted(found), [
            "abs", "big", "chain", "cross", "dangling", "etc", "etc/hard", "etc/passwd", "gone", "gone/again", "implied",
            "implied/by", "implied/by/path", "keep", "keep/lower", "keep/upper", "loop", "null", "opaque", "opaque/new",
            "outside", "pipe", "turns", "turns/into", "up"])
        self.assertEqual(found["etc/passwd"][1:], (b"newer root\n", 0o644, 0))
        self.assertEqual(found["etc/hard"][1:], (b"root\n", 0o4755, 3))
        self.assertEqual({found["cross"][:2], found["keep/upper"][:2]},
                         {(b"0", b"u"), (b"1", "keep/upper" if found["cross"][0] == b"1" else "cross")})
        self.assertEqual(len(found["big"][1]), 640000)

    @rows(("/etc", {"etc", "etc/passwd", "etc/hard"}), ("/etc/.", {".", "./passwd", "./hard"}), ("abs", {"abs"}),
          ("abs/", {"abs", "abs/passwd", "abs/hard"}), ("/abs/passwd", {"passwd"}), ("/up", {"up"}),
          ("/etc/../keep/upper", {"upper"}), ("dangling", {"dangling"}), ("/nosuch", None),
          ("/etc/passwd/", None), ("/etc/passwd/x", None), ("dangling/x", None), ("/etc/old", None))
    def test_what_cp_takes(self, path, names):
        self.stock()
        if names is None:
            self.check(self.pydock("cp", "box:" + path, "-"), 1, "", "Error response from daemon: Could not find the file %s "
                       "in container box\n" % path)
        else:
            done = self.check(self.pydock("cp", "box:" + path, "-", binary=True), 0)
            self.assertEqual(set(self.members(done.stdout)), names)

    def test_cp_to_files(self):
        self.stock()
        self.check(self.pydock("cp", "-L", "box:/chain", "out"), 0)
        self.check(self.pydock("cp", "box:/keep", "."), 0)
        with open(os.path.join(self.home, "out"), "rb") as file:
            self.assertEqual(file.read(), b"root\n")
        self.assertEqual(set(tree(os.path.join(self.home, "keep"))), {"lower", "upper"})
        self.check(self.pydock("cp", "-L", "box:/loop", "x"), 1, "", re.compile("loop"))

    @rows(("gzip", gzip.compress), ("two members", lambda data: gzip.compress(
        data[:1000]) + gzip.compress(data[1000:])))
    def test_packed_layers(self, title, pack):
        self.load(pack=pack)
        self.check(self.pydock("create", "--name", "box", "app:1"), 0)
        found = self.members(self.check(self.pydock("cp", "box:/big", "-", binary=True), 0).stdout)
        self.assertEqual(len(found["big"][1]), 640000)

    def test_save_of_a_whole_repository(self):
        self.stock()
        saved = self.check(self.pydock("save", "app", binary=True), 0).stdout
        with tarfile.open(fileobj=io.BytesIO(saved)) as tar:
            manifest = json.loads(tar.extractfile("manifest.json").read().decode())
        self.assertEqual([item["RepoTags"] for item in manifest], [["app:1", "app:2"]])
        self.check(self.pydock("save", "other", "nosuch"), 1)
        self.check(self.pydock("events", "--since", "1", "--until", "-1s", "-f", "event=save", "--format", "{{.Action}}"),
                   0, "save\n")

    def test_archives_and_imports(self):
        self.load()
        saved = self.check(self.pydock("save", "app:1", binary=True), 0).stdout
        self.check(self.pydock("rmi", "app:1"), 0)
        self.check(self.pydock("load", input=saved), 0, "Loaded image: app:1\n")
        identifier = self.check(self.pydock("import", "-m", "words", "-c", "CMD x y", "-", "made:1", input=LAYERS[0]), 0,
                                re.compile("^sha256:[0-9a-f]{64}\n$")).stdout.strip()
        self.check(self.pydock("inspect", "-f", "{{.Id}} {{.Comment}} {{.Config.Cmd}}", "made:1"), 0,
                   identifier + " words [/bin/sh -c x y]\n")
        self.check(self.pydock("import", "-", "made:2", input=b"nonsense" * 100), 1, "", re.compile("invalid tar header"))
        self.check(self.pydock("load", input=b"nonsense" * 100), 1, "", re.compile("invalid tar header"))
        self.check(self.pydock("load", input=tar_of(("x", b"y"))), 1)

    @lines("""
        ! inspect nosuch
        ! tag nosuch x
        ! rmi nosuch
        ! history nosuch
        ! save nosuch
        ! rm nosuch
        ! rename nosuch x
        ! export nosuch
        ! push nosuch
        ! create --pull never nosuch
        ! network inspect nosuch
        ! volume inspect nosuch
        ! images -f x=y
        ! ps -f x=y
        ! images -f dangling=maybe
        ! ps -f status=bogus
        ! ps -f exited=x
        ! ps -f health=x
        ! search -f stars=x y
        ! pull -q --platform a/b/c/d 127.0.0.1:1/x
        ! stop nosuch
        ! create --name a/b app:1
        ! create --name box app:1
    """)
    def test_refusals(self, *args, fails=True):
        """One line each, in an engine's words."""
        self.stock()
        done = self.pydock(*args)
        self.check(done, 1, None, re.compile(r"^(Error|errors)[^\n]+\n(\n?Run 'docker [^\n]*\n)?$|does not exist locally|failed to rename"))

    @lines("""
        ! start box
        ! run app:1
        ! run -d app:1
        ! run --rm app:1
        ! run 127.0.0.1:1/not/fetched
        ! exec box sh
        ! logs box
        ! kill box
        ! pause box
        ! restart box
        ! top box
        ! update -m 1g box
        ! commit box
        ! network create x
        ! volume create x
        ! stats --no-stream box
        ! cp /etc/passwd box:/
    """)
    def test_what_needs_processes(self, *args, fails=True):
        self.stock()
        done = self.pydock(*args)
        self.check(done, 125 if args[0] == "run" else 1, None, re.compile("runs no processes: start Docker or Podman"))
        if "--rm" in args:
            self.check(self.pydock("ps", "-aq"), 0, re.compile(r"^\w{12}\n\w{12}\n$"))

    @lines("""
        network ls
        volume ls
        network prune -f
        volume prune -f
        builder prune -f
        diff box
        stop box
        system df
        system df -v
        events --since 1 --until 2
        ps
        wait box
    """)
    def test_what_there_is_none_of(self, *args):
        self.stock()
        self.check(self.pydock(*args), 0, None, "")

    @rows(("dangling=true", ""), ("dangling=false", "app:1 app:2 other:1"), ("label=made", "app:1 app:2"),
          ("label=made=by hand", "app:1 app:2"), ("label=made=x", ""), ("reference=app", "app:1 app:2"),
          ("reference=*:1", "app:1 other:1"), ("reference=o*", "other:1"), ("before=other:1", "app:1 app:2"), ("before=app:1", ""), ("since=app:1", "other:1"),
          ("until=1h", "app:1 app:2"), ("before=nosuch", None))
    def test_filters_of_images(self, text, names):
        self.stock()
        done = self.pydock("images", "-f", text, "--format", "{{.Repository}}:{{.Tag}}")
        if names is None:
            self.check(done, 1, "", "Error response from daemon: No such image: nosuch:latest\n")
        else:
            self.assertEqual(sorted(self.check(done, 0).stdout.split()), names.split())

    @rows(("name=bo", "box"), ("name=^/?two$", "two"), ("label=a", "box"), ("label=a=2", ""), ("status=created", "box two"),
          ("status=running", ""), ("ancestor=app:1", "box two"), ("ancestor=nosuch", ""), ("before=two", "box"),
          ("since=box", "two"), ("id=z", ""), ("name=[", ""), ("health=none", "box two"), ("exited=0", ""),
          ("network=default", ""), ("is-task=true", ""), ("is-task=false", "box two"))
    def test_filters_of_containers(self, text, names):
        self.stock()
        done = self.check(self.pydock("ps", "-a", "-f", text, "--format", "{{.Names}}"), 0)
        self.assertEqual(sorted(done.stdout.split()), names.split())

    def test_prune_keeps_what_is_named_or_used(self):
        self.load()
        self.load("app:1", LAYERS[0])      # the old one has no name now
        self.load("used:1", LAYERS[1])
        self.check(self.pydock("create", "--name", "box", "used:1"), 0)
        self.check(self.pydock("image", "prune", "-f"), 0, re.compile("^Deleted Images:\ndeleted: sha256:"))
        self.check(self.pydock("images", "-q"), 0, re.compile(r"^\w{12}\n\w{12}\n$"))
        self.check(self.pydock("image", "prune", "-af"), 0, re.compile("untagged: app:1"))
        with open(os.path.join(self.root, "events.jsonl"), "a") as file:
            file.write('{"cut off by a crash\n[]\n')
        shown = self.check(self.pydock("events", "--since", "1", "--until", "-1s", "--format", "{{.Action}}"), 0).stdout
        self.assertEqual(shown.split()[4:], ["delete", "prune", "untag", "delete", "prune"])
        self.check(self.pydock("images", "--format", "{{.Repository}}"), 0, "used\n")

    @rows(*[({key: value}, None) for key, value in (
        ("Image", ["app:1"]), ("Cmd", [1]), ("Env", "X=1"), ("Env", [None]), ("Labels", {"a": 1}), ("Labels", ["a"]),
        ("Hostname", 5), ("HostConfig", {"NetworkMode": 1}), ("HostConfig", "x"))])
    def test_configurations_of_wrong_types(self, about, _):
        """None is kept, to spoil the lists."""
        self.stock()
        pydock = module()
        with pydock.Client("embedded://" + self.root) as client:
            with self.assertRaises(pydock.ApiError):
                client.create_container(dict({"Image": "app:1"}, **about))
            self.assertEqual(len(client.containers(all=True)), 2)
            client.create_container({"Image": "app:1", "Cmd": "sh"})
            self.assertEqual(client.containers(all=True)[0]["Command"], "sh")

    def test_says_which_engine_it_is(self):
        self.check(self.pydock("version"), 0, re.compile("Server: pydock's embedded engine\n"), "")
        self.check(self.pydock("info"), 0, re.compile("Server Version: pydock .*embedded engine"),
                   re.compile("^WARNING: .*runs no processes"))

    def test_a_place_that_cannot_be_used(self):
        self.check(self.pydock("-H", "embedded:///etc/passwd/x", "load", input=image_archive("app:1", LAYERS[0]),
                               env={"DOCKER_HOST": None}), 1, "", re.compile("cannot use the image store: mkdir .*: not a directory\n$"))

    def test_nothing_is_left_of_it(self):
        """No thread and no descriptor once the client is closed, and no socket at all."""
        pydock = module()
        open_files = lambda: os.path.isdir("/proc/self/fd") and os.listdir("/proc/self/fd")      # noqa
        before, files = set(threading.enumerate()), open_files()
        with pydock.Client("embedded://" + self.root) as client:
            self.assertEqual(client.images(), [])
            other = client.another()
            self.assertEqual(other.containers(all=True), [])
            self.assertEqual(len(set(threading.enumerate()) - before), 2)
            other.close()
            self.assertEqual(list(client.events(since="1", until="2")), [])      # read to its end, it needs no closing
            with self.assertRaises(pydock.ApiError):
                list(client.pull("127.0.0.1:1/x", "1"))
        self.assertEqual(set(threading.enumerate()) - before, set())
        self.assertEqual(open_files(), files)

    def test_at_once(self):
        """Names are given once, whoever asks for them at the same time."""
        self.load()
        made = [subprocess.Popen(pydock_command() + ["create", "--name", "box", "app:1"], env=self.env(),
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(4)]
        self.assertEqual(sorted([process.communicate() and process.returncode for process in made]), [0, 1, 1, 1])


class ChoiceOfEngineTest(CliCase):
    """Where nobody chose an engine and none is at the default socket."""

    def run_with(self, default, *args, env=None, code=""):
        """A command line of a pydock whose default socket is elsewhere."""
        script = ("import sys; sys.path.insert(0, %r); import pydock\n"
                  "pydock.DEFAULT_SOCKET, pydock.DEFAULT_HOST = %r, 'unix://' + %r\n"
                  "pydock.find_engine.__globals__['os'].environ['XDG_RUNTIME_DIR'] = %r\n"
                  "sys.argv[0] = 'docker'\nsys.exit(pydock.main(['docker'] + %r))" % (
                      os.path.dirname(pydock_command()[1]), default, default, os.path.join(self.home, "run"), list(args)))
        return run([sys.executable, "-c", script], dict(self.env({"DOCKER_HOST": None}), **(env or {})), cwd=self.home)

    def setUp(self):
        super().setUp()
        if SUBJECT:
            raise unittest.SkipTest("pydock's own")
        if os.path.exists("/run/podman/podman.sock"):
            raise unittest.SkipTest("podman's socket is here")
        self.root = os.path.join(self.home, ".local/share/pydock")
        self.nowhere = os.path.join(self.home, "no.sock")
        self.notice = "No engine answers at unix://%s: using pydock's own, which keeps its images in %s\n"

    def test_embedded(self):
        self.check(self.run_with(self.nowhere, "images", "-q"), 0, "", self.notice % (self.nowhere, self.root))
        self.check(self.run_with(self.nowhere, "images", "-q", env={"PYDOCK_ROOT": "x"}), 0, "",
                   self.notice % (self.nowhere, os.path.join(self.home, "x")))
        self.check(self.run_with(self.nowhere, "images", "-q", env={"XDG_DATA_HOME": self.home}), 0, "",
                   self.notice % (self.nowhere, os.path.join(self.home, "pydock")))
        self.check(self.run_with(self.nowhere, "-H", "embedded://there", "images", "-q"), 0, "", "")
        self.check(self.run_with(self.nowhere, "--help"), 0, None, "")

    def test_pull_with_no_docker_at_all(self):
        """The README's first command."""
        shelf = Shelf()
        shelf.image("1")
        name = "127.0.0.1:%d/app:1" % self.start(ScriptedEngine(("*", "/v2/.*", shelf), tcp=True)).port
        self.check(self.run_with(self.nowhere, "pull", name), 0, re.compile("Status: Downloaded newer image for " + name),
                   self.notice % (self.nowhere, self.root))
        self.check(self.run_with(self.nowhere, "images", "--format", "{{.Repository}}:{{.Tag}}"), 0, name + "\n")

    def test_stale_socket(self):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(self.nowhere)
        self.check(self.run_with(self.nowhere, "images", "-q"), 0, "", self.notice % (self.nowhere, self.root))

    @rows(("run/docker.sock", 0), (".docker/run/docker.sock", 0), (".docker/desktop/docker.sock", 0),
          ("run/podman/podman.sock", 0))
    def test_other_sockets(self, path, _):
        path = os.path.join(self.home, path)
        os.makedirs(os.path.dirname(path))
        engine = self.start(ScriptedEngine(("GET", "/images/json", answer(200, []))))
        os.symlink(engine.path, path)
        self.check(self.run_with(self.nowhere, "images", "-q"), 0, "",
                   "No engine answers at unix://%s: using the one at unix://%s\n" % (self.nowhere, path))

    def test_default_socket(self):
        engine = self.start(ScriptedEngine(("GET", "/images/json", answer(200, []))))
        self.check(self.run_with(engine.path, "images", "-q"), 0, "", "")

    @rows(("flag", ["-H", "unix://nowhere.sock"], {}), ("variable", [], {"DOCKER_HOST": "unix://nowhere.sock"}),
          ("context", [], {"DOCKER_CONTEXT": "default"}))
    def test_what_was_chosen_counts(self, title, args, env):
        self.check(self.run_with(self.nowhere, *(args + ["images"]), env=env), 1, "", re.compile("^Cannot connect"))


class DaemonTest(EmbeddedCase):
    """`pydock -d`: sockets, HTTP, and its end."""

    def setUp(self):
        super().setUp()
        self.socket = os.path.join(self.folder(), "p.sock")
        self.host = "unix://" + self.socket
        self.log = os.path.join(self.folder(), "log")

    def begin(self, *args, hosts=(), ready=None):
        """Starts a daemon; waits until it listens."""
        argv = pydock_command() + ["-d", "-H", self.host] + [word for host in hosts for word in ("-H", host)] + list(args)
        process = spawn(argv, self.log, self.env({"DOCKER_HOST": None}))
        self.addCleanup(end, process)
        wanted = len(hosts) + 1
        self.assertTrue(wait_until(lambda: self.said().count("API listen on") == wanted, 20, process, 0.02), self.said())
        return process

    def said(self):
        with open(self.log, errors="replace") as file:
            return file.read()

    def talk(self, data, until=b"", host=None, shut=False):
        """Sends bytes; what comes back until the connection ends, or `until` has come."""
        with connect(host or self.host) as sock:
            sock.settimeout(20)
            sock.sendall(data)
            if shut:
                sock.shutdown(socket.SHUT_WR)
            got = b""
            while not (until and until in got):
                block = sock.recv(65536)
                if not block:
                    break
                got += block
            return got

    def read_until(self, sock, text):
        """What comes on a socket, up to this text at least."""
        got = b""
        while text not in got:
            block = sock.recv(65536)
            self.assertTrue(block, got)
            got += block
        return got

    def test_http(self):
        self.begin("-G", "")
        ping = self.talk(b"HEAD /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head = ping.decode().partition("\r\n\r\n")[0]
        self.assertIn("HTTP/1.1 200 OK\r\nApi-Version: 1.51\r\nDocker-Experimental: false\r\nOstype: linux\r\nServer: pydock/",
                      head)
        self.assertNotIn("Builder-Version", head)
        self.assertTrue(ping.endswith(b"\r\n\r\n"))
        with connect(self.host) as sock:      # one connection, several requests, bodies of both kinds that nobody reads
            for body, header in ((b"", b""), (b"{}", b"Content-Length: 2\r\n"), (b"", b"")):
                sock.sendall(b"POST /v1.41/volumes/prune HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n" + body)
                self.assertIn(b"200 OK", self.read_until(sock, b"}\n"))
        for request, wanted in (
                (b"GET /_ping HTTP/1.0\r\n\r\n", b"\r\n\r\nOK"), (b"nonsense\r\n\r\n", b"400 Bad Request"),
                (b"GET / HTTP/9\r\n\r\n", b"400 Bad Request"),
                (b"POST /x HTTP/1.1\r\nContent-Length: -1\r\n\r\n", b"400 Bad Request"),
                (b"GET /nosuch HTTP/1.1\r\nConnection: close\r\n\r\n", b'404 Not Found'),
                (b"GET /v1.23/info HTTP/1.1\r\nConnection: close\r\n\r\n", b"client version 1.23 is too old. Minimum supported "
                 b"API version is 1.24, please upgrade your client to a newer version"),
                (b"GET /v1.52/info HTTP/1.1\r\nConnection: close\r\n\r\n", b"client version 1.52 is too new. Maximum supported "
                 b"API version is 1.51"),
                (b"POST /containers/create HTTP/1.1\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
                 b"unsupported Content-Type header"),
                (b"POST /auth HTTP/1.1\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n", b"100 Continue\r\n\r\nHTTP/1.1 4")):
            self.assertIn(wanted, self.talk(request), request)
        self.assertIn(b"0\r\n\r\n", self.talk(b"GET /events?since=1&until=2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
        self.assertIn(b"HTTP/1.1 200", self.talk(b"GET http://docker/_ping HTTP/1.1\r\nConnection: close\r\n\r\n"))

    def test_requests_that_cannot_be_trusted(self):
        """None is carried out, and the daemon says nothing of Python's."""
        self.stock()
        self.begin("-G", "")
        for rest in (b"", b"\r\nHos", b"\r\nHost: x", b"\r\nHost: x\r\n", b"\r\nno colon\r\n\r\n",
                     b"\r\nContent-Length : 2\r\n\r\n{}", b"\r\nContent-Length: +2\r\n\r\n{}",
                     b"\r\nContent-Length: 0_2\r\n\r\n{}", b"\r\nContent-Length: 2\r\nContent-Length: 5\r\n\r\n{}",
                     b"\r\nTransfer-Encoding: gzip\r\n\r\n", b"\r\nX: " + b"y" * 100000 + b"\r\n\r\n",
                     b"\r\nX: y" * 150 + b"\r\n\r\n"):
            got = self.talk(b"POST /v1.41/containers/prune HTTP/1.1" + rest, shut=True)
            self.assertIn(b"400 Bad Request", got, rest[:50])
        got = self.talk(b"POST /v1.41/auth HTTP/1.1\r\nContent-Type: application/json\r\n"
                        b"Content-Length: 9000000\r\n\r\n" + b" " * 9000000)
        self.assertIn(b"400 Bad Request", got)
        self.assertIn(b"or longer than 8388608 bytes", got)
        self.assertEqual(len(must(api(self.host, "GET", "/containers/json?all=1"))), 2)
        self.assertEqual(self.said().count("\n"), 1, self.said())

    def test_an_answer_goes_on_whatever_comes(self):
        """To a client that has closed its half, and to one that asks for more; one that cannot end is cut off."""
        self.stock()
        self.begin("-G", "")
        request = b"GET /containers/box/export HTTP/1.1\r\nHost: x\r\n\r\n"
        self.assertTrue(self.talk(request, shut=True).endswith(b"\r\n0\r\n\r\n"))
        with connect(self.host) as sock:
            sock.sendall(request)
            self.read_until(sock, b"\r\n\r\n")
            sock.sendall(request)
            self.read_until(sock, b"\r\n0\r\n\r\n")
        blobs = os.path.join(self.root, "blobs", "sha256")
        with open(max((os.path.join(blobs, name) for name in os.listdir(blobs)), key=os.path.getsize), "r+b") as file:
            file.write(b"?")
        self.assertFalse(self.talk(b"GET /images/app:1/get HTTP/1.1\r\nHost: x\r\n\r\n").endswith(b"\r\n0\r\n\r\n"))
        self.assertNotIn("Traceback", self.said())

    @rows(("1.24", ["<none>:<none>"], True), ("1.42", ["<none>:<none>"], True), ("1.43", [], True), ("1.44", [], False))
    def test_versions(self, version, tags, virtual):
        self.begin("-G", "")
        must(api(self.host, "POST", "/images/load?quiet=1", image_archive("app:1", LAYERS[0])))
        must(api(self.host, "POST", "/images/load?quiet=1", image_archive("app:1", LAYERS[1])))
        rows = must(api(self.host, "GET", "/v%s/images/json?filters=%%7B%%22dangling%%22:[%%22true%%22]%%7D" % version))
        self.assertEqual([(row["RepoTags"], "VirtualSize" in row) for row in rows], [(tags, virtual)])

    def test_archives_in_chunks(self):
        """The answer comes on a connection that stays, however the archive was cut."""
        self.begin("-G", "")
        archive = image_archive("app:1", *LAYERS)
        with connect(self.host) as sock:
            for size in (1000, 4096, 100001, len(archive)):
                sock.sendall(b"POST /v1.41/images/load?quiet=1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
                for at in range(0, len(archive), size):
                    piece = archive[at:at + size]
                    sock.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
                sock.sendall(b"0\r\n\r\n")
                got = self.read_until(sock, b"0\r\n\r\n")
                self.assertIn(b"Loaded image: app:1", got)
                self.assertNotIn(b"Connection: close", got)

    def test_its_end(self):
        pidfile = os.path.join(self.home, "pid")
        process = self.begin("--pidfile", pidfile, "-G", "")
        self.assertEqual(stat.S_IMODE(os.stat(self.socket).st_mode), 0o660)
        with open(pidfile) as file:
            self.assertEqual(int(file.read()), process.pid)
        with connect(self.host) as idle, connect(self.host) as listener:
            idle.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
            self.read_until(idle, b"\r\n\r\nOK")
            listener.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
            self.read_until(listener, b"\r\n\r\n")
            began = time.time()
            process.terminate()
            self.assertEqual(process.wait(15), 0, self.said())
            self.assertLess(time.time() - began, 3)
            self.assertEqual(idle.recv(10), b"")
        self.assertFalse(os.path.exists(self.socket))
        self.assertFalse(os.path.exists(pidfile))

    def test_a_transfer_under_way_ends_first(self):
        process = self.begin("-G", "")
        archive = image_archive("app:1", *LAYERS)
        with connect(self.host) as sock:
            sock.sendall(b"POST /v1.41/images/load?quiet=1 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(archive))
            sock.sendall(archive[:5000])
            time.sleep(0.2)
            process.terminate()
            self.assertTrue(wait_until(lambda: not os.path.exists(self.socket), 10))
            sock.sendall(archive[5000:])
            self.read_until(sock, b"Loaded image: app:1")
        self.assertEqual(process.wait(15), 0)

    def test_a_transfer_that_does_not_end_is_cut_by_the_next_signal(self):
        process = self.begin("-G", "")
        with connect(self.host) as sock:
            sock.sendall(b"POST /v1.41/images/load HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc")
            time.sleep(0.2)
            process.terminate()
            time.sleep(0.3)
            self.assertIsNone(process.poll())
            process.terminate()
            self.assertEqual(process.wait(15), 0)

    def test_sockets_that_are_there(self):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(self.socket)      # stale once it is closed
        self.begin("-G", "")
        self.check(self.pydock("-d", "-G", "", "-H", self.host), 1, "", "cannot listen at %s: another engine does\n" % self.host)
        self.assertTrue(answers(self.host))
        with open(os.path.join(self.home, "file"), "w"):
            pass
        self.check(self.pydock("-d", "-H", "unix://%s/file" % self.home), 1, "", re.compile("there is something else\n$"))
        self.check(self.pydock("-d", "-H", "unix:///nonexistent/x.sock"), 1, "", re.compile("no such file or directory\n$"))
        self.check(self.pydock("-d", "-G", "no-such-group", "-H", self.host + "2"), 1, "", re.compile("there is no such group\n$"))
        self.check(self.pydock("-d", "-H", "ssh://x"), 1, "", re.compile("unix:// and tcp:// addresses, not at ssh://x\n$"))
        self.check(self.pydock("-d", "-H", self.host + "2", "ps"), 1, "", "-d takes no command: ps\n")
        self.assertFalse(os.path.exists(self.socket + "2"))

    def test_pidfile_of_another(self):
        pidfile = os.path.join(self.home, "pid")
        with open(pidfile, "w") as file:
            file.write(str(os.getpid()))
        self.check(self.pydock("-d", "-G", "", "-H", self.host, "--pidfile", pidfile), 1, "", re.compile("pid file found"))
        self.assertTrue(os.path.exists(pidfile))
        with open(pidfile, "w") as file:
            file.write("999999999")
        self.begin("-G", "", "--pidfile", pidfile)

    def test_many_clients_and_no_leaks(self):
        process = self.begin("-G", "")
        must(api(self.host, "POST", "/images/load?quiet=1", image_archive("app:1", *LAYERS)))
        made = must(api(self.host, "POST", "/containers/create?name=box", {"Image": "app:1"}))["Id"]
        handles = lambda: len(os.listdir("/proc/%d/fd" % process.pid)) if os.path.isdir("/proc/self/fd") else 0      # noqa
        tasks = lambda: len(os.listdir("/proc/%d/task" % process.pid)) if os.path.isdir("/proc/self/task") else 1      # noqa
        before, failures = handles(), []

        def client():
            try:
                for path in ("/images/json", "/containers/box/archive?path=/etc", "/containers/%s/json" % made,
                             "/images/app:1/get", "/containers/box/export", "/events?since=1&until=2", "/nosuch"):
                    status, _ = api(self.host, "GET", path)
                    if status != (404 if path == "/nosuch" else 200):
                        failures.append((path, status))
                with connect(self.host) as sock:      # one that goes away in the middle
                    sock.sendall(b"GET /containers/box/export HTTP/1.1\r\nHost: x\r\n\r\n")
                    sock.recv(10)
            except (OSError, AssertionError, http.client.HTTPException) as error:
                failures.append(error)
        threads = [threading.Thread(target=client) for _ in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(failures, [])
        self.assertTrue(wait_until(lambda: handles() <= before and tasks() == 1, 10), (handles(), before, tasks()))

    def test_events_as_they_happen(self):
        self.begin("-G", "")
        with connect(self.host) as sock:
            sock.settimeout(10)
            sock.sendall(b"GET /events?filters=%7B%22event%22:%7B%22load%22:true,%22destroy%22:true%7D%7D HTTP/1.1\r\nHost: x\r\n\r\n")
            self.read_until(sock, b"\r\n\r\n")
            must(api(self.host, "POST", "/images/load?quiet=1", image_archive("app:1", LAYERS[0])))
            self.read_until(sock, b'"Action":"load"')
            must(api(self.host, "POST", "/containers/create?name=box", {"Image": "app:1"}))
            self.check(self.pydock("-H", "embedded://", "rm", "box", env={"DOCKER_HOST": None}), 0)      # another process
            self.read_until(sock, b'"Action":"destroy"')

    def test_tls(self):
        certificates = Certificates.get()
        port = free_port()
        cert, key = certificates.server()
        tls = ["--tlsverify", "--tlscacert", os.path.join(certificates.folder("client"), "ca.pem"), "--tlscert", cert,
               "--tlskey", key]
        self.begin("-G", "", *tls, hosts=["tcp://127.0.0.1:%d" % port])
        self.host = "tcp://127.0.0.1:%d" % port
        for kind, status in (("client", 0), ("stranger", 1), ("nocert", 1), ("client", 0)):
            done = self.pydock("--tlsverify", "version", env={"DOCKER_CERT_PATH": certificates.folder(kind)})
            self.check(done, status, re.compile("Server: pydock" if not status else "Client"))
        self.check(self.pydock("version"), 1)      # without TLS
        self.check(self.pydock("--tlsverify", "load", input=image_archive("app:1", *LAYERS),
                               env={"DOCKER_CERT_PATH": certificates.folder("client")}), 0, "Loaded image: app:1\n")
        self.check(self.pydock("-d", "--tls", "--tlscert", "/nonexistent/c", "--tlskey", key, "-H", self.host + "1"), 1, "",
                   re.compile("certificates for TLS cannot be read"))

    def test_tcp_without_tls_warns(self):
        port = free_port()
        self.begin("-G", "", hosts=["tcp://127.0.0.1:%d" % port])
        self.assertIn("WARNING: whoever reaches tcp://127.0.0.1:%d may use this engine" % port, self.said())
        self.assertTrue(answers("tcp://127.0.0.1:%d" % port))


# ======================================================================================================
# Commands, on real engines
# ======================================================================================================

# version and info: the client's block is its own; runtimes come in no order; podman makes up a new ID each time
SERVER = OWN_CLIENT + (
          replaced(r"(?m)^ ID: [0-9a-f]{8}-[0-9a-f-]*$", " ID: UUID"),
          lambda text: re.sub(r"(?m)^ Runtimes: (.*)$",
                              lambda found: " Runtimes: " + " ".join(sorted(found.group(1).split())), text))


class RealEngineCase(DifferentialCase):
    """On dockerd, through a proxy that records the wire; `image` is one of three small layers, `app:1`."""

    on_record = False
    normalise = (AGES, COLUMNS)

    def setUp(self):
        super().setUp()
        self.dockerd = Dockerd.get()
        self.engine = self.start(RecordingProxy(self.dockerd.host))
        self.host = self.engine.host

    def load_app(self, *names):
        """Puts the image app:1 into the engine, under further names too."""
        self.dockerd.load(layered_image("app:1"))
        for name in names:
            self.dockerd.tag("app:1", name)

    def remove(self, *names):
        """Takes names out of the engine."""
        for name in names:
            self.dockerd.remove_image(name)


class EngineListTest(RealEngineCase):
    """images, ps, inspect, version and info of a real engine."""

    def setUp(self):
        super().setUp()
        self.load_app("list/a:1", "list/a:2")
        self.ids = [self.dockerd.container("running", "sleep", "1000", Labels={"x": "y"}),
                    self.dockerd.container("exited", "false"),
                    self.dockerd.container("made", "echo", "hello world", start=False)]
        self.names = {"id": self.ids[0], "short": self.ids[0][:12]}
        wait_until(lambda: not must(api(self.dockerd.host, "GET", "/containers/exited/json"))["State"]["Running"], 10)

    def tearDown(self):
        for name in ("running", "exited", "made"):
            self.dockerd.remove_container(name)
        self.remove("list/a:1", "list/a:2")
        super().tearDown()

    @lines("""
        images
        images -aq --no-trunc
        images --digests
        images list/a
        images -f reference=list/*:2
        images --format json list/a
        ps
        ps -a
        ps -as
        ps -aq --no-trunc
        ps -a --filter status=exited
        ps -a --filter name=running --filter label=x=y
        ps -n 1
        ps -l -q
        ps -a --format json
        ps --no-trunc
        ! ps -f nosuch=1
        ! ps -f status=nosuch
        ! images -f nosuch=1
        inspect running
        inspect $short
        inspect $id
        inspect busybox
        inspect app:1
        inspect running busybox app:1
        inspect -s running
        inspect --type image busybox
        ! inspect --type image running
        ! inspect nosuch
        ! inspect running nosuch
        inspect -f {{.Id}} running
        inspect -f {{.State.Running}} running exited
        inspect host
        inspect --type network host
        container inspect exited
        image inspect list/a:1
    """)
    def test_lists(self, *args, **options):
        if args[0] == "images":
            self.normalise += (SORTED,)
        self.differential(*args, **options)

    @lines("""
        version
        info
        system info
        version --format {{.Server.Version}}
        info -f {{.ServerVersion}}
    """)
    def test_server(self, *args, **options):
        self.normalise = SERVER
        self.differential(*args, **options)


class EngineGroupTest(RealEngineCase):
    """Networks, volumes, disk usage, events and stats of a real engine."""

    def setUp(self):
        super().setUp()
        self.dockerd.container("busy", "sh", "-c", "while true; do sleep 0.1; done", Labels={"group": "x"})
        must(api(self.dockerd.host, "POST", "/volumes/create", {"Name": "kept", "Labels": {"a": "b"}}))

    def tearDown(self):
        self.dockerd.remove_container("busy")
        for name in ("kept", "made", "other"):
            must(api(self.dockerd.host, "DELETE", "/volumes/%s?force=1" % name), 204)
        super().tearDown()

    @lines("""
        network ls
        network ls --no-trunc --format json
        network inspect host none
        network inspect -v host
        network inspect -f '{{.IPAM}} {{.Labels}} {{.Created}}' none
        ! network inspect -f {{.Nosuch}} none
        ! network inspect nosuch
        ! network create -d nosuch foo
        ! network create host
        ! network create --subnet 10.0.0.0/24 --subnet 10.0.0.0/25 foo
        ! network connect host busy
        ! network connect nosuch busy
        ! network disconnect -f host busy
        ! network disconnect none nosuch
        ! network rm host nosuch
        network rm -f nosuch
        network prune -f --filter label=nosuch
        ! network ls -f nosuch=1
        volume ls -f name=kept
        volume ls -q -f label=a=b
        volume ls --format json -f name=kept
        volume inspect kept
        volume inspect -f '{{.}} {{.Options}}' kept
        ! volume inspect -f {{.Nosuch}} kept
        ! volume inspect kept nosuch
        volume create -d local --label x=y --opt type=tmpfs --opt device=tmpfs made
        ! volume create -d nosuch made
        ! volume create -o bogus=1 made
        ! volume create --group g made
        volume rm -f nosuch
        ! volume rm nosuch
        volume prune -f --filter label=nosuch
        ! volume prune -a -f
        ! volume update --availability active kept
        system df
        system df -v
        system df --format json
        system prune -f --filter label=nosuch
        builder prune -f --filter until=1h
        events --filter nosuch=1 --until 5
        inspect --type volume kept
        inspect --type network none
        ! inspect --type volume nosuch
    """)
    def test_groups(self, *args, **options):
        self.differential(*args, stderr=args[0] != "builder", **options)

    def test_volume_removed(self):
        def setup(name):
            for volume in ("made", "other"):
                must(api(self.dockerd.host, "POST", "/volumes/create", {"Name": volume}))
        self.differential("volume", "rm", "made", "nosuch", "other", setup=setup, fails=True)

    def test_events(self):
        began = "%.9f" % time.time()
        self.dockerd.container("other-busy", "true")
        self.dockerd.remove_container("other-busy")
        until = "%.9f" % (time.time() + 0.1)
        time.sleep(0.2)
        for more in ([], ["--format", "json"], ["--filter", "event=create", "--filter", "type=container"]):
            done = self.differential("events", "--since", began, "--until", until, *more)
            self.assertIn("create", done.stdout)

    def test_stats(self):
        numbers = replaced(r"[0-9.]+(?:e\+[0-9]+)?(?:%|[kKMGT]?i?B|(?= *$))", "N")
        self.normalise += (numbers, replaced(" +", " "))
        for args in (["--no-stream", "busy"], ["--no-stream"], ["--no-stream", "--format", "json", "--no-trunc", "busy"]):
            self.differential("stats", *args, wire=False)
        self.differential("stats", "--no-stream", "busy", "nosuch", fails=True, wire=False)


class EngineCreateTest(RealEngineCase):
    """create and update on a real engine: what it then says of the container."""

    def tearDown(self):
        self.dockerd.remove_container("made")
        super().tearDown()

    def about(self):
        """What the engine keeps of the container that a flag can set."""
        status, found = api(self.dockerd.host, "GET", "/containers/made/json")
        if status == 404:
            return None
        found = {key: found[key] for key in ("Config", "HostConfig", "Image", "Platform", "Mounts", "Args", "Path")}
        found["Config"]["Env"] = sorted(found["Config"]["Env"] or ())
        found["HostConfig"]["Binds"] = sorted(found["HostConfig"]["Binds"] or ())
        found["Mounts"].sort(key=lambda mount: mount["Destination"])
        text = json.dumps(found, sort_keys=True)
        return re.sub("[0-9a-f]{64}", "ID", re.sub('"Hostname": "[0-9a-f]{12}"', '"Hostname": "ID"', text))

    def compare(self, *args, before=(), **options):
        seen = []

        def setup(_):
            self.dockerd.remove_container("made")
            if before:
                self.dockerd.container("made", start=False, **dict(before))

        def runner(argv, env):
            outcome = inside(argv, env)
            seen.append(self.about())
            return outcome._replace(stdout=re.sub("[0-9a-f]{64}", "ID", outcome.stdout),
                                    stderr=re.sub("[0-9a-f]{64}", "ID", outcome.stderr))
        self.differential(*args, setup=setup, runner=runner, wire=False, **options)
        self.assertEqual(*seen)
        return seen[0]

    @lines("""
        create --name made busybox true
        ! create --name made busybox
        create --name made -it -h host -e A=1 -w /tmp -u 1:1 -l a=b --entrypoint /bin/sh busybox -c "echo x"
        create --name made -m 64m --cpus 0.5 --pids-limit 20 --cpu-shares 10 --ulimit nofile=5:6 busybox true
        create --name made --network none -p 8080:80 --expose 9 --dns 1.1.1.1 --add-host a:1.2.3.4 busybox sleep 1
        create --name made --network host --cap-add net_admin --cap-drop all --privileged --read-only busybox true
        create --name made -v /data -v /tmp:/host:ro -v vol-made:/vol --tmpfs /run:size=1m --shm-size 1m busybox true
        create --name made --mount type=bind,src=/tmp,dst=/x,readonly --mount dst=/y busybox true
        create --name made --health-cmd true --health-interval 2s --health-retries 2 --stop-timeout 3 busybox true
        create --name made --restart on-failure:3 --log-driver json-file --log-opt max-size=1m --init busybox true
        create --name made --device /dev/null:/dev/x:r --device-cgroup-rule "c 1:3 r" --stop-signal INT busybox true
        create --name made --rm --sysctl net.ipv4.ip_forward=1 --network none --group-add 5 --ipc none busybox true
        ! create --name made -v /a:b busybox true
        ! create --name made --mount type=bind,src=/nosuch/x,dst=/y busybox true
        ! create --name made --runtime nosuch busybox true
        ! create --name made -m 1k busybox true
        ! create --name made --pull never nosuch:1
        ! create --name made --pull never sha256:1234567890123456789012345678901234567890123456789012345678901234
        ! create --name @ busybox
    """)
    def test_create(self, *args, **options):
        about = self.compare(*args, **options)
        self.assertEqual(about is None, options.get("fails", False))
        api(self.dockerd.host, "DELETE", "/volumes/vol-made")

    @lines("""
        update -m 64m --memory-swap 128m --cpus 0.5 --restart always made
        update --pids-limit 5 --cpu-shares 77 --cpuset-cpus 0 made
        ! update -m 1g made
        ! update --cpus 0.5 nosuch
        ! update --cpu-shares 7 nosuch made
    """)
    def test_update(self, *args, **options):
        self.compare(*args, before={"HostConfig": {"NetworkMode": "none", "Memory": 32 << 20, "MemorySwap": 64 << 20}},
                     **options)


class EngineImageTest(RealEngineCase):
    """tag, rmi, save and load on a real engine."""

    def setup_images(self, _=None):
        self.remove("t/a:1", "t/b:1", "t/c:latest", "t/d:latest", "app:1")
        self.load_app("t/a:1", "t/b:1")

    def tearDown(self):
        self.remove("t/a:1", "t/b:1", "t/c:latest", "t/d:latest", "app:1")
        super().tearDown()

    @lines("""
        tag t/a:1 t/c
        tag busybox t/c
        ! tag nosuch t/c
        ! tag t/a:1 Upper
        rmi t/a:1
        rmi t/a:1 t/b:1
        rmi t/a:1 t/b:1 app:1
        rmi --no-prune t/a:1 t/b:1 app:1
        rmi -f app:1
        ! rmi nosuch
        ! rmi nosuch t/a:1 other
        rmi -f nosuch
        ! rmi -f nosuch Upper
        image rm t/a:1
        image remove t/a:1
        save -o out.tar t/a:1
        save t/a:1
        ! save nosuch
        ! save -o out.tar nosuch
        ! save -o out.tar t/a:1 nosuch
    """)
    def test_images(self, *args, **options):
        self.differential(*args, setup=self.setup_images, **options)

    def test_rmi_in_use(self):
        self.setup_images()
        self.dockerd.container("user", start=False)
        self.addCleanup(self.dockerd.remove_container, "user")
        self.differential("rmi", "busybox", fails=True)

    @rows(("archive", ["load"], layered_image("t/d:latest")), ("quiet", ["load", "-q"], layered_image("t/d:latest")),
          ("untagged", ["load"], layered_image("", seed="untagged")), ("garbage", ["load"], b"garbage"),
          ("empty", ["load"], b""), ("file", ["load", "-i", "in.tar"], b""))
    def test_load(self, title, args, data):
        self.normalise += (replaced(r"docker-import-\d+", "docker-import-N"),)
        with open(os.path.join(self.home, "in.tar"), "wb") as file:
            file.write(layered_image("t/d:latest"))
        self.differential(*args, input=data, fails=None, setup=lambda _: self.remove("t/d:latest"))


class EngineContainerTest(RealEngineCase):
    """The plain commands on a real engine's containers."""

    normalise = (AGES, COLUMNS, replaced(r"\b[0-9a-f]{64}\b", "ID"), replaced(r"(?m)^\d+ ", "PID "))

    def setup_containers(self, _=None):
        self.dockerd.container("made", "true", start=False)
        self.dockerd.container("up", "sh", "-c", "echo > /new; rm /bin/od; echo > /etc/x; exec sleep 1000",
                               StopSignal="SIGKILL")
        wait_until(lambda: len(must(api(self.dockerd.host, "GET", "/containers/up/changes")) or ()) > 4, 10)
        self.dockerd.remove_container("other")
        self.remove("t/made:1", "t/made:latest")

    def setUp(self):
        super().setUp()
        for name in ("made", "up", "other"):
            self.addCleanup(self.dockerd.remove_container, name)
        self.addCleanup(self.remove, "t/made:1", "t/made:latest")

    def wire(self):
        return sorted(super().wire())

    @lines("""
        ! stop -t 1 up made nosuch
        ! restart -t 0 nosuch up
        ! pause made up
        rm -f up made nosuch
        rename up other
        ! rename up made
        top up -o pid,args
        diff up
        commit -m words -a me -c "ENV A=b" up t/made
        history --no-trunc -H=false t/app:1
        ! image prune -f --filter nosuch=x
    """)
    def test_containers(self, *args, **options):
        self.load_app("t/app:1")
        self.addCleanup(self.remove, "t/app:1")
        if args[0] == "diff":
            self.normalise += (SORTED,)
        self.differential(*args, setup=self.setup_containers, **options)

    def test_export(self):
        """Docker's archive is compared by its members' names: the engine writes the time into it."""
        self.dockerd.container("made", "true", start=False)
        names = []
        for _, _, files in self.both("export", "-o", "out.tar", "made").values():
            mode, data = files["out.tar"]
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                names.append((mode, tar.getnames()))
        self.assertEqual(*names)

    def test_wait(self):
        self.dockerd.container("made", "sh", "-c", "exit 5")
        self.differential("wait", "made", "nosuch", fails=True)

    def test_prune(self):
        def setup(_):
            must(api(self.dockerd.host, "POST", "/images/prune"))
            self.setup_containers()
            self.dockerd.load(layered_image("", seed="dangling"))
        self.differential("container", "prune", input=b"y\n", setup=setup)
        self.differential("image", "prune", "-f", setup=setup)

    @rows(("input", ["import", "-c", "CMD x", "-", "t/made:1"], busybox_tar), ("garbage", ["import", "-"], lambda: b"garbage"),
          ("empty", ["import", "-", "t/made"], lambda: b""), ("address", ["import", "http://127.0.0.1:1/x"], lambda: b""))
    def test_import(self, title, args, data):
        self.differential(*args, input=data(), fails=None)


class EngineCopyTest(RealEngineCase):
    """cp out of a container of a real engine, by all rules for both ends, and into one."""

    normalise = (CLOSED_PIPE,)
    made = False           # whether the container is there; no test changes it
    FILES = (("s", b"5"), ("s/f", b"f"), ("s/d", b"5", {"mode": 0o750}), ("s/d/x", b"x" * 5000, {"mode": 0o4755}),
             ("s/d/e", b"5"), ("s/d/hard", b"1", {"linkname": "s/d/x"}), ("s/to-d", b"2", {"linkname": "d"}),
             ("s/to-f", b"2", {"linkname": "f"}), ("s/dangling", b"2", {"linkname": "nowhere"}),
             ("s/abs", b"2", {"linkname": "/s/d"}), ("s/d/in", b"2", {"linkname": "../f"}), ("s/p", b"6"),
             ("s/u", b"u", {"uid": 1000, "gid": 1001}), ("s/\xe9" + "n" * 120, b"name"), ("up", b"5"),
             ("up/out", b"2", {"linkname": "../../away"}))

    def setUp(self):
        super().setUp()
        if not EngineCopyTest.made:
            self.dockerd.container("files", start=False)
            must(api(self.dockerd.host, "PUT", "/containers/files/archive?copyUIDGID=true&path=/", tar_of(*self.FILES),
                     {"Content-Type": "application/x-tar"}))
            EngineCopyTest.made = True
        for folder in ("out", "there/f", "there/s"):
            os.makedirs(os.path.join(self.home, folder))
        for name in ("file", "there/d"):
            with open(os.path.join(self.home, name), "w") as file:
                file.write("old")
        for link, target in (("to-out", "out"), ("to-file", "file"), ("dangling", "nowhere"), ("loop", "loop"),
                             ("far", "no/where")):
            os.symlink(target, os.path.join(self.home, link))

    @classmethod
    def tearDownClass(cls):
        if cls.made:
            Dockerd.get().remove_container("files")

    @lines("""
        cp files:/s .
        cp files:/s out
        cp files:/s out/.
        cp files:/s new
        cp files:/s new/
        cp files:/s/. new
        cp files:/s/. out
        cp files:/s/ out
        ! cp files:/s file
        ! cp files:/s file/
        ! cp files:/s no/new
        cp files:/s/f out
        cp files:/s/f new
        cp files:/s/f file
        ! cp files:/s/f file/
        ! cp files:/s/f new/
        ! cp files:/s/f new/.
        cp files:/s/f ./out/../new
        cp files:/s/d there/s
        ! cp files:/s/d there
        ! cp files:/s/f there
        ! cp files:/s/. there
        cp files:/s/to-d new
        cp files:/s/to-d/ out
        cp files:/s/to-d/ new
        cp files:/s/to-d/. new
        cp files:/s/to-f new
        cp files:/s/dangling new
        cp -L files:/s/to-d out
        cp -L files:/s/to-d new
        cp -L files:/s/to-d/ out
        cp -L files:/s/to-d/. new
        cp -L files:/s/to-f new
        cp -L files:/s/to-f out
        cp -L files:/s/abs new
        cp -L files:/s/f new
        ! cp -L files:/s/dangling out
        ! cp -L files:/nosuch out
        ! cp files:/s/abs/. to-out
        cp files:/s/f to-out
        cp files:/s/f to-file
        cp files:/s/f dangling
        cp files:/s/d dangling
        ! cp files:/s/d to-file
        ! cp files:/s/f loop
        ! cp files:/s/f far
        ! cp files:/nosuch .
        ! cp nosuch:/ .
        ! cp files:/s/f/ out
        ! cp files:/s/f/. out
        ! cp files:/s/f /dev/null
        ! cp files:/s/f file/x
        ! cp files:/up new
        cp files:s out
        cp files:/s/d -
        cp -L files:/s/to-f -
        ! cp files:/nosuch -
        cp -a files:/s out
        cp -q files:/s/f out
        cp files:/s/p out
        container cp files:/s/f out
    """)
    def test_from(self, *args, **options):
        self.differential(*args, **options)

    def test_from_on_a_terminal(self):
        self.differential("cp", "files:/s", "out", runner=on_terminal())

    def test_same_times(self):
        """Times, links and kinds, too, are what docker leaves."""
        def looks(name):
            found = {}
            for base, folders, files in os.walk(os.path.join(self.home, name)):
                for path in [os.path.join(base, entry) for entry in folders + files]:
                    about = os.lstat(path)
                    found[os.path.relpath(path, os.path.join(self.home, name))] = (
                        oct(about.st_mode), about.st_mtime_ns, about.st_nlink, about.st_uid, about.st_gid, about.st_size)
            return found
        for name, command in (("theirs", [docker_client()]), ("ours", pydock_command())):
            self.check(run(command + ["cp", "files:/s", name], self.env(), cwd=self.home), 0, "", "")
        self.assertEqual(looks("ours"), looks("theirs"))
        self.assertGreater(len(looks("ours")), 10)

    def test_to(self):
        """What arrives in a container is what docker brings there."""
        listings = []
        self.check(run([docker_client(), "cp", "files:/s", "local"], self.env(), cwd=self.home), 0, "", "")
        for name, command in (("docker", [docker_client()]), ("pydock", pydock_command())):
            self.dockerd.container("filled", start=False)
            for words in (["local", "filled:/"], ["local/.", "filled:/tmp"], ["-a", "local/f", "filled:/etc/f"],
                          ["local/d", "filled:/tmp/new"], ["-", "filled:/tmp"]):
                self.check(run(command + ["cp"] + words, self.env(), tar_of(("in", b"put")), cwd=self.home), 0, "", "")
            listings.append([re.sub("(?m)^tmp 5.*", "", tar_listing(must(api(
                self.dockerd.host, "GET", "/containers/filled/archive?path=" + path)))) for path in ("/local", "/tmp", "/etc/f")])
        self.dockerd.remove_container("filled")
        self.assertEqual(listings[1], listings[0])

    @lines("""
        ! cp file files:/nosuch/x
        ! cp out files:/s/f
        ! cp file files:/s/f/x
        ! cp - files:/s/f
        ! cp file nosuch:/x
        ! cp there/f files:/s
    """)
    def test_refused(self, *args, **options):
        self.differential(*args, wire=False, **options)


class EngineBuildTest(RealEngineCase):
    """The classic builder of a real engine beside docker, and its BuildKit, seen in what comes out."""

    extra_env = {"DOCKER_BUILDKIT": "0"}
    normalise = (replaced(r"(Running in |intermediate container |---> |built |sha256:)[0-9a-f]{12,}", r"\1ID"),)

    def setUp(self):
        super().setUp()
        plant(os.path.join(self.home, "ctx"), r"""
            Dockerfile: FROM busybox\nARG X=1\nCOPY . /ctx/\nRUN echo "X is $X" && find /ctx | sort\nCMD ["sh"]\n
            Fails: FROM busybox\nRUN echo out; exit 3\n
            Stages: FROM busybox AS one\nRUN echo 1 >/one\nFROM busybox AS two\nCOPY --from=one /one /\nRUN false\n
            Nothing: FROM scratch\n
            Broken: FROM busybox\nNOSUCH x\n
            Missing: FROM busybox\nCOPY nosuch /\n
            Private: FROM 127.0.0.1:1/nosuch\n
            sub/a.txt: a\n
            sub/b.md: b\n
            link -> sub/a.txt
            .dockerignore: *.md\nsub/*\n!sub/a.txt\nDockerfile\n
            """)

    def tearDown(self):
        self.remove("built:1", "built:2")
        super().tearDown()

    @classmethod
    def tearDownClass(cls):
        """Other tests list the engine's images: what builds leave behind goes."""
        for path in ("/containers/prune", "/images/prune"):
            must(api(Dockerd.get().host, "POST", path))
        super().tearDownClass()

    def wire(self):
        """The archive is compared elsewhere; docker's lacks the end where a Dockerfile was added."""
        return [re.sub(r"['\"]?(b['\"]|[0-9]+ bytes).*", "", line, flags=re.DOTALL) for line in super().wire()
                if "HEX" not in line]

    @lines("""
        build --network host --no-cache -t built:1 ctx
        build --network host --no-cache -t built:1 -t built:2 --build-arg X=2 --label a=b ctx
        build --network host --no-cache -q ctx
        build --network host --no-cache --rm=false ctx
        ! build --network host --no-cache -f ctx/Fails ctx
        ! build --network host --no-cache -q -f ctx/Fails ctx
        ! build --network host --no-cache --force-rm -f ctx/Fails ctx
        build --network host --no-cache -f ctx/Stages --target one ctx
        ! build --network host --no-cache -f ctx/Stages ctx
        ! build --no-cache -f ctx/Nothing ctx
        ! build --no-cache -f ctx/Broken ctx
        ! build --no-cache -f ctx/Missing ctx
        ! build --no-cache -f ctx/Private ctx
        ! build --network host --no-cache --target nosuch ctx
        ! build --isolation nosuch ctx
        ! build --platform a/b/c/d ctx
        build --network host --no-cache --memory 64m --cpu-shares 5 --shm-size 1m --ulimit nofile=99:99 ctx
    """)
    def test_classic(self, *args, **options):
        self.differential(*args, **options)

    def test_cache(self):
        self.pydock("build", "--network", "host", "ctx")
        self.differential("build", "--network", "host", "ctx")

    def test_what_is_built(self):
        for builder in "01":
            done = self.check(self.pydock("build", "--network", "host", "--no-cache", "-t", "built:1", "--label", "l=" + builder, "ctx",
                                          env={"DOCKER_BUILDKIT": builder}))
            self.assertIn("/ctx/sub/a.txt\n", re.sub(r"(?m)^#[0-9]+ [0-9.]+ ", "", done.stdout + done.stderr))
            self.assertNotIn("b.md", done.stdout + done.stderr)
            about = must(api(self.dockerd.host, "GET", "/images/built:1/json"))
            self.assertEqual(about["Config"]["Labels"], {"l": builder})
            self.assertEqual(about["Config"]["Cmd"], ["sh"])

    def buildkit(self, *args, **options):
        return self.pydock("build", "--network", "host", *args, env={"DOCKER_BUILDKIT": "1"}, **options)

    def test_buildkit(self):
        outcome = self.check(self.buildkit("-q", "--iidfile", "iid", "-t", "built:2", "--no-cache", "ctx"), 0,
                             re.compile(r"\Asha256:[0-9a-f]{64}\n\Z"), "")
        with open(os.path.join(self.home, "iid")) as file:
            self.assertEqual(file.read() + "\n", outcome.stdout)
        self.assertEqual(must(api(self.dockerd.host, "GET", "/images/built:2/json"))["Id"] + "\n", outcome.stdout)
        outcome = self.check(self.buildkit("ctx"), 0, "", re.compile(
            r"\n\n#\d+ \[3/3\] RUN echo \"X is 1\" && find /ctx \| sort\n#\d+ CACHED\n\n#\d+ exporting to image\n"))

    @rows(("Fails", r"#\d+ [0-9.]+ out\n(?s:.*)------\nFails:2\n-+\n   1 \|     FROM busybox\n   2 \| >>> RUN echo out;"),
          ("Broken", r"Broken:2\n(?s:.*)>>> NOSUCH x\n-+\nERROR: failed to solve.*unknown instruction: NOSUCH\n\Z"),
          ("Missing", r"   2 \| >>> COPY nosuch /\n"), ("Stages", r"   5 \| >>> RUN false\n"),
          ("Private", r"Pulling 127.0.0.1:1/nosuch:latest, which the build is based on\nError response from daemon: "))
    def test_buildkit_failures(self, name, pattern):
        self.check(self.buildkit("-f", "ctx/" + name, "ctx"), 1, "", re.compile(pattern))

    def test_buildkit_terminal(self):
        plant(self.home, r"ctx/Dockerfile: FROM busybox\nCOPY . /ctx/\nRUN echo tick && sleep 1\n")
        with Pty(pydock_command() + ["build", "--network", "host", "--no-cache", "ctx"],
                 self.env({"DOCKER_BUILDKIT": "1"}), 90, cwd=self.home) as terminal:
            terminal.expect("=> => # tick")
            self.assertEqual(terminal.wait(), 0)
            lines = Screen(90, 24).feed(terminal.output).lines
        self.assertTrue(re.match(r"\[\+\] Building [0-9.]+s \((\d+)/\1\) FINISHED +docker:default$", lines[0]), lines)
        self.assertTrue(any(re.match(r" => \[3/3\] RUN echo tick && sleep 1 +1.[0-9]s$", line)
                            for line in lines), lines)

    @rows(("1",), ("2",))
    def test_context_that_breaks_off(self, version):
        """Nothing is built of an archive that could not be sent whole, though an engine takes a cut one for good."""
        def blocks():
            yield from module().TarStream(os.path.join(self.home, "ctx"))
            raise module().DockerError("gone")

        with module().Client(self.dockerd.host) as client, self.assertRaisesRegex(module().DockerError, "^gone$"):
            client.build(blocks(), {"version": version, "networkmode": "host", "t": "built:1", "dockerfile": "Stages",
                                    "target": "one"})
        time.sleep(1)
        self.assertEqual(api(self.dockerd.host, "GET", "/images/built:1/json")[0], 404)

    def test_private_base_image(self):
        """An engine has no credentials of its own: pydock pulls with the user's, and builds then."""
        registry = PasswordRegistry.get()
        self.load_app(registry.address + "/base:1")
        auth = {"username": registry.user, "password": registry.password}
        self.dockerd.push(registry.address + "/base:1", auth)
        self.remove(registry.address + "/base:1")
        plant(self.home, "p/Dockerfile: FROM %s/base:1\\nLABEL a=b\\n" % registry.address)
        self.assertNotEqual(self.buildkit("p").status, 0)
        self.config(auths={registry.address: {"auth": basic(registry.user, registry.password)}})
        self.check(self.buildkit("-q", "-t", "built:1", "p"))
        self.remove(registry.address + "/base:1")

    def test_git(self):
        """A repository, its branches and folders; over dumb HTTP it cannot be cloned by halves."""
        git = which("git")
        if not git:
            raise unittest.SkipTest("not installed: git")
        repository = os.path.join(self.folder(), "r.git")
        plant(self.home, r"ctx/Dockerfile: FROM busybox\nCOPY . /ctx/\n")
        for command in ("init -q .", "checkout -q -b master", "add -A", "commit -q -m x", "checkout -q -b other",
                        "mv sub/a.txt b.txt", "commit -q -m y", "checkout -q master", "update-server-info"):
            run([git, "-c", "user.name=n", "-c", "user.email=e"] + command.split(), dict(os.environ, HOME=self.home),
                cwd=os.path.join(self.home, "ctx"))
        shutil.move(os.path.join(self.home, "ctx", ".git"), repository)
        plant(os.path.dirname(repository), r"df: FROM busybox\nLABEL from=afar\n")
        with serve_folder(os.path.dirname(repository)) as url:
            self.names = {"url": url}
            self.normalise += (SENT, replaced(r"git\w+/", "gitN/"), replaced(r"(?m)^Downloading.*?url: \S+.*[\r\n]+", ""))
            for words in ("", "#master", "#other", "#:", "#master:", "#nosuch", "#master:sub", "#master:nosuch", "#-x"):
                self.differential("build", "--network", "host", "--no-cache", url + "/r.git" + words, fails=None, files=False,
                                  env={"PATH": os.environ["PATH"]})
            for words in ("/df", "/nosuch", "/"):
                self.differential("build", "--network", "host", "--no-cache", url + words, fails=None)


class EngineRegistryTest(RealEngineCase):
    """pull, push, login and logout between a real engine and real registries."""

    #: layers finish in any order, and their lines with them; some stages are there or not as it happens
    normalise = (replaced(r"(?m)^\w{12}: (Waiting|Verifying Checksum|Download complete|Preparing)\n", ""), SORTED,
                 replaced(r"127\.0\.0\.1:\d+->", "LOCAL->")) + POINTERS

    def fill(self, registry):
        """Puts the tags 1 and 2 into the registry; the name is left in the engine."""
        self.name = registry.address + "/app"
        self.load_app(self.name + ":1", self.name + ":2", self.name + ":latest")
        auth = {"username": registry.user, "password": registry.password}
        for tag in ("1", "2", "latest"):
            self.dockerd.push(self.name + ":" + tag, auth)
        self.digest = must(api(self.dockerd.host, "GET", "/images/%s:1/json" % self.name))["RepoDigests"][0].split("@")[1]
        self.names = {"name": self.name, "digest": self.digest, "registry": registry.address}
        self.addCleanup(self.clear)

    def clear(self, _=None):
        """Takes all of it out of the engine."""
        self.remove(self.name + ":1", self.name + ":2", self.name + ":latest", self.name + "@" + self.digest, "app:1")

    LINES = """
        pull $name
        pull $name:1
        pull -q $name:2
        pull -a $name
        pull -aq $name
        pull $name@$digest
        pull $name:1@$digest
        ! pull $name:nosuch
        ! pull $registry/nosuch
        ! pull -q $name:nosuch
        ! pull $name@sha256:0000000000000000000000000000000000000000000000000000000000000000
    """

    @lines(LINES)
    def test_pull(self, *args, **options):
        self.fill(Registry.get())
        words = [string.Template(word).safe_substitute(self.names) for word in args]
        self.differential(*words, setup=self.clear, **options)

    def test_pull_again(self):
        self.fill(Registry.get())
        self.differential("pull", self.name + ":1")

    @lines("""
        create --name made $name
        create --name made -q $name:2 x
        create --name made --pull always $name@$digest
        ! create --name made $name:nosuch
        ! create --name made -q $registry/nosuch
    """)
    def test_create(self, *args, **options):
        self.fill(Registry.get())
        self.normalise += (replaced("(?m)^[0-9a-f]{64}$", "ID"),)

        def setup(_):
            self.dockerd.remove_container("made")
            self.clear()
        self.addCleanup(self.dockerd.remove_container, "made")
        words = [string.Template(word).safe_substitute(self.names) for word in args]
        self.differential(*words, setup=setup, **options)

    @lines("""
        push $name:1
        push $name
        push -q $name:1
        push -a $name
        ! push $name:nosuch
        ! push -q $name:nosuch
        ! push $registry/nosuch:1
    """)
    def test_push(self, *args, **options):
        self.fill(Registry.get())
        words = [string.Template(word).safe_substitute(self.names) for word in args]
        self.differential(*words, **options)

    @rows(("password", PasswordRegistry), ("TLS", TlsRegistry))
    def test_login_pull_push_logout(self, title, kind):
        registry = kind.get()
        self.fill(registry)
        # without credentials dockerd tries clear HTTP too, and what a TLS server makes of that varies
        self.differential("pull", self.name + ":1", setup=self.clear, fails=True, stderr=kind is PasswordRegistry)
        self.differential("login", "-u", registry.user, "-p", "not it", registry.address, fails=True)
        self.differential("login", "-u", registry.user, "--password-stdin", registry.address,
                          input=registry.password + "\n")
        self.differential("login", registry.address)
        self.differential("create", "-q", "--pull", "always", "--name", "made", self.name + ":1", "x", stdout=False,
                          setup=lambda _: self.dockerd.remove_container("made"))
        self.dockerd.remove_container("made")
        self.differential("pull", self.name + ":1", setup=self.clear)
        self.differential("push", self.name + ":1")
        self.differential("logout", registry.address)
        self.differential("push", self.name + ":1", fails=True, stderr=kind is PasswordRegistry)

    def test_helper(self):
        registry = PasswordRegistry.get()
        self.fill(registry)
        helper = CredentialHelper(self.folder(), **{registry.address: [registry.user, registry.password]})
        self.config(credsStore=helper.suffix)
        self.differential("pull", self.name + ":1", setup=self.clear, env=helper.env())

    def test_pull_on_a_terminal(self):
        self.fill(Registry.get())
        self.differential("pull", self.name + ":1", setup=self.clear, runner=on_terminal(columns=100))

    def test_refused_registry(self):
        self.differential("pull", "127.0.0.1:1/a:1", fails=True)
        self.differential("login", "-u", "a", "-p", "b", "127.0.0.1:1", fails=True)


class EngineStreamTest(RealEngineCase):
    """run, exec, start, attach and logs of a real engine."""

    normalise = (replaced("[0-9a-f]{64}", "ID"), replaced(r"0xc[0-9a-f]{9}", "POINTER"))

    @classmethod
    def tearDownClass(cls):
        for made in must(api(Dockerd.get().host, "GET", "/containers/json?all=1")):
            Dockerd.get().remove_container(made["Id"])
        super().tearDownClass()

    def setUp(self):
        super().setUp()
        if not getattr(EngineStreamTest, "made", False):
            EngineStreamTest.made = True
            self.dockerd.container("up")
            self.dockerd.container("log", "sh", "-c", "for i in 1 2 3; do echo out $i; sleep 0.1; echo err $i >&2; sleep 0.1; "
                                   "done; printf end")
            self.dockerd.container("ttylog", "sh", "-c", "echo one; echo two >&2", Tty=True)
            self.dockerd.container("ends", "sh", "-c", "echo out; echo err >&2; cat; exit 3", OpenStdin=True, StdinOnce=True,
                                   start=False)
            must(api(self.dockerd.host, "POST", "/containers/log/wait"))

    def both_sides(self, line, **options):
        """A command line of the shell, in which `docker` is the client."""
        self.compared += 1
        results = []
        for command in ([self.docker], pydock_command()):
            text = line.replace("docker", " ".join(map(shlex.quote, command)))
            done = run(["sh", "-c", text], self.env(), cwd=self.home, **options)
            results.append((done.status, self.settle(done.stdout), self.settle(done.stderr)))
        self.assertEqual(results[0], results[1], line)
        self.assertNotIn("Traceback", results[1][2])

    @rows(*[(line.strip(),) for line in r"""
        docker exec up sh -c 'echo out; echo err >&2; exit 5'
        echo foo | docker exec -i up cat
        docker exec up nosuch; docker exec up /etc; docker exec -w /nosuch up ls; docker exec -u nosuch up ls
        docker exec -d up true; docker exec nosuch ls; docker exec ends ls; docker exec -it up ls
        docker exec -e A=1 -e HOME -e B= up env; docker exec -e =x up ls; docker exec --env-file /nosuch up ls
        docker exec up sh -c 'for i in 1 2 3; do echo o$i; sleep 0.1; echo e$i >&2; sleep 0.1; done' 2>&1
        docker exec -t up sh -c 'echo out; echo err >&2'
        docker exec up sh -c 'kill -9 $$'
        docker run --rm --network none busybox sh -c 'echo out; echo err >&2; exit 4'
        echo foo | docker run --rm -i --network none busybox sh -c 'cat; exit 6'
        docker run --rm --network none busybox nosuch; docker run -d --network none busybox nosuch
        docker run --rm --network none busybox /etc; docker run --rm --network nosuch busybox ls
        docker run --network none -it busybox ls; docker run -d -a stdin busybox ls; docker run -a foo busybox
        docker run --rm -a stdout --network none busybox sh -c 'echo out; echo err >&2'
        docker run --rm -a stderr --network none busybox sh -c 'echo out; echo err >&2'
        echo foo | docker run --rm -i -a stdout --network none busybox cat
        docker run --rm -a stdin -i --network none busybox sh -c 'cat; exit 3' </dev/null
        docker run --rm --network none busybox sh -c 'sleep 9 & kill -9 $!; wait $!; exit $?'
        docker run --rm -i --network none busybox true </dev/zero; docker exec -i up true </dev/zero
        docker run --rm -t --network none busybox sh -c 'echo out; echo err >&2'
        echo in | docker start -ai ends; docker start -a nosuch; docker start -a up ends; docker start nosuch up nosuch2
        docker attach ends; docker attach nosuch; docker attach ttylog
        docker logs log; docker logs log 2>&1; docker logs -n 2 log; docker logs --tail 0 log; docker logs nosuch
        docker logs -t --details log; docker logs --since 1h log; docker logs --until 1h log; docker logs -f log
        docker logs ttylog; docker logs --since 2020-01-01T00:00:00Z --until 2090-01-01 -n 1 log
        docker logs --since foo log; docker logs --since 2024-13-01 log; docker logs --until 1x log; docker logs --tail x log
        docker start --checkpoint x ends
    """.strip().splitlines()])
    def test_command_lines(self, line):
        self.both_sides(line)

    @rows(("run", "run --rm -it --network none busybox sh"), ("exec", "exec -it up sh"))
    def test_shell(self, title, line):
        def resized(terminal):
            terminal.resize(101, 30)
            terminal.resize(100, 30)        # again and again, as docker may not have begun to look
            return any(call.query["w"] == ["100"] for call in self.engine.calls(".*/resize"))

        def script(terminal):
            terminal.expect("/ #")
            self.assertTrue(wait_until(lambda: resized(terminal), 10, pause=0.3))
            terminal.send("until [ \"$(stty size)\" = '30 100' ]; do sleep 0.1; done; stty size; echo a-$((1+1)); exit 7\n")
            terminal.expect("30 100\r\na-2")
        done = self.differential(*line.split(), runner=on_terminal(script, screen=False), wire=False, stdout=False, fails=True)
        self.assertEqual(done.status, 7)

    @rows(("run", "run --rm -it --network none busybox sh", 0), ("exec", "exec -it up sh", 1))
    def test_detach(self, title, line, status):
        def script(terminal):
            terminal.expect("/ #")
            terminal.send("\x10\x11")
        done = self.differential(*line.split(), runner=on_terminal(script), wire=False, stdout=False, fails=bool(status))
        self.assertEqual(done.status, status)

    @rows(("INT", "run --rm --network none"), ("TERM", "run --rm -i --network none"))
    def test_signal(self, name, line):
        def script(terminal):
            terminal.expect("ready")
            terminal.signal(getattr(signal, "SIG" + name))
        done = self.differential(*line.split() + ["busybox", "sh", "-c", "trap 'exit 9' %s; echo ready; while :; do sleep 0.1; done"
                                                  % name], runner=on_terminal(script), wire=False, fails=True)
        self.assertEqual(done.status, 9)

    def test_requests_of_run(self):
        """The order of the requests, and what goes on which connection."""
        def seen(command):
            self.engine.clear()
            run(command + ["run", "--rm", "-i", "--network", "none", "busybox", "cat"], self.env(), b"foo")
            return [(call.connection, call.method, re.sub("[0-9a-f]{64}", "ID", call.target)) for call in self.engine.requests]
        self.assertEqual(*[[call for call in seen(command) if "_ping" not in call[2]]
                           for command in ([self.docker], pydock_command())])

    @rows(("file", False), ("pipe", True))
    def test_200_megabytes(self, title, pipe):
        path, size = os.path.join(self.home, "big"), 200000000
        block = os.urandom(1 << 20)
        with open(path, "wb") as file:
            for n in range(size // len(block) + 1):
                file.write(struct.pack(">Q", n) + block[8:])
            file.truncate(size)
        wanted, found = hashlib.sha256(), hashlib.sha256()
        with open(path, "rb") as file:
            for data in iter(lambda: file.read(1 << 20), b""):
                wanted.update(data)
        self.host = self.dockerd.host
        command = " ".join(map(shlex.quote, pydock_command())) + " exec -i up cat"
        line = "cat big | %s | cat > got" if pipe else "%s < big > got"
        self.check(run(["sh", "-c", line % command], self.env(), cwd=self.home), 0, "", "")
        with open(os.path.join(self.home, "got"), "rb") as file:
            for data in iter(lambda: file.read(1 << 20), b""):
                found.update(data)
        self.assertEqual(found.hexdigest(), wanted.hexdigest())

    def test_soak(self):
        """Many short runs, one after the other and at once: output and status of each, and nothing is left."""
        host, results = self.dockerd.host, []
        names = [made["Id"] for made in must(api(host, "GET", "/containers/json?all=1"))]
        threads, descriptors = threading.active_count(), len(os.listdir("/proc/self/fd"))

        def once(n):
            cli = module().DockerCli(io.StringIO(str(n)), io.StringIO(), io.StringIO(), module().Endpoint(host),
                                     module().ConfigFile(self.home))
            try:
                cli.cmd("run", "--rm", "-i", "--network", "none", "busybox", "sh", "-c", "cat; echo err >&2; exit %d" % (n % 9))
                status = 0
            except module().StatusError as error:
                status = error.status_code
            cli.close()
            results.append((n, status, cli.out.getvalue(), cli.err.getvalue()))
        for n in range(12):
            once(n)
        workers = [threading.Thread(target=once, args=(n,)) for n in range(12, 20)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self.assertEqual(sorted(results), [(n, n % 9, str(n), "err\n") for n in range(20)])
        self.assertEqual([made["Id"] for made in must(api(host, "GET", "/containers/json?all=1"))], names)
        self.assertTrue(wait_until(lambda: threading.active_count() <= threads and
                                   len(os.listdir("/proc/self/fd")) <= descriptors, 5), threading.enumerate())


class EngineHijackTest(CliCase):
    """A hijacked exec on a real engine: all bytes both ways, and a half-close that does not end the other half."""

    def setUp(self):
        super().setUp()
        self.dockerd = Dockerd.get()

    def endpoint(self, way):
        if way == "unix":
            return module().Endpoint("unix://" + self.dockerd.socket)
        if way == "tls":
            folder = Certificates.get().folder("client")
            return module().Endpoint(self.dockerd.tls_host, module().TlsSettings(
                *[os.path.join(folder, name + ".pem") for name in ("ca", "cert", "key")]))
        sshd = Sshd.get()
        for name, value in sshd.env().items():
            self.addCleanup(os.environ.__setitem__ if name in os.environ else lambda n, _: os.environ.pop(n, None), name,
                            os.environ.get(name))
            os.environ[name] = value
        return module().Endpoint(sshd.host)

    @rows(("unix",), ("tls",), ("ssh",))
    def test_cat(self, way):
        with module().Client(self.endpoint(way)) as client:
            container = client.call("POST", "/containers/create", body={
                "Image": "busybox", "Cmd": ["sleep", "100"], "HostConfig": {"NetworkMode": "none"}})["Id"]
            self.addCleanup(api, "unix://" + self.dockerd.socket, "DELETE", "/containers/%s?force=1" % container)
            client.call("POST", "/containers/%s/start" % container)
            session = client.call("POST", "/containers/%s/exec" % container, body={
                "AttachStdin": True, "AttachStdout": True, "AttachStderr": True, "Cmd": ["cat"]})["Id"]
            block, count, got = os.urandom(1 << 20), 8, bytearray()
            with client.hijack("/exec/%s/start" % session, body={"Detach": False, "Tty": False}) as stream:
                def send():
                    for _ in range(count):
                        stream.sendall(block)
                    stream.close_write()
                sender = threading.Thread(target=send)
                sender.start()
                while True:
                    data = stream.recv()
                    if not data:
                        break
                    got += data
                sender.join()
        payload, at = bytearray(), 0
        while at < len(got):
            size = int.from_bytes(got[at + 4:at + 8], "big")
            payload += got[at + 8:at + 8 + size]
            at += 8 + size
        self.assertEqual(bytes(payload), block * count)


class EngineTlsTest(DifferentialCase):
    """dockerd over TCP with mutual TLS."""

    on_record = False
    normalise = (replaced(r"127\.0\.0\.1:\d+->", "LOCAL->"), AGES) + POINTERS

    def setUp(self):
        super().setUp()
        self.dockerd, self.certificates = Dockerd.get(), Certificates.get()
        self.host = self.dockerd.tls_host

    @rows(*[(kind + " " + flag, kind, flag) for kind in ("client", "stranger", "other-ca", "nocert", "mixed")
            for flag in ("--tlsverify", "--tls", "--tls=false")])
    def test_certificates(self, title, kind, flag):
        self.differential(flag, "images", "-q", env={"DOCKER_CERT_PATH": self.certificates.folder(kind)}, fails=None)

    @rows(("pull",), ("save",))
    def test_refused(self, command):
        args = {"pull": ["pull", "r.example/a:1"], "save": ["save", "-o", "out.tar", "busybox"]}[command]
        env = {"DOCKER_CERT_PATH": self.certificates.folder("stranger"), "DOCKER_TLS_VERIFY": "1"}
        self.differential(*args, env=env, fails=True)

    def test_works(self):
        env = {"DOCKER_CERT_PATH": self.certificates.folder("client"), "DOCKER_TLS_VERIFY": "1"}
        for args in (["images"], ["ps"], ["inspect", "busybox"], ["save", "-o", "out.tar", "busybox"],
                     ["inspect", "nosuch"]):
            self.differential(*args, env=env, fails=None)

    def test_wrong_name(self):
        """A server whose certificate is for another name."""
        cert, key = self.certificates.server("elsewhere")
        engine = self.start(ScriptedEngine(("GET", "/images/json", answer(200, [])), tls=(cert, key)))
        env = {"DOCKER_CERT_PATH": self.certificates.folder("client"), "DOCKER_HOST": engine.host}
        self.differential("--tlsverify", "images", env=env, fails=True)
        self.differential("--tls", "images", env=env)

    def test_flags(self):
        folder = self.certificates.folder("client")
        flags = ["--tlsverify"] + ["--tls%s=%s/%s.pem" % (key, folder, name)
                                   for key, name in (("cacert", "ca"), ("cert", "cert"), ("key", "key"))]
        self.differential(*(flags + ["images", "-q"]))

    def test_context_with_tls(self):
        key = hashlib.sha256(b"secure").hexdigest()
        store = os.path.join(self.home, ".docker", "contexts")
        os.makedirs(os.path.join(store, "meta", key))
        os.makedirs(os.path.join(store, "tls", key, "docker"))
        with open(os.path.join(store, "meta", key, "meta.json"), "w") as file:
            json.dump({"Name": "secure", "Metadata": {}, "Endpoints": {"docker": {
                "Host": self.dockerd.tls_host, "SkipTLSVerify": False}}}, file)
        for name in ("ca", "cert", "key"):
            shutil.copy(os.path.join(self.certificates.folder("client"), name + ".pem"),
                        os.path.join(store, "tls", key, "docker"))
        self.differential("--context", "secure", "images", "-q")

    def test_plain_engine_spoken_to_with_tls(self):
        engine = self.start(ScriptedEngine(tcp=True))
        self.differential("--tls", "images", fails=True,
                          env={"DOCKER_CERT_PATH": self.certificates.folder("client"), "DOCKER_HOST": engine.host})


class EngineSshTest(DifferentialCase):
    """dockerd through ssh:// and a private sshd."""

    on_record = False
    normalise = (AGES,)

    def setUp(self):
        super().setUp()
        self.dockerd, self.sshd = Dockerd.get(), Sshd.get()
        self.host, self.extra_env = self.sshd.host, self.sshd.env()

    @lines("""
        images
        ps
        inspect busybox
        ! inspect nosuch
        save -o out.tar busybox
        ! pull 127.0.0.1:1/a
    """)
    def test_works(self, *args, **options):
        self.differential(*args, **options)

    def test_same_ssh_command(self):
        calls = []
        for command in ([self.docker], pydock_command()):
            before = len(self.sshd.commands("calls"))
            run(command + ["ps"], self.env())
            calls.append(sorted(set(self.sshd.commands("calls")[before:])))
        self.assertEqual(*calls)

    def test_socket_that_is_not_there(self):
        """Docker names a host of its own making; pydock passes on what the far end said."""
        self.check(self.pydock("images", env={"DOCKER_HOST": self.sshd.host + "/nonexistent/x.sock"}), 1, "",
                   re.compile(r"dial unix /nonexistent/x.sock: connect: no such file or directory\n+\Z"))

    @rows(("path", "HOST/SOCKET"))
    def test_socket_path(self, title, host):
        host = host.replace("/SOCKET", self.dockerd.socket).replace("HOST", self.sshd.host)
        self.differential("images", "-q", env={"DOCKER_HOST": host}, fails=None)

    def test_no_such_user(self):
        self.differential("ps", env={"DOCKER_HOST": "ssh://nosuch@127.0.0.1:%d" % self.sshd.port}, fails=True)

    def test_refused(self):
        self.differential("ps", env={"DOCKER_HOST": "ssh://127.0.0.1:1"}, fails=True)

    def test_no_ssh(self):
        empty = self.folder()
        if not SUBJECT:
            self.assertEqual(os.path.isabs(pydock_command()[0]), True)
        self.differential("ps", env={"PATH": empty}, fails=True)

    def test_remote_pydock(self):
        """pydock's own `system dial-stdio` at the far end."""
        self.sshd.use(pydock_command())
        self.addCleanup(self.sshd.use, [self.docker])
        self.differential("images")


class EnginePodmanTest(DifferentialCase):
    """podman's Docker-compatible socket."""

    on_record = False
    normalise = (AGES, COLUMNS)

    def setUp(self):
        super().setUp()
        self.podman = Podman.get()
        self.engine = self.start(RecordingProxy(self.podman.host))
        self.host = self.engine.host

    @lines("""
        images
        images -q
        images --digests
        ps
        ps -a
        inspect busybox
        ! inspect nosuch
        tag busybox other:1
        ! tag nosuch other:1
        ! rmi nosuch
        save -o out.tar busybox
        ! save nosuch
        ! pull 127.0.0.1:1/a:1
        ! ps -f nosuch=1
        network ls
        network ls -q --no-trunc
        ! network inspect nosuch
        ! network rm nosuch
        volume create --label a=b made
        volume ls
        volume inspect made
        ! volume inspect nosuch
        ! volume rm nosuch
        volume prune -f --filter label=nosuch
        system df
        events --since 1 --until 2
        ! stats --no-stream nosuch
    """)
    def test_podman(self, *args, **options):
        files = args[0] != "save"      # podman's archives differ from call to call
        self.differential(*args, files=files, **options)

    @lines("""
        version
        info
    """)
    def test_server(self, *args, **options):
        self.normalise = SERVER
        self.differential(*args, **options)

    def container(self, name, start=True):
        """Makes a container anew."""
        must(api(self.podman.host, "DELETE", "/v1.41/containers/%s?force=1" % name), 200, 204, 404)
        must(api(self.podman.host, "POST", "/v1.41/containers/create?name=" + name, {
            "Image": "busybox:latest", "Cmd": ["sleep", "1000"], "StopSignal": "SIGKILL",
            "HostConfig": {"NetworkMode": "none"}}))
        if start:
            must(api(self.podman.host, "POST", "/v1.41/containers/%s/start" % name))

    @lines("""
        ! stop -t 1 up made nosuch
        ! pause up nosuch
        ! wait nosuch
        rm -f up made
        top up
        ! top nosuch
        history busybox
    """)
    def test_containers(self, *args, **options):
        def setup(_):
            self.container("up")
            self.container("made", start=False)
        self.normalise += (replaced(r"\b[0-9a-f]{64}\b", "ID"),)
        self.differential(*args, setup=setup, wire=False, **options)

    def test_commit(self):
        """Docker's request, which has no body, is none that podman takes."""
        self.container("made", start=False)
        self.check(self.pydock("commit", "-m", "words", "-c", "ENV A=b", "made", "t/made"), 0, re.compile("^[0-9a-f]{64}\n$"))
        found = must(api(self.podman.host, "GET", "/v1.41/images/t/made/json"))
        self.assertIn("A=b", found["Config"]["Env"])

    def test_pull_and_push(self):
        registry, dockerd = Registry.get(), Dockerd.get()
        name = registry.address + "/podman:1"
        dockerd.load(layered_image("app:1"))
        dockerd.tag("app:1", name)
        dockerd.push(name)
        self.differential("pull", registry.address + "/nosuch:1", fails=True)


class EngineEmbeddedTest(EmbeddedCase):
    """The embedded engine with a real registry, with real clients, and with what real engines make."""

    def setUp(self):
        super().setUp()
        self.registry, self.dockerd = Registry.get(), Dockerd.get()
        self.name = self.registry.address + "/embedded"
        self.dockerd.load(layered_image("app:1"))
        self.dockerd.tag("app:1", self.name + ":1")
        self.dockerd.push(self.name + ":1")
        self.addCleanup(self.dockerd.remove_image, self.name + ":1")

    def test_in_process(self):
        name = self.name + ":1"
        self.check(self.pydock("pull", name), 0, re.compile("Status: Downloaded newer image for " + name))
        self.check(self.pydock("pull", name), 0, re.compile("Status: Image is up to date for " + name))
        self.check(self.pydock("pull", "-aq", self.name), 0)
        self.check(self.pydock("images", "-q", "--no-trunc"), 0,
                   must(api(self.dockerd.host, "GET", "/images/app:1/json"))["Id"] + "\n")
        self.check(self.pydock("tag", name, self.name + "2:x"), 0)
        self.check(self.pydock("push", self.name + "2:x"), 0, re.compile("x: digest: sha256:"))
        self.check(self.pydock("push", "-a", self.name + "2"), 0, re.compile("Layer already exists"))
        self.check(self.pydock("create", "--name", "box", self.name + "2:x", "sh"), 0)
        self.check(self.pydock("create", "--pull", "always", "-q", name, "sh"), 0)
        self.check(self.pydock("pull", self.registry.address + "/nosuch:1"), 1, None, re.compile("manifest unknown"))
        self.check(self.pydock("search", self.registry.address + "/x"), 1, "", re.compile("^Error response from daemon: "))
        actions = self.pydock("events", "--since", "1", "--until", "-1s", "--format", "{{.Action}}").stdout
        self.assertEqual(actions.split()[:2] + actions.split()[-2:], ["pull", "pull", "pull", "create"])

    def test_files_as_in_a_real_engine(self):
        """What export gives of the same image."""
        archive = image_archive("whiteouts:1", *LAYERS[:2])
        self.dockerd.load(archive)
        self.addCleanup(self.dockerd.remove_image, "whiteouts:1")
        self.check(self.pydock("load", input=archive), 0)
        self.check(self.pydock("create", "--name", "box", "whiteouts:1"), 0)
        made = self.dockerd.container("box", start=False, Image="whiteouts:1")
        self.addCleanup(self.dockerd.remove_container, "box")
        ours = self.check(self.pydock("export", "box", binary=True), 0).stdout
        theirs = must(api(self.dockerd.host, "GET", "/containers/%s/export" % made))
        mine = (".dockerenv", "dev", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab", "proc", "sys")
        shown = [sorted(line for line in tar_listing(data).splitlines() if not line.split()[0].startswith(mine)
                        and " 5 " not in line and "hard" not in line and "passwd 1" not in line) for data in (theirs, ours)]
        self.assertEqual(shown[0], [line for line in shown[1]])
        for path in ("/etc", "/abs", "/abs/", "/up", "/keep/.", "/turns/into", "/pipe"):
            found = []
            for host in (self.dockerd.host, None):
                if host:
                    data = must(api(host, "GET", "/containers/box/archive?path=" + path))
                else:
                    data = self.pydock("cp", "box:" + path, "-", binary=True).stdout
                found.append(sorted(name for name in self.members(data) if not name.endswith(
                    ("hosts", "hostname", "resolv.conf", "mtab"))))
            self.assertEqual(found[0], found[1], path)

    def daemon(self):
        """The address of a daemon of the test's own."""
        socket_path = os.path.join(self.folder(), "p.sock")
        log = os.path.join(self.home, "log")
        self.addCleanup(end, spawn(pydock_command() + ["-d", "-G", "", "-H", "unix://" + socket_path], log,
                                   self.env({"DOCKER_HOST": None})))
        self.assertTrue(wait_until(lambda: os.path.exists(socket_path) and answers("unix://" + socket_path), 20))
        return "unix://" + socket_path

    def test_docker_py_as_client(self):
        script = """if 1:
            import docker, io, sys, tarfile
            host, name, archive = sys.argv[1:]
            client = docker.DockerClient(host, version="auto")
            print(client.ping(), client.version()["Platform"]["Name"])
            image = client.images.pull(name, "1")
            print(image.tags, len(image.history()), client.images.list(name)[0].id == image.id)
            image.tag(name + "4", "z")
            print(client.images.push(name + "4", "z").count("digest: sha256:"))
            saved = b"".join(image.save(named=True))
            client.images.remove(image.id, force=True)
            print(client.images.load(saved)[0].tags, client.api.import_image(archive, "made", "1").count("sha256:"))
            box = client.containers.create(name + ":1", "sh", name="box", labels=["a"])
            print(box.status, box.attrs["Config"]["Cmd"], [c.name for c in client.containers.list(all=True)])
            blocks, about = box.get_archive("/data/0")
            print(about["name"], tarfile.open(fileobj=io.BytesIO(b"".join(blocks))).getnames())
            print(len(tarfile.open(fileobj=io.BytesIO(b"".join(box.export()))).getnames()) > 2)
            for call in (box.start, box.logs, box.commit, lambda: client.images.get("nosuch")):
                try:
                    call()
                except docker.errors.APIError as error:
                    print(error.response.status_code, error.explanation.partition(":")[0])
            box.remove()
            print(len(client.containers.prune()), client.images.prune({"dangling": False})["ImagesDeleted"] is not None)
            print(client.images.list(), client.df()["Images"])
        """
        env = self.env({"DOCKER_HOST": None})
        if run([sys.executable, "-c", "import docker; docker.DockerClient"], env, cwd=self.home).status:
            raise lacking("docker-py", "this Python has no docker-py")
        with open(os.path.join(self.home, "layer.tar"), "wb") as file:
            file.write(LAYERS[0])
        refusal = "501 pydock's own engine keeps images and runs no processes\n"
        self.check(run([sys.executable, "-c", script, self.daemon(), self.name, "layer.tar"], env, cwd=self.home), 0, (
            "True pydock's embedded engine\n['NAME:1'] 3 True\n1\n['NAME:1'] 1\ncreated ['sh'] ['box']\n0 ['0']\nTrue\n" +
            refusal * 3 + "404 No such image\n2 True\n[] []\n").replace("NAME", self.name))

    @rows((28, "latest"), (20, "Debian's"))
    def test_docker_as_client(self, major, _):
        client, host, name = docker_client(major), self.daemon(), self.name + ":1"

        def docker(*args, status=0, stdout=None, stderr=None, **options):
            return self.check(run([client] + list(args), self.env({"DOCKER_HOST": host}), cwd=self.home, **options),
                              status, stdout, stderr)
        docker("pull", name, stdout=re.compile("Downloaded newer image"))
        docker("images", "--format", "{{.Repository}}:{{.Tag}}", stdout=name + "\n")
        docker("inspect", name, stdout=re.compile('"RepoTags"'))
        docker("history", "-q", name)
        docker("tag", name, self.name + "3:y")
        docker("push", self.name + "3:y", stdout=re.compile("y: digest: sha256:"))
        docker("save", "-o", "saved.tar", name)
        with open(os.path.join(self.home, "saved.tar"), "rb") as file:
            saved = file.read()
        self.dockerd.remove_image(name)
        self.dockerd.load(saved)
        self.assertEqual(must(api(self.dockerd.host, "GET", "/images/%s/json" % name))["Id"],
                         must(api(host, "GET", "/images/%s/json" % name))["Id"])
        back = must(api(self.dockerd.host, "GET", "/images/%s/get" % name))
        docker("rmi", name, self.name + "3:y", stdout=re.compile("Deleted: sha256:"))
        docker("load", input=back, stdout="Loaded image: %s\n" % name)
        docker("create", "--name", "box", name, "sh")
        docker("ps", "-a", "--format", "{{.Names}} {{.Status}}", stdout="box Created\n")
        docker("export", "-o", "files.tar", "box")
        self.assertTrue(tarfile.is_tarfile(os.path.join(self.home, "files.tar")))
        with open(os.path.join(self.home, "files.tar"), "rb") as file:
            first = sorted(self.members(file.read()))[0]
        docker("cp", "box:/" + first, "copied")
        self.assertTrue(os.path.lexists(os.path.join(self.home, "copied")))
        docker("import", "-", "made:1", input=LAYERS[0])
        docker("start", "box", status=1, stderr=re.compile("runs no processes: start Docker"))
        docker("run", "--rm", name, "sh", status=125, stderr=re.compile("runs no processes: start Docker"))
        docker("rm", "box", stdout="box\n")
        docker("system", "df")
        docker("system", "prune", "-af", stdout=re.compile("Total reclaimed space"))
        docker("images", "-q", stdout="")
        docker("info")
        docker("version", stdout=re.compile("Server: pydock's embedded engine"))

    def test_login(self):
        registry = PasswordRegistry.get()
        self.check(self.pydock("login", "-u", registry.user, "-p", "wrong", registry.address), 1, "", re.compile(
            "login attempt to http://%s/v2/ failed with status: 401 Unauthorized" % registry.address))
        self.check(self.pydock("login", "-u", registry.user, "--password-stdin", registry.address,
                               input=registry.password), 0, "Login Succeeded\n")
        self.check(self.pydock("pull", self.name + ":1"), 0)
        self.check(self.pydock("tag", self.name + ":1", registry.address + "/in:1"), 0)
        self.check(self.pydock("push", registry.address + "/in:1"), 0)
        self.check(self.pydock("logout", registry.address), 0)
        self.check(self.pydock("push", registry.address + "/in:1"), 1, None, re.compile("no basic auth credentials|unauthorized"))

    def test_login_with_tokens(self):
        """What is kept is an identity token, and no password."""
        registry, server = TokenRegistry.get(), TokenServer.get()
        self.check(self.pydock("login", "-u", server.user, "-p", "wrong", registry.address), 1, "", re.compile(
            'Get "http://%s/v2/": unauthorized: incorrect username or password' % registry.address))
        self.check(self.pydock("login", "-u", server.user, "--password-stdin", registry.address, input=server.password), 0)
        with open(os.path.join(self.home, ".docker", "config.json")) as file:
            self.assertEqual(json.load(file)["auths"][registry.address], {
                "auth": base64.b64encode(server.user.encode() + b":").decode(), "identitytoken": "identity"})
        self.check(self.pydock("pull", self.name + ":1"), 0)
        self.check(self.pydock("tag", self.name + ":1", registry.address + "/in:1"), 0)
        self.check(self.pydock("push", registry.address + "/in:1"), 0)

    def test_distribution(self):
        pydock = module()
        with pydock.Client("embedded://" + self.root) as client:
            about = client.call("GET", "/distribution/%s:1/json" % self.name)
        self.assertEqual(about["Platforms"], [{"architecture": "amd64", "os": "linux"}])


if __name__ == "__main__":
    sys.exit(main())
