"""What the other commands of offloadctl print, and their errors: one plain line, exit code 1."""

import json
import os
import pty
import re
import shutil
import subprocess
import unittest

import golden
import grpc
from gguf_offload.v1 import inference_pb2
from harness import OFFLOADCTL, EndToEndTest, ctl, free_port, offloadctl

MODEL = 'llama-kq'


class CommandsTest(EndToEndTest):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        models = os.path.join(cls.folder, 'models')
        os.mkdir(models)
        shutil.copy(golden.path('qwen3-iq'), os.path.join(models, 'good.gguf'))
        with open(golden.path('llama-f32'), 'rb') as file:
            truncated = file.read(100_000)
        with open(os.path.join(models, 'broken.gguf'), 'wb') as file:
            file.write(truncated)
        cls.model_folder = models
        cls.weightd = cls.start_weightd({MODEL: golden.path(MODEL)}, f'--model-dir={models}',
                                        f'--allow-load-from={cls.folder}')
        cls.worker = cls.start_worker(cls.weightd, MODEL)
        cls.weights = f'--weights={cls.weightd.address}'
        cls.at_worker = f'--worker={cls.worker.address}'

    def assert_fails(self, message, *arguments):
        """offloadctl must print exactly one line matching `message` on standard error."""
        code, out, err = offloadctl(*arguments)
        self.assertEqual(code, 1, out + err)
        self.assertRegex(err.decode(), rf'\Aoffloadctl: {message}\n\Z')

    # The weight daemon.

    def test_models(self):
        rows = {line.split()[0]: line for line in ctl('models', self.weights).splitlines()[1:]}
        self.assertRegex(rows[MODEL], rf'ready +llama .*{re.escape(golden.path(MODEL))}$')
        self.assertRegex(rows['good'], r'ready +qwen3 ')

    def test_broken_file_is_listed_with_its_error(self):
        answer = json.loads(ctl('models', self.weights, '--json'))
        broken = {model['name']: model for model in answer['models']}['broken']
        self.assertEqual(broken['state'], 'MODEL_STATE_FAILED')
        self.assertIn('broken.gguf', broken['error'])
        row = [line for line in ctl('models', self.weights).splitlines()
               if line.startswith('broken ')]
        self.assertEqual(len(row), 1)
        self.assertIn(broken['error'], row[0])

    def test_model(self):
        text = ctl('model', MODEL, self.weights)
        self.assertRegex(text, r'(?m)^general\.architecture +llama$')
        self.assertRegex(text, r'(?m)^state +ready$')
        self.assertRegex(text, r'(?m)^tokenizer\.ggml\.tokens +array of 512$')

    def test_model_json(self):
        answer = json.loads(ctl('model', MODEL, self.weights, '--json'))
        self.assertEqual(answer['manifest']['metadata']['general.architecture']['string_value'],
                         'llama')

    def test_tensors(self):
        lines = ctl('tensors', MODEL, self.weights).splitlines()
        answer = json.loads(ctl('tensors', f'--model={MODEL}', self.weights, '--json'))
        self.assertEqual(len(lines) - 1, len(answer['tensors']))
        names = [line.split()[0] for line in lines[1:]]
        self.assertEqual(names, [tensor['name'] for tensor in answer['tensors']])
        self.assertIn('token_embd.weight', names)
        # Columns are aligned: every row has its type where the heading is.
        column = lines[0].index('TYPE')
        self.assertTrue(all(line[column - 1] == ' ' and line[column] != ' ' for line in lines[1:]))

    def test_load_and_unload(self):
        out = ctl('load', 'another', golden.path('qwen2-legacy'), self.weights)
        self.assertRegex(out, r'^another: \d+ tensors, \d+\.\d KiB, generation \d+\n$')
        self.assertIn('another', ctl('models', self.weights))
        ctl('unload', 'another', self.weights)
        self.assertNotIn('another', ctl('models', self.weights))
        self.assert_fails(f"no model 'another' at {self.weightd.address}", 'model', 'another',
                          self.weights)

    def test_load_of_a_broken_file(self):
        self.assert_fails('.*broken.gguf.*', 'load', 'x',
                          os.path.join(self.model_folder, 'broken.gguf'), self.weights)

    def test_verify_finds_a_flipped_bit(self):
        path = os.path.join(self.folder, 'flip.gguf')
        shutil.copy(golden.path('llama-f32'), path)
        ctl('load', 'flip', path, self.weights)
        self.addCleanup(ctl, 'unload', 'flip', self.weights)
        first = ctl('verify', 'flip', self.weights)
        self.assertRegex(first, r'^flip: \d+ tensors, .*, xxh64 [0-9a-f]{16}, 0 changed\n$')
        self.assertEqual(ctl('verify', 'flip', self.weights), first)
        tensors = json.loads(ctl('tensors', 'flip', self.weights, '--json'))['tensors']
        victim = tensors[len(tensors) // 2]
        with open(path, 'r+b') as file:
            file.seek(int(victim['offset']) + 1)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 4]))
        code, out, err = offloadctl('verify', 'flip', self.weights)
        self.assertEqual(code, 1)
        changed = [line for line in out.decode().splitlines() if line.endswith('CHANGED')]
        self.assertEqual([line.split()[1] for line in changed], [victim['name']])
        self.assertEqual(err.decode(), "offloadctl: 1 of the tensors of 'flip' changed since they "
                                       'were first verified\n')

    def test_verify_one_tensor(self):
        out = ctl('verify', MODEL, self.weights, '--tensor=token_embd.weight', '--hashes')
        self.assertRegex(out.splitlines()[0], r'^[0-9a-f]{16}  token_embd\.weight$')

    # The worker.

    def test_generate_prints_text_and_timings(self):
        code, out, err = offloadctl('generate', self.at_worker, '--tokens=1,2,3', '--max-tokens=5',
                                    '--ids', '--ignore-end-of-text')
        self.assertEqual(code, 0, err)
        ids = json.loads(out.decode(errors='replace').splitlines()[-1])
        self.assertEqual(len(ids), 5)
        self.assertRegex(err.decode(), r'\Aprompt 3 tokens in .*, generated 5 tokens in .* s '
                                       r'\(.*/s\), queued .* s, finish length\n\Z')

    def test_generate_json_logprobs_and_seed(self):
        out = ctl('generate', self.at_worker, '--prompt=Hello', '--max-tokens=4', '--temperature=1',
                  '--seed=42', '--logprobs=3', '--json', '--ignore-end-of-text')
        answers = [json.loads(line) for line in out.splitlines()]
        logprobs = [entry for answer in answers for entry in answer['logprobs']]
        self.assertEqual(len(logprobs), 4)
        self.assertTrue(all(len(entry['top']) == 3 for entry in logprobs))
        self.assertEqual(answers[-1]['result']['seed'], '42')

    def test_generate_tells_the_seed_so_that_the_text_can_be_had_again(self):
        flags = ('generate', self.at_worker, '--prompt=Hello', '--max-tokens=8', '--temperature=1',
                 '--ignore-end-of-text', '--ids')
        _, first, err = offloadctl(*flags)
        seed = re.search(rb', seed (\d+)\n', err)[1].decode()
        code, second, _ = offloadctl(*flags, f'--seed={seed}')
        self.assertEqual((code, second), (0, first))
        self.assert_fails('--seed=-1 is not a whole number of 64 bits', *flags, '--seed=-1')

    def test_evaluate_prints_log_probabilities(self):
        out = ctl('evaluate', self.at_worker, '--tokens=[5, 6, 7]').splitlines()
        self.assertEqual([line.split()[:2] for line in out[:2]], [['1', '6'], ['2', '7']])
        self.assertRegex(out[2], r'^perplexity \d+\.\d+ over 2 tokens$')

    def test_tokenize_by_worker_equals_tokenize_by_weights(self):
        text = '--text=Grüße, 世界 123'
        by_weights = ctl('tokenize', self.weights, f'--model={MODEL}', text)
        self.assertEqual(ctl('tokenize', self.at_worker, text), by_weights)
        back = ctl('detokenize', self.at_worker, f'--tokens={by_weights.strip()}')
        self.assertEqual(back, 'Grüße, 世界 123\n')

    def test_text_that_is_not_utf8_is_refused_in_one_line(self):
        latin = 'größer'.encode('latin-1')
        file = os.path.join(self.folder, 'latin.txt')
        with open(file, 'wb') as opened:
            opened.write(latin)
        for flag, message in ((b'--prompt=' + latin, '--prompt is not UTF-8 text'),
                              (f'--prompt-file={file}', f'{file} is not UTF-8 text'),
                              (b'--stop=' + latin, '--stop is not UTF-8 text')):
            with self.subTest(flag=flag):
                self.assert_fails(message, 'generate', self.at_worker, flag,
                                  *(['--prompt=a'] if b'stop' in os.fsencode(flag) else []))
        code, _, err = offloadctl('generate', self.at_worker, '--prompt-file=-', stdin=latin)
        self.assertEqual((code, err), (1, b'offloadctl: standard input is not UTF-8 text\n'))
        self.assert_fails('--text is not UTF-8 text', 'tokenize', self.at_worker,
                          b'--text=' + latin)
        self.assert_fails(f'{file} is not UTF-8 text', 'tokenize', self.at_worker,
                          f'--text-file={file}')
        self.assert_fails('an argument is not UTF-8 text', 'model', latin, self.weights)
        # The tokenizer itself takes any bytes.
        ctl('tokenize', self.weights, f'--model={MODEL}', f'--text-file={file}')

    def test_detokenize_refuses_ids_out_of_range(self):
        self.assert_fails('.*token 512 is not 0 to 511.*', 'detokenize', self.at_worker,
                          '--tokens=5,512')
        self.assert_fails('.*token 512 is not below 512.*', 'detokenize', self.weights,
                          f'--model={MODEL}', '--tokens=512')
        stub = self.stub(self.worker, 'inference')
        for token in (-1, 512, 2**31 - 1):
            with self.assertRaises(grpc.RpcError) as raised:
                stub.Detokenize(inference_pb2.DetokenizeRequest(tokens=[token]), timeout=30)
            self.assertEqual(raised.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
        self.assertEqual(
            stub.Detokenize(inference_pb2.DetokenizeRequest(tokens=[511]), timeout=30).text != '',
            True)

    def test_placement(self):
        text = ctl('placement', self.at_worker)
        self.assertRegex(text, r'(?m)^ +(0|0-1)  shared pages +\d+ ')
        answer = json.loads(ctl('placement', self.at_worker, '--json'))
        total = sum(int(tensor['bytes']) for tensor in answer['tensors'])
        places = sum(int(answer[f'{place}_bytes'])
                     for place in ('shared', 'resident', 'streamed', 'cached'))
        self.assertEqual(total, places)
        lines = ctl('placement', self.at_worker, '--tensors').splitlines()
        self.assertTrue(any('token_embd.weight' in line for line in lines))

    # Both.

    def test_diagnostics_of_both(self):
        for where in (self.weights, self.at_worker):
            with self.subTest(where=where):
                self.assertIn('resident', ctl('memory', where))
                self.assertIn('ID', ctl('sessions', where))
                self.assertIn('--listen=', ctl('config', where))
                self.assertRegex(ctl('build', where), r'^(weightd|computed) .*gRPC')
                self.assertRegex(ctl('ping', where), r'^\d+\.\d ms, up \d+\.\d s\n$')

    def test_lease_is_listed(self):
        answer = json.loads(ctl('sessions', self.weights, '--json'))
        leases = [s for s in answer['sessions'] if s['kind'] == 'lease']
        self.assertEqual([(s['model'], s['transport']) for s in leases], [(MODEL, 'shared_memory')])

    def test_trace_is_json(self):
        path = os.path.join(self.folder, 'trace.json')
        ctl('trace', self.at_worker, '--seconds=0.05', f'--out={path}')
        with open(path, encoding='utf-8') as file:
            json.load(file)

    def test_help(self):
        listing = ctl('--help')
        for name in ('models', 'model', 'tensors', 'load', 'unload', 'verify', 'tensor', 'tokenize',
                     'detokenize', 'generate', 'evaluate', 'placement', 'memory', 'sessions',
                     'config', 'build', 'ping', 'trace', 'link'):
            self.assertRegex(listing, rf'(?m)^{name}\b')
            self.assertIn(f'offloadctl {name}', ctl(name, '--help'))

    def test_errors(self):
        nowhere = f'127.0.0.1:{free_port()}'
        address = self.weightd.address
        worker = self.worker.address
        cases = [
            ('no command given; offloadctl --help lists them',),
            ("no command 'frob'; offloadctl --help lists them", 'frob'),
            ('unknown flag --frob', 'models', self.weights, '--frob'),
            ('--weights=ADDR is needed', 'models'),
            ("'nonsense' is no address; write unix:PATH or HOST:PORT", 'models',
             '--weights=nonsense'),
            (f'no daemon answers at {nowhere}', 'models', f'--weights={nowhere}'),
            ('no daemon answers at unix:/nonexistent/s', 'models', '--weights=unix:/nonexistent/s'),
            (f"no model 'x' at {address}", 'model', 'x', self.weights),
            (f"no model 'x' at {address}", 'tensors', 'x', self.weights),
            (f".*x.* at {address}", 'verify', 'x', self.weights),
            (f".*x.* at {address}", 'unload', 'x', self.weights),
            (f"no tensor 'x' in '{MODEL}' at {address}", 'tensor', self.weights,
             f'--model={MODEL}', '--name=x', '--out=/dev/null'),
            ('cannot write /nonexistent/x: No such file or directory', 'tensor', self.weights,
             f'--model={MODEL}', '--name=token_embd.weight', '--out=/nonexistent/x'),
            ('cannot write /dev/full: No space left on device', 'tensor', self.weights,
             f'--model={MODEL}', '--name=token_embd.weight', '--out=/dev/full'),
            ('cannot read /nonexistent/x: No such file or directory', 'tokenize', self.weights,
             f'--model={MODEL}', '--text-file=/nonexistent/x'),
            ('give one of --prompt=TEXT, --prompt-file=FILE and --tokens=IDS', 'generate',
             self.at_worker),
            (f'{worker}: .*100000.*', 'generate', self.at_worker, '--tokens=100000'),
            (f'{worker}: .*', 'generate', self.at_worker, '--prompt=x', '--temperature=-1'),
            ('the model has no chat template; give the whole prompt without --chat', 'generate',
             self.at_worker, '--prompt=x', '--chat'),
            ('--chat wants a text, .*', 'generate', self.at_worker, '--tokens=1', '--chat'),
            ('--chat wants a text, .*', 'generate', self.at_worker, '--prompt=x', '--chat',
             '--plain-text'),
            (f'{worker}: .*', 'evaluate', self.at_worker, '--tokens=[]'),
            ('give one of --weights=ADDR and --worker=ADDR', 'memory'),
            (f'the daemon at {address} does not offer this: .*', 'placement',
             f'--worker={address}'),
        ]
        for message, *arguments in cases:
            with self.subTest(arguments=arguments):
                self.assert_fails(message, *arguments)

    def test_progress_bar_only_on_a_terminal(self):
        _, _, err = offloadctl('verify', MODEL, self.weights)
        self.assertEqual(err, b'')
        ours, theirs = pty.openpty()
        with subprocess.Popen([OFFLOADCTL, 'verify', MODEL, self.weights], stderr=theirs,
                              stdout=subprocess.DEVNULL) as process:
            os.close(theirs)
            shown = b''
            try:
                while piece := os.read(ours, 4096):
                    shown += piece
            except OSError:  # the other side is closed
                pass
            self.assertEqual(process.wait(), 0)
        os.close(ours)
        self.assertRegex(shown, rb'llama-kq \[#* *\] +\d+ %')


if __name__ == '__main__':
    unittest.main()
