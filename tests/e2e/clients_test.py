"""The example clients in Python and JavaScript against a running worker."""

import os
import shutil
import subprocess
import unittest

import golden
from harness import CALL_SECONDS, EndToEndTest, ctl

PROMPT = 'Hello, world!'
NODE_MODULES = os.environ.get('GGUF_OFFLOAD_NODE_MODULES', '')


class ClientsTest(EndToEndTest):

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


if __name__ == '__main__':
    unittest.main()
