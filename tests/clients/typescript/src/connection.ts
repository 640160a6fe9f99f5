// One or more daemons that do the same, and calls to them that survive the failure of some.
import {randomUUID} from 'node:crypto';
import {readFileSync} from 'node:fs';
import {setTimeout as sleep} from 'node:timers/promises';

import * as grpc from '@grpc/grpc-js';

import {RetryInfo, RetryStatus} from './services';

// PEM files of mutual TLS: the authority of the servers, this client's certificate and key. They
// are read when a Connection is made: make a new one when the certificate has been renewed.
// `serverName` is what the servers' certificates must say instead of the address' host.
export interface Tls {
  ca: string;
  cert: string;
  key: string;
  serverName?: string;
}

// What happens after UNAVAILABLE, and after RESOURCE_EXHAUSTED with a RetryInfo. The other
// addresses are tried at once. When all have been, there is a pause: a random part of `initial`
// seconds, of twice that the next time, and so on up to `maximum`; never less than what RetryInfo
// says. After `attempts` calls in a row that brought nothing the error is thrown.
export interface Retry {
  attempts: number;
  initial: number;
  maximum: number;
}

export interface ConnectionOptions {
  tls?: Tls;
  // Seconds that a call may take, all tries together.
  timeout?: number;
  retry?: Partial<Retry>;
}

export interface CallOptions {
  timeout?: number;
  // The id under which the daemons log the request; made up if absent, the same in all its tries.
  requestId?: string;
  // Ends the call (CANCELLED) or the wait for the next try.
  signal?: AbortSignal;
}

// One of a service's methods: question and answer.
export interface Method<Q, A> {
  path: string;
  requestSerialize: (question: Q) => Buffer;
  responseDeserialize: (bytes: Buffer) => A;
}

const CHANNEL_OPTIONS = {
  'grpc.enable_http_proxy': 0,
  // Vocabularies and manifests exceed gRPC's default of 4 MiB.
  'grpc.max_receive_message_length': 256 << 20,
  // A daemon that was restarted is found at once, not after gRPC's default of up to 2 minutes.
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 2000,
};

export function isServiceError(error: unknown): error is grpc.ServiceError {
  return error instanceof Error && 'code' in error && 'metadata' in error;
}

// Seconds that the server asks to wait (google.rpc.RetryInfo); undefined if it does not say.
export function retryDelay(error: grpc.ServiceError): number|undefined {
  for (const bytes of error.metadata.get('grpc-status-details-bin')) {
    for (const detail of RetryStatus.deserialize(bytes as Buffer).details) {
      if (!detail.type_url.endsWith('/google.rpc.RetryInfo')) continue;
      const delay = RetryInfo.deserialize(detail.value).retry_delay;
      return Number(delay?.seconds ?? 0) + (delay?.nanos ?? 0) * 1e-9;
    }
  }
  return undefined;
}

// The tries of one call: which address is next, how long until then, when it is enough.
export class Attempts {
  private readonly deadline: number;
  private failures = 0;
  private askedFor: number[] = [];  // of this round

  constructor(private readonly connection: Connection, timeout: number,
              private readonly signal?: AbortSignal) {
    this.deadline = Date.now() + timeout * 1000;
  }

  // What a try is called with; all share the call's deadline.
  options(): grpc.CallOptions {
    return {deadline: this.deadline};
  }

  // The last try brought something: failures are counted anew.
  succeeded(): void {
    this.failures = 0;
    this.askedFor = [];
  }

  // Returns when the next try is due, or throws `error`.
  async failed(error: unknown, client: grpc.Client): Promise<void> {
    if (!isServiceError(error) || this.signal?.aborted) throw error;
    const delay = retryDelay(error);
    const worthwhile = error.code === grpc.status.UNAVAILABLE ||
        // Without a delay it may be a message that is too large: waiting does not help.
        (error.code === grpc.status.RESOURCE_EXHAUSTED && delay !== undefined);
    if (!worthwhile) throw error;
    this.failures += 1;
    this.askedFor.push(delay ?? 0);
    const {attempts, initial, maximum} = this.connection.retry;
    if (this.failures >= attempts) throw error;
    this.connection.turnFrom(client);
    if (this.failures % this.connection.addresses.length !== 0) return;

    const round = this.failures / this.connection.addresses.length;
    const asked = Math.min(...this.askedFor);
    this.askedFor = [];
    // Nobody is early who was told to wait, and not everybody comes at the same moment.
    const spread = Math.max(Math.min(maximum, initial * 2 ** (round - 1)), asked / 4);
    const pause = 1000 * (asked + Math.random() * spread);
    if (Date.now() + pause >= this.deadline) throw error;
    await sleep(pause, undefined, {signal: this.signal});
  }
}

// Clients of `addresses` (HOST:PORT or unix:PATH), which serve the same. One of them is used until
// it fails.
export class Connection {
  readonly timeout: number;
  readonly retry: Retry;
  private readonly clients: grpc.Client[];
  private current = 0;

  constructor(readonly addresses: string[], options: ConnectionOptions = {}) {
    if (addresses.length === 0) throw new RangeError('addresses must have at least one');
    this.timeout = options.timeout ?? 60;
    this.retry = {attempts: 10, initial: 0.2, maximum: 5, ...options.retry};
    const {tls} = options;
    const credentials = tls === undefined ? grpc.credentials.createInsecure() :
        grpc.credentials.createSsl(readFileSync(tls.ca), readFileSync(tls.key),
                                   readFileSync(tls.cert));
    const channelOptions = {
      ...CHANNEL_OPTIONS,
      ...(tls?.serverName ? {'grpc.ssl_target_name_override': tls.serverName} : {}),
    };
    this.clients = addresses.map(
        (address) => new grpc.Client(address, credentials, channelOptions));
  }

  // The client in use, for calls without retries.
  client(): grpc.Client {
    return this.clients[this.current];
  }

  // The next address is used from now on, unless another call has seen to it.
  turnFrom(client: grpc.Client): void {
    if (this.client() === client) this.current = (this.current + 1) % this.clients.length;
  }

  attempts(options: CallOptions): Attempts {
    return new Attempts(this, options.timeout ?? this.timeout, options.signal);
  }

  // A call with one answer, with retries: call(InferenceService.Tokenize, {text}).
  async call<Q, A>(method: Method<Q, A>, request: Q, options: CallOptions = {}): Promise<A> {
    const metadata = requestMetadata(options.requestId);
    const attempts = this.attempts(options);
    for (;;) {
      const client = this.client();
      try {
        return await unary(client, method, request, metadata, attempts.options(), options.signal);
      } catch (error) {
        await attempts.failed(error, client);
      }
    }
  }

  // A call with many answers, without retries: iterate over it; cancel() ends it early.
  stream<Q, A>(method: Method<Q, A>, request: Q,
               options: CallOptions = {}): grpc.ClientReadableStream<A> {
    return serverStream(this.client(), method, request, requestMetadata(options.requestId),
                        this.attempts(options).options());
  }

  // A call in which the client sends many messages, too: write() them, then end().
  duplex<Q, A>(method: Method<Q, A>, options: CallOptions = {}): grpc.ClientDuplexStream<Q, A> {
    return this.client().makeBidiStreamRequest(
        method.path, method.requestSerialize, method.responseDeserialize,
        requestMetadata(options.requestId), this.attempts(options).options());
  }

  close(): void {
    for (const client of this.clients) client.close();
  }
}

export function requestMetadata(requestId: string = randomUUID()): grpc.Metadata {
  const metadata = new grpc.Metadata();
  metadata.set('x-request-id', requestId);
  return metadata;
}

export function unary<Q, A>(client: grpc.Client, method: Method<Q, A>, request: Q,
                            metadata: grpc.Metadata, options: grpc.CallOptions,
                            signal?: AbortSignal): Promise<A> {
  return new Promise((resolve, reject) => {
    const call = client.makeUnaryRequest(
        method.path, method.requestSerialize, method.responseDeserialize, request, metadata,
        options, (error, answer) => error === null ? resolve(answer as A) : reject(error));
    signal?.addEventListener('abort', () => call.cancel(), {once: true});
  });
}

export function serverStream<Q, A>(client: grpc.Client, method: Method<Q, A>, request: Q,
                                   metadata: grpc.Metadata,
                                   options: grpc.CallOptions): grpc.ClientReadableStream<A> {
  return client.makeServerStreamRequest(method.path, method.requestSerialize,
                                        method.responseDeserialize, request, metadata, options);
}
