"""Case 42: certificates that are expired, of another authority, of another name, or missing; and
certificates that change while requests run."""

import os
import shutil
import signal
import subprocess
import threading

import grpc

import certificates
from gguf_offload.v1 import (diagnostics_pb2, diagnostics_pb2_grpc, inference_pb2_grpc,
                             weights_pb2, weights_pb2_grpc)
from harness import COMPUTED, EndToEndTest, Generation, eventually, free_port, generate, make_model

LOOPBACK = 'DNS:localhost,IP:127.0.0.1'
PROMPT = [5, 6, 7, 8]
TOKENS = 20


class CertificatesTest(EndToEndTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path = make_model(os.path.join(cls.folder, 'm.gguf'), 'tiny-llama', 'Q8_0', 8)
        make = certificates.make
        cls.weightd_identity = make(cls.folder, 'weightd', san=LOOPBACK)
        cls.worker_identity = make(cls.folder, 'computed', san=LOOPBACK + ',DNS:computed.test')
        cls.client = make(cls.folder, 'client', san='DNS:client.test')
        cls.expired = make(cls.folder, 'late', '--expired',
                           san=LOOPBACK + ',DNS:client.test,DNS:computed.test')
        cls.unknown = make(cls.folder, 'stranger',
                           san=LOOPBACK + ',DNS:client.test,DNS:computed.test', authority='other')
        cls.unnamed = make(cls.folder, 'somebody', san='DNS:somebody.test')
        cls.authorities = cls.client.read('ca.crt')

    def copy(self, identity):
        """A copy that a test may change."""
        self.__class__._counter += 1
        folder = os.path.join(self.folder, f'copy-{self._counter}')
        shutil.copytree(identity.folder, folder)
        return certificates.Identity(folder)

    def start_pair(self, weightd_identity=None, worker_identity=None,
                   allow='client.test,computed.test', listen='127.0.0.1:0'):
        weightd = self.start_weightd(
            {'m': self.path}, f'--tls-allow={allow}',
            *(weightd_identity or self.weightd_identity).flags(), listen=listen)
        worker = self.start_worker(
            weightd.address, 'm', '--context-tokens=1024', '--tls-allow=client.test',
            *(worker_identity or self.worker_identity).flags())
        return weightd, worker

    @staticmethod
    def ids(channel, tokens=TOKENS, timeout=60):
        return Generation(generate(inference_pb2_grpc.InferenceServiceStub(channel), tokens=PROMPT,
                                   max_tokens=tokens, timeout=timeout, ignore_end_of_text=True)).ids

    def ping(self, channel):
        """The code that a call ends with."""
        with channel:
            try:
                diagnostics_pb2_grpc.DiagnosticsServiceStub(channel).Ping(
                    diagnostics_pb2.PingRequest(), timeout=30)
            except grpc.RpcError as error:
                return error.code()
        return grpc.StatusCode.OK

    def test_case42_callers(self):
        weightd, worker = self.start_pair()
        unavailable = grpc.StatusCode.UNAVAILABLE
        trusted = self.authorities
        for daemon in (weightd, worker):
            address = daemon.address
            for what, channel, expected in (
                    ('allowed', self.client.channel(address), grpc.StatusCode.OK),
                    ('without a certificate',
                     self.client.channel(address, with_certificate=False), unavailable),
                    ('plain text', daemon.channel(), unavailable),
                    ('expired', self.expired.channel(address), unavailable),
                    ('of another authority',
                     self.unknown.channel(address, trusted=trusted), unavailable),
                    ('of another name', self.unnamed.channel(address),
                     grpc.StatusCode.PERMISSION_DENIED),
                    ('does not know the daemon\'s authority',
                     self.client.channel(address, trusted=self.unknown.read('ca.crt')),
                     unavailable),
                    ('expects another daemon',
                     self.client.channel(address, server_name='elsewhere.test'), unavailable),
                    ('allowed, after all these', self.client.channel(address),
                     grpc.StatusCode.OK)):
                with self.subTest(daemon=daemon.argv[0], client=what):
                    self.assertEqual(self.ping(channel), expected)
            self.assertIsNone(daemon.process.poll())

    def refused_worker(self, address, identity, *flags):
        """What a worker says at its end that its weight daemon, or it, has refused."""
        done = subprocess.run(
            [COMPUTED, f'--weights={address}', '--model=m', '--listen=127.0.0.1:0',
             '--backend=cpu', '--attach-timeout=2s', *identity.flags(), *flags],
            capture_output=True, timeout=60, check=False)
        self.assertEqual((done.returncode, done.stdout), (1, b''), done.stderr.decode())
        last = done.stderr.decode().splitlines()[-1]
        self.assertRegex(last, r'^computed: ')
        return last

    def test_case42_the_worker_checks_weightd(self):
        named = certificates.make(self.folder, 'weights', san='DNS:weights.test')
        for what, server, worker, flags, message in (
                ('the daemon\'s is of another authority', self.unknown, self.worker_identity, [],
                 'no weight daemon answers'),
                ('the daemon\'s has expired', self.expired, self.worker_identity, [],
                 'no weight daemon answers'),
                ('the daemon\'s names another host', named, self.worker_identity, [],
                 'no weight daemon answers'),
                ('the worker\'s has expired', self.weightd_identity, self.expired, [],
                 'no weight daemon answers'),
                ('the worker\'s is of another authority', self.weightd_identity, self.unknown, [],
                 'no weight daemon answers'),
                ('the worker is not allowed', self.weightd_identity, self.unnamed, [],
                 'not among the allowed')):
            with self.subTest(what):
                weightd = self.start_weightd({'m': self.path}, *server.flags(),
                                             '--tls-allow=computed.test')
                self.assertRegex(self.refused_worker(weightd.address, worker, *flags), message)
                weightd.kill()
        # A daemon of another name may be asked for by it.
        weightd = self.start_weightd({'m': self.path}, *named.flags())
        worker = self.start_worker(weightd.address, 'm', *self.worker_identity.flags(),
                                   '--tls-server-name=weights.test')
        with self.client.channel(worker.address) as channel:
            self.assertEqual(len(self.ids(channel)), TOKENS)

    def test_case42_rotation_under_load(self):
        """From one authority to another, with both trusted meanwhile."""
        weightd_identity = self.copy(self.weightd_identity)
        worker_identity = self.copy(self.worker_identity)
        address = f'127.0.0.1:{free_port()}'
        weightd, worker = self.start_pair(weightd_identity, worker_identity, listen=address)
        old = self.client
        new = {name: certificates.make(self.folder, name, san=san, authority='next')
               for name, san in (('weightd', LOOPBACK),
                                 ('computed', LOOPBACK + ',DNS:computed.test'),
                                 ('client', 'DNS:client.test'))}
        both = old.read('ca.crt') + new['client'].read('ca.crt')
        current = [old]
        stop = threading.Event()
        answers, failures = [], []

        def ask():
            while not stop.is_set():
                try:
                    # A new connection, and so a handshake, for each request.
                    with current[0].channel(worker.address, trusted=both) as channel:
                        answers.append(self.ids(channel))
                    with current[0].channel(weightd.address, trusted=both) as channel:
                        weights_pb2_grpc.WeightServiceStub(channel).ListModels(
                            weights_pb2.ListModelsRequest(), timeout=60)
                except grpc.RpcError as error:
                    failures.append((error.code(), error.details()))

        with old.channel(worker.address) as channel:
            expected = self.ids(channel)
            long = self.ids(channel, tokens=900)
            threads = [threading.Thread(target=ask) for _ in range(3)]
            for thread in threads:
                thread.start()
            try:
                running = generate(inference_pb2_grpc.InferenceServiceStub(channel), tokens=PROMPT,
                                   max_tokens=900, ignore_end_of_text=True)
                begun = list(next(running).tokens)
                for identity in (weightd_identity, worker_identity):
                    identity.trust(old, new['client'])
                for daemon in (weightd, worker):
                    eventually(lambda: self.ping(new['client'].channel(
                        daemon.address, trusted=both)) == grpc.StatusCode.OK,
                        'certificates of the new authority are not accepted')
                current[0] = new['client']
                weightd_identity.take(new['weightd'])
                worker_identity.take(new['computed'])
                for daemon in (weightd, worker):
                    eventually(lambda: self.ping(new['client'].channel(daemon.address))
                               == grpc.StatusCode.OK, 'the daemon still shows its old certificate')
                for identity in (weightd_identity, worker_identity):
                    identity.trust(new['client'])
                for daemon in (weightd, worker):
                    eventually(lambda: self.ping(old.channel(daemon.address, trusted=both))
                               == grpc.StatusCode.UNAVAILABLE,
                               'the old certificate is still accepted')
                self.assertEqual(begun + Generation(running).ids, long)
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
        self.assertEqual(failures, [])
        self.assertGreater(len(answers), 3)
        self.assertEqual([ids for ids in answers if ids != expected], [])
        # The worker, too, shows its new certificate and checks by the new authority.
        weightd.signal(signal.SIGKILL)
        weightd.wait()
        weightd = self.start_weightd({'m': self.path}, '--tls-allow=computed.test,client.test',
                                     *weightd_identity.flags(), listen=address)

        def leases():
            with new['client'].channel(weightd.address) as channel:
                return diagnostics_pb2_grpc.DiagnosticsServiceStub(channel).ListSessions(
                    diagnostics_pb2.ListSessionsRequest(), timeout=30).sessions

        eventually(leases, 'the worker does not attach again')


if __name__ == '__main__':
    import unittest
    unittest.main()
