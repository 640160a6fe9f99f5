"""The images: what is in them, and both daemons running from them as in containers."""

import json
import math
import os
import shutil
import stat
import subprocess
import tempfile
import unittest

import numpy

from containers import ContainerTest, build_images, folder_for

MODELS = 'tests/testdata/golden/models'
MODEL = 'qwen3-iq'
OFFLOADCTL = '/opt/gguf-offload/bin/offloadctl'


class ImagesTest(ContainerTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        weightd, computed = (cls.images[name].user[0] for name in ('weightd', 'computed'))
        models = folder_for(os.path.join(cls.folder, 'models'), weightd)
        shutil.copy(f'{MODELS}/{MODEL}.gguf', models)
        os.chown(f'{models}/{MODEL}.gguf', weightd, weightd)
        os.chmod(f'{models}/{MODEL}.gguf', 0o400)
        # As an emptyDir is.
        socket = folder_for(os.path.join(cls.folder, 'socket'), 0, 0o777)
        cls.mounts = {'weightd': [[models, '/models', True], [socket, '/run/gguf-offload', False]],
                      'computed': [[socket, '/run/gguf-offload', True]]}
        cls.weightd = cls.start('weightd', cls.command('weightd'), cls.mounts['weightd'])
        cls.weightd.wait_for_line('listening on ')
        cls.computed = cls.start(
            'computed', cls.command('computed', f'--model={MODEL}', '--activations=float32'),
            cls.mounts['computed'])
        cls.computed.wait_for_line('listening on ')
        assert weightd != computed

    @classmethod
    def command(cls, name, *more):
        config = cls.images[name].config
        return [*config['Entrypoint'], *config['Cmd'], *more]

    def ctl(self, *arguments):
        done = self.run_in('computed', [OFFLOADCTL, *arguments], self.mounts['computed'])
        self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def test_generates(self):
        done = self.ctl('generate', '--worker=127.0.0.1:7071', '--prompt=Hello', '--max-tokens=8')
        self.assertRegex(done.stderr, r'generated [1-8] tokens')
        self.assertTrue(done.stdout.strip())

    def test_computes_what_it_should(self):
        with open(f'{MODELS}/index.json', encoding='utf-8') as file:
            golden = next(entry for entry in json.load(file) if entry['model'] == f'{MODEL}.gguf')
        logits = numpy.fromfile(f'{MODELS}/{golden["logits"]}', dtype='<f4').astype('f8')
        logits = logits.reshape(golden['rows'], golden['columns'])
        ids = ','.join(map(str, golden['tokens']))
        lines = self.ctl('evaluate', '--worker=127.0.0.1:7071', f'--tokens={ids}').stdout
        rows = [line.split() for line in lines.splitlines()[:-1]]
        self.assertEqual(len(rows), len(golden['tokens']) - 1)
        for position, token, logprob in rows:
            row = logits[int(position) - 1]
            expected = row[int(token)] - numpy.logaddexp.reduce(row)
            self.assertLess(math.fabs(float(logprob) - expected), 2e-2)

    def test_the_weights_are_shared(self):
        """Pages of the file itself, through the socket: another process namespace, another user."""
        attached = next(entry for entry in map(json.loads, self.computed.log)
                        if entry['message'] == 'attached')
        self.assertGreater(attached['shared_bytes'], 0)
        self.assertEqual(attached['streamed_bytes'], 0)

    def test_health_checks(self):
        for name in ('weightd', 'computed'):
            check = self.images[name].config['Healthcheck']['Test']
            self.assertEqual(check[0], 'CMD')
            done = self.run_in(name, check[1:], self.mounts[name])
            self.assertEqual(done.returncode, 0, (name, done.stderr))

    def test_nothing_is_writable_but_what_is_mounted(self):
        for name, expected in (('weightd', ['/run/gguf-offload']), ('computed', [])):
            done = self.run_in(name, ['@writable'], self.mounts[name])
            found = json.loads(done.stdout)
            # Whoever may connect may write to a socket, and to nothing else.
            sockets = [path for path in found if path.endswith('.sock')]
            self.assertEqual([path for path in found if path not in sockets], expected, name)

    def test_there_is_no_shell(self):
        for name in ('weightd', 'computed'):
            for shell in ('/bin/sh', '/bin/bash', '/usr/bin/env', '/busybox/sh'):
                done = self.run_in(name, [shell, '-c', 'true'], self.mounts[name])
                self.assertEqual(done.returncode, 127, (name, shell))

    def test_ends_when_asked(self):
        process = self.start('weightd', [
            *self.images['weightd'].config['Entrypoint'], '--model-dir=/models',
            '--listen=127.0.0.1:0'], self.mounts['weightd'])
        process.wait_for_line('listening on ')
        self.assertEqual(process.terminate(), 0)


class ContentsTest(unittest.TestCase):
    """What is in the images; needs no rights."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = tempfile.mkdtemp(prefix='offload', dir='/tmp')
        cls.addClassCleanup(shutil.rmtree, folder)
        cls.images = build_images(folder)

    def test_programs_are_ours(self):
        for name, image in self.images.items():
            programs = []
            for folder, _, files in os.walk(image.rootfs):
                for file in files:
                    path = os.path.join(folder, file)
                    mode = os.lstat(path)
                    self.assertEqual(mode.st_uid, os.getuid(), path)
                    self.assertFalse(mode.st_mode & (stat.S_ISUID | stat.S_ISGID), path)
                    self.assertFalse(mode.st_mode & 0o022, path)
                    if mode.st_mode & 0o111:
                        programs.append(os.path.relpath(path, image.rootfs))
            self.assertEqual(sorted(programs), ['lib64/ld-linux-x86-64.so.2',
                                                'opt/gguf-offload/bin/' + min(name, 'offloadctl'),
                                                'opt/gguf-offload/bin/' + max(name, 'offloadctl')])

    def test_the_user_is_a_number(self):
        """Kubernetes cannot tell whether a name is root."""
        for name, image in self.images.items():
            self.assertRegex(image.config['User'], r'^[1-9]\d*:[1-9]\d*$', name)


class ArchiveTest(unittest.TestCase):
    """build_image.py by itself; needs no rights."""

    def build(self, dockerfile, *arguments):
        folder = tempfile.mkdtemp(dir=os.environ.get('TEST_TMPDIR'))
        self.addCleanup(shutil.rmtree, folder)
        os.makedirs(f'{folder}/context/files/sub')
        with open(f'{folder}/context/files/sub/a', 'w', encoding='utf-8') as file:
            file.write('content')
        with open(f'{folder}/context/Dockerfile', 'w', encoding='utf-8') as file:
            file.write(dockerfile)
        done = subprocess.run(
            ['deploy/images/build_image.py', f'{folder}/context',
             *[argument.format(folder) for argument in arguments]],
            capture_output=True, text=True, check=False, timeout=60)
        return folder, done

    def test_an_archive_is_reproducible(self):
        digests = set()
        for _ in range(2):
            folder, done = self.build(
                'FROM scratch\n# a comment\nCOPY files/ /x/\nUSER 5:6\nENTRYPOINT ["/x/sub/a",\\\n'
                '  "b"]\n', '--archive={}/a.tar', '--tag=r/n:1')
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(json.loads(done.stdout)['Entrypoint'], ['/x/sub/a', 'b'])
            listing = subprocess.run(['tar', 'xOf', f'{folder}/a.tar', 'manifest.json'],
                                     capture_output=True, check=True)
            digests.add(listing.stdout)
            layer = subprocess.run(f'tar xOf {folder}/a.tar layer.tar | tar t', shell=True,
                                   capture_output=True, text=True, check=True)
            self.assertEqual(layer.stdout.split(), ['x/', 'x/sub/', 'x/sub/a'])
        self.assertEqual(len(digests), 1)

    def test_what_it_does_not_know_is_refused(self):
        for dockerfile, complaint in (
                ('FROM debian\n', 'scratch'), ('FROM scratch\nRUN true\n', 'RUN is not among'),
                ('FROM scratch\nENTRYPOINT sh\n', 'exec form'), ('COPY a b\n', 'one FROM'),
                ('FROM scratch\nCOPY ../secret /\n', 'COPY does not do'),
                ('FROM scratch\nCOPY --from=x a /\n', 'COPY does not do'),
                ('FROM scratch\nHEALTHCHECK NONE\n', 'without CMD'),
                ('FROM scratch\nCOPY nothing /\n', 'there is no')):
            _, done = self.build(dockerfile, '--rootfs={}/root')
            self.assertEqual(done.returncode, 1, dockerfile)
            self.assertIn(complaint, done.stderr)


del ContainerTest


if __name__ == '__main__':
    unittest.main()
