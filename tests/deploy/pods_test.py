"""The pods of the overlays as they are rendered: their images, arguments, users, mounts and probes,
run without a cluster in namespaces of this machine, with certificates of deploy/certs.sh."""

import json
import os
import shutil
import subprocess
import unittest

import rules
from containers import ContainerTest, eventually, folder_for
from rendering import needs_kubectl, render

MODEL = 'qwen3-iq'
OFFLOADCTL = '/opt/gguf-offload/bin/offloadctl'
# What this machine cannot do: no GPU, and a processor or two.
REPLACED = {'--backend=cuda': '--backend=cpu', '--gpu-memory=6GiB': None, '--transport=auto': None,
            '--threads=4': '--threads=2', '--host-memory=5GiB': '--host-memory=256MiB'}


class Secret:
    """A mounted secret as the kubelet keeps it: names lead through a link to a folder, and the link
    changes when the secret does."""

    def __init__(self, folder, name, sans, authority='ca'):
        self.path = folder_for(os.path.join(folder, f'secret-{name}'), 0)
        self._certificates = os.path.join(folder, 'certificates')
        self._name, self._sans, self._authority, self._count = name, sans, authority, 0
        self.issue()
        for file in ('tls.crt', 'tls.key', 'ca.crt'):
            os.symlink(f'..data/{file}', os.path.join(self.path, file))

    def issue(self):
        """Puts a new certificate in place."""
        subprocess.run(['deploy/certs.sh', f'--out={self._certificates}', f'--name={self._name}',
                        f'--san={self._sans}', f'--authority={self._authority}', '--force'],
                       check=True, capture_output=True, timeout=60)
        self._count += 1
        folder = folder_for(os.path.join(self.path, f'..version-{self._count}'), 0)
        for file in ('tls.crt', 'tls.key', 'ca.crt'):
            shutil.copy(os.path.join(self._certificates, self._name, file), folder)
            os.chmod(os.path.join(folder, file), 0o444)
        os.symlink(os.path.basename(folder), os.path.join(self.path, '..new'))
        os.rename(os.path.join(self.path, '..new'), os.path.join(self.path, '..data'))
        return self

    def serial(self):
        return serial_of(os.path.join(self.path, 'tls.crt'))


def serial_of(path_or_pem):
    done = subprocess.run(['openssl', 'x509', '-noout', '-serial',
                           *(['-in', path_or_pem] if os.path.exists(path_or_pem) else [])],
                          input=None if os.path.exists(path_or_pem) else path_or_pem,
                          capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


class PodsTest(ContainerTest):
    """One overlay, started in setUpClass; what to ask of it is in Checks."""

    OVERLAY = ''

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.cluster = rules.Cluster(render(cls.OVERLAY))
        cls.secrets = {
            'computed-tls': Secret(cls.folder, 'computed', 'DNS:computed.gguf-offload.svc'),
            'weightd-tls': Secret(cls.folder, 'weightd', 'DNS:weightd.gguf-offload.svc'),
            'client': Secret(cls.folder, 'client', 'DNS:client.test'),
            'stranger': Secret(cls.folder, 'stranger', 'DNS:computed.gguf-offload.svc', 'other')}
        weightd = cls.images['weightd'].user[0]
        cls.models = folder_for(os.path.join(cls.folder, 'models'), weightd)
        shutil.copy(f'tests/testdata/golden/models/{MODEL}.gguf', cls.models)
        os.chmod(f'{cls.models}/{MODEL}.gguf', 0o444)
        # An emptyDir; or a folder of the node, as gguf-offload.tmpfiles.conf makes it.
        kinds = [source for load in cls.cluster.workloads
                 for name, source in [(volume['name'], load.volume(volume['name'])[0])
                                      for volume in load.pod['volumes']] if name == 'socket']
        cls.socket = os.path.join(cls.folder, 'socket')
        if 'hostPath' in kinds:
            folder_for(cls.socket, weightd, 0o755)
        else:
            folder_for(cls.socket, 0, 0o777)
        cls.processes = {}
        for name in ('weightd', 'computed'):
            cls.processes[name] = cls.start_container(name)
            if name == 'weightd':
                cls.processes[name].wait_for_line('listening on ')
        cls.processes['computed'].wait_for_line('listening on ')

    @classmethod
    def mounts(cls, name):
        load, container = cls.cluster.daemon(name)
        mounts = []
        for mount in container['volumeMounts']:
            kind, source = load.volume(mount['name'])
            path = {'models': cls.models, 'socket': cls.socket}.get(mount['name'])
            if kind == 'secret':
                path = cls.secrets[source['secretName']].path
            mounts.append([path, mount['mountPath'], mount.get('readOnly', False)])
        return mounts

    @classmethod
    def options(cls, name):
        context = cls.cluster.daemon(name)[1]['securityContext']
        return {'user': [context['runAsUser'], context['runAsGroup']],
                'hosts': '127.0.0.1 localhost weightd.gguf-offload.svc computed.gguf-offload.svc\n'}

    @classmethod
    def start_container(cls, name):
        image = cls.images[name].config['Entrypoint']
        args = [REPLACED.get(argument, argument).replace('$(MODEL)', MODEL)
                for argument in cls.cluster.daemon(name)[1]['args']
                if REPLACED.get(argument, argument) is not None]
        return cls.start(name, [*image, *args], cls.mounts(name), **cls.options(name))

    def execute(self, name, argv):
        """As `kubectl exec`, or a probe."""
        return self.run_in(name, argv, self.mounts(name), **self.options(name))

    def client(self, *arguments, secret='client'):
        """offloadctl with a certificate of its own, elsewhere in the cluster."""
        return self.run_in('computed', [
            OFFLOADCTL, *arguments, '--tls-ca=/run/gguf-offload/ca.crt',
            '--tls-cert=/etc/gguf-offload/tls/tls.crt', '--tls-key=/etc/gguf-offload/tls/tls.key',
            '--tls-server-name=computed.gguf-offload.svc'],
            [[self.secrets[secret].path, '/etc/gguf-offload/tls', True],
             [self.secrets['computed-tls'].path, '/run/gguf-offload', True]])

    def generate(self, **options):
        return self.client('generate', '--worker=127.0.0.1:7071', '--prompt=Hello',
                           '--max-tokens=8', **options)

    def probe(self, name, kind):
        container = self.cluster.daemon(name)[1]
        probe = container[kind]
        if 'exec' in probe:
            return self.execute(name, probe['exec']['command']).returncode == 0
        port = next(port['containerPort'] for port in container['ports']
                    if port['name'] == probe['httpGet']['port'])
        return self.http_get(port, probe['httpGet']['path'])[0] == 200


class Checks:
    """What holds in every overlay."""

    def test_probes(self):
        for name in ('weightd', 'computed'):
            for kind in ('startupProbe', 'livenessProbe', 'readinessProbe'):
                eventually(lambda name=name, kind=kind: self.probe(name, kind), f'{name}: {kind}')

    def test_generates_for_a_client_with_a_certificate(self):
        done = self.generate()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stderr, r'generated [1-8] tokens')

    def test_refuses_a_client_without(self):
        done = self.run_in('computed', [OFFLOADCTL, 'generate', '--worker=127.0.0.1:7071',
                                        '--prompt=Hello', '--max-tokens=8'], [])
        self.assertEqual(done.returncode, 1)
        self.assertEqual(done.stdout, '')

    def test_refuses_a_stranger(self):
        """With a certificate of the right name by another authority."""
        done = self.generate(secret='stranger')
        self.assertEqual((done.returncode, done.stdout), (1, ''), done.stderr)

    def test_metrics(self):
        for name, port in (('weightd', 9090), ('computed', 9091)):
            status, text = self.http_get(port, '/metrics')
            self.assertEqual(status, 200, name)
            self.assertIn('\ngguf_offload_', text)
        (scaler,) = self.cluster.all('HorizontalPodAutoscaler')
        metric = scaler['spec']['metrics'][0]['pods']['metric']['name']
        self.assertRegex(text, rf'(?m)^{metric}(\{{.*\}})? 0$')


@needs_kubectl
class CpuTest(PodsTest, Checks):
    OVERLAY = 'cpu'

    def test_alive_without_weights(self):
        """weightd's end makes no worker unwell, and a new weightd serves it again."""
        code = self.processes['weightd'].terminate()
        weights_ready = self.probe('weightd', 'readinessProbe')
        alive = self.probe('computed', 'livenessProbe')
        ready = self.probe('computed', 'readinessProbe')
        answer = self.generate()
        # Before any assertion: other tests want it.
        type(self).processes['weightd'] = self.start_container('weightd')
        self.processes['weightd'].wait_for_line('listening on ')
        self.assertEqual(code, 0)
        self.assertEqual((weights_ready, alive, ready), (False, True, True))
        self.assertEqual(answer.returncode, 0, answer.stderr)
        eventually(lambda: self.probe('weightd', 'readinessProbe'), 'weightd is not ready')

    def test_writes_nowhere(self):
        for name, expected in (('weightd', {'/run/gguf-offload'}), ('computed', set())):
            found = subprocess.run(
                self.container(name, ['@writable'], self.mounts(name), **self.options(name)),
                capture_output=True, text=True, check=True, timeout=60).stdout
            self.assertEqual({path for path in json.loads(found)
                              if not path.endswith('.sock')}, expected)


@needs_kubectl
class GpuTest(PodsTest, Checks):
    """With a processor in place of the GPU."""
    OVERLAY = 'gpu'


@needs_kubectl
class RemoteWeightsTest(PodsTest, Checks):
    OVERLAY = 'remote-weights'

    def served_serial(self, port):
        """Of the certificate that a new connection gets."""
        certificates = os.path.join(self.folder, 'certificates')
        done = subprocess.run(
            self.in_network('openssl', 's_client', '-connect', f'127.0.0.1:{port}', '-cert',
                            f'{certificates}/client/tls.crt', '-key',
                            f'{certificates}/client/tls.key', '-alpn', 'h2'),
            input='', capture_output=True, text=True, errors='replace', check=False, timeout=60)
        return serial_of(done.stdout)

    def test_certificates_change_without_a_restart(self):
        for name, secret, port in (('weightd', 'weightd-tls', 7070),
                                   ('computed', 'computed-tls', 7071)):
            before = self.secrets[secret].serial()
            eventually(lambda: self.served_serial(port) == before, 'the first certificate')
            after = self.secrets[secret].issue().serial()
            self.assertNotEqual(before, after)
            eventually(lambda port=port, after=after: self.served_serial(port) == after,
                       f'{name} still serves its old certificate')
            self.assertTrue(self.probe(name, 'readinessProbe'))
        self.test_generates_for_a_client_with_a_certificate()

    def test_weights_are_for_workers_only(self):
        """A client with a certificate of the same authority gets no weights."""
        done = self.run_in('computed', [
            OFFLOADCTL, 'models', '--weights=127.0.0.1:7070',
            '--tls-ca=/etc/gguf-offload/tls/ca.crt', '--tls-cert=/etc/gguf-offload/tls/tls.crt',
            '--tls-key=/etc/gguf-offload/tls/tls.key',
            '--tls-server-name=weightd.gguf-offload.svc'],
            [[self.secrets['client'].path, '/etc/gguf-offload/tls', True]])
        self.assertEqual(done.returncode, 1)
        self.assertNotIn(MODEL, done.stdout)


del ContainerTest, PodsTest


if __name__ == '__main__':
    unittest.main()
