"""Certificates for tests of mutual TLS, made by deploy/certs.sh."""

import os
import subprocess

import grpc


class Identity:
    """A certificate, its key, and the authorities it trusts: a folder of files as certs.sh writes
    them, which daemons read again when they change."""

    def __init__(self, folder):
        self.folder = folder

    def path(self, name):
        return os.path.join(self.folder, name)

    def read(self, name):
        with open(self.path(name), 'rb') as file:
            return file.read()

    def write(self, name, data):
        """Complete or not at all, as whoever rotates certificates should."""
        with open(self.path(name + '.new'), 'wb') as file:
            file.write(data)
        os.rename(self.path(name + '.new'), self.path(name))

    def take(self, other):
        """Becomes `other`, but for whom it trusts. The key first, as certs.sh does it."""
        self.write('tls.key', other.read('tls.key'))
        self.write('tls.crt', other.read('tls.crt'))

    def trust(self, *identities):
        """Trusts the authorities of these."""
        self.write('ca.crt', b''.join(identity.read('ca.crt') for identity in identities))

    def flags(self):
        return [f'--tls-cert={self.path("tls.crt")}', f'--tls-key={self.path("tls.key")}',
                f'--tls-ca={self.path("ca.crt")}', '--tls-refresh=1s']

    def channel(self, address, trusted=None, with_certificate=True, server_name=None):
        """A client's channel; `trusted` are PEM authorities instead of this identity's."""
        credentials = grpc.ssl_channel_credentials(
            trusted or self.read('ca.crt'),
            *([self.read('tls.key'), self.read('tls.crt')] if with_certificate else []))
        options = [('grpc.enable_http_proxy', 0), ('grpc.use_local_subchannel_pool', 1),
                   ('grpc.initial_reconnect_backoff_ms', 50),
                   ('grpc.max_reconnect_backoff_ms', 200)]
        if server_name:
            options.append(('grpc.ssl_target_name_override', server_name))
        return grpc.secure_channel(address, credentials, options=options)


def make(folder, name, *flags, authority='ca', san=None):
    """A new identity, signed by `authority`, which is made if there is none of that name."""
    out = os.path.join(folder, f'certificates-{authority}')
    argv = ['deploy/certs.sh', f'--out={out}', f'--authority={authority}', f'--name={name}', *flags]
    if san:
        argv.append(f'--san={san}')
    done = subprocess.run(argv, capture_output=True, check=False, timeout=60, text=True)
    if done.returncode != 0:
        raise AssertionError(f'{argv}: {done.stderr}')
    return Identity(os.path.join(out, name))
