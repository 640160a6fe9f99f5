"""Mutual TLS between clients, workers and the weight daemon."""

import os
import subprocess
import unittest

import golden
import grpc
from gguf_offload.v1 import diagnostics_pb2, diagnostics_pb2_grpc, inference_pb2_grpc
from harness import COMPUTED, EndToEndTest, Generation, ctl, generate, offloadctl


class SecurityTest(EndToEndTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        for name, names in {'weightd': 'DNS:localhost,IP:127.0.0.1',
                            'computed': 'DNS:localhost,IP:127.0.0.1,DNS:worker.test',
                            'client': 'DNS:client.test,URI:spiffe://test/client',
                            'stranger': 'DNS:stranger.test'}.items():
            subprocess.run(['deploy/certs.sh', f'--out={cls.folder}', f'--name={name}',
                            f'--san={names}'], check=True, capture_output=True, timeout=60)
        cls.weightd = cls.start_weightd(
            {'m': golden.path('llama-f32')}, *cls.tls_flags('weightd'),
            '--tls-allow=worker.test,client.test')
        # Over TCP the worker is a client with its own certificate.
        cls.worker = cls.start_worker(
            cls.weightd.address, 'm', *cls.tls_flags('computed'),
            '--tls-allow=spiffe://test/client')

    @classmethod
    def file(cls, name, file):
        return os.path.join(cls.folder, name, file)

    @classmethod
    def tls_flags(cls, name):
        return (f'--tls-cert={cls.file(name, "tls.crt")}', f'--tls-key={cls.file(name, "tls.key")}',
                f'--tls-ca={cls.file(name, "ca.crt")}')

    def secure_channel(self, name, address):
        def read(file):
            with open(self.file(name, file), 'rb') as opened:
                return opened.read()

        channel = grpc.secure_channel(
            address, grpc.ssl_channel_credentials(read('ca.crt'), read('tls.key'), read('tls.crt')),
            options=[('grpc.enable_http_proxy', 0)])
        self.addCleanup(channel.close)
        return channel

    def test_generation_through_both_daemons(self):
        stub = inference_pb2_grpc.InferenceServiceStub(
            self.secure_channel('client', self.worker.address))
        plain_weightd = self.start_weightd({'m': golden.path('llama-f32')})
        plain = self.start_worker(plain_weightd, 'm')
        expected = Generation(generate(self.stub(plain, 'inference'), tokens=[1, 2, 3])).ids
        self.assertEqual(Generation(generate(stub, tokens=[1, 2, 3])).ids, expected)

    def test_offloadctl(self):
        out = ctl('models', f'--weights={self.weightd.address}', *self.tls_flags('client'))
        self.assertIn('llama', out)
        self.assertEqual(ctl('health', f'--address={self.worker.address}',
                             *self.tls_flags('client')), 'SERVING\n')
        # The server's name is checked.
        code, _, err = offloadctl('models', f'--weights={self.weightd.address}',
                                  '--tls-server-name=other.test', *self.tls_flags('client'))
        self.assertEqual(code, 1, err)
        self.assertEqual(offloadctl('models', f'--weights={self.worker.address}',
                                    '--tls-key=/none')[0], 1)

    def test_a_client_that_is_not_allowed_is_told_so(self):
        code, _, err = offloadctl('models', f'--weights={self.weightd.address}',
                                  *self.tls_flags('stranger'))
        self.assertEqual(code, 1)
        self.assertIn(b'stranger.test', err)
        stub = diagnostics_pb2_grpc.DiagnosticsServiceStub(
            self.secure_channel('stranger', self.worker.address))
        with self.assertRaises(grpc.RpcError) as raised:
            stub.Ping(diagnostics_pb2.PingRequest(), timeout=30)
        self.assertEqual(raised.exception.code(), grpc.StatusCode.PERMISSION_DENIED)

    def test_plain_text_is_refused(self):
        for daemon in (self.weightd, self.worker):
            with self.assertRaises(grpc.RpcError) as raised:
                self.stub(daemon, 'diagnostics').Ping(diagnostics_pb2.PingRequest(), timeout=30)
            self.assertEqual(raised.exception.code(), grpc.StatusCode.UNAVAILABLE)

    def test_the_socket_needs_no_certificate(self):
        worker = self.start_worker(self.weightd, 'm', *self.tls_flags('computed'))
        self.assertEqual(ctl('health', f'--address={worker.address}', *self.tls_flags('client')),
                         'SERVING\n')
        self.assertIn('llama', ctl('models', f'--weights=unix:{self.weightd.socket}'))

    def test_no_secret_is_shown(self):
        with open(self.file('weightd', 'tls.key'), encoding='ascii') as file:
            secret = file.read().splitlines()[1]
        stub = diagnostics_pb2_grpc.DiagnosticsServiceStub(
            self.secure_channel('client', self.weightd.address))
        flags = stub.GetConfig(diagnostics_pb2.GetConfigRequest(), timeout=30).flags
        self.assertEqual(flags['tls-key'], self.file('weightd', 'tls.key'))
        self.assertNotIn(secret, str(flags))
        self.assertNotIn(secret, self.weightd.log())

    def test_files_that_do_not_fit_are_named_at_start(self):
        cert, key, ca = (self.file('weightd', f) for f in ('tls.crt', 'tls.key', 'ca.crt'))
        other = self.file('client', 'tls.key')
        for flags, named in (((cert, other, ca), other), (('/none', key, ca), '/none'),
                             ((key, key, ca), key), ((cert, key, key), key)):
            with self.subTest(flags=flags):
                done = subprocess.run(
                    [COMPUTED, '--weights=unix:/none', '--model=m', f'--tls-cert={flags[0]}',
                     f'--tls-key={flags[1]}', f'--tls-ca={flags[2]}'],
                    capture_output=True, timeout=60, check=False)
                self.assertEqual(done.returncode, 1)
                self.assertIn(named, done.stderr.decode())


if __name__ == '__main__':
    unittest.main()
