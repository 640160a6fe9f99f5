"""Both daemons' metrics, scraped by a real Prometheus and asked for in PromQL; the page that
describes them, and the dashboard that shows them."""

import json
import os
import re
import shutil
import subprocess
import threading
import unittest
import urllib.error
import urllib.parse
import urllib.request

import grpc

from gguf_offload.v1 import diagnostics_pb2, inference_pb2, weights_pb2
from harness import (BACKEND, COMPUTED, Daemon, EndToEndTest, Generation, eventually, free_port,
                     generate, make_model, terminate)

PAGE = 'deploy/prometheus/METRICS.md'
DASHBOARD = 'deploy/grafana/gguf_offload.json'
LONG = 1500
OURS = ('gguf_offload_', 'grpc_server_', 'process_')


def get(address, path):
    with urllib.request.urlopen(f'http://{address}{path}', timeout=30) as answer:
        return answer.read().decode()


class Scrape:
    """One answer of /metrics: `types` by name, `values` by 'name{label="value",...}'."""

    def __init__(self, address):
        self.types, self.values = {}, {}
        for line in get(address, '/metrics').splitlines():
            if line.startswith('# TYPE '):
                _, _, name, kind = line.split(' ')
                self.types[name] = kind
            elif not line.startswith('#'):
                series, _, value = line.rpartition(' ')
                self.values[series] = float(value)

    def series_names(self):
        """Names that queries may use: of histograms those of their three series."""
        names = set()
        for name, kind in self.types.items():
            names |= ({f'{name}_{part}' for part in ('bucket', 'sum', 'count')}
                      if kind == 'histogram' else {name})
        return names


class Prometheus:
    """A Prometheus that scrapes `jobs`, {name: [addresses]}, into a folder of its own."""

    def __init__(self, folder, jobs):
        config = os.path.join(folder, 'prometheus.json')
        with open(config, 'w') as file:  # JSON is YAML
            json.dump({'global': {'scrape_interval': '250ms', 'scrape_timeout': '250ms'},
                       'scrape_configs': [{'job_name': name,
                                           'static_configs': [{'targets': addresses}]}
                                          for name, addresses in jobs.items()]}, file)
        self.address = f'127.0.0.1:{free_port()}'
        self.log_path = os.path.join(folder, 'prometheus.log')
        self._log = open(self.log_path, 'wb')
        self.process = subprocess.Popen(
            ['prometheus', f'--config.file={config}', f'--web.listen-address={self.address}',
             f'--storage.tsdb.path={os.path.join(folder, "tsdb")}', '--log.level=warn'],
            stdout=self._log, stderr=self._log, stdin=subprocess.DEVNULL)

    def wait_until_ready(self):
        def ready():
            if self.process.poll() is not None:
                with open(self.log_path) as log:
                    raise AssertionError(f'prometheus ended:\n{log.read()}')
            try:
                return 'Ready' in get(self.address, '/-/ready')
            except urllib.error.URLError:
                return False
        eventually(ready, 'Prometheus does not start')

    def query(self, promql):
        """[(labels, value)] of an instant query. AssertionError if it is not valid."""
        url = f'http://{self.address}/api/v1/query?' + urllib.parse.urlencode({'query': promql})
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                result = json.load(answer)['data']
        except urllib.error.HTTPError as error:
            raise AssertionError(f'{promql}: {error.read().decode()}') from None
        return [(entry['metric'], float(entry['value'][1])) for entry in result['result']]

    def value(self, promql):
        """The one value of a query; None if there is none yet."""
        result = self.query(promql)
        assert len(result) <= 1, (promql, result)
        return result[0][1] if result else None

    def kill(self):
        self.process.kill()
        self.process.wait()
        self._log.close()


class ScrapedTest(EndToEndTest):
    """A weight daemon, two workers, and a Prometheus that scrapes them."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        path = make_model(os.path.join(cls.folder, 'm.gguf'), 'tiny-llama', 'Q8_0', 8)
        cls.bytes = os.path.getsize(path)
        cls.weightd = cls.start_weightd({'m': path, 'none': path + '.none'},
                                        '--metrics=127.0.0.1:0', '--residency=warm')
        cls.weightd.metrics = cls.weightd.read_address('metrics')
        flags = ('--metrics=127.0.0.1:0', '--context-tokens=2048', '--max-sequences=1',
                 '--max-waiting=1')
        cls.worker = cls.start_worker(cls.weightd, 'm', *flags)
        cls.worker.metrics = cls.worker.read_address('metrics')
        # Another, whose weights come over TCP.
        cls.remote = cls.start_worker(cls.weightd.address, 'm', *flags)
        cls.remote.metrics = cls.remote.read_address('metrics')
        cls.prometheus = None
        if shutil.which('prometheus'):
            cls.prometheus = Prometheus(cls.folder, {
                'weightd': [cls.weightd.metrics],
                'computed': [cls.worker.metrics, cls.remote.metrics]})
            cls.addClassCleanup(cls.prometheus.kill)
            cls.prometheus.wait_until_ready()

    def expect(self, promql, value):
        """Prometheus comes to answer `value`."""
        got = None

        def equal():
            nonlocal got
            got = self.prometheus.value(promql)
            return got == value
        try:
            eventually(equal, 'timeout', seconds=20)
        except AssertionError:
            self.fail(f'{promql} is {got}, not {value}')

    def generate(self, worker, **options):
        return Generation(generate(self.stub(worker, 'inference'), tokens=[5, 6, 7],
                                   ignore_end_of_text=True, **options))


class CountsTest(ScrapedTest):
    """What happened, to the last request: nothing else happens to these daemons."""

    def overload(self, worker):
        """One request runs and is cancelled, one waits and is cancelled, one is turned away."""
        inference = self.stub(worker, 'inference')
        running = generate(inference, tokens=[5, 6, 7], max_tokens=LONG, ignore_end_of_text=True)
        next(running)
        waiting = generate(inference, tokens=[5, 6, 7], max_tokens=LONG, ignore_end_of_text=True)
        eventually(lambda: any(s.state == 'waiting' for s in self.sessions(worker)),
                   'the second request does not wait')
        scrape = Scrape(worker.metrics)
        self.assertEqual(scrape.values['gguf_offload_computed_requests_running'], 1)
        self.assertEqual(scrape.values['gguf_offload_computed_requests_waiting'], 1)
        self.assertGreater(scrape.values['gguf_offload_computed_kv_pages_used'], 0)
        with self.assertRaises(grpc.RpcError) as caught:
            next(generate(inference, tokens=[5, 6, 7]))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        for call in (waiting, running):
            call.cancel()
        eventually(lambda: not self.sessions(worker), 'cancelled requests stay')

    @unittest.skipUnless(shutil.which('prometheus'), 'there is no program prometheus')
    def test_prometheus_sees_what_happened(self):
        worker = f'job="computed",instance="{self.worker.metrics}"'
        weightd = f'job="weightd",instance="{self.weightd.metrics}"'
        generated = 0
        for tokens in (3, 1, 12):
            got = self.generate(self.worker, max_tokens=tokens)
            self.assertEqual(len(got.ids), tokens)
            generated += tokens
        evaluate = inference_pb2.EvaluateRequest(logprobs=True)
        evaluate.tokens.ids.extend([5, 6, 7, 8])
        self.assertEqual(len(list(self.stub(self.worker, 'inference').Evaluate(evaluate))), 4)
        with self.assertRaises(grpc.RpcError):
            list(generate(self.stub(self.worker, 'inference'), tokens=[5] * 5000))
        self.assertEqual(len(self.generate(self.remote, max_tokens=2).ids), 2)
        self.stub(self.worker, 'diagnostics').Ping(diagnostics_pb2.PingRequest())

        p = 'gguf_offload_computed_'
        self.expect('sum(up)', 3)
        for promql, value in {
                f'{p}requests_finished_total{{{worker},kind="generate",reason="length"}}': 3,
                f'{p}requests_finished_total{{{worker},kind="evaluate",reason="evaluated"}}': 1,
                f'{p}generated_tokens_total{{{worker}}}': generated,
                f'{p}prompt_tokens_total{{{worker}}}': 3 * 3 + 4,
                f'{p}time_to_first_token_seconds_count{{{worker}}}': 3,
                f'{p}inter_token_seconds_count{{{worker}}}': generated - 3,
                f'{p}request_queue_seconds_count{{{worker}}}': 4,
                f'sum({p}request_seconds_count{{{worker}}})': 4,
                # A step for each prompt and for each token but the first.
                f'{p}steps_total{{{worker},result="ok"}}': 4 + generated - 3,
                f'{p}step_tokens_sum{{{worker}}}': 3 * 3 + 4 + generated - 3,
                f'{p}requests_rejected_total{{{worker},reason="too_long"}}': 1,
                f'{p}weights_attached{{{worker}}}': 1,
                f'sum({p}generated_tokens_total)': generated + 2,
                f'grpc_server_handled_total{{{worker},grpc_method="Generate",grpc_code="OK"}}': 3,
                f'grpc_server_handled_total{{{worker},grpc_method="Generate",'
                'grpc_code="INVALID_ARGUMENT"}': 1,
                f'grpc_server_handled_total{{{worker},grpc_method="Evaluate",grpc_code="OK",'
                'grpc_type="server_stream",grpc_service="gguf_offload.v1.InferenceService"}': 1,
                f'grpc_server_handled_total{{{worker},grpc_method="Ping",grpc_code="OK"}}': 1,
                f'grpc_server_handling_seconds_count{{{worker},grpc_method="Generate"}}': 4,
                f'gguf_offload_build_info{{{worker},program="computed"}}': 1,
                f'gguf_offload_draining{{{worker}}}': 0,
                'sum(gguf_offload_weightd_leases{transport="shared_memory"})': 1,
                'sum(gguf_offload_weightd_leases{transport="stream"})': 1,
                'gguf_offload_weightd_models{state="ready"}': 1,
                'gguf_offload_weightd_models{state="failed"}': 1,
                'gguf_offload_weightd_model_load_failures_total{code="NOT_FOUND"}': 1,
                'gguf_offload_weightd_model_load_seconds_count': 1,
                'gguf_offload_weightd_handoffs_total{result="ok"}': 1,
                'gguf_offload_weightd_handoff_descriptors_total': 1,
                f'gguf_offload_weightd_mapped_bytes{{{weightd},model="m"}}': self.bytes,
                f'gguf_offload_weightd_resident_bytes{{{weightd},model="m"}}': self.bytes,
                f'gguf_offload_weightd_populated_bytes{{{weightd},model="m"}}': self.bytes,
                # What the remote worker received is what was read for it.
                'sum(gguf_offload_computed_weights_received_bytes_total)'
                ' - sum(gguf_offload_weightd_read_bytes_total)': 0,
        }.items():
            self.expect(promql, value)
        self.assertGreater(self.prometheus.value(
            'sum(gguf_offload_weightd_read_blocks_total{transport="stream"})'), 0)
        self.assertGreater(self.prometheus.value(
            f'{p}link_bytes_total{{instance="{self.remote.metrics}"}}'), 0)

        self.overload(self.worker)
        self.expect(f'{p}requests_finished_total{{{worker},reason="cancelled",kind="generate"}}', 2)
        self.expect(f'{p}requests_rejected_total{{{worker},reason="queue_full"}}', 1)
        self.expect('sum by (grpc_method) (grpc_server_handled_total'
                    f'{{{worker},grpc_method="Generate",grpc_code="CANCELLED"}})', 2)
        self.expect('sum by (grpc_method) (grpc_server_handled_total'
                    f'{{{worker},grpc_method="Generate",grpc_code="RESOURCE_EXHAUSTED"}})', 1)
        self.expect(f'{p}requests_running{{{worker}}}', 0)
        self.expect(f'{p}kv_pages_used{{{worker}}}', 0)


class MetricsTest(ScrapedTest):

    def test_workers_that_leave_and_workers_that_are_lost(self):
        """A worker that stops gives its lease back in order; one that is killed does not."""
        def ended(reason):
            return Scrape(self.weightd.metrics).values[
                f'gguf_offload_weightd_leases_ended_total{{reason="{reason}"}}']

        detached, broken = ended('detached'), ended('broken')
        for weights in (self.weightd, self.weightd.address):
            stops = self.start_worker(weights, 'm')
            terminate(stops)
            self.assertEqual(stops.wait(), 0)
        eventually(lambda: ended('detached') == detached + 2, 'the leases are not given back')
        self.assertEqual(ended('broken'), broken)
        for killed in [self.start_worker(self.weightd, 'm') for _ in range(8)]:
            killed.process.kill()
        eventually(lambda: ended('broken') == broken + 8, 'the lost leases are not counted')
        self.assertEqual(ended('detached'), detached + 2)

    def test_a_worker_that_attaches_again(self):
        socket = os.path.join(self.folder, 'again.sock')
        path = os.path.join(self.folder, 'm.gguf')
        first = self.start_weightd({'m': path}, socket=socket)
        worker = self.start_worker(first, 'm', '--metrics=127.0.0.1:0')
        address = worker.read_address('metrics')
        p = 'gguf_offload_computed_weights_'

        def values():
            return Scrape(address).values
        self.assertEqual((values()[f'{p}attached'], values()[f'{p}reconnects_total']), (1, 0))
        first.process.kill()
        eventually(lambda: values()[f'{p}attach_failures_total'] > 0, 'no attempt fails')
        self.assertEqual(values()[f'{p}attached'], 0)
        self.start_weightd({'m': path}, socket=socket)
        eventually(lambda: values()[f'{p}reconnects_total'] == 1, 'the worker does not come back')
        self.assertEqual(values()[f'{p}attached'], 1)

    def test_reads_damage_of_weights_and_quarantine(self):
        path = shutil.copy(os.path.join(self.folder, 'm.gguf'), os.path.join(self.folder, 'd.gguf'))
        weightd = self.start_weightd({'d': path}, '--metrics=127.0.0.1:0', '--rescan-interval=0')
        address = weightd.read_address('metrics')
        p = 'gguf_offload_weightd_'
        weights = self.stub(weightd, 'weights')
        tensor = weights.ListTensors(weights_pb2.ListTensorsRequest(model='d')).tensors[0]
        read = sum(len(piece.data) for piece in weights.ReadBlocks(
            weights_pb2.ReadBlocksRequest(model='d', tensor=tensor.name)))
        values = Scrape(address).values
        self.assertEqual(read, tensor.bytes)
        self.assertEqual(values[f'{p}read_bytes_total{{transport="read_blocks"}}'], read)
        self.assertEqual(values[f'{p}read_seconds_count{{transport="read_blocks"}}'],
                         values[f'{p}read_blocks_total{{transport="read_blocks"}}'])
        self.assertEqual(values[f'{p}read_bytes_total{{transport="stream"}}'], 0)

        list(weights.VerifyModel(weights_pb2.VerifyModelRequest(model='d', tensor=tensor.name)))
        with open(path, 'r+b') as file:
            file.seek(tensor.offset)
            byte = file.read(1)
            file.seek(tensor.offset)
            file.write(bytes([byte[0] ^ 1]))
        list(weights.VerifyModel(weights_pb2.VerifyModelRequest(model='d', tensor=tensor.name)))
        self.assertEqual(Scrape(address).values[f'{p}checksum_failures_total'], 1)
        with open(path, 'r+b') as file:
            file.truncate(1000)
        with self.assertRaises(grpc.RpcError) as caught:
            list(weights.ReadBlocks(
                weights_pb2.ReadBlocksRequest(model='d', tensor=tensor.name)))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DATA_LOSS)
        values = Scrape(address).values
        self.assertEqual(values[f'{p}quarantines_total'], 1)
        self.assertEqual(values[f'{p}models{{state="quarantined"}}'], 1)
        self.assertEqual(values[f'{p}models{{state="ready"}}'], 0)

    def test_metrics_are_there_before_the_worker_is(self):
        """A worker whose weight daemon is not there yet can be scraped, and says how it fails."""
        port = free_port()
        self.assertRaises(OSError, get, f'127.0.0.1:{port}', '/livez')
        path = os.path.join(self.folder, 'early.log')
        early = Daemon([COMPUTED, '--weights=unix:/nowhere/weightd.sock', '--model=m',
                        f'--backend={BACKEND}', '--listen=127.0.0.1:0',
                        f'--metrics=127.0.0.1:{port}'], path)
        self._daemons.append(early)

        def failures():
            try:
                values = Scrape(f'127.0.0.1:{port}').values
            except OSError:
                return 0
            self.assertEqual(values['gguf_offload_computed_weights_attached'], 0)
            return values['gguf_offload_computed_weights_attach_failures_total']
        eventually(lambda: failures() >= 2, 'attempts to attach are not counted')
        self.assertEqual(get(f'127.0.0.1:{port}', '/livez'), 'ok\n')

    def test_metrics_outlive_the_calls_while_draining(self):
        worker = self.start_worker(self.weightd, 'm', '--context-tokens=2048',
                                   '--metrics=127.0.0.1:0')
        address = worker.read_address('metrics')
        running = generate(self.stub(worker, 'inference'), tokens=[5, 6, 7], max_tokens=LONG,
                           ignore_end_of_text=True)
        next(running)
        terminate(worker)
        eventually(lambda: Scrape(address).values['gguf_offload_draining'] == 1,
                   'draining is not shown')
        self.assertEqual(Scrape(address).values['gguf_offload_computed_requests_running'], 1)
        running.cancel()
        self.assertEqual(worker.wait(), 0)

    def test_a_flood_of_methods_makes_no_series(self):
        channel = self.worker.channel()
        self.addCleanup(channel.close)
        before = len(Scrape(self.worker.metrics).values)
        for i in range(50):
            call = channel.unary_unary(f'/made.up.Service{i}/Method{i}')
            with self.assertRaises(grpc.RpcError) as caught:
                call(b'', timeout=30)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNIMPLEMENTED)
        # At most the code UNIMPLEMENTED of the one series for all of them.
        self.assertLessEqual(len(Scrape(self.worker.metrics).values), before + 1)

    def test_scrapes_do_not_disturb_each_other_or_requests(self):
        stop = threading.Event()
        errors = []

        def scrape():
            while not stop.is_set():
                try:
                    Scrape(self.worker.metrics)
                    Scrape(self.weightd.metrics)
                except Exception as error:  # noqa: BLE001
                    errors.append(error)
                    return
        threads = [threading.Thread(target=scrape) for _ in range(4)]
        for thread in threads:
            thread.start()
        self.assertEqual(len(self.generate(self.worker, max_tokens=100).ids), 100)
        stop.set()
        for thread in threads:
            thread.join()
        self.assertEqual(errors, [])

    def test_the_page_lists_exactly_what_is_exported(self):
        with open(PAGE) as file:
            page = file.read()
        listed = {}
        for section, daemons in (('Both daemons', ('weightd', 'computed')),
                                 ('weightd', ('weightd',)), ('computed', ('computed',))):
            text = page.split(f'\n## {section}\n')[1].split('\n## ')[0]
            rows = re.findall(r'^\| `(\w+)` \| ([cgh]) \| ([^|]*)\|', text, re.MULTILINE)
            self.assertEqual([row[0] for row in rows], sorted(row[0] for row in rows))
            for name, kind, labels in rows:
                for daemon in daemons:
                    listed.setdefault(daemon, {})[name] = (
                        {'c': 'counter', 'g': 'gauge', 'h': 'histogram'}[kind],
                        set(re.sub(r'\{[^}]*\}', '', labels).replace(',', ' ').split()))
        for daemon, address in (('weightd', self.weightd.metrics),
                                ('computed', self.remote.metrics)):
            scrape = Scrape(address)
            self.assertEqual({name: kind for name, (kind, _) in listed[daemon].items()},
                             scrape.types)
            for series in scrape.values:
                name = series.split('{')[0]
                base = name if name in scrape.types else name.rpartition('_')[0]
                labels = set(re.findall(r'(\w+)="', series)) - {'le'}
                self.assertEqual(labels, listed[daemon][base][1], series)

    def test_the_page_lists_all_values_of_labels(self):
        """Where it gives the values of a label, there are no others."""
        with open(PAGE) as file:
            page = file.read()
        values = {}
        for name, labels in re.findall(r'^\| `(\w+)` \| [cgh] \| ([^|]*)\|', page, re.MULTILINE):
            for label, listed in re.findall(r'(\w+) \{([^}]*)\}', labels):
                values[name, label] = set(listed.split(', '))
        seen = {}
        for address in (self.weightd.metrics, self.remote.metrics):
            for series in Scrape(address).values:
                name = re.sub(r'_(bucket|sum|count)$', '', series.split('{')[0])
                for label, value in re.findall(r'(\w+)="([^"]*)"', series):
                    if (name, label) in values:
                        seen.setdefault((name, label), set()).add(value)
        for key, listed in values.items():
            # A worker on the CPU does not know all of its lanes.
            if 'lane_' in key[0]:
                self.assertLessEqual(seen[key], listed, key)
            else:
                self.assertEqual(seen[key], listed, key)


def expressions(dashboard):
    """(title, expression) of every query of a dashboard, its variables' included."""
    for panel in dashboard['panels']:
        for target in panel.get('targets', []):
            yield panel['title'], target['expr']
        for inner in panel.get('panels', []):
            for target in inner.get('targets', []):
                yield inner['title'], target['expr']
    for variable in dashboard['templating']['list']:
        if variable['type'] == 'query':
            inner = re.fullmatch(r'label_values\((.*), \w+\)', variable['query']['query'])
            yield variable['name'], inner.group(1)


def fill_in(expression):
    """The expression as Grafana sends it with all instances chosen."""
    filled = expression.replace('$__rate_interval', '5s')
    filled = re.sub(r'\$(worker|weightd)\b', '.*', filled)
    assert '$' not in filled, expression
    return filled


class DashboardTest(ScrapedTest):
    """Every query of the dashboard, against the daemons."""

    def test_every_query_asks_for_metrics_that_the_right_daemon_has(self):
        with open(DASHBOARD) as file:
            dashboard = json.load(file)
        exported = {'weightd': Scrape(self.weightd.metrics).series_names(),
                    'computed': Scrape(self.remote.metrics).series_names()}
        used = set()
        queries = list(expressions(dashboard))
        self.assertGreater(len(queries), 50)
        for title, expression in queries:
            with self.subTest(title=title, expression=expression):
                selectors = re.findall(r'([a-zA-Z_:][\w:]*)\{([^}]*)\}', expression)
                names = {name for name, _ in selectors}
                # None is without a selector, which has to say whose metrics are meant.
                self.assertEqual(names, {name for name in re.findall(r'\b[a-z]\w+\b', expression)
                                         if name.startswith(OURS)})
                for name, matchers in selectors:
                    job = re.search(r'\b(?:job|program)=~?"([^"]*)"', matchers).group(1)
                    for daemon in job.split('|'):
                        self.assertIn(name, exported[daemon])
                used |= names
        # And whatever there is can be seen.
        shown = {re.sub(r'_(bucket|sum|count)$', '', name) for name in used}
        have = {re.sub(r'_(bucket|sum|count)$', '', name)
                for names in exported.values() for name in names}
        self.assertEqual(have - shown, set())

    @unittest.skipUnless(shutil.which('prometheus'), 'there is no program prometheus')
    def test_prometheus_answers_every_query(self):
        with open(DASHBOARD) as file:
            dashboard = json.load(file)
        self.generate(self.remote, max_tokens=3)
        self.expect('sum(up)', 3)
        for title, expression in expressions(dashboard):
            with self.subTest(title=title):
                eventually(lambda e=fill_in(expression): self.prometheus.query(e),
                           f'{expression} has no answer', seconds=20)

    def test_panels_do_not_overlap(self):
        with open(DASHBOARD) as file:
            dashboard = json.load(file)
        taken = {}
        for panel in dashboard['panels']:
            at = panel['gridPos']
            self.assertLessEqual(at['x'] + at['w'], 24)
            for x in range(at['x'], at['x'] + at['w']):
                for y in range(at['y'], at['y'] + at['h']):
                    self.assertNotIn((x, y), taken, (panel['title'], taken.get((x, y))))
                    taken[x, y] = panel['title']
        ids = [panel['id'] for panel in dashboard['panels']]
        self.assertEqual(len(ids), len(set(ids)))


if __name__ == '__main__':
    unittest.main()
