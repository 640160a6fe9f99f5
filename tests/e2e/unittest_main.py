"""Runs one test module and writes its results as JUnit XML where Bazel wants them.

Called with the module's name; everything else comes from Bazel's environment.
"""

import importlib
import os
import sys
import time
import unittest
import xml.etree.ElementTree as ElementTree


class RecordingResult(unittest.TextTestResult):
    """Remembers every case's outcome, duration and message."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.cases = []
        self._start = time.monotonic()

    def startTest(self, test):
        super().startTest(test)
        self._start = time.monotonic()

    def _record(self, test, outcome, message=''):
        self.cases.append((test.id(), outcome, message, time.monotonic() - self._start))

    def addSuccess(self, test):
        super().addSuccess(test)
        self._record(test, 'passed')

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._record(test, 'failed', self._exc_info_to_string(err, test))

    def addError(self, test, err):
        super().addError(test, err)
        self._record(test, 'failed', self._exc_info_to_string(err, test))

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self._record(test, 'skipped', reason)

    def addExpectedFailure(self, test, err):
        raise AssertionError('an expected failure is no result')

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._record(subtest, 'failed', self._exc_info_to_string(err, test))


def write_xml(cases, path):
    suite = ElementTree.Element('testsuite', name='unittest', tests=str(len(cases)))
    for name, outcome, message, seconds in cases:
        classname, _, method = name.rpartition('.')
        case = ElementTree.SubElement(suite, 'testcase', name=method, classname=classname,
                                      time=f'{seconds:.3f}')
        if outcome == 'failed':
            ElementTree.SubElement(case, 'failure', message=message.splitlines()[-1]).text = message
        elif outcome == 'skipped':
            ElementTree.SubElement(case, 'skipped', message=message)
    ElementTree.ElementTree(suite).write(path, encoding='utf-8', xml_declaration=True)


def main():
    module = importlib.import_module(sys.argv[1])
    names = sys.argv[2:] or ([os.environ['TESTBRIDGE_TEST_ONLY']]
                             if os.environ.get('TESTBRIDGE_TEST_ONLY') else None)
    loader = unittest.TestLoader()
    suite = (loader.loadTestsFromNames(names, module) if names
             else loader.loadTestsFromModule(module))
    result = unittest.TextTestRunner(resultclass=RecordingResult, verbosity=2).run(suite)
    if os.environ.get('XML_OUTPUT_FILE'):
        write_xml(result.cases, os.environ['XML_OUTPUT_FILE'])
    if not result.cases:
        print('no tests ran', file=sys.stderr)
        return 1
    return 0 if result.wasSuccessful() else 1


if __name__ == '__main__':
    sys.exit(main())
