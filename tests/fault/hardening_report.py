"""Prints the hardening cases with the tests that cover each, and how those went.

    hardening_report.py [--events FILE]

FILE is what `bazel test --build_event_json_file` wrote; without it only the tests are listed. The
cases and their tests are in hardening_cases.json; a test is `TARGET SUITE.NAME`, and one with
parameters stands for all of them. The exit code is 1 if a test of a case failed.
"""

import argparse
import collections
import json
import os
import sys
import xml.etree.ElementTree as ElementTree

import summarize_results

CASES = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'hardening_cases.json')
# Of several outcomes of one test, the first of these that there is counts.
ORDER = ('failed', 'skipped', 'passed', 'not run')


def read_cases(path=CASES):
    """[{'case': number, 'what': text, 'tests': ['TARGET SUITE.NAME', ...]}, ...]"""
    with open(path, encoding='utf-8') as file:
        return json.load(file)


def plain_name(classname, name):
    """`SUITE.NAME` without a Python module and without a parameter's name and value."""
    suite = classname.rpartition('.')[2]
    parts = suite.split('/')
    # "Instance/Suite" and "Suite/0" of typed tests.
    suite = parts[-1] if len(parts) > 1 and not parts[-1].isdigit() else parts[0]
    return f'{suite}.{name.split("/")[0]}'


def _worse(first, second):
    return first if ORDER.index(first) < ORDER.index(second) else second


def outcomes_of(events):
    """{'TARGET SUITE.NAME': 'passed', 'failed' or 'skipped'} of all tests that ran."""
    outcomes = {}
    _, results = summarize_results.read_events(events)
    for label, runs in results.items():
        for result in runs.values():
            for output in result.get('testActionOutput', []):
                if output['name'] != 'test.xml' or 'uri' not in output:
                    continue
                for test, outcome in outcomes_in(summarize_results.local_path(output)):
                    key = f'{label} {test}'
                    outcomes[key] = _worse(outcome, outcomes.get(key, 'not run'))
    return outcomes


def outcomes_in(path):
    """[(SUITE.NAME, outcome)] of one test.xml; none if it cannot be read."""
    try:
        cases = ElementTree.parse(path).iter('testcase')
        return [(plain_name(case.get('classname', ''), case.get('name', '')),
                 summarize_results.outcome_of(case)) for case in cases]
    except (OSError, ElementTree.ParseError):
        return []


def outcome_of_case(case, outcomes):
    """A case has passed if all its tests have, but those that need hardware that is not there."""
    counts = collections.Counter(outcomes.get(test, 'not run') for test in case['tests'])
    if counts['failed']:
        return 'FAILED'
    if counts['not run']:
        return f'NOT RUN ({counts["not run"]} of {len(case["tests"])})'
    if not counts['passed']:
        return 'SKIPPED'
    return 'passed' + (f' ({counts["skipped"]} skipped)' if counts['skipped'] else '')


def print_report(cases, outcomes, out=sys.stdout):
    """`outcomes` may be None: then the tests are listed without theirs."""
    for case in cases:
        result = '' if outcomes is None else f'{outcome_of_case(case, outcomes)}: '
        print(f'case {case["case"]:2}  {result}{case["what"]}', file=out)
        for test in case['tests']:
            note = '' if outcomes is None else f' ({outcomes.get(test, "not run")})'
            print(f'         {test}{note}', file=out)
    if outcomes is not None:
        results = collections.Counter(outcome_of_case(case, outcomes).split(' (')[0]
                                      for case in cases)
        print('hardening cases: ' + ', '.join(f'{number} {result}'
                                              for result, number in sorted(results.items())),
              file=out)


def main(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument('--events')
    options = parser.parse_args(arguments)
    cases = read_cases()
    outcomes = outcomes_of(options.events) if options.events else None
    print_report(cases, outcomes)
    if outcomes is None:
        return 0
    return int(any(outcome_of_case(case, outcomes) == 'FAILED' for case in cases))


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
