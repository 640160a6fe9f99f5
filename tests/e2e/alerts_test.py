"""The alert rules, by Prometheus's own tool: they are valid, each fires where it has to and stays
quiet where it must, and asks for metrics that exist."""

import os
import re
import shutil
import subprocess
import tempfile
import unittest

FOLDER = 'deploy/prometheus'


def promtool(*arguments, folder=FOLDER):
    """Runs promtool; gives its exit code and all that it says."""
    done = subprocess.run(['promtool', *arguments], cwd=folder, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=120, check=False)
    return done.returncode, done.stdout.decode()


def read(name):
    with open(os.path.join(FOLDER, name)) as file:
        return file.read()


def alerts():
    """{name: the rule's text}."""
    parts = re.split(r'^ +- alert: (\w+)$', read('alerts.yaml'), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


class AlertsTest(unittest.TestCase):

    @unittest.skipUnless(shutil.which('promtool'), 'there is no program promtool')
    def test_promtool_accepts_and_tests_the_rules(self):
        for command in (('check', 'rules', 'alerts.yaml'), ('check', 'config', 'prometheus.yaml'),
                        ('test', 'rules', 'alerts_test.yaml')):
            code, output = promtool(*command)
            self.assertEqual(code, 0, output)
            self.assertIn('SUCCESS', output)

    def test_each_alert_is_tested_both_ways(self):
        tests = re.findall(r'alertname: (\w+)\n +exp_alerts:( \[\])?', read('alerts_test.yaml'))
        self.assertGreater(len(alerts()), 15)
        for name in alerts():
            with self.subTest(alert=name):
                self.assertEqual(sorted(quiet for tested, quiet in tests if tested == name),
                                 ['', ' []'])

    @unittest.skipUnless(shutil.which('promtool'), 'there is no program promtool')
    def test_the_tests_notice_a_rule_that_is_wrong(self):
        for wrong, fault in (('vector(0) > 1', 'never fires'), ('vector(1)', 'always fires')):
            with tempfile.TemporaryDirectory() as folder:
                rules, count = re.subn(r'expr:.*?(?=\n +(for|labels):)', f'expr: {wrong}',
                                       read('alerts.yaml'), flags=re.DOTALL)
                self.assertEqual(count, len(alerts()))
                with open(os.path.join(folder, 'alerts.yaml'), 'w') as file:
                    file.write(rules)
                shutil.copy(os.path.join(FOLDER, 'alerts_test.yaml'), folder)
                code, output = promtool('test', 'rules', 'alerts_test.yaml', folder=folder)
                self.assertNotEqual(code, 0)
                failed = set(re.findall(r'alertname: (\w+)', output))
                self.assertEqual(failed, set(alerts()), fault)

    def test_alerts_ask_for_metrics_that_exist(self):
        """METRICS.md lists exactly what the daemons export; another test sees to that."""
        listed = set()
        for name, kind in re.findall(r'^\| `(\w+)` \| ([cgh]) \|', read('METRICS.md'), re.MULTILINE):
            listed |= ({f'{name}_{part}' for part in ('bucket', 'sum', 'count')}
                       if kind == 'h' else {name})
        for name, rule in alerts().items():
            with self.subTest(alert=name):
                asked = set(re.findall(r'\b(?:gguf_offload|grpc_server|process)_\w+', rule))
                self.assertTrue(asked or 'up{' in rule)
                self.assertEqual(asked - listed, set())

    def test_alerts_say_what_is_the_matter(self):
        for name, rule in alerts().items():
            with self.subTest(alert=name):
                self.assertRegex(rule, r'severity: (critical|warning)\b')
                self.assertRegex(rule, r'summary: \w')
                self.assertRegex(rule, r'description: [\w>]')


if __name__ == '__main__':
    unittest.main()
