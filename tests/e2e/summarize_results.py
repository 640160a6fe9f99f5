"""Counts test cases, not targets, in what `bazel test` left, and says which failed or were skipped.

    summarize_results.py --events FILE --bazel-exit-code N [--case NAME EXIT_CODE LOG]...

FILE is what --build_event_json_file wrote. Each --case is a check that was run outside of Bazel;
exit code `skip` counts it as skipped, LOG then being the reason. The last line printed is
`N passed, N failed`, with `, N skipped` if any were; the exit code is 1 if anything failed.
"""

import argparse
import json
import os
import sys
import urllib.parse
import xml.etree.ElementTree as ElementTree

TAIL_LINES = 60


class Tally:
    """Passed cases by number; failed and skipped ones by name."""

    def __init__(self):
        self.passed = 0
        self.failed = []
        self.skipped = []
        self.logs = []  # (target, path of its log) of those that failed

    def last_line(self):
        line = f'{self.passed} passed, {len(self.failed)} failed'
        return line + (f', {len(self.skipped)} skipped' if self.skipped else '')


def outcome_of(case):
    """'passed', 'failed' or 'skipped' of one <testcase> of GoogleTest, unittest or Bazel itself."""
    if case.find('failure') is not None or case.find('error') is not None:
        return 'failed'
    if case.find('skipped') is not None or case.get('result') == 'skipped':
        return 'skipped'
    return 'skipped' if case.get('status') == 'notrun' else 'passed'


def count_cases(tally, label, xml_path, passed):
    """Adds the cases of one target's test.xml; a target that failed without a failed case is one."""
    failures = len(tally.failed)
    try:
        cases = list(ElementTree.parse(xml_path).iter('testcase')) if xml_path else []
    except (OSError, ElementTree.ParseError):
        cases = []
    for case in cases:
        name = f'{label} {case.get("classname", "")}.{case.get("name", "")}'
        outcome = outcome_of(case)
        if outcome == 'passed':
            tally.passed += 1
        elif outcome == 'failed':
            tally.failed.append(name)
        else:
            note = case.find('skipped')
            # GoogleTest's begins with a line that says where: a case and its reason stay together.
            reason = ' '.join(note.get('message', '').split()) if note is not None else ''
            tally.skipped.append(f'{name}: {reason}' if reason else name)
    if not passed and len(tally.failed) == failures:
        tally.failed.append(label)
    if passed and not cases:
        tally.passed += 1


def local_path(output):
    return urllib.parse.unquote(urllib.parse.urlparse(output['uri']).path)


def read_events(path):
    """({test label}, {label: {(run, shard): latest testResult}}) from Bazel's event file."""
    tests, results = set(), {}
    with open(path, encoding='utf-8') as file:
        for line in file:
            event = json.loads(line)
            configured = event['id'].get('targetConfigured')
            if configured and event.get('configured', {}).get('targetKind', '').endswith('_test rule'):
                tests.add(configured['label'])
            identity = event['id'].get('testResult')
            if identity and 'testResult' in event:
                key = (identity.get('run', 1), identity.get('shard', 1))
                # Attempts come in order: the last one counts.
                results.setdefault(identity['label'], {})[key] = event['testResult']
    return tests, results


def add_bazel_results(tally, events, exit_code):
    try:
        tests, results = read_events(events)
    except (OSError, ValueError):
        tests, results = set(), {}
    # Manual tests are configured only if something else asks for them; they never run.
    for label in sorted(tests | results.keys()):
        if label not in results:
            tally.failed.append(f'{label} (was not built or did not run)')
            continue
        for result in results[label].values():
            files = {output['name']: local_path(output)
                     for output in result.get('testActionOutput', []) if 'uri' in output}
            passed = result.get('status') == 'PASSED'
            count_cases(tally, label, files.get('test.xml'), passed)
            if not passed:
                tally.logs.append((label, files.get('test.log')))
    if exit_code != 0 and not tally.failed:
        tally.failed.append(f'bazel test (exit code {exit_code})')


def add_case(tally, name, exit_code, log):
    if exit_code == 'skip':
        tally.skipped.append(f'{name}: {log}')
    elif exit_code == '0':
        tally.passed += 1
    else:
        tally.failed.append(name)
        tally.logs.append((name, log))


def print_report(tally, out=sys.stdout):
    for label, path in tally.logs:
        print(f'--- {label}: the end of {path}', file=out)
        if path and os.path.exists(path):
            with open(path, encoding='utf-8', errors='replace') as file:
                print(''.join(file.readlines()[-TAIL_LINES:]), file=out)
    for name in tally.failed:
        print(f'FAILED  {name}', file=out)
    for name in tally.skipped:
        print(f'SKIPPED {name}', file=out)
    print(tally.last_line(), file=out)


def main(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument('--events', required=True)
    parser.add_argument('--bazel-exit-code', type=int, required=True)
    parser.add_argument('--case', nargs=3, action='append', default=[])
    options = parser.parse_args(arguments)
    tally = Tally()
    add_bazel_results(tally, options.events, options.bazel_exit_code)
    for case in options.case:
        add_case(tally, *case)
    print_report(tally)
    return 1 if tally.failed else 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
