// Generate, going on elsewhere when a stream breaks.
import {randomBytes} from 'node:crypto';

import * as grpc from '@grpc/grpc-js';

import {Attempts, CallOptions, Connection, Method, isServiceError, requestMetadata, serverStream,
        unary} from
    './connection';
import {GenerateRequest, GenerateResponse, GenerateResult, InferenceService, TokenLogprobs} from
    './services';

// A broken stream cannot go on: the workers that are left run another model.
export class ModelChanged extends Error {}

// What came together: text that is certain (may be empty), tokens, their log probabilities.
export interface Piece {
  text: string;
  tokens: number[];
  logprobs: TokenLogprobs[];
}

export interface GenerateOptions extends CallOptions {
  // Generate a sampled answer again from its start after a break instead of going on.
  replay?: boolean;
}

// What a worker would have sent of the tokens' bytes `data`. It holds back the beginning of a
// character, and text that may become a stop string.
export function certainText(data: Uint8Array, stops: string[], final = false):
    {text: string, held: boolean, stopped: boolean} {
  const decode = (stream: boolean) =>
      new TextDecoder('utf-8', {ignoreBOM: true}).decode(data, {stream});
  const text = decode(!final);
  // The stop string that is complete first; of several the longest.
  let met: {begin: number, end: number}|undefined;
  for (const stop of stops) {
    const begin = text.indexOf(stop);
    const end = begin + stop.length;
    if (begin < 0) continue;
    if (!met || end < met.end || (end === met.end && begin < met.begin)) met = {begin, end};
  }
  if (met) return {text: text.slice(0, met.begin), held: false, stopped: true};
  if (final) return {text, held: false, stopped: false};
  let held = 0;
  for (const stop of stops) {
    for (let length = stop.length - 1; length > held; --length) {
      if (text.endsWith(stop.slice(0, length))) held = length;
    }
  }
  const withinCharacter = decode(false).length > text.length;
  return {text: text.slice(0, text.length - held), held: held > 0 || withinCharacter,
          stopped: false};
}

// A running Generate: iterate over it for its pieces; `result` is set when it has ended.
//
// When the stream breaks, the request is repeated at the next address as the prompt and the tokens
// received so far, and only what is new is handed out: no text is lost or comes twice.
//
// * temperature 0: the text is that of an unbroken run, as far as equal inputs give equal logits (a
//   prompt's products may be rounded otherwise than a single token's, which can decide between
//   tokens that are almost equally likely).
// * temperature > 0: the rest is drawn from the same distribution with a new seed that follows from
//   the old one: equal breaks give equal texts, but the text is not that of an unbroken run.
//   `replay` generates the answer again from its start instead and skips what was received: the
//   unbroken run's text, at the cost of its time. Penalties see the same tokens either way.
// * Characters and stop strings that lie across the break are recognized.
//
// `tokens` and `text` are everything received so far. `result` counts the tokens of the whole
// answer; its times are those of the last stream. The first try begins with the iteration, which
// must happen once only.
export class Generation implements AsyncIterable<Piece> {
  readonly tokens: number[] = [];
  text = '';
  result?: GenerateResult;
  breaks = 0;  // streams that broke after bringing tokens
  private readonly attempts: Attempts;
  private readonly metadata: grpc.Metadata;
  private readonly seed?: bigint;
  private call?: grpc.ClientReadableStream<GenerateResponse>;
  private cancelled = new AbortController();
  private model?: string;

  constructor(private readonly connection: Connection, private readonly request: GenerateRequest,
              private readonly options: GenerateOptions = {}) {
    request.max_tokens ??= 256;
    if (request.max_tokens <= 0) throw new RangeError('max_tokens must be positive');
    if (Number(request.sampling?.temperature ?? 0) > 0) {
      request.sampling!.seed ??= randomBytes(8).readBigUInt64LE().toString();
      this.seed = BigInt(request.sampling!.seed.toString());
    }
    options.signal?.addEventListener('abort', () => this.cancel(), {once: true});
    this.attempts = connection.attempts({...options, signal: this.cancelled.signal});
    this.metadata = requestMetadata(options.requestId);
  }

  // Ends the stream: the iteration throws CANCELLED. Frees the worker at once.
  cancel(): void {
    this.cancelled.abort();
    this.call?.cancel();
  }

  // Waits for the end; gives the whole text.
  async read(): Promise<string> {
    for await (const _ of this) continue;
    return this.text;
  }

  async * [Symbol.asyncIterator](): AsyncGenerator<Piece> {
    while (this.result === undefined) {
      const client = this.connection.client();
      const received = this.tokens.length;
      try {
        yield* this.stream(client);
      } catch (error) {
        if (!isServiceError(error)) throw error;
        if (this.tokens.length > received) {
          this.attempts.succeeded();
          this.breaks += 1;
        }
        await this.attempts.failed(error, client);
      } finally {
        this.call?.cancel();
      }
    }
  }

  // One try, from where the last one broke.
  private async * stream(client: grpc.Client): AsyncGenerator<Piece> {
    await this.checkModel(client);
    if (this.tokens.length === 0) {
      yield* this.plain(this.start(client, this.request));
    } else if (this.options.replay && this.seed !== undefined) {
      yield* this.replayed(this.start(client, this.request));
    } else {
      yield* this.resumed(client);
    }
  }

  private ask<Q, A>(client: grpc.Client, method: Method<Q, A>,
                    request: Q): Promise<A> {
    return unary(client, method, request, this.metadata, this.attempts.options(),
                 this.cancelled.signal);
  }

  private async checkModel(client: grpc.Client): Promise<void> {
    const {name, generation} = await this.ask(client, InferenceService.GetModel, {});
    const identity = `${name}, generation ${generation}`;
    if (this.tokens.length > 0 && identity !== this.model) {
      throw new ModelChanged(`the answer is by ${this.model}; now it would go on by ${identity}`);
    }
    this.model = identity;
  }

  private start(client: grpc.Client, request: GenerateRequest) {
    this.call = serverStream(client, InferenceService.Generate, request, this.metadata,
                             this.attempts.options());
    if (this.cancelled.signal.aborted) this.call.cancel();
    return this.call;
  }

  // What the worker says, as it says it; `before` counts the tokens of earlier streams.
  private async * plain(responses: AsyncIterable<GenerateResponse>, before = 0):
      AsyncGenerator<Piece> {
    for await (const response of responses) {
      this.tokens.push(...response.tokens);
      this.text += response.text;
      if (response.result) this.end(response.result, before);
      yield {text: response.text, tokens: response.tokens, logprobs: response.logprobs};
    }
  }

  // The same again, without the beginning that was received already.
  private async * replayed(responses: AsyncIterable<GenerateResponse>): AsyncGenerator<Piece> {
    let skipTokens = this.tokens.length;
    let skipText = this.text.length;
    for await (const response of responses) {
      const piece = {
        text: response.text.slice(skipText),
        tokens: response.tokens.slice(skipTokens),
        logprobs: response.logprobs.slice(skipTokens),
      };
      skipTokens = Math.max(0, skipTokens - response.tokens.length);
      skipText = Math.max(0, skipText - response.text.length);
      this.tokens.push(...piece.tokens);
      this.text += piece.text;
      if (response.result) this.end(response.result);
      yield piece;
    }
  }

  private async * resumed(client: grpc.Client): AsyncGenerator<Piece> {
    const before = this.tokens.length;
    const prompt = await this.prompt(client);
    const stops = this.request.stop ?? [];
    let data = await this.bytes(client);
    let {held, stopped} = certainText(data, stops);
    if (stopped || before === this.request.max_tokens) {
      // Only the result was missing.
      yield this.madeHere(data, {tokens: [], logprobs: []}, emptyResult(prompt.length));
      return;
    }
    const responses = this.start(client, {
      ...this.request,
      text: undefined,
      tokens: {ids: [...prompt, ...this.tokens]},
      max_tokens: this.request.max_tokens! - before,
      sampling: {
        ...this.request.sampling,
        // The same seed would repeat the draws of the beginning.
        ...(this.seed === undefined ? {} :
            {seed: BigInt.asUintN(64, this.seed + BigInt(before)).toString()}),
      },
    })[Symbol.asyncIterator]();
    while (held) {
      // The worker does not know how the character or the stop string began, so that the text has
      // to be made here until nothing is held back.
      const {value, done} = await responses.next();
      if (done) return;
      const response = value as GenerateResponse;
      this.tokens.push(...response.tokens);
      data = await this.bytes(client);
      ({held, stopped} = certainText(data, stops));
      const result = response.result ?? (stopped ? emptyResult(prompt.length + before) : undefined);
      yield this.madeHere(data, response, result, before);
      if (result) return;
    }
    yield* this.plain({[Symbol.asyncIterator]: () => responses}, before);
  }

  // The piece of a response, its text made from all tokens' bytes.
  private madeHere(data: Uint8Array, response: {tokens: number[], logprobs: TokenLogprobs[]},
                   result?: GenerateResult, before = 0): Piece {
    const {text, stopped} = certainText(data, this.request.stop ?? [], result !== undefined);
    if (result) {
      if (stopped) result.finish_reason = 'FINISH_REASON_STOP';
      this.end(result, before);
    }
    const piece = {...response, text: text.slice(this.text.length)};
    this.text = text;
    return piece;
  }

  private end(result: GenerateResult, before = 0): void {
    result.prompt_tokens -= before;
    result.generated_tokens = this.tokens.length;
    if (this.seed !== undefined) result.seed = this.seed.toString();
    this.result = result;
  }

  // The prompt's token ids.
  private async prompt(client: grpc.Client): Promise<number[]> {
    const {text, tokens, plain_text, literal} = this.request;
    if (tokens?.ids) return tokens.ids;
    const answer = await this.ask(
        client, InferenceService.Tokenize,
        {text: Buffer.from(text ?? ''), add_special: true, plain_text, literal});
    return answer.tokens;
  }

  // The bytes of the tokens received so far.
  private async bytes(client: grpc.Client): Promise<Uint8Array> {
    // Detokenize takes away the space that some vocabularies put in front of a text, Generate does
    // not. Of the text twice over, the second half has it.
    try {
      const tokens = [...this.tokens, ...this.tokens];
      const {text} = await this.ask(client, InferenceService.Detokenize, {tokens});
      return text.subarray(Math.floor(text.length / 2));
    } catch (error) {
      // A model without a vocabulary: there are tokens only.
      if (isServiceError(error) && error.code === grpc.status.UNIMPLEMENTED) return Buffer.alloc(0);
      throw error;
    }
  }
}

function emptyResult(promptTokens: number): GenerateResult {
  return {finish_reason: 'FINISH_REASON_LENGTH', prompt_tokens: promptTokens, generated_tokens: 0,
          queue_seconds: 0, prefill_seconds: 0, decode_seconds: 0, seed: '0'};
}
