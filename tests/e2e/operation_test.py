"""What an operator does with the daemons: logs, the admin port, reloading, limits, probes."""

import os
import shutil
import signal
import subprocess
import unittest

import golden
import grpc
import standard_services_pb2
from gguf_offload.v1 import admin_pb2, admin_pb2_grpc, diagnostics_pb2, weights_pb2
from harness import (COMPUTED, WEIGHTD, EndToEndTest, Generation, ctl, eventually, generate,
                     make_model, offloadctl)


def channel_to(test, address):
    channel = grpc.insecure_channel(address, options=[('grpc.enable_http_proxy', 0)])
    test.addCleanup(channel.close)
    return channel


def services_of(test, address):
    call = channel_to(test, address).stream_stream(
        '/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo',
        request_serializer=standard_services_pb2.ReflectionRequest.SerializeToString,
        response_deserializer=standard_services_pb2.ReflectionResponse.FromString)
    answer = next(call(iter([standard_services_pb2.ReflectionRequest(list_services='')]),
                       timeout=30))
    return {service.name for service in answer.services.service}


class LogTest(EndToEndTest):

    def test_a_request_can_be_followed_through_both_daemons(self):
        flags = ('--log-format=json', '--log-level=debug')
        path = make_model(os.path.join(self.folder, 'm.gguf'), 'tiny-llama', 'Q8_0', 8)
        weightd = self.start_weightd({'m': path}, *flags)
        # So little memory that every step reads layers from the daemon.
        worker = self.start_worker(weightd.address, 'm', *flags, '--backend=cpu',
                                   '--host-memory=2200000')
        stub = self.stub(worker, 'inference')
        request = generate(stub, tokens=[1, 2, 3], max_tokens=2)
        ids = dict(request.initial_metadata())
        Generation(request)
        request_id = ids['x-request-id']
        self.assertRegex(request_id, r'\A[0-9a-f]{32}\Z')

        def of_this_request(daemon, message):
            return [record for record in daemon.log_records() if record['message'] == message
                    and request_id in record.get('request_id', record.get('request_ids', ''))]

        generated = eventually(lambda: of_this_request(worker, 'generated'), 'no record')[0]
        self.assertEqual(generated['level'], 'INFO')
        self.assertEqual(generated['prompt_tokens'], 3)
        self.assertEqual(generated['generated_tokens'], 2)
        self.assertEqual(generated['status'], 'OK')
        ended = eventually(lambda: of_this_request(worker, 'call ended'), 'no record')[0]
        self.assertEqual(ended['method'], '/gguf_offload.v1.InferenceService/Generate')
        self.assertEqual(ended['client'], '127.0.0.1')
        reads = eventually(lambda: of_this_request(weightd, 'read'), 'no record')
        self.assertGreater(sum(record['bytes'] for record in reads), 1000)

    def test_the_clients_own_id_is_used(self):
        weightd = self.start_weightd({'m': golden.path('llama-f32')}, '--log-format=json',
                                     '--log-level=debug')
        ctl('models', f'--weights={weightd.address}', '--request-id=audit-17')
        eventually(lambda: [record for record in weightd.log_records()
                            if record.get('request_id') == 'audit-17'], 'no record')
        code, _, err = offloadctl('models', f'--weights={weightd.address}', '--request-id=a b')
        self.assertEqual(code, 1)
        self.assertIn(b'--request-id', err)

    def test_what_a_peer_says_is_one_record(self):
        weightd = self.start_weightd({'m': golden.path('llama-f32')}, '--log-format=json')
        stub = self.stub(weightd, 'weights')
        with self.assertRaises(grpc.RpcError):
            stub.LoadModel(weights_pb2.LoadModelRequest(model='x', path='/a"}\n{"level":"ERROR'),
                           timeout=30)
        # log_records would fail if a line were no JSON.
        records = eventually(lambda: [record for record in weightd.log_records()
                                      if record['message'] == 'load requested'], 'no record')
        self.assertEqual(records[0]['path'], '/a"}\n{"level":"ERROR')

    def test_bad_flags_are_named(self):
        for flag in ('--log-level=loud', '--log-format=xml', '--max-calls-per-client=-1',
                     '--admin=0.0.0.0:0', '--metrics=nowhere', '--tls-cert=x', '--tls-allow=x',
                     '--listen=0.0.0.0:0'):
            for program in (WEIGHTD, COMPUTED):
                with self.subTest(flag=flag, program=os.path.basename(program)):
                    extra = [] if program == WEIGHTD else ['--weights=unix:/none', '--model=m']
                    done = subprocess.run([program, flag, *extra], capture_output=True, timeout=60,
                                          check=False)
                    self.assertEqual(done.returncode, 1)
                    self.assertIn(flag.split('=')[0], done.stderr.decode())

    def test_plain_text_for_everyone_is_possible_but_warned_of(self):
        weightd = self._start(WEIGHTD, ['--listen=0.0.0.0:0', '--allow-plaintext'])
        self.assertIn('WARNING', weightd.log())
        self.assertIn('TLS', weightd.log())


class AdminPortTest(EndToEndTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.weightd = cls.start_weightd({'m': golden.path('llama-f32')}, '--admin=127.0.0.1:0')
        cls.worker = cls.start_worker(cls.weightd, 'm', '--admin=127.0.0.1:0')
        cls.admin = {daemon: daemon.read_address('admin') for daemon in (cls.weightd, cls.worker)}

    def test_operators_services_are_on_this_port_only(self):
        for daemon, admin in self.admin.items():
            with self.subTest(daemon=os.path.basename(daemon.argv[0])):
                inside = {'grpc.channelz.v1.Channelz', 'gguf_offload.v1.AdminService'}
                self.assertLessEqual(inside, services_of(self, admin))
                self.assertFalse(inside & services_of(self, daemon.address))

    def test_the_log_level_changes_at_once(self):
        for daemon, admin in self.admin.items():
            with self.subTest(daemon=os.path.basename(daemon.argv[0])):
                stub = admin_pb2_grpc.AdminServiceStub(channel_to(self, admin))
                diagnostics = self.stub(daemon, 'diagnostics')

                def ping(request_id):
                    diagnostics.Ping(diagnostics_pb2.PingRequest(), timeout=30,
                                     metadata=[('x-request-id', request_id)])

                ping('before-debug')
                answer = stub.SetLogLevel(admin_pb2.SetLogLevelRequest(level='debug'), timeout=30)
                self.assertEqual(answer.previous_level, 'info')
                ping('during-debug')
                eventually(lambda: 'during-debug' in daemon.log(), 'no debug record')
                stub.SetLogLevel(admin_pb2.SetLogLevelRequest(level='info'), timeout=30)
                self.assertNotIn('before-debug', daemon.log())
                with self.assertRaises(grpc.RpcError) as raised:
                    stub.SetLogLevel(admin_pb2.SetLogLevelRequest(level='loud'), timeout=30)
                self.assertEqual(raised.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)

    def test_a_cpu_profile_shows_samples(self):
        stub = admin_pb2_grpc.AdminServiceStub(channel_to(self, self.admin[self.worker]))
        inference = self.stub(self.worker, 'inference')
        call = stub.CaptureProfile(admin_pb2.CaptureProfileRequest(seconds=0.5), timeout=60)
        for _ in range(3):
            Generation(generate(inference, tokens=list(range(1, 30)), max_tokens=100,
                                ignore_end_of_text=True))
        profile = b''.join(piece.data for piece in call)
        # gperftools' binary format: words of 8 bytes, first 0, 3, 0, sampling period in us, 0; then
        # a record for each stack: samples, depth, addresses; at the end 0, 1, 0 and the memory map.
        words = [int.from_bytes(profile[i:i + 8], 'little') for i in range(0, len(profile) - 7, 8)]
        self.assertEqual(words[:3], [0, 3, 0])
        self.assertIn(words[3], range(1000, 100001))
        samples, at = 0, 5
        while words[at:at + 3] != [0, 1, 0]:
            samples += words[at]
            at += 2 + words[at + 1]
        self.assertGreater(samples, 0)
        self.assertIn(b'computed', profile[8 * (at + 3):])

    def test_one_profile_at_a_time(self):
        stub = admin_pb2_grpc.AdminServiceStub(channel_to(self, self.admin[self.weightd]))
        first = stub.CaptureProfile(admin_pb2.CaptureProfileRequest(seconds=60), timeout=90)

        first.initial_metadata()  # it has begun

        def second():
            try:
                for _ in stub.CaptureProfile(admin_pb2.CaptureProfileRequest(seconds=0.01),
                                             timeout=30):
                    pass
            except grpc.RpcError as error:
                return error.code()
            return grpc.StatusCode.OK

        self.assertEqual(second(), grpc.StatusCode.FAILED_PRECONDITION)
        first.cancel()
        eventually(lambda: second() == grpc.StatusCode.OK, 'the first never ends')


class ReloadTest(EndToEndTest):

    def put(self, source, name):
        path = os.path.join(self.folder, name)
        shutil.copyfile(golden.path(source), path + '.part')
        os.rename(path + '.part', path)
        return path

    def architecture(self, weightd, name):
        for model in self.stub(weightd, 'weights').ListModels(weights_pb2.ListModelsRequest(),
                                                              timeout=30).models:
            if model.name == name and model.state == weights_pb2.MODEL_STATE_READY:
                return model.architecture
        return None

    def test_sighup_rereads_models(self):
        path = self.put('llama-f32', 'hup.gguf')
        weightd = self.start_weightd({'m': path}, '--rescan-interval=0s')
        self.assertEqual(self.architecture(weightd, 'm'), 'llama')
        self.put('qwen3-iq', 'hup.gguf')
        weightd.signal(signal.SIGHUP)
        eventually(lambda: self.architecture(weightd, 'm') == 'qwen3', 'not reread')

    def test_changed_files_are_reread(self):
        path = self.put('llama-f32', 'scan.gguf')
        weightd = self.start_weightd({'m': path}, '--rescan-interval=50ms')
        worker = self.start_worker(weightd, 'm')
        before = Generation(generate(self.stub(worker, 'inference'), tokens=[1, 2, 3])).ids
        self.put('qwen3-iq', 'scan.gguf')
        eventually(lambda: self.architecture(weightd, 'm') == 'qwen3', 'not reread')
        # Who has leased the old files goes on with them.
        after = Generation(generate(self.stub(worker, 'inference'), tokens=[1, 2, 3])).ids
        self.assertEqual(after, before)

    def test_sighup_does_not_end_a_worker(self):
        weightd = self.start_weightd({'m': golden.path('llama-f32')})
        worker = self.start_worker(weightd, 'm')
        worker.signal(signal.SIGHUP)
        eventually(lambda: 'SIGHUP' in worker.log(), 'not noticed')
        Generation(generate(self.stub(worker, 'inference'), tokens=[1, 2, 3]))


class LimitTest(EndToEndTest):

    def test_a_client_has_no_more_calls_than_it_may(self):
        weightd = self.start_weightd({'m': golden.path('llama-f32')})
        worker = self.start_worker(weightd, 'm', '--max-calls-per-client=2')
        stub = self.stub(worker, 'inference')
        # Held open because nobody reads: the first response comes at once, the end never.
        calls = [generate(stub, tokens=[1, 2, 3], max_tokens=400, ignore_end_of_text=True)
                 for _ in range(2)]
        for call in calls:
            next(call)
        with self.assertRaises(grpc.RpcError) as raised:
            Generation(generate(stub, tokens=[1, 2, 3]))
        if raised.exception.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise raised.exception
        details = dict(raised.exception.trailing_metadata())['grpc-status-details-bin']
        self.assertIn(b'google.rpc.RetryInfo', details)
        for call in calls:
            call.cancel()
        eventually(lambda: self.answers(stub), 'calls that have ended still count')

    def answers(self, stub):
        try:
            return len(Generation(generate(stub, tokens=[1, 2, 3])).ids) > 0
        except grpc.RpcError:
            return False


class HealthCommandTest(EndToEndTest):

    def test_its_exit_code_says_it(self):
        weightd = self.start_weightd({'m': golden.path('llama-f32')})
        worker = self.start_worker(weightd, 'm', '--grace=60s')
        for daemon, service in ((weightd, 'WeightService'), (worker, 'InferenceService')):
            address = f'--address={daemon.address}'
            self.assertEqual(ctl('health', address), 'SERVING\n')
            self.assertEqual(ctl('health', address, f'--service=gguf_offload.v1.{service}'),
                             'SERVING\n')
            code, _, err = offloadctl('health', address, '--service=nonsense')
            self.assertEqual(code, 1, err)
        self.assertEqual(ctl('health', f'--address=unix:{weightd.socket}'), 'SERVING\n')
        call = generate(self.stub(worker, 'inference'), tokens=[1, 2, 3], max_tokens=400,
                        ignore_end_of_text=True)
        next(call)
        worker.signal(signal.SIGTERM)
        eventually(lambda: offloadctl('health', f'--address={worker.address}')[0] == 1,
                   'still healthy')
        call.cancel()
        code, _, err = offloadctl('health', '--address=127.0.0.1:1', '--timeout=2')
        self.assertEqual(code, 1)


if __name__ == '__main__':
    unittest.main()
