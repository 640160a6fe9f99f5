"""Every method of every service, called by both example clients; and both over mutual TLS."""

import itertools
import os
import subprocess
import threading
import unittest

import grpc

import client_drivers
import golden
from gguf_offload.v1 import (admin_pb2, admin_pb2_grpc, diagnostics_pb2, diagnostics_pb2_grpc,
                             inference_pb2, inference_pb2_grpc, stage_pb2, stage_pb2_grpc,
                             weights_pb2, weights_pb2_grpc)
from gguf_offload_client import Connection, Retry, Tls, Worker
from harness import BACKEND, EndToEndTest
from reflection_client import ReflectionClient

MODEL = 'llama-f32'
TENSOR = 'output_norm.weight'
CHANNELZ = 'grpc.channelz.v1.Channelz'

# What is not for every daemon; all other methods must succeed.
EXPECTED_FAILURES = {
    'weightd': {'gguf_offload.v1.DiagnosticsService/GetPlacement': 'UNIMPLEMENTED',
                'gguf_offload.v1.DiagnosticsService/GetLinkActivity': 'UNIMPLEMENTED',
                'gguf_offload.v1.DiagnosticsService/GetExpertActivity': 'UNIMPLEMENTED',
                'gguf_offload.v1.DiagnosticsService/CaptureTrace': 'UNIMPLEMENTED'},
    'worker': {'gguf_offload.v1.StageService/ExecuteStage': 'UNIMPLEMENTED',
               **({} if BACKEND == 'cuda' else
                  {'gguf_offload.v1.DiagnosticsService/GetLinkActivity': 'UNIMPLEMENTED'})},
    # It is nobody's client.
    'weightd_admin': {f'{CHANNELZ}/GetChannel': 'NOT_FOUND',
                      f'{CHANNELZ}/GetSubchannel': 'NOT_FOUND'},
    'worker_admin': {},
}


class Notes:
    """Calls methods of one daemon and notes what came of them: {'SERVICE/METHOD': status}."""

    def __init__(self, address):
        self.outcomes = {}
        self._connection = Connection([address], timeout=60, retry=Retry(attempts=1))
        self._reflection = ReflectionClient(self._connection.channel())
        self.methods = self._reflection.methods()

    def _note(self, method, act):
        try:
            answer = act()
            self.outcomes[method] = 'OK'
            return answer
        except grpc.RpcError as error:
            self.outcomes[method] = error.code().name
            return None

    @staticmethod
    def _name(stub, method):
        return f'gguf_offload.v1.{stub.__name__.removesuffix("Stub")}/{method}'

    def call(self, stub, method, request):
        return self._note(self._name(stub, method),
                          lambda: self._connection.call(stub, method, request))

    def stream(self, stub, method, request, most=None):
        """The answers, at most so many. `request` may be a list; then the stream stays open."""
        finished = threading.Event()

        def requests():
            yield from request
            finished.wait()

        def act():
            with self._connection.stream(
                    stub, method, requests() if isinstance(request, list) else request) as call:
                return list(itertools.islice(call, most))
        try:
            return self._note(self._name(stub, method), act)
        finally:
            finished.set()

    def generic(self, method, *requests, most=None):
        """A method of a standard service, in JSON."""
        def act():
            return self._reflection.call(method, requests, most=most)
        return self._note(method, act)

    def close(self):
        self._connection.close()


def call_weights(notes):
    stub = weights_pb2_grpc.WeightServiceStub
    notes.call(stub, 'ListModels', weights_pb2.ListModelsRequest())
    notes.call(stub, 'GetModel', weights_pb2.GetModelRequest(model='m'))
    notes.call(stub, 'ListTensors', weights_pb2.ListTensorsRequest(model='m'))
    notes.call(stub, 'LoadModel', weights_pb2.LoadModelRequest(model='m'))
    notes.call(stub, 'UnloadModel', weights_pb2.UnloadModelRequest(model='spare'))
    notes.stream(stub, 'VerifyModel', weights_pb2.VerifyModelRequest(model='m'))
    notes.stream(stub, 'ReadBlocks', weights_pb2.ReadBlocksRequest(model='m', tensor=TENSOR))
    started, manifest = notes.stream(stub, 'Attach', [weights_pb2.AttachRequest(
        start=weights_pb2.AttachStart(model='m', transport=weights_pb2.TRANSPORT_STREAM,
                                      worker='client_methods_test'))], most=2)
    assert started.started.manifest_bytes >= len(manifest.manifest.data) > 0
    answers = notes.stream(stub, 'StreamBlocks', [
        weights_pb2.StreamBlocksRequest(start=weights_pb2.StreamStart(model='m',
                                                                      initial_credit=4096)),
        weights_pb2.StreamBlocksRequest(read=weights_pb2.StreamRead(
            read_id=7, range=weights_pb2.ByteRange(bytes=4)))], most=2)
    assert answers[1].chunk.data == b'GGUF'


def call_inference(notes):
    stub = inference_pb2_grpc.InferenceServiceStub
    notes.call(stub, 'GetModel', inference_pb2.GetServedModelRequest())
    tokens = notes.call(stub, 'Tokenize', inference_pb2.TokenizeRequest(text=b'Hello')).tokens
    notes.call(stub, 'Detokenize', inference_pb2.DetokenizeRequest(tokens=tokens))
    notes.stream(stub, 'Generate', inference_pb2.GenerateRequest(text='Hello', max_tokens=3))
    notes.stream(stub, 'Evaluate', inference_pb2.EvaluateRequest(
        tokens=inference_pb2.TokenIds(ids=tokens), logprobs=True))
    notes.stream(stage_pb2_grpc.StageServiceStub, 'ExecuteStage',
                 [stage_pb2.ExecuteStageRequest(sequence=1)])


def call_diagnostics(notes):
    stub = diagnostics_pb2_grpc.DiagnosticsServiceStub
    for method in ('GetBuildInfo', 'GetConfig', 'GetPlacement', 'GetMemory', 'GetLinkActivity',
                   'GetExpertActivity', 'ListSessions', 'Ping'):
        notes.call(stub, method, getattr(diagnostics_pb2, f'{method}Request')())
    notes.stream(stub, 'CaptureTrace', diagnostics_pb2.CaptureTraceRequest(seconds=0.01))


def call_standard(notes):
    notes.generic('grpc.health.v1.Health/Check', {})
    notes.generic('grpc.health.v1.Health/Watch', {}, most=1)
    notes.generic('grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo',
                  {'listServices': ''})


def call_admin(notes):
    stub = admin_pb2_grpc.AdminServiceStub
    notes.call(stub, 'SetLogLevel', admin_pb2.SetLogLevelRequest(level='debug'))
    notes.stream(stub, 'CaptureProfile', admin_pb2.CaptureProfileRequest(seconds=0.05))


def call_channelz(notes):
    server = notes.generic(f'{CHANNELZ}/GetServers')[0]['server'][0]
    server_id = {'serverId': server['ref']['serverId']}
    notes.generic(f'{CHANNELZ}/GetServer', server_id)
    sockets = notes.generic(f'{CHANNELZ}/GetServerSockets', server_id)[0].get('socketRef')
    notes.generic(f'{CHANNELZ}/GetSocket',
                  {'socketId': (sockets or server['listenSocket'])[0]['socketId']})
    channels = notes.generic(f'{CHANNELZ}/GetTopChannels')[0].get('channel')
    channel = channels[0] if channels else {'ref': {'channelId': '1'}}
    notes.generic(f'{CHANNELZ}/GetChannel', {'channelId': channel['ref']['channelId']})
    subchannel = channel.get('subchannelRef', [{'subchannelId': '1'}])[0]
    notes.generic(f'{CHANNELZ}/GetSubchannel', {'subchannelId': subchannel['subchannelId']})


class EveryMethodTest(EndToEndTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.weightd = cls.start_weightd({'m': golden.path(MODEL), 'spare': golden.path(MODEL)},
                                        '--admin=127.0.0.1:0')
        cls.worker = cls.start_worker(cls.weightd, 'm', '--admin=127.0.0.1:0')
        cls.addresses = {'weightd': cls.weightd.address, 'worker': cls.worker.address,
                         'weightd_admin': cls.weightd.read_address('admin'),
                         'worker_admin': cls.worker.read_address('admin')}

    def notes(self, daemon):
        notes = Notes(self.addresses[daemon])
        self.addCleanup(notes.close)
        return notes

    def setUp(self):
        super().setUp()
        # An earlier test has unloaded it.
        self.stub(self.weightd, 'weights').LoadModel(
            weights_pb2.LoadModelRequest(model='spare', path=golden.path(MODEL)), timeout=60)

    def check_complete(self, outcomes):
        """All methods that the daemons describe were called, with the outcomes they must have."""
        for daemon, called in outcomes.items():
            with self.subTest(daemon=daemon):
                offered = self.notes(daemon).methods
                self.assertEqual(set(called), offered)
                failures = {method: code for method, code in called.items() if code != 'OK'}
                self.assertEqual(failures, EXPECTED_FAILURES[daemon])

    def test_the_services_are_there(self):
        common = {'grpc.health.v1.Health', 'grpc.reflection.v1alpha.ServerReflection'}
        ours = {'weightd': {'WeightService', 'DiagnosticsService'},
                'worker': {'InferenceService', 'StageService', 'DiagnosticsService'},
                'weightd_admin': {'AdminService'}, 'worker_admin': {'AdminService'}}
        for daemon, services in ours.items():
            expected = common | {f'gguf_offload.v1.{service}' for service in services}
            if daemon.endswith('admin'):
                expected.add(CHANNELZ)
            self.assertEqual({method.partition('/')[0] for method in self.notes(daemon).methods},
                             expected)

    def test_python(self):
        notes = {daemon: self.notes(daemon) for daemon in self.addresses}
        call_weights(notes['weightd'])
        call_inference(notes['worker'])
        for daemon, note in notes.items():
            call_standard(note)
            if daemon.endswith('_admin'):
                call_admin(note)
                call_channelz(note)
            else:
                call_diagnostics(note)
        self.check_complete({daemon: note.outcomes for daemon, note in notes.items()})

    @unittest.skipIf(client_drivers.WHY_NO_TYPESCRIPT, client_drivers.WHY_NO_TYPESCRIPT)
    def test_typescript(self):
        client = client_drivers.TypeScriptClient()
        self.addCleanup(client.close)
        self.check_complete(client.drive('methods', {
            'weightd': self.weightd.address, 'worker': self.worker.address,
            'admins': {'weightd': self.addresses['weightd_admin'],
                       'worker': self.addresses['worker_admin']},
            'model': 'm', 'tensor': TENSOR,
            'reflection': os.path.abspath('tests/e2e/standard_services.proto'),
            'channelz': os.path.join(client_drivers.NODE_MODULES,
                                     '@grpc/grpc-js/proto/channelz.proto')}))


class TlsTest(EndToEndTest):
    """Both daemons with certificates of deploy/certs.sh."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        certs = os.path.join(cls.folder, 'certs')
        for name, san in (('weightd', 'DNS:localhost,IP:127.0.0.1'),
                          ('computed', 'DNS:localhost,IP:127.0.0.1'),
                          ('client', 'DNS:client.test')):
            subprocess.run(['deploy/certs.sh', f'--out={certs}', f'--name={name}', f'--san={san}'],
                           check=True, timeout=60)
        # A client of another authority that vouches for the same name.
        subprocess.run(['deploy/certs.sh', f'--out={certs}', '--authority=other', '--name=stranger',
                        '--san=DNS:client.test'], check=True, timeout=60)
        cls.tls = tuple(f'{certs}/client/{file}' for file in ('ca.crt', 'tls.crt', 'tls.key'))
        cls.stranger = (f'{certs}/ca.crt', *(f'{certs}/stranger/{file}'
                                             for file in ('tls.crt', 'tls.key')))

        def flags(name):
            return [f'--tls-{flag}={certs}/{name}/{file}' for flag, file in (
                ('ca', 'ca.crt'), ('cert', 'tls.crt'), ('key', 'tls.key'))]
        cls.weightd = cls.start_weightd({'m': golden.path(MODEL)}, *flags('weightd'))
        cls.worker = cls.start_worker(cls.weightd.address, 'm', *flags('computed'))

    def check(self, client):
        request = {'text': 'Hello', 'max_tokens': 8, 'ignore_end_of_text': True}
        answer = client.generate([self.worker.address], request, tls=self.tls)
        self.assertEqual((answer['code'], len(answer['tokens'])), ('OK', 8))
        for tls in (None, self.stranger):
            with self.subTest(tls=tls):
                answer = client.generate([self.worker.address], request, tls=tls, timeout=2)
                self.assertIn(answer['code'], ('UNAVAILABLE', 'DEADLINE_EXCEEDED'))
                self.assertEqual(answer['tokens'], [])

    def test_python(self):
        self.check(client_drivers.PythonClient)

    def test_python_by_the_name_in_the_certificate(self):
        port = self.worker.address.rpartition(':')[2]
        for server_name, code in (('localhost', None), ('elsewhere.test', 'UNAVAILABLE')):
            with self.subTest(server_name=server_name), \
                    Worker([f'127.0.0.1:{port}'], tls=Tls(*self.tls, server_name=server_name),
                           timeout=10, retry=Retry(attempts=2)) as worker:
                if code is None:
                    self.assertEqual(worker.model().name, 'm')
                    continue
                with self.assertRaises(grpc.RpcError) as caught:
                    worker.model()
                self.assertEqual(caught.exception.code().name, code)

    def test_python_with_the_weight_daemon(self):
        with Connection([self.weightd.address], tls=Tls(*self.tls)) as connection:
            models = connection.call(weights_pb2_grpc.WeightServiceStub, 'ListModels',
                                     weights_pb2.ListModelsRequest()).models
        self.assertEqual([model.name for model in models], ['m'])

    @unittest.skipIf(client_drivers.WHY_NO_TYPESCRIPT, client_drivers.WHY_NO_TYPESCRIPT)
    def test_typescript(self):
        client = client_drivers.TypeScriptClient()
        self.addCleanup(client.close)
        self.check(client)


if __name__ == '__main__':
    unittest.main()
