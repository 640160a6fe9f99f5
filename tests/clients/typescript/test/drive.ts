// What the end-to-end tests have this client do: `node drive.js generate JSON` and
// `node drive.js methods JSON`. Prints JSON.
import {readFileSync} from 'node:fs';
import * as path from 'node:path';

import * as grpc from '@grpc/grpc-js';
import * as protoLoader from '@grpc/proto-loader';

import {AdminService, Connection, ConnectionOptions, DiagnosticsService, GenerateOptions,
        GenerateRequest, HealthService, InferenceService, LOADER_OPTIONS, Method, StageService,
        WeightService, Worker, isServiceError} from '../src/index';

interface GenerateOrder {
  addresses: string[];
  connection?: ConnectionOptions;
  request: GenerateRequest;
  options?: GenerateOptions;
  cancelAfter?: number|null;  // tokens
}

async function generate({addresses, connection, request, options, cancelAfter}: GenerateOrder) {
  const worker = new Worker(addresses, {timeout: 120, ...connection});
  const generation = worker.generate(request, options);
  let text = '';
  const tokens: number[] = [];
  let code = 'OK';
  try {
    for await (const piece of generation) {
      text += piece.text;
      tokens.push(...piece.tokens);
      if (cancelAfter != null && tokens.length >= cancelAfter) generation.cancel();
    }
  } catch (error) {
    if (!isServiceError(error)) throw error;
    code = grpc.status[error.code];
  }
  worker.close();
  return {text, tokens, code, breaks: generation.breaks, result: generation.result};
}

interface MethodsOrder {
  weightd: string;
  worker: string;
  admins: {weightd?: string, worker?: string};
  model: string;
  tensor: string;
  channelz: string;  // channelz.proto
  reflection: string;  // standard_services.proto
}

// Calls methods and notes what came of them: {daemon: {'SERVICE/METHOD': status}}.
class Notes {
  readonly outcomes: Record<string, Record<string, string>> = {};

  constructor(private readonly connections: Record<string, Connection>) {}

  private async note<A>(daemon: string, method: {path: string}, act: () => Promise<A>):
      Promise<A|undefined> {
    const outcomes = this.outcomes[daemon] ??= {};
    const name = method.path.slice(1);
    try {
      const answer = await act();
      outcomes[name] = 'OK';
      return answer;
    } catch (error) {
      if (!isServiceError(error)) throw error;
      outcomes[name] = grpc.status[error.code];
      return undefined;
    }
  }

  call<Q, A>(daemon: string, method: Method<Q, A>, request: Q) {
    return this.note(daemon, method, () => this.connections[daemon].call(method, request));
  }

  // At most `most` answers; gives them.
  stream<Q, A>(daemon: string, method: Method<Q, A>, request: Q, most = Infinity) {
    return this.note(daemon, method, () => take(this.connections[daemon].stream(method, request),
                                                most));
  }

  duplex<Q, A>(daemon: string, method: Method<Q, A>, requests: Q[], most: number) {
    return this.note(daemon, method, () => {
      const call = this.connections[daemon].duplex(method);
      for (const request of requests) call.write(request);
      return take(call, most);
    });
  }
}

async function take<A>(call: AsyncIterable<A>&{cancel(): void}, most: number): Promise<A[]> {
  const answers: A[] = [];
  for await (const answer of call) {
    answers.push(answer);
    if (answers.length >= most) break;
  }
  call.cancel();
  return answers;
}

async function weights(notes: Notes, {model, tensor}: MethodsOrder) {
  const service = WeightService;
  await notes.call('weightd', service.ListModels, {});
  await notes.call('weightd', service.GetModel, {model});
  await notes.call('weightd', service.ListTensors, {model});
  await notes.call('weightd', service.LoadModel, {model});
  await notes.stream('weightd', service.VerifyModel, {model});
  await notes.stream('weightd', service.ReadBlocks, {model, tensor});
  await notes.duplex('weightd', service.Attach,
                     [{start: {model, transport: 'TRANSPORT_STREAM', worker: 'drive.ts'}}], 2);
  const chunks = await notes.duplex('weightd', service.StreamBlocks, [
    {start: {model, initial_credit: '4096'}},
    {read: {read_id: '7', range: {shard: 0, offset: '0', bytes: '4'}}},
  ], 2);
  const magic = chunks?.[1]?.chunk?.data.toString();
  if (magic !== 'GGUF') throw new Error(`the file begins with ${magic}`);
  await notes.call('weightd', service.UnloadModel, {model: 'spare'});
}

async function inference(notes: Notes) {
  const service = InferenceService;
  await notes.call('worker', service.GetModel, {});
  const {tokens} = (await notes.call('worker', service.Tokenize, {text: Buffer.from('Hello')}))!;
  await notes.call('worker', service.Detokenize, {tokens});
  await notes.stream('worker', service.Generate, {text: 'Hello', max_tokens: 3});
  await notes.stream('worker', service.Evaluate, {tokens: {ids: tokens}, logprobs: true});
  await notes.duplex('worker', StageService.ExecuteStage, [{sequence: '1'}], 1);
}

async function diagnostics(notes: Notes, daemon: string) {
  const service = DiagnosticsService;
  await notes.call(daemon, service.GetBuildInfo, {});
  await notes.call(daemon, service.GetConfig, {});
  await notes.call(daemon, service.GetPlacement, {});
  await notes.call(daemon, service.GetMemory, {});
  await notes.call(daemon, service.GetLinkActivity, {});
  await notes.call(daemon, service.GetExpertActivity, {});
  await notes.call(daemon, service.ListSessions, {});
  await notes.stream(daemon, service.CaptureTrace, {seconds: 0.01});
  await notes.call(daemon, service.Ping, {payload: Buffer.from('hello')});
}

async function standard(notes: Notes, daemon: string, {reflection}: MethodsOrder) {
  await notes.call(daemon, HealthService.Check, {});
  await notes.stream(daemon, HealthService.Watch, {}, 1);
  const messages = protoLoader.loadSync(reflection, LOADER_OPTIONS) as unknown as
      Record<string, protoLoader.MessageTypeDefinition<object, object>>;
  await notes.duplex(daemon, {
    path: '/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo',
    requestSerialize: messages['gguf_offload.testing.ReflectionRequest'].serialize,
    responseDeserialize: messages['gguf_offload.testing.ReflectionResponse'].deserialize,
  }, [{list_services: ''}], 1);
}

async function channelz(notes: Notes, daemon: string, {channelz}: MethodsOrder) {
  const service = protoLoader.loadSync(channelz, LOADER_OPTIONS)['grpc.channelz.v1.Channelz'] as
      unknown as Record<string, Method<object, any>>;
  const servers = await notes.call(daemon, service.GetServers, {});
  const {server_id} = servers.server[0].ref;
  await notes.call(daemon, service.GetServer, {server_id});
  const sockets = await notes.call(daemon, service.GetServerSockets, {server_id});
  const {socket_id} = sockets?.socket_ref?.[0] ?? servers.server[0].listen_socket[0];
  await notes.call(daemon, service.GetSocket, {socket_id});
  // A weight daemon is nobody's client.
  const channel = (await notes.call(daemon, service.GetTopChannels, {})).channel[0];
  await notes.call(daemon, service.GetChannel, {channel_id: channel?.ref.channel_id ?? '1'});
  const subchannel = channel?.subchannel_ref?.[0] ?? {subchannel_id: '1'};
  await notes.call(daemon, service.GetSubchannel, {subchannel_id: subchannel.subchannel_id});
}

async function methods(order: MethodsOrder) {
  const connections: Record<string, Connection> = {};
  for (const [name, address] of Object.entries({
    weightd: order.weightd, worker: order.worker,
    weightd_admin: order.admins.weightd, worker_admin: order.admins.worker,
  })) {
    if (address) connections[name] = new Connection([address], {retry: {attempts: 1}});
  }
  const notes = new Notes(connections);
  await weights(notes, order);
  await inference(notes);
  await diagnostics(notes, 'weightd');
  await diagnostics(notes, 'worker');
  for (const daemon of Object.keys(connections)) {
    await standard(notes, daemon, order);
    if (!daemon.endsWith('_admin')) continue;
    await notes.call(daemon, AdminService.SetLogLevel, {level: 'debug'});
    await notes.stream(daemon, AdminService.CaptureProfile, {seconds: 0.05});
    await channelz(notes, daemon, order);
  }
  for (const connection of Object.values(connections)) connection.close();
  return notes.outcomes;
}

async function main() {
  const [what, file] = process.argv.slice(2);
  const order = JSON.parse(readFileSync(path.resolve(file), 'utf8'));
  const answer = what === 'generate' ? await generate(order) : await methods(order);
  console.log(JSON.stringify(answer));
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
