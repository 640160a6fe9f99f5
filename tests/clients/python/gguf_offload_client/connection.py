"""One or more daemons that do the same, and calls to them that survive the failure of some."""

import contextlib
import dataclasses
import random
import threading
import time
import uuid

import grpc

from gguf_offload.client import retry_pb2

OPTIONS = [
    ('grpc.enable_http_proxy', 0),
    # Vocabularies and manifests exceed gRPC's default of 4 MiB.
    ('grpc.max_receive_message_length', 256 << 20),
    # A daemon that was restarted is found at once, not after gRPC's default of up to 2 minutes.
    ('grpc.initial_reconnect_backoff_ms', 100),
    ('grpc.min_reconnect_backoff_ms', 1000),
    ('grpc.max_reconnect_backoff_ms', 2000),
]


@dataclasses.dataclass(frozen=True)
class Tls:
    """PEM files of mutual TLS: the authority of the servers, this client's certificate and key.

    They are read when a Connection is made: make a new one when the certificate has been renewed.
    `server_name` is what the servers' certificates must say instead of the address' host.
    """
    ca: str
    cert: str
    key: str
    server_name: str = ''

    def credentials(self):
        def read(path):
            with open(path, 'rb') as file:
                return file.read()
        return grpc.ssl_channel_credentials(read(self.ca), read(self.key), read(self.cert))


@dataclasses.dataclass(frozen=True)
class Retry:
    """What happens after UNAVAILABLE, and after RESOURCE_EXHAUSTED with a RetryInfo.

    The other addresses are tried at once. When all have been, there is a pause: a random part of
    `initial` seconds, of twice that the next time, and so on up to `maximum`; never less than what
    RetryInfo says. After `attempts` calls in a row that brought nothing the error is raised.
    """
    attempts: int = 10
    initial: float = 0.2
    maximum: float = 5.0

    def pause(self, failures, asked_for):
        """Seconds to wait after the n-th round of failures; 1 is the first."""
        limit = min(self.maximum, self.initial * 2 ** (failures - 1))
        # Nobody is early who was told to wait, and not everybody comes at the same moment.
        return asked_for + random.uniform(0, max(limit, asked_for / 4))


def retry_delay(error):
    """Seconds that the server asks to wait (google.rpc.RetryInfo); None if it does not say."""
    trailers = dict(error.trailing_metadata() or ())
    status = retry_pb2.Status.FromString(trailers.get('grpc-status-details-bin', b''))
    for detail in status.details:
        if detail.type_url.endswith('/google.rpc.RetryInfo'):
            delay = retry_pb2.RetryInfo.FromString(detail.value).retry_delay
            return delay.seconds + delay.nanos * 1e-9
    return None


class Attempts:
    """The tries of one call: which address is next, how long until then, when it is enough."""

    def __init__(self, connection, timeout):
        self._connection = connection
        self._deadline = time.monotonic() + timeout
        self._failures = 0
        self._asked_for = []  # of this round

    def remaining(self):
        """Seconds until the call's deadline, which all tries share."""
        return max(0.0, self._deadline - time.monotonic())

    def succeeded(self):
        """The last try brought something: failures are counted anew."""
        self._failures = 0
        self._asked_for = []

    def failed(self, error, channel, wait):
        """Returns when the next try is due, or raises `error`. `wait(seconds)` sleeps and says True
        if there is to be no next try."""
        delay = retry_delay(error)
        if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
            if delay is None:  # a message that is too large, for example: waiting does not help
                raise error
        elif error.code() != grpc.StatusCode.UNAVAILABLE:
            raise error
        self._failures += 1
        self._asked_for.append(delay or 0.0)
        retry = self._connection.retry
        if self._failures >= retry.attempts:
            raise error
        self._connection.turn_from(channel)
        addresses = len(self._connection.addresses)
        if self._failures % addresses != 0:
            return
        pause = retry.pause(self._failures // addresses, min(self._asked_for))
        self._asked_for = []
        if pause >= self.remaining() or wait(pause):
            raise error


class Connection:
    """Channels to `addresses` (HOST:PORT or unix:PATH), which serve the same. One of them is used
    until it fails. `timeout` is how many seconds a call may take, all tries together. Thread safe.
    """

    def __init__(self, addresses, tls=None, timeout=60.0, retry=Retry()):
        if isinstance(addresses, str) or not addresses:
            raise ValueError('addresses must be a list of at least one')
        self.addresses = list(addresses)
        self.timeout = timeout
        self.retry = retry
        self._lock = threading.Lock()
        self._current = 0
        self._channels = [self._connect(address, tls) for address in self.addresses]

    @staticmethod
    def _connect(address, tls):
        if tls is None:
            return grpc.insecure_channel(address, options=OPTIONS)
        options = list(OPTIONS)
        if tls.server_name:
            options.append(('grpc.ssl_target_name_override', tls.server_name))
        return grpc.secure_channel(address, tls.credentials(), options=options)

    def channel(self):
        """The channel in use, for calls without retries."""
        with self._lock:
            return self._channels[self._current]

    def turn_from(self, channel):
        """The next address is used from now on, unless another thread has seen to it."""
        with self._lock:
            if self._channels[self._current] is channel:
                self._current = (self._current + 1) % len(self._channels)

    def attempts(self, timeout=None):
        return Attempts(self, self.timeout if timeout is None else timeout)

    def call(self, stub, method, request, timeout=None, request_id=None):
        """A call with one answer, with retries: call(InferenceServiceStub, 'Tokenize', request)."""
        metadata = request_metadata(request_id)
        attempts = self.attempts(timeout)
        while True:
            channel = self.channel()
            try:
                return getattr(stub(channel), method)(request, timeout=attempts.remaining(),
                                                      metadata=metadata)
            except grpc.RpcError as error:
                attempts.failed(error, channel, threading.Event().wait)

    @contextlib.contextmanager
    def stream(self, stub, method, request, timeout=None, request_id=None):
        """A call with many answers, without retries: an iterator that ends with the block.
        `request` is an iterator where the client sends many, too."""
        call = getattr(stub(self.channel()), method)(
            request, timeout=self.timeout if timeout is None else timeout,
            metadata=request_metadata(request_id))
        try:
            yield call
        finally:
            call.cancel()

    def close(self):
        for channel in self._channels:
            channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def request_metadata(request_id=None):
    """The id under which the daemons log a request; the same in all its tries."""
    return (('x-request-id', request_id or uuid.uuid4().hex),)
