// InferenceService, at one or more workers that run the same model.
import {CallOptions, Connection} from './connection';
import {GenerateOptions, Generation} from './generation';
import {GenerateRequest, InferenceService} from './services';

export class Worker extends Connection {
  // Continues a prompt: for await (const piece of worker.generate({text, max_tokens})) ...
  // The timeout is for all of it, breaks included.
  generate(request: GenerateRequest, options?: GenerateOptions): Generation {
    return new Generation(this, structuredClone(request), options);
  }

  // What the model says of the tokens: an iterable of EvaluateResponse.
  evaluate(ids: number[], logits = false, options?: CallOptions) {
    return this.stream(InferenceService.Evaluate, {tokens: {ids}, logits, logprobs: true}, options);
  }

  async tokenize(text: string, addSpecial = true, options?: CallOptions): Promise<number[]> {
    const request = {text: Buffer.from(text), add_special: addSpecial};
    return (await this.call(InferenceService.Tokenize, request, options)).tokens;
  }

  // The bytes of token ids.
  async detokenize(tokens: number[], options?: CallOptions): Promise<Buffer> {
    return (await this.call(InferenceService.Detokenize, {tokens}, options)).text;
  }

  // The name, generation, context, ... of the model.
  model(options?: CallOptions) {
    return this.call(InferenceService.GetModel, {}, options);
  }
}
