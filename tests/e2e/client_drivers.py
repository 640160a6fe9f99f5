"""The example clients in Python and TypeScript behind one interface, for tests of both."""

import json
import os
import shutil
import subprocess
import tempfile

import grpc
from google.protobuf import json_format

from gguf_offload_client import Retry, Tls, Worker
from harness import CALL_SECONDS

NODE_MODULES = os.environ.get('GGUF_OFFLOAD_TYPESCRIPT_MODULES', '')
WHY_NO_TYPESCRIPT = next((reason for missing, reason in (
    (not shutil.which('node'), 'node is not installed'),
    (not shutil.which('npm'), 'npm is not installed'),
    (not NODE_MODULES, 'GGUF_OFFLOAD_TYPESCRIPT_MODULES is not set: the npm packages are missing'),
) if missing), '')

# Quick to try again, but as often as it takes.
RETRY = {'attempts': 300, 'initial': 0.02, 'maximum': 0.5}


class PythonClient:

    @staticmethod
    def generate(addresses, request, tls=None, cancel_after=None, **options):
        """Generates with GenerateRequest's fields `request`; gives text, tokens, code (of the
        error, OK), breaks, and result, whose fields are those of GenerateResult."""
        request = dict(request)
        prompt = request.pop('text', None) or request.pop('tokens')
        text, tokens, code = '', [], 'OK'
        with Worker(addresses, tls=Tls(*tls) if tls else None, timeout=120,
                    retry=Retry(**RETRY)) as worker:
            generation = worker.generate(prompt, **request, **options)
            try:
                for piece in generation:
                    text += piece.text
                    tokens += piece.tokens
                    if cancel_after is not None and len(tokens) >= cancel_after:
                        generation.cancel()
            except grpc.RpcError as error:
                code = error.code().name
        result = generation.result and json_format.MessageToDict(
            generation.result, preserving_proto_field_name=True)
        return {'text': text, 'tokens': tokens, 'code': code, 'breaks': generation.breaks,
                'result': result}


class TypeScriptClient:
    """The TypeScript package, compiled in a temporary folder as `npm run build` does."""

    def __init__(self):
        self._folder = tempfile.mkdtemp(prefix='client', dir=os.environ.get('TEST_TMPDIR'))
        package = os.path.join(self._folder, 'tests/clients/typescript')
        # Bazel's runfiles are links.
        for source in ('proto', 'tests/clients/proto', 'tests/clients/typescript'):
            shutil.copytree(source, os.path.join(self._folder, source),
                            ignore=shutil.ignore_patterns('node_modules', 'dist', 'stubs'))
        os.symlink(NODE_MODULES, os.path.join(package, 'node_modules'))
        self._run(['npm', 'run', '--silent', 'build'], cwd=package,
                  env={**os.environ, 'HOME': self._folder})
        self.program = os.path.join(package, 'dist/src/generate.js')
        self._driver = os.path.join(package, 'dist/test/drive.js')

    @staticmethod
    def _run(argv, **options):
        done = subprocess.run(argv, capture_output=True, text=True, timeout=CALL_SECONDS,
                              check=False, **options)
        if done.returncode != 0:
            raise AssertionError(f'{argv}: exit code {done.returncode}\n{done.stdout}{done.stderr}')
        return done.stdout

    def drive(self, what, order):
        with tempfile.NamedTemporaryFile('w', suffix='.json', dir=self._folder) as file:
            json.dump(order, file)
            file.flush()
            return json.loads(self._run(['node', self._driver, what, file.name]))

    def generate(self, addresses, request, tls=None, cancel_after=None, **options):
        """As PythonClient.generate."""
        request = dict(request)
        if 'tokens' in request:
            request['tokens'] = {'ids': request['tokens']}
        if 'sampling' in request:  # 64 bits are too many for JavaScript's numbers
            request['sampling'] = {name: str(value) if name == 'seed' else value
                                   for name, value in request['sampling'].items()}
        connection = {'retry': RETRY}
        if tls:
            connection['tls'] = dict(zip(('ca', 'cert', 'key'), tls))
        answer = self.drive('generate', {
            'addresses': addresses, 'connection': connection, 'request': request,
            'cancelAfter': cancel_after,
            'options': {{'request_id': 'requestId'}.get(name, name): value
                        for name, value in options.items()}})
        answer.setdefault('result', None)
        return answer

    def close(self):
        shutil.rmtree(self._folder)
