"""A worker with less memory than the model: weights come over TCP again in every step."""

import json
import os
import re
import signal
import subprocess
import unittest

from harness import (COMPUTED, EndToEndTest, Generation, ctl, eventually, free_port, generate,
                     make_model)

PROMPT = [5, 6, 7, 8, 9]
TOKENS = 60


class StreamingTest(EndToEndTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.path = make_model(os.path.join(cls.folder, 'm.gguf'), 'tiny-llama', 'Q4_K_M', 12)
        cls.weightd = cls.start_weightd({'m': cls.path})
        # What the same weights give when all of them are at hand.
        worker = cls.start_worker(cls.weightd, 'm')
        cls.expected_logits = cls.logits(worker)
        cls.expected_ids = cls.ids(worker)
        worker.kill()
        cls.smallest = cls.smallest_budget()

    @classmethod
    def logits(cls, worker):
        path = os.path.join(cls.folder, 'logits.f32')
        ctl('evaluate', f'--worker={worker.address}', f'--tokens={json.dumps(PROMPT)}',
            f'--logits={path}')
        with open(path, 'rb') as file:
            return file.read()

    @classmethod
    def ids(cls, worker):
        out = ctl('generate', f'--worker={worker.address}', f'--tokens={json.dumps(PROMPT)}',
                  f'--max-tokens={TOKENS}', '--ignore-end-of-text', '--json')
        return [token for line in out.splitlines() for token in json.loads(line)['tokens']]

    @classmethod
    def smallest_budget(cls):
        """What the worker says that it needs when it is given far too little."""
        done = subprocess.run([COMPUTED, f'--weights={cls.weightd.address}', '--model=m',
                               '--listen=127.0.0.1:0', '--backend=cpu', '--host-memory=1KiB'],
                              capture_output=True, timeout=60, check=False)
        assert done.returncode == 1 and done.stdout == b'', done
        return int(re.search(rb'\Acomputed: .* the smallest budget is (\d+) bytes\n\Z',
                             done.stderr)[1])

    def start_limited(self, budget, weightd=None):
        return self.start_worker((weightd or self.weightd).address, 'm', f'--host-memory={budget}')

    def check_budget(self, budget):
        worker = self.start_limited(budget)
        placement = json.loads(ctl('placement', f'--worker={worker.address}', '--json'))
        self.assertGreater(int(placement['streamed_bytes']), 0)
        self.assertEqual(placement['bytes_per_step'], placement['streamed_bytes'])
        self.assertEqual(self.logits(worker), self.expected_logits)
        self.assertEqual(self.ids(worker), self.expected_ids)

    def test_the_smallest_budget(self):
        self.check_budget(self.smallest)

    def test_a_budget_for_some_layers(self):
        self.check_budget((self.smallest + os.stat(self.path).st_size) // 2)

    def test_less_than_the_smallest_budget_is_refused(self):
        with self.assertRaisesRegex(AssertionError, 'the smallest budget is'):
            self.start_limited(self.smallest - 1)

    def test_larger_budgets_fetch_less_in_a_step(self):
        per_step = []
        for budget in (self.smallest, (self.smallest + os.stat(self.path).st_size) // 2, '1GiB'):
            worker = self.start_limited(budget)
            placement = json.loads(ctl('placement', f'--worker={worker.address}', '--json'))
            per_step.append(int(placement['bytes_per_step']))
        self.assertGreater(per_step[0], per_step[1])
        self.assertGreater(per_step[1], per_step[2])
        self.assertEqual(per_step[2], 0)

    def test_weightd_comes_back_in_the_middle_of_a_text(self):
        """Without its weights the worker waits, and goes on where it was when they are there again."""
        weightd = self.start_weightd({'m': self.path}, listen=f'127.0.0.1:{free_port()}')
        worker = self.start_limited(self.smallest, weightd)
        call = generate(self.stub(worker, 'inference'), tokens=PROMPT, max_tokens=TOKENS,
                        ignore_end_of_text=True)
        ids = list(next(call).tokens)
        weightd.signal(signal.SIGKILL)
        weightd.wait()
        weightd = self.start_weightd({'m': self.path}, listen=weightd.address)
        ids += Generation(call).ids
        self.assertEqual(ids, self.expected_ids)
        eventually(lambda: [s for s in self.sessions(weightd) if s.kind == 'lease'],
                   'the worker does not reattach')


if __name__ == '__main__':
    unittest.main()
