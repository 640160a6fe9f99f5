// A client of gguf-offload's daemons: deadlines, retries, failover, TLS.
//
//     import {Worker} from 'gguf-offload-client';
//     const worker = new Worker(['10.0.0.5:7071', '10.0.0.6:7071'],
//                               {tls: {ca: 'ca.pem', cert: 'me.pem', key: 'me.key'}});
//     const generation = worker.generate({text: 'Once upon a time', max_tokens: 64});
//     for await (const piece of generation) process.stdout.write(piece.text);
//     console.error(generation.result!.generated_tokens);
export * from './connection';
export * from './generation';
export * from './services';
export * from './worker';
