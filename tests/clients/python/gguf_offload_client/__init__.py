"""A client of gguf-offload's daemons: deadlines, retries, failover, TLS.

    from gguf_offload_client import Retry, Tls, Worker

    tls = Tls('ca.pem', 'me.pem', 'me.key')
    with Worker(['10.0.0.5:7071', '10.0.0.6:7071'], tls) as worker:
        generation = worker.generate('Once upon a time', max_tokens=64)
        for piece in generation:
            print(piece.text, end='', flush=True)
        print(generation.result.generated_tokens)

Needs python3-grpcio and the stubs that protoc makes; see generate.py beside this package.
"""

from gguf_offload_client.connection import Connection, Retry, Tls, retry_delay
from gguf_offload_client.generation import Generation, ModelChanged, Piece
from gguf_offload_client.worker import Worker

__all__ = ['Connection', 'Generation', 'ModelChanged', 'Piece', 'Retry', 'Tls', 'Worker',
           'retry_delay']
