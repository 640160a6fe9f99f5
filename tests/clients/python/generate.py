r"""Continues a prompt with a compute worker and prints the text as it comes.

    mkdir -p stubs
    protoc -I../../../proto -I../proto --python_out=stubs --grpc_out=stubs \
        --plugin=protoc-gen-grpc=/usr/bin/grpc_python_plugin \
        ../../../proto/gguf_offload/v1/*.proto ../proto/gguf_offload/client/*.proto
    PYTHONPATH=stubs python3 generate.py 127.0.0.1:7071 "Once upon a time" 64
    PYTHONPATH=stubs python3 generate.py a:7071,b:7071 "Once upon a time" 64 \
        --ca=ca.pem --cert=me.pem --key=me.key

With several addresses the text goes on at the next one when a worker goes away.
"""

import argparse
import sys

from gguf_offload_client import Tls, Worker


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('addresses')
    parser.add_argument('prompt')
    parser.add_argument('max_tokens', type=int, nargs='?', default=64)
    parser.add_argument('--timeout', type=float, default=600)
    for name in ('ca', 'cert', 'key'):
        parser.add_argument(f'--{name}', help='PEM file')
    options = parser.parse_args()
    tls = Tls(options.ca, options.cert, options.key) if options.ca else None
    with Worker(options.addresses.split(','), tls=tls, timeout=options.timeout) as worker:
        generation = worker.generate(options.prompt, options.max_tokens)
        for piece in generation:
            print(piece.text, end='', flush=True)
    print()
    result = generation.result
    print(f'{result.generated_tokens} tokens in {result.decode_seconds:.2f} s', file=sys.stderr)


if __name__ == '__main__':
    main()
