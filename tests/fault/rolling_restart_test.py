"""Case 41, from the clients' side: a weight daemon and its workers are restarted, one after the
other, and no client that retries notices."""

import os
import threading

import grpc

from gguf_offload.v1 import inference_pb2_grpc
from gguf_offload_client import Retry, Worker
from harness import (EndToEndTest, Generation, eventually, free_port, generate, make_model,
                     terminate)

TOKENS = 150
CLIENTS = 4
PROMPTS = [[5 + index, 6, 7 + 3 * index, 8] for index in range(6)]


class Client:
    """Asks for one text after the other until told to stop."""

    def __init__(self, addresses, expected):
        self._addresses = addresses
        self._expected = expected
        self.answers = 0
        self.failures = []
        self.breaks = 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        with Worker(self._addresses, timeout=120, retry=Retry(attempts=20)) as worker:
            number = 0
            while not self.stop.is_set():
                number += 1
                generation = worker.generate(PROMPTS[number % len(PROMPTS)], TOKENS,
                                             ignore_end_of_text=True)
                try:
                    generation.read()
                except grpc.RpcError as error:
                    self.failures.append((error.code(), error.details()))
                    continue
                self.breaks += generation.breaks
                if generation.tokens != self._expected[number % len(PROMPTS)]:
                    self.failures.append(('wrong answer', generation.tokens))
                self.answers += 1


class RollingRestartTest(EndToEndTest):

    def start_weights(self):
        return self.start_weightd({'m': self.path}, listen=self.weightd_address,
                                  socket=self.socket)

    def start_one(self, number):
        # One shares the pages, one has had them streamed.
        weights = f'unix:{self.socket}' if number == 0 else self.weightd_address
        return self.start_worker(weights, 'm', '--context-tokens=512',
                                 listen=self.addresses[number])

    def wait_for_answers(self, clients):
        """Until every client has asked and been answered since this was called."""
        before = [client.answers for client in clients]
        eventually(lambda: all(client.answers >= count + 2
                               for client, count in zip(clients, before)) or self.failures(clients),
                   'no answers come')

    @staticmethod
    def failures(clients):
        return [failure for client in clients for failure in client.failures]

    def restart(self, daemon, start):
        terminate(daemon)
        self.assertEqual(daemon.wait(), 0)
        return start()

    def leases(self):
        return [session for session in self.sessions(self.weightd) if session.kind == 'lease']

    def test_case41_rolling_restart(self):
        self.path = make_model(os.path.join(self.folder, 'm.gguf'), 'tiny-llama', 'Q8_0', 8)
        self.weightd_address = f'127.0.0.1:{free_port()}'
        self.socket = os.path.join(self.folder, 'rolling.sock')
        self.addresses = [f'127.0.0.1:{free_port()}' for _ in range(2)]
        self.weightd = self.start_weights()
        workers = [self.start_one(number) for number in range(2)]
        with workers[0].channel() as channel:
            stub = inference_pb2_grpc.InferenceServiceStub(channel)
            expected = [Generation(generate(stub, tokens=prompt, max_tokens=TOKENS,
                                            ignore_end_of_text=True)).ids for prompt in PROMPTS]
        # Half of the clients prefer one worker, half the other.
        clients = [Client(self.addresses[::1 if number % 2 else -1], expected)
                   for number in range(CLIENTS)]
        for client in clients:
            client.thread.start()
        try:
            self.wait_for_answers(clients)
            workers[1] = self.restart(workers[1], lambda: self.start_one(1))
            self.wait_for_answers(clients)
            self.weightd = self.restart(self.weightd, self.start_weights)
            eventually(lambda: len(self.leases()) == 2, 'the workers do not attach again')
            self.wait_for_answers(clients)
            workers[0] = self.restart(workers[0], lambda: self.start_one(0))
            self.wait_for_answers(clients)
        finally:
            for client in clients:
                client.stop.set()
            for client in clients:
                client.thread.join()
        self.assertEqual(self.failures(clients), [])
        # What runs when a daemon is told to stop is finished there.
        self.assertEqual([client.breaks for client in clients], [0] * CLIENTS)
        self.assertEqual(len(self.leases()), 2)


if __name__ == '__main__':
    import unittest
    unittest.main()
