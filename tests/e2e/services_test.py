"""What every gRPC service offers to general tools: reflection and health, on both daemons."""

import unittest

import golden
import standard_services_pb2
from harness import EndToEndTest, ctl, free_port, terminate


class ServicesTest(EndToEndTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.weightd = cls.start_weightd({'m': golden.path('llama-f32')})
        cls.worker = cls.start_worker(cls.weightd, 'm')

    def reflect(self, daemon, **request):
        """One question to the reflection service."""
        channel = daemon.channel()
        self.addCleanup(channel.close)
        call = channel.stream_stream(
            '/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo',
            request_serializer=standard_services_pb2.ReflectionRequest.SerializeToString,
            response_deserializer=standard_services_pb2.ReflectionResponse.FromString)
        return next(call(iter([standard_services_pb2.ReflectionRequest(**request)]), timeout=30))

    def health(self, daemon, service=''):
        channel = daemon.channel()
        self.addCleanup(channel.close)
        call = channel.unary_unary(
            '/grpc.health.v1.Health/Check',
            request_serializer=standard_services_pb2.HealthRequest.SerializeToString,
            response_deserializer=standard_services_pb2.HealthResponse.FromString)
        return call(standard_services_pb2.HealthRequest(service=service), timeout=30).status

    def services(self, daemon):
        answer = self.reflect(daemon, list_services='')
        return {service.name for service in answer.services.service}

    def test_reflection_lists_the_services(self):
        self.assertLessEqual({'gguf_offload.v1.WeightService', 'gguf_offload.v1.DiagnosticsService',
                              'grpc.health.v1.Health'}, self.services(self.weightd))
        self.assertLessEqual({'gguf_offload.v1.InferenceService', 'grpc.health.v1.Health',
                              'gguf_offload.v1.DiagnosticsService'}, self.services(self.worker))

    def test_reflection_describes_a_method(self):
        answer = self.reflect(self.worker, file_containing_symbol='gguf_offload.v1.InferenceService')
        files = answer.files.file_descriptor_proto
        self.assertTrue(any(b'gguf_offload/v1/inference.proto' in file for file in files))

    def test_health_is_serving(self):
        for daemon in (self.weightd, self.worker):
            with self.subTest(daemon=daemon.argv[0]):
                self.assertEqual(self.health(daemon), standard_services_pb2.HealthResponse.SERVING)

    def test_addresses_are_what_was_asked_for(self):
        port = free_port()
        weightd = self.start_weightd({'m': golden.path('llama-f32')}, listen=f'127.0.0.1:{port}')
        self.assertEqual(weightd.address, f'127.0.0.1:{port}')
        self.assertIn('up ', ctl('ping', f'--weights=unix:{weightd.socket}'))

    def test_idle_daemons_end_at_once_on_sigterm(self):
        weightd = self.start_weightd({'m': golden.path('llama-f32')})
        worker = self.start_worker(weightd, 'm')
        terminate(worker)
        self.assertEqual(worker.wait(20), 0)
        terminate(weightd)
        self.assertEqual(weightd.wait(20), 0)


if __name__ == '__main__':
    unittest.main()
