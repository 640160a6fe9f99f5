"""That every hardening case has its tests, that these exist, and that the report tells of them."""

import io
import json
import os
import re
import subprocess
import tempfile
import unittest

import hardening_report


def tests_of_program(path):
    """SUITE.NAME of a GoogleTest program, by its own account."""
    listing = subprocess.run([path, '--gtest_list_tests'], capture_output=True, check=True,
                             timeout=60, text=True).stdout
    names, suite = set(), None
    for line in listing.splitlines():
        word = line.split('#')[0].strip()
        if not line.startswith(' ') and word.endswith('.'):
            suite = word[:-1]
        elif suite is not None and word:
            names.add(hardening_report.plain_name(suite, word))
    return names


def tests_of_module(path):
    """CLASS.METHOD of a module of unittest: what its text defines."""
    names, suite = set(), None
    with open(path, encoding='utf-8') as file:
        for line in file:
            if found := re.match(r'class (\w+)\(', line):
                suite = found[1]
            elif suite and (found := re.match(r'    def (test_\w+)\(self', line)):
                names.add(f'{suite}.{found[1]}')
    return names


class CasesTest(unittest.TestCase):

    def test_all_43_cases_have_tests(self):
        cases = hardening_report.read_cases()
        self.assertEqual([case['case'] for case in cases], list(range(1, 44)))
        for case in cases:
            self.assertTrue(case['tests'], case)
            self.assertEqual(len(case['tests']), len(set(case['tests'])), case)

    def test_their_tests_exist(self):
        known = {}
        for case in hardening_report.read_cases():
            for test in case['tests']:
                target, name = test.split(' ')
                if target not in known:
                    path = target.removeprefix('//').replace(':', '/')
                    known[target] = (tests_of_module(path + '.py')
                                     if path.startswith(('tests/e2e/', 'tests/fault/'))
                                     else tests_of_program(path))
                with self.subTest(test=test):
                    self.assertIn(name, known[target])


class ReportTest(unittest.TestCase):

    CASES = [{'case': 1, 'what': 'all is well', 'tests': ['//a:t One.Passes']},
             {'case': 2, 'what': 'one fails', 'tests': ['//a:t One.Passes', '//a:t One.Fails']},
             {'case': 3, 'what': 'needs a GPU', 'tests': ['//a:t One.Passes', '//a:t One.Skips']},
             {'case': 4, 'what': 'only with a GPU', 'tests': ['//a:t One.Skips']},
             {'case': 5, 'what': 'forgotten', 'tests': ['//a:t One.Passes', '//b:t Two.Other']},
             {'case': 6, 'what': 'with parameters', 'tests': ['//a:t Many.Works']}]
    XML = '''<testsuites><testsuite>
      <testcase classname="One" name="Passes" status="run" result="completed"/>
      <testcase classname="One" name="Fails" status="run"><failure message="no"/></testcase>
      <testcase classname="module.One" name="Skips"><skipped message="no GPU"/></testcase>
      <testcase classname="All/Many" name="Works/0" status="run" result="completed"/>
      <testcase classname="All/Many" name="Works/1" status="run" result="completed"/>
    </testsuite></testsuites>'''

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.xml = os.path.join(folder.name, 'test.xml')
        self.events = os.path.join(folder.name, 'events.json')

    def outcomes(self, xml):
        with open(self.xml, 'w', encoding='utf-8') as file:
            file.write(xml)
        event = {'id': {'testResult': {'label': '//a:t'}}, 'testResult': {
            'status': 'PASSED',
            'testActionOutput': [{'name': 'test.xml', 'uri': f'file://{self.xml}'}]}}
        with open(self.events, 'w', encoding='utf-8') as file:
            file.write(json.dumps(event) + '\n')
        return hardening_report.outcomes_of(self.events)

    def test_outcomes(self):
        outcomes = self.outcomes(self.XML)
        self.assertEqual([hardening_report.outcome_of_case(case, outcomes) for case in self.CASES],
                         ['passed', 'FAILED', 'passed (1 skipped)', 'SKIPPED', 'NOT RUN (1 of 2)',
                          'passed'])

    def test_one_parameter_that_fails_is_enough(self):
        outcomes = self.outcomes(self.XML.replace(
            'name="Works/0" status="run" result="completed"/>',
            'name="Works/0" status="run"><failure/></testcase>'))
        self.assertEqual(hardening_report.outcome_of_case(self.CASES[5], outcomes), 'FAILED')

    def test_the_report_ends_with_the_numbers(self):
        out = io.StringIO()
        hardening_report.print_report(self.CASES, self.outcomes(self.XML), out)
        self.assertEqual(out.getvalue().splitlines()[-1],
                         'hardening cases: 1 FAILED, 1 NOT RUN, 1 SKIPPED, 3 passed')
        self.assertIn('         //a:t One.Fails (failed)\n', out.getvalue())


if __name__ == '__main__':
    unittest.main()
