"""How a worker treats many requests: batching, cancellation, deadlines, the queue, sampling, text."""

import concurrent.futures
import os
import signal
import statistics
import subprocess
import threading
import unittest

import grpc

import golden
import standard_services_pb2
from gguf_offload.v1 import diagnostics_pb2, inference_pb2
from harness import (OFFLOADCTL, EndToEndTest, Generation, eventually, generate, make_model)

# Long enough to be still running whatever a test does meanwhile.
LONG = 1500
BACKEND = os.environ.get('GGUF_OFFLOAD_BACKEND', 'auto')
# Of the logits' standard deviation: a few times the error of 8-bit activations.
NEAR_TIE = 0.1


class RequestsTest(EndToEndTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path = make_model(os.path.join(cls.folder, 'm.gguf'), 'tiny-llama', 'Q8_0', 8)
        cls.weightd = cls.start_weightd({'m': cls.path})
        cls.worker = cls.start_worker(cls.weightd, 'm', '--context-tokens=2048')

    def setUp(self):
        super().setUp()
        self.inference = self.stub(self.worker, 'inference')
        self.diagnostics = self.stub(self.worker, 'diagnostics')

    def kv_bytes_in_use(self):
        memory = self.diagnostics.GetMemory(diagnostics_pb2.GetMemoryRequest(), timeout=30)
        return next(use.used_bytes for use in memory.uses if 'kv' in use.purpose.lower())

    def assert_all_freed(self):
        eventually(lambda: not self.sessions(self.worker) and self.kv_bytes_in_use() == 0,
                   'requests or their KV cache are still held')

    def prompts(self):
        """Prompts of different lengths, the longest several steps of prefill long."""
        return [[(7 * i + 3 * k) % 500 + 5 for k in range(length)]
                for i, length in enumerate((3, 700, 17, 1, 255, 64, 256, 33))]

    # Together and alone.

    def test_concurrent_requests_give_the_tokens_they_give_alone(self):
        alone = [Generation(generate(self.inference, tokens=p, max_tokens=40,
                                     ignore_end_of_text=True)).ids for p in self.prompts()]
        with concurrent.futures.ThreadPoolExecutor(len(alone)) as pool:
            together = list(pool.map(
                lambda p: Generation(generate(self.inference, tokens=p, max_tokens=40,
                                              ignore_end_of_text=True)).ids, self.prompts()))
        if BACKEND == 'cuda':
            # A GPU multiplies a prompt by itself in 8 bits, but together with others in 16.
            for prompt, one, other in zip(self.prompts(), together, alone):
                self.assert_equal_but_for_a_near_tie(prompt, one, other)
        else:
            self.assertEqual(together, alone)
        self.assert_all_freed()

    def assert_equal_but_for_a_near_tie(self, prompt, one, other):
        """Two greedy answers: where they part, both tokens are about as likely."""
        same = len(os.path.commonprefix([one, other]))
        if same == len(one) == len(other):
            return
        request = inference_pb2.EvaluateRequest(
            tokens=inference_pb2.TokenIds(ids=prompt + one[:same]), logits=True)
        logits = []
        for response in self.inference.Evaluate(request, timeout=60):
            if response.position == len(prompt) + same - 1:
                logits.extend(response.logits)
        self.assertLess(abs(logits[one[same]] - logits[other[same]]),
                        NEAR_TIE * statistics.pstdev(logits))

    def test_a_long_prompt_does_not_stop_a_decode(self):
        """Tokens of one request keep coming while another's prompt of many steps is processed."""
        running = generate(self.inference, tokens=[5, 6, 7], max_tokens=LONG,
                           ignore_end_of_text=True)
        next(running)
        prompt = [k % 500 + 5 for k in range(2000)]
        began = threading.Event()
        result = {}

        def long_prompt():
            call = generate(self.inference, tokens=prompt, max_tokens=1, ignore_end_of_text=True)
            began.set()
            result['long'] = Generation(call).result

        thread = threading.Thread(target=long_prompt)
        thread.start()
        began.wait()
        during = 0
        for response in running:
            during += len(response.tokens)
            if not thread.is_alive():
                break
        thread.join()
        running.cancel()
        # 2000 prompt tokens take several steps, and each step also makes a token of the other.
        self.assertEqual(result['long'].prompt_tokens, 2000)
        self.assertGreaterEqual(during, 4)
        self.assert_all_freed()

    # Cancellation, deadlines, the queue.

    def test_cancelling_frees_the_kv_cache(self):
        call = generate(self.inference, tokens=[5, 6, 7], max_tokens=LONG, ignore_end_of_text=True)
        next(call)
        self.assertEqual(len(self.sessions(self.worker)), 1)
        self.assertGreater(self.kv_bytes_in_use(), 0)
        call.cancel()
        self.assert_all_freed()

    def test_deadline(self):
        call = generate(self.inference, tokens=[5, 6, 7], max_tokens=LONG, ignore_end_of_text=True,
                        timeout=0.1)
        with self.assertRaises(grpc.RpcError) as caught:
            for _ in call:
                pass
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.assert_all_freed()

    def test_interrupting_offloadctl_cancels(self):
        with subprocess.Popen([OFFLOADCTL, 'generate', f'--worker={self.worker.address}',
                               '--tokens=5,6,7', f'--max-tokens={LONG}', '--ignore-end-of-text'],
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as client:
            eventually(lambda: any(s.generated_tokens > 0 for s in self.sessions(self.worker)),
                       'the request does not run')
            client.send_signal(signal.SIGINT)
            _, err = client.communicate(timeout=30)
        self.assertEqual((client.returncode, err), (130, b'offloadctl: cancelled\n'))
        self.assert_all_freed()

    def test_a_full_queue_says_when_to_try_again(self):
        worker = self.start_worker(self.weightd, 'm', '--context-tokens=2048', '--max-sequences=1',
                                   '--max-waiting=1')
        inference = self.stub(worker, 'inference')
        running = generate(inference, tokens=[5, 6, 7], max_tokens=LONG, ignore_end_of_text=True)
        next(running)
        waiting = generate(inference, tokens=[5, 6, 7], max_tokens=LONG, ignore_end_of_text=True)
        eventually(lambda: any(s.state == 'waiting' for s in self.sessions(worker)),
                   'the second request does not wait')
        refused = generate(inference, tokens=[5, 6, 7])
        with self.assertRaises(grpc.RpcError) as caught:
            next(refused)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        details = dict(caught.exception.trailing_metadata())['grpc-status-details-bin']
        status = standard_services_pb2.Status.FromString(details)
        info = [any for any in status.details if any.type_url.endswith('google.rpc.RetryInfo')]
        delay = standard_services_pb2.RetryInfo.FromString(info[0].value).retry_delay
        self.assertGreater(delay.seconds + delay.nanos * 1e-9, 0)
        running.cancel()
        next(waiting)  # its turn has come
        waiting.cancel()

    # Sampling and text.

    def test_equal_seeds_give_equal_texts(self):
        def ids(seed):
            return Generation(generate(self.inference, tokens=[5, 6, 7], max_tokens=32,
                                       ignore_end_of_text=True,
                                       sampling={'temperature': 1.0, 'seed': seed})).ids

        self.assertEqual(ids(1), ids(1))
        self.assertNotEqual(ids(1), ids(2))

    def test_the_random_seed_is_told(self):
        first = Generation(generate(self.inference, tokens=[5, 6, 7], max_tokens=16,
                                    ignore_end_of_text=True, sampling={'temperature': 1.0}))
        again = Generation(generate(
            self.inference, tokens=[5, 6, 7], max_tokens=16, ignore_end_of_text=True,
            sampling={'temperature': 1.0, 'seed': first.result.seed}))
        self.assertEqual(first.ids, again.ids)

    def test_stop_string_ends_the_text_before_it(self):
        whole = Generation(generate(self.inference, tokens=[5, 6, 7], max_tokens=60,
                                    ignore_end_of_text=True)).text
        # Somewhere in the middle, and several characters long, so that it spans tokens.
        stop = whole[len(whole) // 2:len(whole) // 2 + 5]
        got = Generation(generate(self.inference, tokens=[5, 6, 7], max_tokens=60,
                                  ignore_end_of_text=True, stop=['\0never', stop]))
        self.assertEqual(got.text, whole[:whole.index(stop)])
        self.assertEqual(got.result.finish_reason, inference_pb2.FINISH_REASON_STOP)

    def test_characters_are_never_split(self):
        """The pieces of a stream are the whole text, and each is what protobuf accepts as UTF-8:
        parsing a response with a split character would have failed already."""
        for seed in range(8):
            options = {'tokens': [5, 6, 7], 'max_tokens': 64, 'ignore_end_of_text': True,
                       'sampling': {'temperature': 2.0, 'seed': seed}}
            streamed = Generation(generate(self.inference, **options))
            text = self.inference.Detokenize(
                inference_pb2.DetokenizeRequest(tokens=streamed.ids), timeout=30).text
            # Bytes that can never become a character are shown as U+FFFD.
            self.assertEqual(streamed.text, text.decode(errors='replace'))

    def test_logprobs_are_normalized(self):
        got = Generation(generate(self.inference, tokens=[5, 6, 7], max_tokens=5, top_logprobs=20,
                                  ignore_end_of_text=True))
        self.assertEqual(len(got.logprobs), 5)
        for entry, token in zip(got.logprobs, got.ids, strict=True):
            self.assertEqual(entry.chosen.token, token)
            self.assertEqual(entry.top[0].token, token)  # greedy
            values = [top.logprob for top in entry.top]
            self.assertEqual(values, sorted(values, reverse=True))
            self.assertTrue(all(value <= 0 for value in values))

    def test_invalid_requests(self):
        bad = [{'tokens': []}, {'tokens': [-1]}, {'tokens': [10**6]}, {'tokens': [5] * 2049},
               {'tokens': [5], 'max_tokens': -1}, {'tokens': [5], 'top_logprobs': 21},
               {'tokens': [5], 'sampling': {'temperature': -1.0}},
               {'tokens': [5], 'sampling': {'top_p': 1.5}},
               {'tokens': [5], 'stop': ['x'] * 17}, {'tokens': [5], 'stop': ['x' * 257]}]
        for options in bad:
            with self.subTest(options=str(options)[:80]):
                with self.assertRaises(grpc.RpcError) as caught:
                    Generation(generate(self.inference, **options))
                self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
                self.assertNotEqual(caught.exception.details(), '')
        self.assert_all_freed()


if __name__ == '__main__':
    unittest.main()
