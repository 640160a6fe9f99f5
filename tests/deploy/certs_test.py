"""deploy/certs.sh: what it makes is what OpenSSL accepts, and refuses where it should."""

import os
import shutil
import subprocess
import tempfile
import unittest


def openssl(*arguments):
    return subprocess.run(['openssl', *arguments], capture_output=True, text=True, check=False,
                          timeout=60)


@unittest.skipUnless(shutil.which('openssl'), 'openssl is missing')
class CertificatesTest(unittest.TestCase):

    def setUp(self):
        self.folder = tempfile.mkdtemp(dir=os.environ.get('TEST_TMPDIR'))
        self.addCleanup(shutil.rmtree, self.folder)

    def make(self, *arguments):
        return subprocess.run(['deploy/certs.sh', f'--out={self.folder}', *arguments],
                              capture_output=True, text=True, check=False, timeout=60)

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def content(self, *parts):
        with open(self.path(*parts), 'rb') as file:
            return file.read()

    def accepted(self, name, *options, authority='ca'):
        return openssl('verify', '-CAfile', self.path(f'{authority}.crt'), *options,
                       self.path(name, 'tls.crt')).returncode == 0

    def test_one_authority_for_many(self):
        for name in ('weightd', 'computed'):
            done = self.make(f'--name={name}', f'--san=DNS:{name}.test,IP:127.0.0.1')
            self.assertEqual((done.returncode, done.stdout, done.stderr), (0, '', ''))
            self.assertEqual(self.content(name, 'ca.crt'), self.content('ca.crt'))
            self.assertEqual(os.stat(self.path(name, 'tls.key')).st_mode & 0o077, 0)
        for purpose in ('sslserver', 'sslclient'):
            self.assertTrue(self.accepted('weightd', '-purpose', purpose))
            self.assertTrue(self.accepted('computed', '-purpose', purpose))
        self.assertTrue(self.accepted('weightd', '-verify_hostname', 'weightd.test'))
        self.assertTrue(self.accepted('weightd', '-verify_ip', '127.0.0.1'))
        self.assertFalse(self.accepted('weightd', '-verify_hostname', 'computed.test'))

    def test_again_changes_nothing_unless_forced(self):
        self.make('--name=a')
        before = self.content('a', 'tls.crt')
        self.make('--name=a')
        self.assertEqual(self.content('a', 'tls.crt'), before)
        self.make('--name=a', '--force')
        self.assertNotEqual(self.content('a', 'tls.crt'), before)
        self.assertTrue(self.accepted('a'))

    def test_expired(self):
        self.assertEqual(self.make('--name=old', '--expired').returncode, 0)
        self.assertFalse(self.accepted('old'))
        self.assertTrue(self.accepted('old', '-no_check_time'))

    def test_days(self):
        self.make('--name=short', '--days=2')
        end = openssl('x509', '-in', self.path('short', 'tls.crt'), '-noout', '-checkend', '100000')
        self.assertEqual(end.returncode, 0)
        end = openssl('x509', '-in', self.path('short', 'tls.crt'), '-noout', '-checkend', '180000')
        self.assertEqual(end.returncode, 1)

    def test_another_authority_does_not_vouch(self):
        self.make('--name=a')
        self.make('--name=stranger', '--authority=other')
        self.assertFalse(self.accepted('stranger'))
        self.assertTrue(self.accepted('stranger', authority='other'))

    def test_alternative_names(self):
        self.make('--name=a', '--san=URI:spiffe://cluster/ns/x/sa/y')
        text = openssl('x509', '-in', self.path('a', 'tls.crt'), '-noout', '-ext', 'subjectAltName')
        self.assertIn('URI:spiffe://cluster/ns/x/sa/y', text.stdout)

    def test_secret(self):
        self.make('--name=weightd', '--kubernetes')
        text = self.content('weightd', 'secret.yaml').decode()
        self.assertIn('name: weightd-tls\ntype: kubernetes.io/tls\n', text)

    def test_bad_arguments(self):
        for argument in ('--days=0', '--days=x', '--name=../x', '--name=ca', '--san=bogus',
                         '--frob'):
            done = self.make('--name=a', argument)
            self.assertEqual(done.returncode, 1, argument)
            self.assertIn('certs.sh: ', done.stderr)
            self.assertFalse(os.path.exists(self.path('a', 'tls.crt')), argument)


if __name__ == '__main__':
    unittest.main()
