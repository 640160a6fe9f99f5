"""InferenceService, at one or more workers that run the same model."""

from gguf_offload.v1 import inference_pb2, inference_pb2_grpc
from gguf_offload_client.connection import Connection
from gguf_offload_client.generation import Generation

STUB = inference_pb2_grpc.InferenceServiceStub


class Worker(Connection):
    """Compute workers. Thread safe."""

    def generate(self, prompt, max_tokens=256, *, timeout=None, request_id=None, replay=False,
                 stop=(), sampling=None, **options):
        """Continues a prompt, text or a list of token ids; gives a Generation, which iterates over
        Pieces. `sampling` is a dict of SamplingOptions, for example {'temperature': 0.8}; `options`
        are further fields of GenerateRequest. `timeout` is for all of it, breaks included."""
        request = inference_pb2.GenerateRequest(
            max_tokens=max_tokens, stop=stop,
            sampling=inference_pb2.SamplingOptions(**(sampling or {})), **options)
        if isinstance(prompt, str):
            request.text = prompt
        else:
            request.tokens.ids.extend(prompt)
        return Generation(self, request, timeout, request_id, replay)

    def evaluate(self, tokens, *, logits=False, timeout=None, request_id=None):
        """What the model says of the tokens: a block's iterator over EvaluateResponse."""
        request = inference_pb2.EvaluateRequest(logits=logits, logprobs=True)
        request.tokens.ids.extend(tokens)
        return self.stream(STUB, 'Evaluate', request, timeout, request_id)

    def tokenize(self, text, *, add_special=True, timeout=None):
        """Token ids of a text."""
        request = inference_pb2.TokenizeRequest(text=text.encode(), add_special=add_special)
        return list(self.call(STUB, 'Tokenize', request, timeout).tokens)

    def detokenize(self, tokens, *, timeout=None):
        """The bytes of token ids."""
        request = inference_pb2.DetokenizeRequest(tokens=tokens)
        return self.call(STUB, 'Detokenize', request, timeout).text

    def model(self, *, timeout=None):
        """GetServedModelResponse: name, generation, context, ..."""
        return self.call(STUB, 'GetModel', inference_pb2.GetServedModelRequest(), timeout)
