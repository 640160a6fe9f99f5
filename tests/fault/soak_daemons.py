"""The daemons of a soak: a weight daemon and its workers, which die, come back and load anew."""

import os
import shutil
import signal
import urllib.request

import inspection
from gguf_offload.v1 import inference_pb2, inference_pb2_grpc, weights_pb2, weights_pb2_grpc
from harness import COMPUTED, WEIGHTD, Daemon, eventually, free_port, make_model

PRESET, QUANTIZATION, LAYERS = 'tiny-llama', 'Q8_0', 8
# Two models of the same shape and different weights take turns under one name.
VARIANTS = ('first', 'second')
SEQUENCES = 8
WAITING = 16
CALL_SECONDS = 60
# Metrics that say what a daemon holds, or that something went wrong which never should.
GAUGES = {
    'weightd': ('gguf_offload_weightd_leases', 'gguf_offload_weightd_streams',
                'gguf_offload_weightd_quarantines_total',
                'gguf_offload_weightd_checksum_failures_total'),
    'worker': ('gguf_offload_computed_kv_pages_used', 'gguf_offload_computed_requests_running',
               'gguf_offload_computed_requests_waiting',
               'gguf_offload_computed_weights_checksum_failures_total'),
}


class Incarnation:
    """One process of a daemon, from its start to its end."""

    def __init__(self, daemon):
        self.daemon = daemon
        self.metrics = None  # address
        # Of a worker: which weights it computes with.
        self.generation = None
        self.variant = None

    @property
    def pid(self):
        return self.daemon.pid


class Member:
    """A daemon at an address that stays the same, whatever process is behind it.

    `start` and what ends a process are for one thread; `current` may be read by any.
    """

    def __init__(self, name, folder, argv):
        self.name = name
        self.address = f'127.0.0.1:{free_port()}'
        self.argv = [*argv, f'--listen={self.address}', '--metrics=127.0.0.1:0',
                     '--log-format=text']
        self.log_path = os.path.join(folder, f'{name}.log')
        self.current = None
        self.starts = 0

    def start(self, learn=lambda incarnation: None):
        """`learn` completes what is known of the new process before anybody sees it."""
        incarnation = Incarnation(Daemon(self.argv, self.log_path).wait_until_listening())
        incarnation.metrics = incarnation.daemon.read_address('metrics')
        learn(incarnation)
        self.starts += 1
        self.current = incarnation

    def channel(self):
        return self.current.daemon.channel()

    def gauges(self):
        """{metric with labels: value} of those in GAUGES."""
        url = f'http://{self.current.metrics}/metrics'
        with urllib.request.urlopen(url, timeout=CALL_SECONDS) as answer:
            lines = answer.read().decode().splitlines()
        names = GAUGES['weightd' if self.name == 'weightd' else 'worker']
        return dict(line.rsplit(' ', 1) for line in lines
                    if line.split('{')[0].split(' ')[0] in names)

    def ended_by_itself(self):
        return self.current.daemon.process.poll() is not None

    def end(self, number, seconds=60):
        """Sends a signal that ends the process; gives its exit code."""
        daemon = self.current.daemon
        daemon.signal(number)
        code = daemon.wait(seconds)
        daemon.kill()  # closes what this side holds
        return code

    def pause(self, seconds, stop):
        self.current.daemon.signal(signal.SIGSTOP)
        stop.wait(seconds)
        self.current.daemon.signal(signal.SIGCONT)


class Fleet:
    """A weight daemon, a worker that shares its pages, and one that streams in every step."""

    def __init__(self, folder, flags=()):
        self.folder = folder
        self.path = os.path.join(folder, 'served/m.gguf')
        os.makedirs(os.path.dirname(self.path))
        self.files = {variant: make_model(os.path.join(folder, f'{variant}.gguf'), PRESET,
                                          QUANTIZATION, LAYERS, f'--seed={number + 1}')
                      for number, variant in enumerate(VARIANTS)}
        self.variant_of = {}  # generation: variant
        self.socket = os.path.join(folder, 'w.sock')
        self.weightd = Member('weightd', folder, [
            WEIGHTD, f'--model=m={self.path}', f'--socket={self.socket}', *flags])
        limits = ['--model=m', '--backend=cpu', '--context-tokens=512', '--threads=1',
                  f'--max-sequences={SEQUENCES}', f'--max-waiting={WAITING}', *flags]
        # Enough for the streamed worker's ring and some of its layers.
        budget = os.path.getsize(self.files['first']) * 6 // 10
        self.shared = Member('shared', folder, [
            COMPUTED, f'--weights=unix:{self.socket}', *limits])
        self.streamed = Member('streamed', folder, [
            COMPUTED, f'--weights={self.weightd.address}', f'--host-memory={budget}', *limits])
        self.workers = [self.shared, self.streamed]
        self.members = [self.weightd, *self.workers]
        self.put('first')
        self.weightd.start()
        self.note_generation()
        for worker in self.workers:
            self.start_worker(worker)

    def put(self, variant):
        """Replaces the served file, as who publishes a model should: complete, by renaming."""
        shutil.copyfile(self.files[variant], self.path + '.new')
        os.rename(self.path + '.new', self.path)
        self.variant = variant

    def note_generation(self):
        """Remembers which weights the newest generation has. Right after loading."""
        with self.weightd.channel() as channel:
            models = weights_pb2_grpc.WeightServiceStub(channel).ListModels(
                weights_pb2.ListModelsRequest(), timeout=CALL_SECONDS).models
        self.variant_of[models[0].generation] = self.variant
        return models[0]

    def start_worker(self, worker):
        worker.start(self._learn_variant)

    def _learn_variant(self, incarnation):
        with incarnation.daemon.channel() as channel:
            served = inference_pb2_grpc.InferenceServiceStub(channel).GetModel(
                inference_pb2.GetServedModelRequest(), timeout=CALL_SECONDS)
        incarnation.generation = served.generation
        incarnation.variant = self.variant_of[served.generation]

    def load(self, variant, by_signal):
        """Publishes a variant and has the weight daemon read it."""
        before = self.note_generation().generation
        self.put(variant)
        if by_signal:
            self.weightd.current.daemon.signal(signal.SIGHUP)
            eventually(lambda: self.note_generation().generation != before,
                       'SIGHUP loads nothing')
            return
        with self.weightd.channel() as channel:
            status = weights_pb2_grpc.WeightServiceStub(channel).LoadModel(
                weights_pb2.LoadModelRequest(model='m'), timeout=CALL_SECONDS).status
        assert status.generation != before, 'LoadModel did not see that the file is another'
        self.variant_of[status.generation] = variant

    def restart_weightd(self, number):
        """Gives the exit code. A new daemon knows only the newest files: a worker that streams an
        older generation cannot go on, and is restarted, as its supervisor would."""
        code = self.weightd.end(number)
        self.weightd.start()
        newest = self.note_generation().generation
        if self.streamed.current.generation != newest:
            self.streamed.end(signal.SIGKILL)
            self.start_worker(self.streamed)
        return code

    def kill_all(self):
        for member in self.members:
            if member.current is not None:
                if not member.ended_by_itself():
                    member.current.daemon.signal(signal.SIGCONT)
                member.current.daemon.kill()

    def holdings(self):
        """What the idle daemons hold; two of them are the same if nothing has leaked.

        The weight daemon keeps each generation that is leased, so files of it are not counted.
        """
        held = {}
        with self.weightd.channel() as channel:
            kinds = sorted((s.kind, s.transport) for s in inspection.sessions(channel))
            held['sessions of weightd'] = kinds
        for worker in self.workers:
            with worker.channel() as channel:
                held[f'requests of {worker.name}'] = len(inspection.sessions(channel))
                held[f'KV bytes of {worker.name}'] = inspection.kv_bytes_in_use(channel)
        for member in self.members:
            held[f'metrics of {member.name}'] = {
                name.removeprefix('gguf_offload_'): value
                for name, value in sorted(member.gauges().items())}
        return held

    def descriptors(self):
        """{name: open files but the models'} of the daemons, when no client is connected."""
        return {member.name: sorted(
            name.split(':')[0] for name in inspection.descriptors(member.current.pid)
            if '.gguf' not in name) for member in self.members}

    def own_bytes(self):
        return {member.name: inspection.own_bytes(member.current.pid) for member in self.members}
