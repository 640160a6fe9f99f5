"""Starts the daemons for end-to-end tests, runs offloadctl, and talks gRPC.

Every process listens on a port of its own (port 0), keeps its files in a temporary folder, and is
killed when the test class ends; its standard error is printed if a test of the class failed.
"""

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

os.environ.setdefault('GRPC_ENABLE_FORK_SUPPORT', '0')

import grpc  # noqa: E402

from gguf_offload.v1 import diagnostics_pb2, diagnostics_pb2_grpc  # noqa: E402
from gguf_offload.v1 import inference_pb2, inference_pb2_grpc  # noqa: E402
from gguf_offload.v1 import weights_pb2, weights_pb2_grpc  # noqa: E402

# Where the programs are: Bazel's runfiles, or bazel-bin when a script is run by hand.
BINARIES = os.environ.get('GGUF_OFFLOAD_BINARIES', os.getcwd())
WEIGHTD = os.path.join(BINARIES, 'weightd/weightd')
COMPUTED = os.path.join(BINARIES, 'computed/computed')
OFFLOADCTL = os.path.join(BINARIES, 'computed/cli/offloadctl')
MODELGEN = os.path.join(BINARIES, 'tests/modelgen/modelgen')

TESTDATA = 'tests/testdata'

# Which backend workers run on, and its most exact precision.
BACKEND = os.environ.get('GGUF_OFFLOAD_BACKEND', 'cpu')
EXACT = 'float16' if BACKEND == 'cuda' else 'float32'
START_SECONDS = 120
CALL_SECONDS = 240


class Daemon:
    """One running weightd or computed. Not thread-safe but for `address`."""

    def __init__(self, argv, log_path):
        self.argv = argv
        self.log_path = log_path
        self._log = open(log_path, 'ab')
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=self._log,
                                        stdin=subprocess.DEVNULL)
        self.pid = self.process.pid
        self.address = None
        self._lines = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self._lines.put(line.decode(errors='replace').rstrip('\n'))
        self._lines.put(None)

    def wait_until_listening(self):
        """Sets `address`. Raises if the process ends or says something else first."""
        try:
            line = self._lines.get(timeout=START_SECONDS)
        except queue.Empty:
            raise AssertionError(f'{self.argv} did not say that it listens\n{self.log()}') from None
        prefix = 'listening on '
        if line is None or not line.startswith(prefix):
            raise AssertionError(f'{self.argv} said {line!r}, not that it listens\n{self.log()}')
        self.address = line[len(prefix):]
        return self

    def read_address(self, name):
        """The address in the next line of standard output, "NAME on ADDRESS"."""
        line = self._lines.get(timeout=START_SECONDS)
        if line is None or not line.startswith(f'{name} on '):
            raise AssertionError(f'{self.argv} said {line!r}, not "{name} on ..."\n{self.log()}')
        return line[len(f'{name} on '):]

    def log_records(self):
        """What it has logged; for daemons with --log-format=json."""
        with open(self.log_path, 'rb') as file:
            return [json.loads(line) for line in file.read().splitlines()]

    def log(self):
        with open(self.log_path, 'rb') as file:
            return file.read()[-20000:].decode(errors='replace')

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, seconds=60):
        """Waits for the process to end by itself; gives its exit code."""
        return self.process.wait(timeout=seconds)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        self.process.stdout.close()
        self._log.close()

    def channel(self):
        return grpc.insecure_channel(self.address, options=[
            ('grpc.enable_http_proxy', 0),
            ('grpc.max_receive_message_length', -1),
            # A test that restarts a daemon on the same port does not want to wait for it.
            ('grpc.initial_reconnect_backoff_ms', 50),
            ('grpc.max_reconnect_backoff_ms', 200),
            # Two channels to one address are two connections.
            ('grpc.use_local_subchannel_pool', 1),
        ])


class EndToEndTest(unittest.TestCase):
    """A test class whose daemons live as long as the class, or as one test of it.

    `self.start_weightd` and `self.start_worker` called from a test end with the test; called on the
    class from setUpClass they end with the class.
    """

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        # Unix socket paths have at most 107 bytes, which TEST_TMPDIR alone may exceed.
        cls.folder = tempfile.mkdtemp(prefix='offload', dir='/tmp')
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls._daemons = []
        cls._counter = 0
        cls.addClassCleanup(cls._kill_all)

    @classmethod
    def _kill_all(cls):
        for daemon in cls._daemons:
            daemon.kill()

    @classmethod
    def _start(cls, program, flags):
        cls._counter += 1
        log = os.path.join(cls.folder, f'{os.path.basename(program)}-{cls._counter}.log')
        if not any(flag.startswith('--log-format') for flag in flags):
            flags = [*flags, '--log-format=text']
        daemon = Daemon([program, *flags], log)
        cls._daemons.append(daemon)
        return daemon.wait_until_listening()

    @classmethod
    def start_weightd(cls, models=None, *flags, listen='127.0.0.1:0', socket=None):
        """Starts weightd with models {name: path}. `.socket` is its Unix socket's path."""
        cls._counter += 1
        socket = socket or os.path.join(cls.folder, f'w{cls._counter}.sock')
        daemon = cls._start(WEIGHTD, [
            f'--listen={listen}', f'--socket={socket}',
            *[f'--model={name}={path}' for name, path in (models or {}).items()], *flags])
        daemon.socket = socket
        return daemon

    @classmethod
    def start_worker(cls, weights, model, *flags, listen='127.0.0.1:0'):
        """Starts computed. `weights` is an address, or a weightd: then its Unix socket is used."""
        if isinstance(weights, Daemon):
            weights = f'unix:{weights.socket}'
        if not any(flag.startswith('--backend') for flag in flags):
            flags = (*flags, f'--backend={BACKEND}')
        return cls._start(COMPUTED, [f'--weights={weights}', f'--model={model}',
                                     f'--listen={listen}', *flags])

    def run(self, result=None):
        failures = len(result.failures) + len(result.errors) if result else 0
        super().run(result)
        if result and len(result.failures) + len(result.errors) > failures:
            for daemon in self._daemons:
                print(f'--- standard error of {daemon.argv[0]} ({self.id()})', file=sys.stderr)
                print(daemon.log(), file=sys.stderr)

    # Calls that many tests make.

    def stub(self, daemon, service):
        """A stub of InferenceService, WeightService or DiagnosticsService at `daemon`."""
        channel = daemon.channel()
        self.addCleanup(channel.close)
        return {'inference': inference_pb2_grpc.InferenceServiceStub,
                'weights': weights_pb2_grpc.WeightServiceStub,
                'diagnostics': diagnostics_pb2_grpc.DiagnosticsServiceStub}[service](channel)

    def wait_until_warm(self, weightd):
        """Until all pages of all models of `weightd` are in memory."""
        stub = self.stub(weightd, 'weights')
        eventually(lambda: all(
            model.populated_bytes == model.bytes
            for model in stub.ListModels(weights_pb2.ListModelsRequest(), timeout=30).models),
            'a model does not become warm')

    def sessions(self, daemon):
        return self.stub(daemon, 'diagnostics').ListSessions(
            diagnostics_pb2.ListSessionsRequest(), timeout=CALL_SECONDS).sessions


def offloadctl(*arguments, stdin=b'', timeout=CALL_SECONDS):
    """Runs offloadctl; gives (exit code, standard output, standard error), the latter two bytes."""
    done = subprocess.run([OFFLOADCTL, *arguments], input=stdin, capture_output=True,
                          timeout=timeout, check=False)
    return done.returncode, done.stdout, done.stderr


def ctl(*arguments, **options):
    """Runs offloadctl, which must succeed; gives its standard output as text."""
    code, out, err = offloadctl(*arguments, **options)
    if code != 0:
        raise AssertionError(f'offloadctl {arguments}: exit code {code}\n{err.decode()}')
    return out.decode()


def generate(stub, tokens=None, text=None, max_tokens=12, timeout=CALL_SECONDS, **options):
    """Starts Generate and gives the call, an iterator over GenerateResponse. `options` are fields
    of GenerateRequest; `sampling` may be a dict."""
    request = inference_pb2.GenerateRequest(max_tokens=max_tokens)
    if tokens is not None:
        request.tokens.ids.extend(tokens)
    else:
        request.text = text
    for name, value in options.items():
        if name == 'sampling':
            for key, entry in value.items():
                setattr(request.sampling, key, entry)
        elif name == 'stop':
            request.stop.extend(value)
        else:
            setattr(request, name, value)
    return stub.Generate(request, timeout=timeout)


class Generation:
    """A finished Generate: its text, token ids, pieces of text, log probabilities, and result."""

    def __init__(self, call):
        self.pieces, self.ids, self.logprobs, self.result = [], [], [], None
        for response in call:
            self.pieces.append(response.text)
            self.ids.extend(response.tokens)
            self.logprobs.extend(response.logprobs)
            if response.HasField('result'):
                self.result = response.result
        self.text = ''.join(self.pieces)


def eventually(predicate, what, seconds=60):
    """Waits until predicate() is true and gives its value; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f'after {seconds} s: {what}')
        pause.wait(0.02)


def make_model(path, preset, quantization, layers=None, *flags):
    """Writes a random model with modelgen."""
    argv = [MODELGEN, f'--preset={preset}', f'--quantization={quantization}', f'--out={path}',
            *flags]
    if layers is not None:
        argv.append(f'--layers={layers}')
    done = subprocess.run(argv, capture_output=True, check=False, timeout=600)
    if done.returncode != 0:
        raise AssertionError(f'{argv}: {done.stderr.decode()}')
    return path


def terminate(daemon):
    daemon.signal(signal.SIGTERM)


def free_port():
    """A port that was free a moment ago, for a daemon that has to come back on it."""
    import socket
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]
