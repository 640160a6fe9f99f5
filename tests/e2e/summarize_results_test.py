"""The line that tests/run.sh ends with."""

import json
import os
import tempfile
import unittest

import summarize_results

GOOGLETEST = '''<testsuites><testsuite name="A">
<testcase name="ok" status="run" result="completed" classname="A"/>
<testcase name="bad" status="run" result="completed" classname="A"><failure message="x"/></testcase>
<testcase name="off" status="notrun" result="suppressed" classname="A"/>
<testcase name="skip" status="run" result="skipped" classname="A"><skipped message="no GPU"/></testcase>
</testsuite></testsuites>'''
UNITTEST = '<testsuite><testcase name="t" classname="m.C"/></testsuite>'
BAZEL = '<testsuites><testsuite><testcase name="s"><error message="exited 1"/></testcase></testsuite></testsuites>'


class SummarizeResultsTest(unittest.TestCase):

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, 'w', encoding='utf-8') as file:
            file.write(text)
        return path

    def tally(self, targets, exit_code=0):
        """`targets`: {label: None if it was not built, or (status, xml text or None)}."""
        events = []
        for number, (label, result) in enumerate(targets.items()):
            events.append({'id': {'targetConfigured': {'label': label}},
                           'configured': {'targetKind': 'cc_test rule'}})
            if result:
                status, xml = result
                outputs = [{'name': 'test.log', 'uri': 'file:///nonexistent'}]
                if xml is not None:
                    outputs.append({'name': 'test.xml',
                                    'uri': 'file://' + self.write(f'{number}.xml', xml)})
                events.append({'id': {'testResult': {'label': label, 'run': 1, 'attempt': 1}},
                               'testResult': {'status': status, 'testActionOutput': outputs}})
        path = self.write('events', '\n'.join(json.dumps(event) for event in events))
        tally = summarize_results.Tally()
        summarize_results.add_bazel_results(tally, path, exit_code)
        return tally

    def test_counts_cases(self):
        tally = self.tally({'//a:a': ('FAILED', GOOGLETEST), '//b:b': ('PASSED', UNITTEST)}, 3)
        self.assertEqual(tally.last_line(), '2 passed, 1 failed, 2 skipped')
        self.assertEqual(tally.failed, ['//a:a A.bad'])
        self.assertEqual(tally.skipped, ['//a:a A.off', '//a:a A.skip: no GPU'])

    def test_a_skipped_case_and_its_reason_are_one_line(self):
        skipped = GOOGLETEST.replace('"no GPU"', '"a_test.cc:24&#x0A;no GPU"')
        tally = self.tally({'//a:a': ('FAILED', skipped)}, 3)
        self.assertIn('//a:a A.skip: a_test.cc:24 no GPU', tally.skipped)

    def test_says_nothing_of_skipped_cases_if_there_are_none(self):
        self.assertEqual(self.tally({'//b:b': ('PASSED', UNITTEST)}).last_line(),
                         '1 passed, 0 failed')

    def test_a_target_that_failed_without_cases_is_one_failure(self):
        for result in (None, ('TIMEOUT', None), ('FAILED', UNITTEST), ('FAILED', '<broken'),
                       ('FAILED', BAZEL)):
            with self.subTest(result=result):
                self.assertEqual(len(self.tally({'//a:a': result}, 3).failed), 1)

    def test_bazel_failing_altogether_is_a_failure(self):
        tally = summarize_results.Tally()
        summarize_results.add_bazel_results(tally, '/nonexistent', 1)
        self.assertEqual(tally.last_line(), '0 passed, 1 failed')

    def test_checks_outside_of_bazel(self):
        tally = summarize_results.Tally()
        summarize_results.add_case(tally, 'fuzz', '0', '/log')
        summarize_results.add_case(tally, 'other', '77', '/log')
        summarize_results.add_case(tally, 'node', 'skip', 'no registry')
        self.assertEqual(tally.last_line(), '1 passed, 1 failed, 1 skipped')
        self.assertEqual(tally.skipped, ['node: no registry'])


if __name__ == '__main__':
    unittest.main()
