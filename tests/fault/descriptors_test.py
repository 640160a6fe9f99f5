"""Case 40: daemons whose limit on open files is reached."""

import os
import resource
import socket
import subprocess

import grpc

import inspection
from gguf_offload.v1 import diagnostics_pb2, inference_pb2_grpc, weights_pb2
from harness import (COMPUTED, EndToEndTest, Generation, eventually, generate, make_model)

PROMPT = [5, 6, 7, 8]
SPARE = 6  # descriptors that a daemon may still open
CONNECTIONS = 40
SAYS_WHY = 'Too many open files'


def limit_descriptors(pid, number):
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (number, hard))


class DescriptorsTest(EndToEndTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path = make_model(os.path.join(cls.folder, 'm.gguf'), 'tiny-llama', 'Q8_0', 4)
        cls.weightd = cls.start_weightd({'m': cls.path})
        cls.worker = cls.start_worker(cls.weightd, 'm', '--context-tokens=512')
        with cls.worker.channel() as channel:
            cls.expected = cls.ids(inference_pb2_grpc.InferenceServiceStub(channel))

    @staticmethod
    def ids(stub):
        return Generation(generate(stub, tokens=PROMPT, max_tokens=20, timeout=60,
                                   ignore_end_of_text=True)).ids

    def limit(self, daemon, spare=SPARE):
        """Lets the daemon open only `spare` more, until the test ends."""
        before = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)[0]
        limit_descriptors(daemon.pid, len(inspection.descriptors(daemon.pid)) + spare)
        self.addCleanup(limit_descriptors, daemon.pid, before)

    def connect(self, daemon):
        host, port = daemon.address.split(':')
        connection = socket.create_connection((host, int(port)), timeout=10)
        self.addCleanup(connection.close)
        return connection

    def ping(self, daemon, timeout):
        self.stub(daemon, 'diagnostics').Ping(diagnostics_pb2.PingRequest(), timeout=timeout,
                                              wait_for_ready=True)

    def check(self, daemon, existing_call):
        """`existing_call()` uses a connection that was there before."""
        existing_call()
        self.limit(daemon)
        before = len(inspection.descriptors(daemon.pid))
        connections = [self.connect(daemon) for _ in range(CONNECTIONS)]
        eventually(lambda: SAYS_WHY in daemon.log(), 'the daemon does not say what is wrong')
        self.assertLessEqual(len(inspection.descriptors(daemon.pid)), before + SPARE)
        # Whoever has a connection is served; nobody new is.
        existing_call()
        with self.assertRaises(grpc.RpcError) as caught:
            self.ping(daemon, timeout=1)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        # However often connections are tried, this is said once a second at most.
        lines = [line for line in daemon.log().splitlines() if SAYS_WHY in line]
        self.assertLess(len(lines), 10, lines)
        for connection in connections:
            connection.close()
        self.ping(daemon, timeout=30)
        existing_call()
        self.assertIsNone(daemon.process.poll())

    def test_case40_weightd(self):
        stub = self.stub(self.weightd, 'weights')
        self.check(self.weightd, lambda: stub.ListModels(weights_pb2.ListModelsRequest(),
                                                         timeout=30))

    def test_case40_worker(self):
        stub = self.stub(self.worker, 'inference')
        self.check(self.worker, lambda: self.assertEqual(self.ids(stub), self.expected))

    def test_case40_loading_a_model_without_descriptors_says_so(self):
        path = make_model(os.path.join(self.folder, 'other.gguf'), 'tiny-llama', 'Q8_0', 1)
        stub = self.stub(self.weightd, 'weights')
        request = weights_pb2.LoadModelRequest(model='other', path=path)
        stub.ListModels(weights_pb2.ListModelsRequest(), timeout=30)  # connected
        before = resource.prlimit(self.weightd.pid, resource.RLIMIT_NOFILE)[0]
        self.limit(self.weightd, spare=0)
        with self.assertRaises(grpc.RpcError) as caught:
            stub.LoadModel(request, timeout=30)
        self.assertIn(path, caught.exception.details())
        self.assertIn(SAYS_WHY, caught.exception.details())
        limit_descriptors(self.weightd.pid, before)
        self.assertEqual(stub.LoadModel(request, timeout=30).status.state,
                         weights_pb2.MODEL_STATE_READY)

    def start_limited_worker(self, number, weights):
        return subprocess.run(
            ['/usr/bin/prlimit', f'--nofile={number}', COMPUTED, f'--weights={weights}',
             '--model=m', '--listen=127.0.0.1:0', '--backend=cpu', '--attach-timeout=2s'],
            capture_output=True, timeout=60, check=False)

    def test_case40_attaching_with_a_low_limit_says_so(self):
        """Whichever descriptor of a worker's start is the one too many."""
        # A worker that runs needs about so many; below some number the library cannot start at all.
        enough = len(inspection.descriptors(self.worker.pid))
        for number in range(enough - 4, enough):
            with self.subTest(limit=number):
                done = self.start_limited_worker(number, f'unix:{self.weightd.socket}')
                self.assertEqual(done.returncode, 1, done.stderr.decode())
                last = done.stderr.decode().splitlines()[-1]
                self.assertRegex(last, r'[Tt]oo many open files|limit on open files')
        # The daemon has lost nothing by it.
        eventually(lambda: len([s for s in self.sessions(self.weightd) if s.kind == 'lease']) == 1,
                   'leases of workers that never started are still there')

    def test_case40_attaching_to_a_daemon_without_descriptors(self):
        self.limit(self.weightd, spare=0)
        done = self.start_limited_worker(1024, f'unix:{self.weightd.socket}')
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr.decode().splitlines()[-1],
                         r'^computed: model m: no weight daemon answers: ')
        lines = [line for line in self.weightd.log().splitlines() if SAYS_WHY in line]
        self.assertTrue(any(self.weightd.socket in line for line in lines), lines)


if __name__ == '__main__':
    import unittest
    unittest.main()
