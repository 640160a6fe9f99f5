"""A hundred seconds of everything at once; tests/fault/soak.sh runs it for any length."""

import os
import sys
import unittest

import soak

SECONDS = float(os.environ.get('GGUF_OFFLOAD_SOAK_SECONDS', '95'))
SEED = int(os.environ.get('GGUF_OFFLOAD_SOAK_SEED', '20261123'))


class SoakTest(unittest.TestCase):

    def test_soak(self):
        run = soak.Soak(SECONDS, SEED)
        try:
            run.run()
        finally:
            print(run.report(), file=sys.stdout, flush=True)
        self.assertEqual(run.problems, [])
        # It was a soak: daemons died, and answers were given all the same.
        self.assertGreater(run.tally.outcomes['complete'], 100)
        self.assertGreater(sum(member.starts for member in run.fleet.members),
                           len(run.fleet.members))


if __name__ == '__main__':
    unittest.main()
