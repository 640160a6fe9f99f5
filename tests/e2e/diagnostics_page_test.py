"""Every line of grpcurl in README.md works against running daemons and shows what the page says.

grpcurl is read as its documentation says and done by a client that, like it, knows the services by
reflection only.
"""

import dataclasses
import json
import os
import re
import shlex
import subprocess
import unittest

import grpc

import golden
from harness import EndToEndTest
from reflection_client import ReflectionClient

PAGE = 'README.md'
MODEL = 'qwen'  # as the page calls it


@dataclasses.dataclass
class Command:
    """One line of grpcurl, and the fields that the comment above it names."""
    line: str
    fields: list
    plaintext: bool = False
    data: str = ''
    headers: list = dataclasses.field(default_factory=list)
    files: dict = dataclasses.field(default_factory=dict)  # cacert, cert, key
    address: str = ''
    words: list = dataclasses.field(default_factory=list)  # after the address


def parse(line, fields):
    command = Command(line, fields)
    program, *words = shlex.split(line)
    assert program == 'grpcurl', line
    while words and words[0].startswith('-'):
        flag = words.pop(0).lstrip('-')
        if flag == 'plaintext':
            command.plaintext = True
        elif flag == 'd':
            command.data = words.pop(0)
        elif flag == 'H':
            name, _, value = words.pop(0).partition(':')
            command.headers.append((name.strip().lower(), value.strip()))
        elif flag in ('cacert', 'cert', 'key'):
            command.files[flag] = words.pop(0)
        else:
            raise ValueError(f'{line}: -{flag} is not known here')
    if command.plaintext and command.files:
        raise ValueError(f'{line}: -plaintext takes no certificates')
    command.address, *command.words = words
    verb = command.words[0]
    wrong = (not re.fullmatch(r'[\w.]+:\d+', command.address) or
             (verb == 'list' and len(command.words) > 2) or
             (verb == 'describe' and len(command.words) > 2) or
             (verb not in ('list', 'describe') and
              (len(command.words) != 1 or not re.fullmatch(r'[\w.]+/\w+', verb))))
    if wrong:
        raise ValueError(f'{line}: grpcurl would not understand it')
    return command


def commands():
    """All of the page's, in its order."""
    with open(PAGE, encoding='utf-8') as file:
        lines = file.read().replace('\\\n', ' ').splitlines()
    found, fields = [], []
    for line in lines:
        if line.startswith('grpcurl '):
            found.append(parse(line, fields))
        else:
            # "# What it is for: field, other.field."
            named = re.fullmatch(r'# .*: ([a-zA-Z]+(?:\.[a-zA-Z]+)*(?:, [a-zA-Z.]+)*)\.', line)
            fields = named.group(1).split(', ') if named else []
    return found


def has_field(value, path):
    """Whether a field is there, in any element of the lists on the way."""
    if isinstance(value, list):
        return any(has_field(element, path) for element in value)
    if not path:
        return True
    return isinstance(value, dict) and path[0] in value and has_field(value[path[0]], path[1:])


class DiagnosticsPageTest(EndToEndTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        models = {MODEL: golden.path('qwen3-iq')}
        cls.weightd = cls.start_weightd(models, '--admin=127.0.0.1:0')
        cls.worker = cls.start_worker(cls.weightd, MODEL, '--admin=127.0.0.1:0')
        certs = os.path.join(cls.folder, 'certs')
        for name, san in (('weightd', 'IP:127.0.0.1'), ('client', 'DNS:client.test')):
            subprocess.run(['deploy/certs.sh', f'--out={certs}', f'--name={name}', f'--san={san}'],
                           check=True, timeout=60)
        cls.certificates = f'{certs}/client'
        cls.secure_weightd = cls.start_weightd(models, *(
            f'--tls-{flag}={certs}/weightd/{file}'
            for flag, file in (('ca', 'ca.crt'), ('cert', 'tls.crt'), ('key', 'tls.key'))))
        cls.addresses = {'127.0.0.1:7070': cls.weightd.address,
                         '127.0.0.1:7071': cls.worker.address,
                         '127.0.0.1:7072': cls.weightd.read_address('admin'),
                         '127.0.0.1:7073': cls.worker.read_address('admin')}

    def channel(self, command):
        options = [('grpc.enable_http_proxy', 0)]
        if command.plaintext:
            return grpc.insecure_channel(self.addresses[command.address], options=options)
        self.assertEqual(command.address, '127.0.0.1:7070')
        pem = {}
        for flag, name in command.files.items():
            with open(os.path.join(self.certificates, name), 'rb') as file:
                pem[flag] = file.read()
        credentials = grpc.ssl_channel_credentials(pem.get('cacert'), pem.get('key'),
                                                   pem.get('cert'))
        return grpc.secure_channel(self.secure_weightd.address, credentials, options=options)

    def do(self, command):
        """What grpcurl would print: a list of JSON, or lines."""
        with self.channel(command) as channel:
            client = ReflectionClient(channel)
            verb, *names = command.words
            if verb == 'list':
                return ([method.full_name for method in client.describe(names[0]).methods] if names
                        else client.services())
            if verb == 'describe':
                return [client.describe(name).full_name for name in names or client.services()]
            requests = [json.loads(command.data)] if command.data else []
            return client.call(verb, requests, metadata=command.headers)

    def test_every_line_works_and_shows_its_fields(self):
        for command in commands():
            with self.subTest(line=command.line):
                answer = self.do(command)
                self.assertTrue(answer)
                for field in command.fields:
                    self.assertTrue(has_field(answer, field.split('.')), f'{field} in {answer}')

    def test_the_page_has_what_is_asked_most(self):
        words = [command.words[0] for command in commands()]
        for wanted in ('list', 'describe', 'grpc.health.v1.Health/Check',
                       'gguf_offload.v1.WeightService/ListModels',
                       'gguf_offload.v1.WeightService/ListTensors',
                       'gguf_offload.v1.WeightService/ReadBlocks',
                       'gguf_offload.v1.DiagnosticsService/GetPlacement',
                       'gguf_offload.v1.DiagnosticsService/GetMemory',
                       'gguf_offload.v1.DiagnosticsService/ListSessions',
                       'gguf_offload.v1.InferenceService/Generate',
                       'gguf_offload.v1.AdminService/SetLogLevel',
                       'grpc.channelz.v1.Channelz/GetTopChannels'):
            self.assertIn(wanted, words)
        self.assertTrue(any(command.files for command in commands()))
        # Whoever calls a method wants to see something of the answer.
        section = [command for command in commands() if command.fields]
        self.assertGreaterEqual(len(section), 11)

    def test_reading_finds_what_grpcurl_would_refuse(self):
        for line in ('grpcurl -plain 127.0.0.1:7071 list', 'grpcurl 127.0.0.1 list',
                     'grpcurl -plaintext 127.0.0.1:7071 gguf_offload.v1.WeightService',
                     'grpcurl -plaintext -cacert ca.crt 127.0.0.1:7071 list',
                     'grpcurl -plaintext 127.0.0.1:7071 a.B/C -d {}'):
            with self.subTest(line=line), self.assertRaises(ValueError):
                parse(line, [])

    def test_a_field_that_is_missing_is_noticed(self):
        answer = [{'models': [{'name': 'a'}, {'name': 'b', 'state': 'MODEL_STATE_READY'}]}]
        self.assertTrue(has_field(answer, ['models', 'state']))
        self.assertFalse(has_field(answer, ['models', 'stat']))
        self.assertFalse(has_field(answer, ['state']))


if __name__ == '__main__':
    unittest.main()
