"""Asks a demo model through the daemons. Needs the programs and Python modules that end-to-end
tests use; README.md says how to set these."""

import numpy

from harness import CALL_SECONDS, Generation, generate
from gguf_offload.v1 import inference_pb2


def tokenize(stub, text, plain_text=False):
    """The ids of `text`; special tokens in it are parsed, unless it is plain."""
    return list(stub.Tokenize(inference_pb2.TokenizeRequest(text=text.encode(),
                                                            plain_text=plain_text),
                              timeout=CALL_SECONDS).tokens)


def logits(stub, ids):
    """(positions, vocabulary)"""
    request = inference_pb2.EvaluateRequest(tokens=inference_pb2.TokenIds(ids=ids), logits=True)
    rows = {}
    for response in stub.Evaluate(request, timeout=CALL_SECONDS):
        rows.setdefault(response.position, []).extend(response.logits)
    return numpy.array([rows[position] for position in sorted(rows)])


def logprobs(stub, ids):
    """The natural log probability of each id but the first."""
    request = inference_pb2.EvaluateRequest(tokens=inference_pb2.TokenIds(ids=ids), logprobs=True)
    return [response.next_logprob for response in stub.Evaluate(request, timeout=CALL_SECONDS)
            if response.HasField('next_logprob')]


def answer(stub, prompt, max_tokens):
    """The likeliest continuation of `prompt`, in which special tokens are parsed."""
    return Generation(generate(stub, text=prompt, max_tokens=max_tokens)).text
