"""The systemd units: systemd understands all of them, they are hardened, and their programs know
the flags."""

import glob
import os
import re
import shutil
import subprocess
import tempfile
import unittest

import daemon_rules

SYSTEMD = 'deploy/systemd'
BINARIES = os.environ.get('GGUF_OFFLOAD_BINARIES', os.getcwd())
NAMES = ('weightd', 'computed')
# systemd-analyze security: 10 is no protection, times ten.
MOST_EXPOSED = 20


def settings(name):
    """[(key, value)] of a unit, with continued lines joined."""
    with open(f'{SYSTEMD}/{name}.service', encoding='utf-8') as file:
        text = file.read().replace('\\\n', ' ')
    return [line.partition('=')[::2] for line in text.splitlines()
            if '=' in line and not line.startswith('#')]


def seconds(text):
    return int(text.removesuffix('s'))


class UnitsTest(unittest.TestCase):

    def folder_with(self, *changes):
        """A folder with copies of the units that name programs that are here, changed."""
        folder = tempfile.mkdtemp(prefix='units', dir='/tmp')
        self.addCleanup(shutil.rmtree, folder)
        for name in NAMES:
            program = os.path.join(folder, name)
            shutil.copy(os.path.join(BINARIES, name, name), program)
            os.chmod(program, 0o755)
            shutil.copy(f'{SYSTEMD}/{name}.env', folder)
            with open(f'{SYSTEMD}/{name}.service', encoding='utf-8') as file:
                text = file.read()
            text = text.replace('/opt/gguf-offload/bin', folder)
            text = text.replace('/etc/gguf-offload/', f'{folder}/')
            for before, after in changes:
                text = text.replace(before, after)
            with open(f'{folder}/{name}.service', 'w', encoding='utf-8') as file:
                file.write(text)
        return folder

    def verify(self, folder):
        done = subprocess.run(
            ['systemd-analyze', 'verify', '--man=no', *sorted(glob.glob(f'{folder}/*.service'))],
            capture_output=True, text=True, check=False, timeout=120)
        # It also looks at what the machine has installed, about which it may have to complain.
        return [line for line in (done.stdout + done.stderr).splitlines() if folder in line or
                any(f'{name}.service' in line for name in NAMES)]

    @unittest.skipUnless(shutil.which('systemd-analyze'), 'systemd-analyze is missing')
    def test_systemd_understands_them(self):
        self.assertEqual(self.verify(self.folder_with()), [])

    @unittest.skipUnless(shutil.which('systemd-analyze'), 'systemd-analyze is missing')
    def test_mistakes_are_found(self):
        for before, after in (('ProtectHome=', 'ProtectHmoe='), ('Type=exec', 'Type=exce'),
                              ('RestartSec=2', 'RestartSec=soon'), ('[Service]', '[Servce]'),
                              ('/weightd ', '/weigthd ')):
            with self.subTest(after):
                self.assertTrue(self.verify(self.folder_with((before, after))))

    @unittest.skipUnless(shutil.which('systemd-analyze'), 'systemd-analyze is missing')
    def test_they_are_hardened(self):
        folder = self.folder_with()
        for name in NAMES:
            done = subprocess.run(
                ['systemd-analyze', 'security', '--offline=yes', '--no-pager',
                 f'--threshold={MOST_EXPOSED}', f'{folder}/{name}.service'],
                capture_output=True, text=True, check=False, timeout=120)
            self.assertIn('Overall exposure level', done.stdout + done.stderr)
            self.assertEqual(done.returncode, 0, done.stdout[-3000:])

    def test_flags_are_known(self):
        for name in NAMES:
            unit = dict(settings(name))
            with open(f'{SYSTEMD}/{name}.env', encoding='utf-8') as file:
                flags = re.findall(r'--([\w-]+)=', unit['ExecStart'] + file.read())
            known = daemon_rules.known_flags(os.path.join(BINARIES, name, name))
            self.assertGreater(len(flags), 5)
            self.assertEqual([flag for flag in flags if flag not in known], [], name)

    def test_there_is_time_to_drain(self):
        for name in NAMES:
            unit = dict(settings(name))
            grace = re.search(r'--grace=(\d+s)', unit['ExecStart'])[1]
            self.assertGreater(seconds(unit['TimeoutStopSec']), seconds(grace), name)

    def test_users_are_those_of_the_images(self):
        with open(f'{SYSTEMD}/gguf-offload.sysusers.conf', encoding='utf-8') as file:
            users = dict(re.findall(r'^u (\w+) (\d+)', file.read(), re.MULTILINE))
        for name in NAMES:
            self.assertEqual(dict(settings(name))['User'], name)
            with open(f'deploy/images/{name}.Dockerfile', encoding='utf-8') as file:
                self.assertIn(f'\nUSER {users[name]}:{users[name]}\n', file.read())
        self.assertIn(f'--allow-uid={users["computed"]} ', dict(settings('weightd'))['ExecStart'])
        with open(f'{SYSTEMD}/gguf-offload.tmpfiles.conf', encoding='utf-8') as file:
            owners = re.findall(r'^d \S+ 0755 (\d+) (\d+) -$', file.read(), re.MULTILINE)
        self.assertEqual(set(owners), {(users['weightd'], users['weightd'])})


if __name__ == '__main__':
    unittest.main()
