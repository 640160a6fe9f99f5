r"""Continues a prompt with a compute worker and prints the text as it comes.

    protoc -Iproto --python_out=stubs --grpc_out=stubs \
        --plugin=protoc-gen-grpc=/usr/bin/grpc_python_plugin proto/gguf_offload/v1/*.proto
    PYTHONPATH=stubs python3 tests/clients/python/generate.py 127.0.0.1:7071 "Once upon a time" 64
"""

import sys

import grpc

from gguf_offload.v1 import inference_pb2, inference_pb2_grpc


def generate(address, prompt, max_tokens):
    """Prints the text; gives the GenerateResult."""
    with grpc.insecure_channel(address, options=[('grpc.enable_http_proxy', 0)]) as channel:
        worker = inference_pb2_grpc.InferenceServiceStub(channel)
        request = inference_pb2.GenerateRequest(text=prompt, max_tokens=max_tokens)
        for response in worker.Generate(request):
            print(response.text, end='', flush=True)
            if response.HasField('result'):
                result = response.result
        print()
        return result


if __name__ == '__main__':
    outcome = generate(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 64)
    print(f'{outcome.generated_tokens} tokens in {outcome.decode_seconds:.2f} s', file=sys.stderr)
