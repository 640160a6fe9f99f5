"""Generate, going on elsewhere when a stream breaks."""

import codecs
import dataclasses
import random
import threading

import grpc

from gguf_offload.v1 import inference_pb2, inference_pb2_grpc
from gguf_offload_client.connection import request_metadata

STUB = inference_pb2_grpc.InferenceServiceStub


class ModelChanged(Exception):
    """A broken stream cannot go on: the workers that are left run another model."""


@dataclasses.dataclass
class Piece:
    """What came together: text that is certain (may be empty), tokens, their log probabilities."""
    text: str
    tokens: list
    logprobs: list


def certain_text(data, stops, final=False):
    """What a worker would have sent of the tokens' bytes `data`: (text, held back, stopped).

    A worker holds back the beginning of a character, and text that may become a stop string.
    """
    decoder = codecs.getincrementaldecoder('utf-8')('replace')
    text = decoder.decode(data, final)
    # The stop string that is complete first; of several the longest.
    met = min(((text.index(stop) + len(stop), text.index(stop)) for stop in stops if stop in text),
              default=None)
    if met is not None:
        return text[:met[1]], False, True
    if final:
        return text, False, False
    held = max((length for stop in stops for length in range(1, len(stop))
                if text.endswith(stop[:length])), default=0)
    return text[:len(text) - held], held > 0 or decoder.getstate()[0] != b'', False


class Generation:
    """A running Generate: iterate over it for its pieces; `result` is set when it has ended.

    When the stream breaks, the request is repeated at the next address as the prompt and the tokens
    received so far, and only what is new is handed out: no text is lost or comes twice.

    * temperature 0: the text is that of an unbroken run, as far as equal inputs give equal logits
      (a prompt's products may be rounded otherwise than a single token's, which can decide between
      tokens that are almost equally likely).
    * temperature > 0: the rest is drawn from the same distribution with a new seed that follows
      from the old one: equal breaks give equal texts, but the text is not that of an unbroken run.
      `replay=True` generates the answer again from its start instead and skips what was received:
      the unbroken run's text, at the cost of its time. Penalties see the same tokens either way.
    * Characters and stop strings that lie across the break are recognized.

    `tokens` and `text` are everything received so far. `result` counts the tokens of the whole
    answer; its times are those of the last stream. The first try begins with the iteration. Use it
    from one thread; cancel() may come from any.
    """

    def __init__(self, connection, request, timeout=None, request_id=None, replay=False):
        if request.max_tokens <= 0:
            raise ValueError('max_tokens must be positive')
        if request.sampling.temperature > 0 and not request.sampling.HasField('seed'):
            request.sampling.seed = random.getrandbits(64)
        self.metadata = request_metadata(request_id)
        self.request_id = self.metadata[0][1]
        self.tokens = []
        self.text = ''
        self.result = None
        self.breaks = 0  # streams that broke after bringing tokens
        self._connection = connection
        self._request = request
        self._replay = replay and request.sampling.temperature > 0
        self._attempts = connection.attempts(timeout)
        self._cancelled = threading.Event()
        self._call = None
        self._model = None
        self._pieces = self._run()

    def __iter__(self):
        return self._pieces

    def __next__(self):
        return next(self._pieces)

    def read(self):
        """Waits for the end; gives the whole text."""
        for _ in self._pieces:
            pass
        return self.text

    def cancel(self):
        """Ends the stream: the iterator raises CANCELLED. Frees the worker at once."""
        self._cancelled.set()
        call = self._call
        if call is not None:
            call.cancel()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.cancel()

    def _run(self):
        while self.result is None:
            channel = self._connection.channel()
            received = len(self.tokens)
            try:
                yield from self._stream(STUB(channel))
            except grpc.RpcError as error:
                if self._cancelled.is_set():
                    raise
                if len(self.tokens) > received:
                    self._attempts.succeeded()
                    self.breaks += 1
                self._attempts.failed(error, channel, self._cancelled.wait)
            finally:
                if self._call is not None:
                    self._call.cancel()

    def _stream(self, stub):
        """One try, from where the last one broke."""
        self._check_model(stub)
        if not self.tokens:
            yield from self._plain(self._start(stub, self._request))
        elif self._replay:
            yield from self._replayed(self._start(stub, self._request))
        else:
            yield from self._resumed(stub)

    def _check_model(self, stub):
        model = stub.GetModel(inference_pb2.GetServedModelRequest(), metadata=self.metadata,
                              timeout=self._attempts.remaining())
        identity = (model.name, model.generation)
        if self.tokens and identity != self._model:
            raise ModelChanged(f'generation {self._model} of the model was running, now {identity}')
        self._model = identity

    def _start(self, stub, request):
        self._call = stub.Generate(request, timeout=self._attempts.remaining(),
                                   metadata=self.metadata)
        if self._cancelled.is_set():
            self._call.cancel()
        return self._call

    def _plain(self, call, before=0):
        """What the worker says, as it says it; `before` counts the tokens of earlier streams."""
        for response in call:
            self.tokens.extend(response.tokens)
            self.text += response.text
            if response.HasField('result'):
                self._end(response.result, before)
            yield Piece(response.text, list(response.tokens), list(response.logprobs))

    def _replayed(self, call):
        """The same again, without the beginning that was received already."""
        skip_tokens, skip_text = len(self.tokens), len(self.text)
        for response in call:
            piece = Piece(response.text[skip_text:], response.tokens[skip_tokens:],
                          response.logprobs[skip_tokens:])
            skip_tokens = max(0, skip_tokens - len(response.tokens))
            skip_text = max(0, skip_text - len(response.text))
            self.tokens.extend(piece.tokens)
            self.text += piece.text
            if response.HasField('result'):
                self._end(response.result)
            yield piece

    def _resumed(self, stub):
        before, prompt = len(self.tokens), self._prompt(stub)
        data = self._bytes(stub)
        _, held, stopped = certain_text(data, self._request.stop)
        if stopped or before == self._request.max_tokens:
            # Only the result was missing.
            yield self._made_here(data, inference_pb2.GenerateResponse(
                result={'finish_reason': inference_pb2.FINISH_REASON_LENGTH,
                        'prompt_tokens': len(prompt)}))
            return
        request = inference_pb2.GenerateRequest()
        request.CopyFrom(self._request)
        request.tokens.ids[:] = prompt + self.tokens
        request.max_tokens -= before
        if request.sampling.HasField('seed'):
            # The same seed would repeat the draws of the beginning.
            request.sampling.seed = (request.sampling.seed + before) % 2 ** 64
        call = self._start(stub, request)
        while held:
            # The worker does not know how the character or the stop string began, so that the text
            # has to be made here until nothing is held back.
            response = next(call)
            self.tokens.extend(response.tokens)
            data = self._bytes(stub)
            _, held, stopped = certain_text(data, self._request.stop)
            if stopped and not response.HasField('result'):
                response.result.prompt_tokens = len(request.tokens.ids)
            yield self._made_here(data, response, before)
            if self.result is not None:
                return
        yield from self._plain(call, before)

    def _made_here(self, data, response, before=0):
        """The piece of a response, its text made from all tokens' bytes."""
        ended = response.HasField('result')
        certain, _, stopped = certain_text(data, self._request.stop, final=ended)
        if stopped:
            response.result.finish_reason = inference_pb2.FINISH_REASON_STOP
        if ended:
            self._end(response.result, before)
        text, self.text = certain[len(self.text):], certain
        return Piece(text, list(response.tokens), list(response.logprobs))

    def _end(self, result, before=0):
        result.prompt_tokens -= before
        result.generated_tokens = len(self.tokens)
        if self._request.sampling.HasField('seed'):
            result.seed = self._request.sampling.seed
        self.result = result

    def _prompt(self, stub):
        """The prompt's token ids."""
        if self._request.WhichOneof('prompt') == 'text':
            answer = stub.Tokenize(
                inference_pb2.TokenizeRequest(text=self._request.text.encode(), add_special=True,
                                              plain_text=self._request.plain_text,
                                              literal=self._request.literal),
                timeout=self._attempts.remaining(), metadata=self.metadata)
            self._request.tokens.ids[:] = answer.tokens
        return list(self._request.tokens.ids)

    def _bytes(self, stub):
        """The bytes of the tokens received so far."""
        # Detokenize takes away the space that some vocabularies put in front of a text, Generate
        # does not. Of the text twice over, the second half has it.
        try:
            answer = stub.Detokenize(inference_pb2.DetokenizeRequest(tokens=self.tokens * 2),
                                     timeout=self._attempts.remaining(), metadata=self.metadata)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNIMPLEMENTED:
                return b''  # a model without a vocabulary: there are tokens only
            raise
        return answer.text[len(answer.text) // 2:]
