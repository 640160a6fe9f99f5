"""Images as folders, and programs that run in them as in a pod, without a container engine."""

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

HERE = os.path.dirname(os.path.abspath(__file__))
BINARIES = os.environ.get('GGUF_OFFLOAD_BINARIES', os.getcwd())
START_SECONDS = 120


def why_not():
    """Why containers cannot be run here; '' if they can."""
    if os.getuid() != 0:
        return 'this test must run as root: it changes users and mounts'
    trial = subprocess.run(
        ['unshare', '--mount', '--pid', '--fork', '--net', '--propagation', 'private', 'sh', '-c',
         'd=$(mktemp -d) && mount --bind "$d" "$d" && mount -o remount,bind,ro "$d" && '
         'mount -t proc proc "$d" && umount "$d" && umount "$d" && rmdir "$d"'],
        capture_output=True, text=True, check=False, timeout=60)
    return '' if trial.returncode == 0 else f'namespaces and mounts are not allowed: {trial.stderr}'


class Image:
    """A root file system made from a Dockerfile of deploy/images, and its configuration."""

    def __init__(self, context, folder):
        done = subprocess.run(['deploy/images/build_image.py', context, f'--rootfs={folder}'],
                              capture_output=True, text=True, check=False, timeout=120)
        if done.returncode != 0:
            raise AssertionError(done.stderr)
        self.rootfs = folder
        self.config = json.loads(done.stdout)
        self.user = [int(part) for part in self.config['User'].split(':')]
        # What every runtime adds.
        for name in ('proc', 'dev', 'sys'):
            os.makedirs(os.path.join(folder, name), exist_ok=True)
        with open(os.path.join(folder, 'etc/hosts'), 'w', encoding='utf-8'):
            pass


def build_images(folder):
    """{name: Image} of both programs, in folders of `folder`."""
    context = os.path.join(folder, 'context')
    done = subprocess.run(['deploy/images/context.sh', context, f'--from={BINARIES}'],
                          capture_output=True, text=True, check=False, timeout=300)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return {name: Image(os.path.join(context, name), os.path.join(folder, name))
            for name in ('weightd', 'computed')}


class Process:
    """A program in a container. Its output is collected; it is killed with the test."""

    def __init__(self, argv):
        self.argv = argv
        self.lines = queue.Queue()
        self.log = []
        # pylint: disable=consider-using-with
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, errors='replace')
        self._readers = [threading.Thread(target=self._read_lines, daemon=True),
                         threading.Thread(target=self._read_log, daemon=True)]
        for reader in self._readers:
            reader.start()

    def _read_lines(self):
        for line in self.process.stdout:
            self.lines.put(line.rstrip('\n'))
        self.lines.put(None)

    def _read_log(self):
        for line in self.process.stderr:
            self.log.append(line)

    def wait_for_line(self, prefix):
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                line = self.lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f'no line {prefix!r}:\n{"".join(self.log)}')
            if line.startswith(prefix):
                return line

    def terminate(self, seconds=60):
        """Asks it to end; gives its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=seconds)

    def kill(self):
        self.process.kill()
        self.process.wait()
        for reader in self._readers:
            reader.join(timeout=10)
        self.process.stdout.close()
        self.process.stderr.close()


@unittest.skipIf(why_not(), why_not())
class ContainerTest(unittest.TestCase):
    """A test class with both images and one network, in which only a loopback is."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.folder = tempfile.mkdtemp(prefix='offload', dir='/tmp')
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        os.chmod(cls.folder, 0o755)
        cls.images = build_images(cls.folder)
        cls._processes = []
        cls.addClassCleanup(cls._kill_all)
        cls.network = subprocess.Popen(  # pylint: disable=consider-using-with
            ['unshare', '--net', sys.executable, '-c', UP_AND_WAIT], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE)
        cls.addClassCleanup(cls._close_network)
        if cls.network.stdout.readline() != b'up\n':
            raise AssertionError('the loopback does not come up')

    @classmethod
    def _close_network(cls):
        cls.network.stdin.close()
        cls.network.wait(timeout=60)
        cls.network.stdout.close()

    @classmethod
    def _kill_all(cls):
        for process in cls._processes:
            process.kill()

    @classmethod
    def in_network(cls, *argv):
        return ['nsenter', f'--net=/proc/{cls.network.pid}/ns/net', *argv]

    @classmethod
    def container(cls, image, argv, mounts, user=None, hosts='127.0.0.1 localhost\n'):
        """The words that run a program in an image; see enter_container.py."""
        image = cls.images[image]
        path = os.path.join(cls.folder, 'hosts')
        with open(path, 'w', encoding='utf-8') as file:
            file.write(hosts)
        spec = {'rootfs': image.rootfs, 'argv': argv, 'user': user or image.user,
                'mounts': [[path, '/etc/hosts', True], *mounts],
                'env': dict(pair.split('=', 1) for pair in image.config['Env'])}
        return cls.in_network(sys.executable, os.path.join(HERE, 'enter_container.py'),
                              json.dumps(spec))

    @classmethod
    def start(cls, *arguments, **options):
        process = Process(cls.container(*arguments, **options))
        cls._processes.append(process)
        return process

    @classmethod
    def run_in(cls, *arguments, **options):
        """Runs a program to its end; gives it with its output as text."""
        return subprocess.run(cls.container(*arguments, **options), capture_output=True, text=True,
                              check=False, timeout=240)

    @classmethod
    def http_get(cls, port, path):
        """(status, text), fetched from within the network."""
        done = subprocess.run(cls.in_network(sys.executable, '-c', FETCH,
                                             f'http://127.0.0.1:{port}{path}'),
                              capture_output=True, text=True, check=False, timeout=60)
        status, _, text = done.stdout.partition('\n')
        return int(status or 0), text or done.stderr

    def run(self, result=None):
        failures = len(result.failures) + len(result.errors)
        super().run(result)
        if len(result.failures) + len(result.errors) > failures:
            for process in getattr(self, '_processes', []):
                print(f'--- {process.argv[-1]}\n{"".join(process.log[-60:])}', file=sys.stderr)


UP_AND_WAIT = '''
import fcntl, socket, struct, sys
with socket.socket() as probe:
    name_and_flags = struct.pack('16sh22x', b'lo', 0x1 | 0x40)
    fcntl.ioctl(probe, 0x8914, name_and_flags)
print('up', flush=True)
sys.stdin.read()
'''

FETCH = '''
import sys, urllib.error, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    with opener.open(sys.argv[1], timeout=20) as answer:
        print(answer.status)
        print(answer.read().decode(), end='')
except urllib.error.HTTPError as error:
    print(error.code)
'''


def folder_for(path, uid, mode=0o755):
    os.makedirs(path, exist_ok=True)
    os.chown(path, uid, uid)
    os.chmod(path, mode)
    return path


def eventually(predicate, what, seconds=60):
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not predicate():
        if time.monotonic() > deadline:
            raise AssertionError(f'after {seconds} s: {what}')
        pause.wait(0.2)
