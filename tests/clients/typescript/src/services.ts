// The daemons' services: definitions for Connection.call and types of their messages, both from the
// .proto files (`npm run stubs`).
import * as path from 'node:path';

import * as grpc from '@grpc/grpc-js';
import * as protoLoader from '@grpc/proto-loader';

import type {ProtoGrpcType as Admin} from './stubs/admin';
import type {ProtoGrpcType as Diagnostics} from './stubs/diagnostics';
import type {ProtoGrpcType as Health} from './stubs/health';
import type {ProtoGrpcType as Inference} from './stubs/inference';
import type {ProtoGrpcType as Retry} from './stubs/retry';
import type {ProtoGrpcType as Stage} from './stubs/stage';
import type {ProtoGrpcType as Weights} from './stubs/weights';

// These must agree with the options of the script `stubs` in package.json.
export const LOADER_OPTIONS = {
  keepCase: true, longs: String, enums: String, defaults: true, oneofs: true,
} as const;

const FILES = [
  'gguf_offload/v1/admin.proto', 'gguf_offload/v1/diagnostics.proto',
  'gguf_offload/v1/inference.proto', 'gguf_offload/v1/stage.proto',
  'gguf_offload/v1/weights.proto', 'gguf_offload/client/retry.proto',
  'grpc/health/v1/health.proto',
];
const includeDirs = [path.join(__dirname, '..', 'protos')];
const loaded = grpc.loadPackageDefinition(
    protoLoader.loadSync(FILES, {...LOADER_OPTIONS, includeDirs})) as unknown as
    Admin & Diagnostics & Health & Inference & Retry & Stage & Weights;

const v1 = loaded.gguf_offload.v1;
export const AdminService = v1.AdminService.service;
export const DiagnosticsService = v1.DiagnosticsService.service;
export const HealthService = loaded.grpc.health.v1.Health.service;
export const InferenceService = v1.InferenceService.service;
export const StageService = v1.StageService.service;
export const WeightService = v1.WeightService.service;
export const RetryStatus = loaded.gguf_offload.client.Status;
export const RetryInfo = loaded.gguf_offload.client.RetryInfo;

export type {GenerateRequest} from './stubs/gguf_offload/v1/GenerateRequest';
export type {GenerateResponse__Output as GenerateResponse} from
    './stubs/gguf_offload/v1/GenerateResponse';
export type {GenerateResult__Output as GenerateResult} from
    './stubs/gguf_offload/v1/GenerateResult';
export type {TokenLogprobs__Output as TokenLogprobs} from
    './stubs/gguf_offload/v1/TokenLogprobs';
