"""The example clients in Python, TypeScript and JavaScript against running daemons."""

import os
import shutil
import signal
import subprocess
import threading
import unittest

import grpc

import client_drivers
import golden
from flaky_proxy import FlakyProxy
from gguf_offload_client import ModelChanged, Retry, Worker
from gguf_offload_client.generation import certain_text
from harness import (CALL_SECONDS, EndToEndTest, Generation, ctl, eventually, free_port, generate,
                     make_model)

PROMPT = 'Hello, world!'
NODE_MODULES = os.environ.get('GGUF_OFFLOAD_NODE_MODULES', '')
TOKENS = 60
LONG = 1500


class ProgramsTest(EndToEndTest):
    """The programs that print what a worker generates."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.weightd = cls.start_weightd({'m': golden.path('qwen3-iq')})
        cls.worker = cls.start_worker(cls.weightd, 'm')
        # What the C++ client prints of the same prompt.
        cls.expected = ctl('generate', f'--worker={cls.worker.address}', f'--prompt={PROMPT}',
                           '--max-tokens=16')

    def run_client(self, argv, **environment):
        done = subprocess.run([*argv, self.worker.address, PROMPT, '16'], capture_output=True,
                              env={**os.environ, **environment}, timeout=CALL_SECONDS, check=False)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        self.assertEqual(done.stdout.decode(), self.expected)
        self.assertRegex(done.stderr.decode(), r'\d+ tokens in \d+\.\d+ s\n\Z')

    def test_python(self):
        self.run_client(['/usr/bin/python3', 'tests/clients/python/generate.py'])

    @unittest.skipUnless(shutil.which('node') and NODE_MODULES,
                         'Node or GGUF_OFFLOAD_NODE_MODULES is missing')
    def test_node_by_reflection(self):
        self.run_client(['node', 'tests/clients/node/generate.js'], NODE_PATH=NODE_MODULES)

    @unittest.skipIf(client_drivers.WHY_NO_TYPESCRIPT, client_drivers.WHY_NO_TYPESCRIPT)
    def test_typescript(self):
        client = client_drivers.TypeScriptClient()
        self.addCleanup(client.close)
        self.run_client(['node', client.program])


class ClientTests:
    """What each client must do about streams that break and workers that restart or are full."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.client = cls.make_client()
        # Its text is full of incomplete characters, which is what makes resuming hard.
        cls.path = make_model(os.path.join(cls.folder, 'm.gguf'), 'tiny-llama', 'Q8_0', 8)
        cls.weightd = cls.start_weightd({'m': cls.path})
        cls.worker = cls.start_worker(cls.weightd, 'm', '--context-tokens=2048')

    def proxy(self, breaks=(), worker=None):
        proxy = FlakyProxy((worker or self.worker).address, breaks)
        self.addCleanup(proxy.close)
        return proxy

    def unbroken(self, request):
        """What a worker says that nothing happens to."""
        fields = {**request, 'max_tokens': request.get('max_tokens', TOKENS)}
        return Generation(generate(self.stub(self.worker, 'inference'), **fields))

    def check_equal(self, answer, expected, breaks=None):
        self.assertEqual((answer['code'], answer['text'], answer['tokens']),
                         ('OK', expected.text, expected.ids))
        self.assertEqual(answer['result']['finish_reason'],
                         type(expected.result).DESCRIPTOR.fields_by_name['finish_reason'].enum_type
                         .values_by_number[expected.result.finish_reason].name)
        for count in ('prompt_tokens', 'generated_tokens'):
            self.assertEqual(answer['result'][count], getattr(expected.result, count))
        if breaks is not None:
            self.assertEqual(answer['breaks'], breaks)

    # Streams that break.

    def test_a_stream_that_breaks_after_every_token_loses_nothing(self):
        for prompt in ({'text': 'Hello'}, {'tokens': [5, 6, 7, 8]}):
            with self.subTest(prompt=prompt):
                request = {**prompt, 'max_tokens': TOKENS, 'ignore_end_of_text': True}
                expected = self.unbroken(request)
                self.assertIn('\ufffd', expected.text)
                proxy = self.proxy([1] * TOKENS)
                answer = self.client.generate([proxy.address], request)
                self.check_equal(answer, expected)
                # A proxy that is late gets two tokens in one response.
                self.assertGreater(answer['breaks'], TOKENS // 3)
                self.assertEqual(len({g[4]['x-request-id'] for g in proxy.generates}), 1)

    def test_a_stop_string_across_a_break_is_found(self):
        request = {'text': 'Hello', 'max_tokens': TOKENS, 'ignore_end_of_text': True}
        text = self.unbroken(request).text
        for begin in (10, 20, 31, 43):
            stops = [text[begin:begin + 6], text[begin + 1:begin + 5], 'never',
                     text[begin:begin + 3] + 'never']
            with self.subTest(stops=stops):
                stopping = {**request, 'stop': stops}
                expected = self.unbroken(stopping)
                self.assertLess(len(expected.text), len(text))
                answer = self.client.generate([self.proxy([1] * TOKENS).address], stopping)
                self.check_equal(answer, expected)

    def test_a_stream_that_breaks_before_its_result(self):
        request = {'text': 'Hello', 'max_tokens': 12, 'ignore_end_of_text': True}
        answer = self.client.generate([self.proxy([FlakyProxy.BEFORE_RESULT]).address], request)
        self.check_equal(answer, self.unbroken(request), breaks=1)

    def test_sampling_goes_on_with_another_seed(self):
        request = {'text': 'Hello', 'max_tokens': TOKENS, 'ignore_end_of_text': True,
                   'sampling': {'temperature': 1.0, 'seed': 2 ** 64 - 3}}
        expected = self.unbroken(request)
        proxy = self.proxy([20])
        answer = self.client.generate([proxy.address], request)
        first, second = (generate_call[3] for generate_call in proxy.generates)
        received = len(second.tokens.ids) - answer['result']['prompt_tokens']
        self.assertGreaterEqual(received, 20)
        self.assertEqual(answer['tokens'][:received], expected.ids[:received])
        self.assertEqual((len(answer['tokens']), answer['result']['generated_tokens']),
                         (TOKENS, TOKENS))
        self.assertEqual(first.sampling.seed, 2 ** 64 - 3)
        self.assertEqual(second.sampling.seed, received - 3)
        self.assertEqual(int(answer['result']['seed']), 2 ** 64 - 3)
        # The text is that of the tokens, without a seam.
        with Worker([self.worker.address]) as worker:
            twice = worker.detokenize(answer['tokens'] * 2)
        self.assertEqual(answer['text'], certain_text(twice[len(twice) // 2:], [], final=True)[0])

    def test_sampling_again_from_the_start(self):
        request = {'text': 'Hello', 'max_tokens': TOKENS, 'ignore_end_of_text': True,
                   'sampling': {'temperature': 1.0, 'seed': 7}}
        answer = self.client.generate([self.proxy([20, 5, 31]).address], request, replay=True)
        # The second stream broke before it brought anything new.
        self.check_equal(answer, self.unbroken(request), breaks=2)

    def test_cancel_frees_the_worker(self):
        answer = self.client.generate(
            [self.worker.address],
            {'text': 'Hello', 'max_tokens': LONG, 'ignore_end_of_text': True}, cancel_after=5)
        self.assertEqual((answer['code'], answer['result']), ('CANCELLED', None))
        self.assertLess(len(answer['tokens']), LONG)
        eventually(lambda: not self.sessions(self.worker), 'the request still runs')

    # Workers that go away and come back.

    def test_a_killed_worker_is_replaced_by_the_next(self):
        request = {'text': 'Hello', 'max_tokens': LONG, 'ignore_end_of_text': True}
        expected = self.unbroken(request)
        doomed = self.start_worker(self.weightd, 'm', '--context-tokens=2048')
        answer = {}
        client = threading.Thread(target=lambda: answer.update(
            self.client.generate([doomed.address, self.worker.address], request)))
        client.start()
        eventually(lambda: any(s.generated_tokens > 5 for s in self.sessions(doomed)),
                   'the request does not run')
        doomed.signal(signal.SIGKILL)
        client.join()
        self.check_equal(answer, expected, breaks=1)

    def test_a_restarted_worker_is_found_again(self):
        request = {'text': 'Hello', 'max_tokens': LONG, 'ignore_end_of_text': True}
        expected = self.unbroken(request)
        address = f'127.0.0.1:{free_port()}'
        flags = (self.weightd, 'm', '--context-tokens=2048')
        worker = self.start_worker(*flags, listen=address)
        answer = {}
        client = threading.Thread(target=lambda: answer.update(
            self.client.generate([address], request)))
        client.start()
        eventually(lambda: any(s.generated_tokens > 5 for s in self.sessions(worker)),
                   'the request does not run')
        worker.signal(signal.SIGKILL)
        worker.wait()
        self.start_worker(*flags, listen=address)
        client.join()
        self.check_equal(answer, expected, breaks=1)

    def test_a_full_queue_is_tried_again_when_the_worker_says(self):
        worker = self.start_worker(self.weightd, 'm', '--context-tokens=2048', '--max-sequences=1',
                                   '--max-waiting=1')
        inference = self.stub(worker, 'inference')
        calls = []
        for state in ('decode', 'waiting'):
            calls.append(generate(inference, tokens=[5], max_tokens=LONG, ignore_end_of_text=True))
            eventually(lambda: any(s.state == state for s in self.sessions(worker)),
                       f'no request is {state}')
        proxy = self.proxy(worker=worker)
        answer = {}
        client = threading.Thread(target=lambda: answer.update(self.client.generate(
            [proxy.address], {'text': 'Hello', 'max_tokens': 8, 'ignore_end_of_text': True},
            request_id='the-one')))
        client.start()
        eventually(lambda: proxy.generates and proxy.generates[0][1], 'the request does not come')
        for call in calls:
            call.cancel()
        client.join()
        self.assertEqual((answer['code'], len(answer['tokens'])), ('OK', 8))
        refused, accepted = proxy.generates[0], proxy.generates[-1]
        self.assertEqual(refused[2], grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertEqual(accepted[2], grpc.StatusCode.OK)
        # The worker never asks for less than 0.1 s.
        self.assertGreaterEqual(proxy.generates[1][0] - refused[1], 0.1)
        self.assertEqual({g[4]['x-request-id'] for g in proxy.generates}, {'the-one'})

    def test_it_gives_up_in_time(self):
        address = f'127.0.0.1:{free_port()}'
        answer = self.client.generate([address], {'text': 'Hello', 'max_tokens': 8}, timeout=1.0)
        self.assertIn(answer['code'], ('UNAVAILABLE', 'DEADLINE_EXCEEDED'))

    def test_what_is_wrong_is_not_tried_again(self):
        proxy = self.proxy()
        answer = self.client.generate([proxy.address], {'tokens': [10 ** 6], 'max_tokens': 8})
        self.assertEqual(answer['code'], 'INVALID_ARGUMENT')
        self.assertEqual(len(proxy.generates), 1)


class PythonClientTest(ClientTests, EndToEndTest):

    @classmethod
    def make_client(cls):
        return client_drivers.PythonClient

    def test_log_probabilities_come_once_for_each_token(self):
        with Worker([self.proxy([3, 5, 0, 2]).address], retry=Retry(initial=0.02)) as worker:
            pieces = list(worker.generate('Hello', 30, ignore_end_of_text=True, top_logprobs=2))
        for piece in pieces:
            self.assertEqual([entry.chosen.token for entry in piece.logprobs], piece.tokens)
        self.assertEqual(sum(len(piece.tokens) for piece in pieces), 30)

    def test_another_model_does_not_go_on(self):
        other = self.start_worker(self.start_weightd({'m': golden.path('llama-f32')}), 'm')
        with Worker([self.proxy([3]).address, other.address]) as worker:
            generation = worker.generate('Hello', 30, ignore_end_of_text=True)
            with self.assertRaises(ModelChanged):
                generation.read()
        self.assertGreaterEqual(len(generation.tokens), 3)


@unittest.skipIf(client_drivers.WHY_NO_TYPESCRIPT, client_drivers.WHY_NO_TYPESCRIPT)
class TypeScriptClientTest(ClientTests, EndToEndTest):

    @classmethod
    def make_client(cls):
        client = client_drivers.TypeScriptClient()
        cls.addClassCleanup(client.close)
        return client


if __name__ == '__main__':
    unittest.main()
