#!/usr/bin/env python3
"""How long a killed worker takes to answer again, and what it reads from disk for that.

    bazel build //weightd //computed //computed/cli:offloadctl //tests/modelgen //tests/clients/python:stubs
    /usr/bin/python3 tests/bench/restart_bench.py [--model=FILE.gguf] [--preset=llama-3-8b] [--layers=N]

Without --model a random model of the preset is written first (4.9 GB as it stands). Prints the time
from starting the worker to its first token, first and again after SIGKILL, weightd being warm,
with the bytes that the process and the file's device have read.
"""

import argparse
import os
import signal
import sys
import tempfile
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), '../..'))
os.environ.setdefault('GGUF_OFFLOAD_BINARIES', os.path.join(ROOT, 'bazel-bin'))
sys.path[:0] = [os.path.join(ROOT, 'tests/e2e'),
                os.path.join(ROOT, 'bazel-bin/tests/clients/python/stubs')]

import harness  # noqa: E402
import process_memory  # noqa: E402
from gguf_offload.v1 import inference_pb2_grpc, weights_pb2, weights_pb2_grpc  # noqa: E402


def device_bytes_read(path):
    """Bytes read so far from the block device that holds `path` (proc/diskstats); None if unknown."""
    device = os.stat(path).st_dev
    with open('/proc/diskstats', encoding='utf-8') as file:
        for line in file:
            fields = line.split()
            if (int(fields[0]), int(fields[1])) == (os.major(device), os.minor(device)):
                return int(fields[5]) * 512
    return None


def drop_page_cache(path):
    """Evicts the file's pages; nobody must have it mapped."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def first_token(daemon_flags, log, path):
    """Starts a worker; gives (the worker, seconds to its first token, bytes read by it, by the disk)."""
    disk = device_bytes_read(path)
    start = time.monotonic()
    worker = harness.Daemon([harness.COMPUTED, *daemon_flags], log).wait_until_listening()
    listening = time.monotonic() - start
    with worker.channel() as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        harness.Generation(harness.generate(stub, tokens=[5, 6, 7], max_tokens=1,
                                            ignore_end_of_text=True))
    seconds = time.monotonic() - start
    read = process_memory.bytes_read_from_disk(worker.pid)
    disk = None if disk is None else device_bytes_read(path) - disk
    return worker, listening, seconds, read, disk


def report(what, path, listening, seconds, read, disk):
    wanted = 1 + 0.1 * os.stat(path).st_size / 2**30
    disk_text = 'unknown' if disk is None else f'{disk / 1e6:.1f} MB'
    print(f'{what:28} listening after {listening:6.2f} s, first token after {seconds:6.2f} s '
          f'({seconds / wanted:.2f} of the {wanted:.2f} s wanted); '
          f'read {read / 1e6:.1f} MB by the process, {disk_text} from the device')


def wait_until_warm(weightd):
    start = time.monotonic()
    with weightd.channel() as channel:
        stub = weights_pb2_grpc.WeightServiceStub(channel)
        harness.eventually(lambda: all(
            model.populated_bytes == model.bytes
            for model in stub.ListModels(weights_pb2.ListModelsRequest()).models), 'not warm', 600)
    print(f'weightd has the file in memory after {time.monotonic() - start:.2f} s')


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--model')
    parser.add_argument('--preset', default='llama-3-8b')
    parser.add_argument('--quantization', default='Q4_K_M')
    parser.add_argument('--layers', type=int)
    parser.add_argument('--folder', default=None, help='where to write the model and sockets')
    parser.add_argument('--worker-flag', action='append', default=[])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix='offload', dir=options.folder) as folder:
        path = options.model or harness.make_model(os.path.join(folder, 'm.gguf'), options.preset,
                                                   options.quantization, options.layers)
        print(f'{path}: {os.stat(path).st_size / 1e9:.2f} GB')
        drop_page_cache(path)
        socket = os.path.join(folder, 's')
        weightd = harness.Daemon([harness.WEIGHTD, f'--model=m={path}', '--listen=127.0.0.1:0',
                                  f'--socket={socket}', '--residency=warm'],
                                 os.path.join(folder, 'weightd.log')).wait_until_listening()
        flags = [f'--weights=unix:{socket}', '--model=m', '--listen=127.0.0.1:0',
                 '--context-tokens=512', *options.worker_flag]
        wait_until_warm(weightd)
        for what in ('first start', 'after SIGKILL', 'after SIGKILL again'):
            worker, *figures = first_token(flags, os.path.join(folder, 'computed.log'), path)
            report(what, path, *figures)
            worker.signal(signal.SIGKILL)
            worker.kill()
        weightd.kill()


if __name__ == '__main__':
    main()
