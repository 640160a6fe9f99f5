"""Calls any method of a server by what reflection says of it, as grpcurl does: JSON in, JSON out."""

import itertools

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

import standard_services_pb2

CALL_SECONDS = 60


class ReflectionClient:
    """One server's services. Not thread-safe."""

    def __init__(self, channel):
        self._channel = channel
        self._pool = descriptor_pool.DescriptorPool()
        self._messages = message_factory.MessageFactory(self._pool)
        self._files = set()

    def _ask(self, **question):
        call = self._channel.stream_stream(
            '/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo',
            request_serializer=standard_services_pb2.ReflectionRequest.SerializeToString,
            response_deserializer=standard_services_pb2.ReflectionResponse.FromString)
        return next(call(iter([standard_services_pb2.ReflectionRequest(**question)]),
                         timeout=CALL_SECONDS))

    def services(self):
        """Full names of the services."""
        return sorted(service.name for service in self._ask(list_services='').services.service)

    def _learn(self, symbol):
        """Makes the file that `symbol` is in known, with the files that it imports."""
        answer = self._ask(file_containing_symbol=symbol)
        files = [descriptor_pb2.FileDescriptorProto.FromString(file)
                 for file in answer.files.file_descriptor_proto]
        waiting = {file.name: file for file in files if file.name not in self._files}

        def add(file):
            for name in file.dependency:
                if name in waiting:
                    add(waiting.pop(name))
            self._pool.Add(file)
            self._files.add(file.name)
        while waiting:
            add(waiting.pop(next(iter(waiting))))

    def describe(self, symbol):
        """The descriptor of a service, a method, a message or an enum; LookupError if there is none
        of that name."""
        self._learn(symbol)
        service, _, method = symbol.rpartition('.')
        for find in (self._pool.FindServiceByName, self._pool.FindMessageTypeByName,
                     self._pool.FindEnumTypeByName):
            try:
                return find(symbol)
            except KeyError:
                pass
        try:
            return self._pool.FindServiceByName(service).methods_by_name[method]
        except KeyError:
            raise LookupError(f'the server does not describe {symbol}') from None

    def methods(self):
        """'SERVICE/METHOD' of every method of every service."""
        return {f'{service}/{method.name}' for service in self.services()
                for method in self.describe(service).methods}

    def call(self, method, requests=(), metadata=None, timeout=CALL_SECONDS, most=None):
        """Calls 'SERVICE/METHOD' with requests as dicts of JSON; gives the answers, `most` of them,
        as such. One empty request is sent if there is none and the client does not stream."""
        service, _, name = method.rpartition('/')
        descriptor = self.describe(f'{service}.{name}')
        proto = descriptor_pb2.MethodDescriptorProto()
        descriptor.CopyToProto(proto)
        streams = proto.client_streaming, proto.server_streaming
        question = self._messages.GetPrototype(descriptor.input_type)
        answer = self._messages.GetPrototype(descriptor.output_type)
        messages = [json_format.ParseDict(request, question(), descriptor_pool=self._pool)
                    for request in requests]
        if not messages and not streams[0]:
            messages = [question()]
        open_call = {(False, False): self._channel.unary_unary,
                     (False, True): self._channel.unary_stream,
                     (True, False): self._channel.stream_unary,
                     (True, True): self._channel.stream_stream}[streams]
        call = open_call(f'/{method}', request_serializer=question.SerializeToString,
                         response_deserializer=answer.FromString)
        if not streams[0] and len(messages) != 1:
            raise ValueError(f'{method} takes one request, not {len(messages)}')
        answers = call(iter(messages) if streams[0] else messages[0], timeout=timeout,
                       metadata=metadata)
        taken = list(itertools.islice(answers, most)) if streams[1] else [answers]
        if streams[1] and most is not None:
            answers.cancel()
        return [json_format.MessageToDict(message, descriptor_pool=self._pool)
                for message in taken]
