// Continues a prompt with a compute worker and prints the text as it comes. With several addresses
// the text goes on at the next one when a worker goes away.
//
//     npm ci && npm run build
//     node dist/src/generate.js 127.0.0.1:7071 "Once upon a time" 64
//     node dist/src/generate.js a:7071,b:7071 "Once upon a time" 64 --ca=F --cert=F --key=F
import {parseArgs} from 'node:util';

import {Tls, Worker} from './index';

async function main(): Promise<void> {
  const {positionals, values} = parseArgs({
    allowPositionals: true,
    options: {ca: {type: 'string'}, cert: {type: 'string'}, key: {type: 'string'}},
  });
  const [addresses, text, maxTokens] = positionals;
  const tls = values.ca === undefined ? undefined : values as Tls;
  const worker = new Worker(addresses.split(','), {tls, timeout: 600});
  const generation = worker.generate({text, max_tokens: Number(maxTokens ?? 64)});
  for await (const piece of generation) process.stdout.write(piece.text);
  process.stdout.write('\n');
  const {generated_tokens, decode_seconds} = generation.result!;
  console.error(`${generated_tokens} tokens in ${decode_seconds.toFixed(2)} s`);
  worker.close();
}

main().catch((error) => {
  console.error(error.message);
  process.exitCode = 1;
});
