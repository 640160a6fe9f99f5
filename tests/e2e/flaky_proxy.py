"""A gRPC server between a client and a worker, which breaks streams where a test wants it."""

import concurrent.futures
import time

import grpc

from gguf_offload.v1 import inference_pb2


class FlakyProxy(grpc.GenericRpcHandler):
    """Passes calls on to the worker at `address`. A Generate stream ends with UNAVAILABLE when as
    many tokens have come through as the next entry of `breaks` says, or before its result where
    that is BEFORE_RESULT; when there is none, it goes on.

    `generates` lists [start, end, status code, request, metadata] of every Generate so far.
    """

    BEFORE_RESULT = object()

    def __init__(self, address, breaks=()):
        self.breaks = list(breaks)
        self.generates = []
        self._channel = grpc.insecure_channel(address, options=[
            ('grpc.enable_http_proxy', 0), ('grpc.use_local_subchannel_pool', 1)])
        self._pool = concurrent.futures.ThreadPoolExecutor(8)
        self._server = grpc.server(self._pool, handlers=[self])
        self.address = f'127.0.0.1:{self._server.add_insecure_port("127.0.0.1:0")}'
        self._server.start()

    def service(self, handler_call_details):
        method = handler_call_details.method
        if method.endswith('/Generate'):
            return grpc.unary_stream_rpc_method_handler(self._generate)
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._pass_on(method, request, context))

    def _pass_on(self, method, request, context):
        try:
            return self._channel.unary_unary(method)(request, timeout=context.time_remaining(),
                                                     metadata=self._metadata(context))
        except grpc.RpcError as error:
            return self._fail(error, context)

    @staticmethod
    def _metadata(context):
        return [(key, value) for key, value in context.invocation_metadata()
                if key.startswith('x-')]

    @staticmethod
    def _fail(error, context):
        context.set_trailing_metadata([(key, value) for key, value in error.trailing_metadata()
                                       if key == 'grpc-status-details-bin'])
        context.abort(error.code(), error.details())

    def _generate(self, request, context):
        metadata = self._metadata(context)
        record = [time.monotonic(), None, grpc.StatusCode.OK,
                  inference_pb2.GenerateRequest.FromString(request), dict(metadata)]
        self.generates.append(record)
        most = self.breaks.pop(0) if self.breaks else None
        call = self._channel.unary_stream('/gguf_offload.v1.InferenceService/Generate')(
            request, timeout=context.time_remaining(), metadata=metadata)
        context.add_callback(call.cancel)
        passed = 0
        try:
            for response in call:
                parsed = inference_pb2.GenerateResponse.FromString(response)
                if most is self.BEFORE_RESULT:
                    breaks = parsed.HasField('result')
                else:
                    breaks = most is not None and passed >= most
                if breaks:
                    record[1:3] = time.monotonic(), grpc.StatusCode.UNAVAILABLE
                    call.cancel()
                    context.abort(grpc.StatusCode.UNAVAILABLE, 'as the test wants it')
                passed += len(parsed.tokens)
                yield response
        except grpc.RpcError as error:
            record[1:3] = time.monotonic(), error.code()
            self._fail(error, context)
        record[1] = time.monotonic()

    def close(self):
        self._server.stop(None).wait()
        self._channel.close()
        self._pool.shutdown()
