// Continues a prompt with a compute worker and prints the text as it comes. Knows nothing of the
// service but its name: messages and methods come from the worker by gRPC reflection.
//
//     npm ci && node generate.js 127.0.0.1:7071 "Once upon a time" 64
'use strict';

const grpc = require('@grpc/grpc-js');
const {GrpcReflection} = require('grpc-js-reflection-client');

const SERVICE = 'gguf_offload.v1.InferenceService';

async function connect(address) {
  const credentials = grpc.credentials.createInsecure();
  const options = {'grpc.enable_http_proxy': 0};
  const reflection = new GrpcReflection(address, credentials, options, 'v1alpha');
  const descriptor = await reflection.getDescriptorBySymbol(SERVICE);
  const packages = descriptor.getPackageObject({keepCase: true, longs: String, defaults: true});
  return new packages.gguf_offload.v1.InferenceService(address, credentials, options);
}

// Calls onText with each piece of text; resolves to the GenerateResult.
function generate(worker, request, onText) {
  return new Promise((resolve, reject) => {
    let result;
    const call = worker.Generate(request);
    call.on('data', (response) => {
      onText(response.text);
      if (response.result) result = response.result;
    });
    call.on('error', reject);
    call.on('end', () => resolve(result));
  });
}

async function main() {
  const [address, prompt, maxTokens] = process.argv.slice(2);
  const worker = await connect(address);
  const request = {text: prompt, max_tokens: Number(maxTokens ?? 64)};
  const result = await generate(worker, request, (text) => process.stdout.write(text));
  process.stdout.write('\n');
  console.error(`${result.generated_tokens} tokens in ${result.decode_seconds.toFixed(2)} s`);
  worker.close();
  // The reflection client keeps its own connection open.
  process.exit(0);
}

main().catch((error) => {
  console.error(error.message);
  process.exit(1);
});
