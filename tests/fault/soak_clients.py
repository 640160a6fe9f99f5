"""Clients of a soak: they ask, cancel, read slowly, go away, and check every answer they get."""

import collections
import random
import threading
import time

import grpc

import inspection
from gguf_offload.v1 import inference_pb2, inference_pb2_grpc
from harness import Generation, generate

CALL_SECONDS = 120

# What may become of a request while daemons die: anything else is a bug. INTERNAL, UNKNOWN and
# DATA_LOSS are not among them.
EXPECTED_CODES = {
    grpc.StatusCode.UNAVAILABLE,         # the worker is away, or stops
    grpc.StatusCode.RESOURCE_EXHAUSTED,  # its queue is full
    grpc.StatusCode.DEADLINE_EXCEEDED,   # of clients in a hurry
    grpc.StatusCode.CANCELLED,           # by the client itself
}


class Prompt:
    def __init__(self, tokens, max_tokens):
        self.tokens = tokens
        self.max_tokens = max_tokens
        self.answers = {}  # variant: (token ids, text)


def make_prompts(rng, count=16):
    """Prompts of different lengths, the longest several steps of prefill long."""
    prompts = []
    for index in range(count):
        length = rng.choice((1, 3, 8, 33, 120, 300))
        prompts.append(Prompt([rng.randrange(5, 500) for _ in range(length)],
                              rng.choice((4, 16, 40, 80))))
    return prompts


def request(stub, prompt, timeout=CALL_SECONDS):
    return generate(stub, tokens=prompt.tokens, max_tokens=prompt.max_tokens, timeout=timeout,
                    ignore_end_of_text=True)


def answer_alone(stub, prompts, variant):
    """Remembers what each prompt is answered when nothing else runs."""
    for prompt in prompts:
        alone = Generation(request(stub, prompt))
        assert len(alone.ids) == prompt.max_tokens
        prompt.answers[variant] = (alone.ids, alone.text)


class Tally:
    """What became of all requests. Thread safe."""

    def __init__(self):
        self._lock = threading.Lock()
        self.outcomes = collections.Counter()
        self.tokens = 0
        self.first_token_seconds = []
        self.total_seconds = []
        self.refusal_seconds = []
        self.problems = []

    def add(self, outcome, tokens=0):
        with self._lock:
            self.outcomes[outcome] += 1
            self.tokens += tokens

    def add_latency(self, first, total):
        with self._lock:
            self.first_token_seconds.append(first)
            self.total_seconds.append(total)

    def add_refusal(self, seconds):
        with self._lock:
            self.refusal_seconds.append(seconds)

    def problem(self, text):
        with self._lock:
            if len(self.problems) < 50:
                self.problems.append(text)
            self.outcomes['PROBLEM'] += 1


class Answer:
    """One answer as it arrives, held against what it has to be."""

    def __init__(self, tally, worker, prompt):
        self._tally = tally
        self._worker = worker
        self._prompt = prompt
        # The request reaches the process that is there now or a later one.
        self._first = worker.current.variant
        self.ids = []
        self.text = ''
        self.result = None

    def take(self, response):
        self.ids.extend(response.tokens)
        self.text += response.text
        if response.HasField('result'):
            self.result = response.result

    def check(self):
        """Counts a problem unless this is the right answer or, if it has no end, a piece of it."""
        fits = False
        for variant in {self._first, self._worker.current.variant}:
            ids, text = self._prompt.answers[variant]
            if self.result is not None:
                fits |= self.ids == ids and self.text == text
            else:
                fits |= self.ids == ids[:len(self.ids)] and text.startswith(self.text)
        if not fits:
            expected = {variant: answer[0] for variant, answer in self._prompt.answers.items()}
            self._tally.problem(f'wrong answer of {self._worker.name}: {self.ids} is no '
                                f'{"" if self.result else "piece of an "}answer of {expected}')
        return fits


def _generation_gone(error):
    """The model was replaced and then the weight daemon restarted: it has the newest files only,
    and a worker that streams older ones says so until it is restarted too."""
    return (error.code() == grpc.StatusCode.FAILED_PRECONDITION
            and error.details().endswith('is not served'))


class Client:
    """Asks one worker over and over, in ways drawn at random, until told to stop."""

    def __init__(self, worker, prompts, tally, seed, stop):
        self._worker = worker
        self._prompts = prompts
        self._tally = tally
        self._rng = random.Random(seed)
        self._stop = stop
        self._channel = None
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            while not self._stop.is_set():
                self._once()
        except Exception as error:  # whatever it is, the report says so
            self._tally.problem(f'client of {self._worker.name}: {error!r}')
        finally:
            self._disconnect()

    def _disconnect(self):
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _once(self):
        rng = self._rng
        if self._channel is None or rng.random() < 0.05:
            self._disconnect()
            self._channel = self._worker.channel()
        stub = inference_pb2_grpc.InferenceServiceStub(self._channel)
        manner = rng.choices(
            ('patient', 'cancels', 'slow', 'hurried', 'leaves', 'mistaken'),
            (60, 15, 8, 8, 4, 5))[0]
        if manner == 'mistaken':
            return self._mistaken(stub)
        answer = Answer(self._tally, self._worker, prompt := rng.choice(self._prompts))
        timeout = rng.uniform(0.01, 0.5) if manner == 'hurried' else CALL_SECONDS
        stop_after = rng.randrange(prompt.max_tokens + 1)
        began = time.monotonic()
        first = None
        call = request(stub, prompt, timeout)
        try:
            if manner == 'cancels' and stop_after == 0:
                call.cancel()
            for number, response in enumerate(call, start=1):
                first = first or time.monotonic() - began
                answer.take(response)
                if manner == 'slow':
                    self._stop.wait(rng.uniform(0.0, 0.1))
                if manner == 'cancels' and number >= stop_after:
                    call.cancel()
                if manner == 'leaves' and number >= stop_after:
                    self._disconnect()
        except grpc.RpcError as error:
            self._failed(answer, manner, error, time.monotonic() - began)
        except ValueError:  # iterating over a call of a channel that was closed
            answer.check()
            self._tally.add('left')
        else:
            self._succeeded(answer, manner, first, time.monotonic() - began)

    def _succeeded(self, answer, manner, first, seconds):
        if answer.result is None:
            self._tally.problem('a stream ended with OK and without a result')
        elif answer.check():
            self._tally.add('complete', len(answer.ids))
            if manner == 'patient':
                self._tally.add_latency(first, seconds)

    def _failed(self, answer, manner, error, seconds):
        code, rng = error.code(), self._rng
        name = code.name.lower().replace('_', ' ')
        # A channel that was closed by its owner.
        if manner == 'leaves' and self._channel is None:
            name = 'left'
        elif _generation_gone(error):
            name = 'generation gone'
        elif code not in EXPECTED_CODES:
            self._tally.problem(f'{self._worker.name}: {name}: {error.details()}')
            return
        elif code == grpc.StatusCode.CANCELLED and manner not in ('cancels', 'hurried'):
            # Hurried: if the worker's clock is first, the client sees its stream reset.
            self._tally.problem(f'{self._worker.name}: a {manner} request was cancelled: '
                                f'{error.details()}')
            return
        elif code == grpc.StatusCode.DEADLINE_EXCEEDED and manner != 'hurried':
            self._tally.problem(f'{self._worker.name}: deadline exceeded: {error.details()}')
            return
        if not answer.check():
            return
        self._tally.add(name if not answer.ids else f'{name}, in mid-answer', len(answer.ids))
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            delay = inspection.retry_seconds(error)
            self._tally.add_refusal(seconds)
            if not delay:
                self._tally.problem('RESOURCE_EXHAUSTED without RetryInfo')
            self._stop.wait(delay)
        elif code == grpc.StatusCode.UNAVAILABLE:
            self._stop.wait(rng.uniform(0.02, 0.1))

    def _mistaken(self, stub):
        try:
            list(stub.Generate(inference_pb2.GenerateRequest(max_tokens=-1), timeout=CALL_SECONDS))
            self._tally.problem('a request without a prompt was answered')
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
                self._tally.add('invalid argument')
            elif error.code() == grpc.StatusCode.UNAVAILABLE:
                self._tally.add('unavailable')
            else:
                self._tally.problem(f'{self._worker.name}: {error.code()} for a bad request')


def burst(worker, prompts, tally, rng, requests):
    """Many requests at once on one connection, all read to their ends."""
    with worker.channel() as channel:
        stub = inference_pb2_grpc.InferenceServiceStub(channel)
        calls = []
        for _ in range(requests):
            prompt = rng.choice(prompts)
            calls.append((Answer(tally, worker, prompt), request(stub, prompt)))
        for answer, call in calls:
            try:
                for response in call:
                    answer.take(response)
            except grpc.RpcError as error:
                if (error.code() not in EXPECTED_CODES - {grpc.StatusCode.CANCELLED}
                        and not _generation_gone(error)):
                    tally.problem(f'{worker.name}: {error.code()}: {error.details()}')
                    continue
                if answer.check():
                    name = error.code().name.lower().replace('_', ' ')
                    tally.add(name if not answer.ids else f'{name}, in mid-answer',
                              len(answer.ids))
            else:
                if answer.check():
                    tally.add('complete', len(answer.ids))
