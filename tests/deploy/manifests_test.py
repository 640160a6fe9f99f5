"""Every overlay of deploy/kubernetes: its objects are what the API takes, fit together, and keep
the rules; and mistakes in them would be found."""

import copy
import os
import re
import unittest

import daemon_rules
import rules
from rendering import (OVERLAYS, name_of, needs_kubectl, needs_schemas, render, schema_complaints)

RULES = [rules.versions, rules.selectors, rules.ports, rules.references, rules.restricted_profile,
         rules.network_policies, rules.images, rules.resources, daemon_rules.probes,
         daemon_rules.transport_security, daemon_rules.grace, daemon_rules.weights]

# What deploy/README.md tells the user to provide.
PROVIDED = {
    'cpu': {'Secret/computed-tls', 'PersistentVolumeClaim/models'},
    'gpu': {'Secret/computed-tls'},
    'remote-weights': {'Secret/computed-tls', 'Secret/weightd-tls', 'PersistentVolumeClaim/models'},
}
# A kubectl with a kustomize of another age.
OTHER_KUBECTL = os.environ.get('GGUF_OFFLOAD_OTHER_KUBECTL', '')
BINARIES = os.environ.get('GGUF_OFFLOAD_BINARIES', os.getcwd())
PROGRAMS = {'weightd': f'{BINARIES}/weightd/weightd', 'computed': f'{BINARIES}/computed/computed',
            'offloadctl': f'{BINARIES}/computed/cli/offloadctl'}


def complaints(objects, provided):
    cluster = rules.Cluster(objects, provided)
    return [complaint for rule in RULES for complaint in rule(cluster)]


@needs_kubectl
class OverlaysTest(unittest.TestCase):

    @classmethod
    def setUpClass(cls):
        cls.overlays = {overlay: render(overlay) for overlay in OVERLAYS}

    def test_these_are_all(self):
        self.assertEqual(set(OVERLAYS), set(PROVIDED))

    def test_what_the_user_provides_is_documented(self):
        with open('deploy/README.md', encoding='utf-8') as file:
            page = file.read()
        for overlay, provided in PROVIDED.items():
            for name in provided:
                self.assertIn(f'`{name.partition("/")[2]}`', page, overlay)

    @needs_schemas
    def test_objects_follow_their_schemas(self):
        for overlay, objects in self.overlays.items():
            with self.subTest(overlay):
                self.assertGreater(len(objects), 8)
                self.assertEqual(schema_complaints(objects), [])

    def test_rules(self):
        for overlay, objects in self.overlays.items():
            with self.subTest(overlay):
                self.assertEqual(complaints(objects, PROVIDED[overlay]), [])

    def test_kinds(self):
        for overlay, kinds in {'cpu': set(), 'gpu': {'DaemonSet'},
                               'remote-weights': {'StatefulSet'}}.items():
            self.assertLessEqual(
                kinds | {'Namespace', 'ServiceAccount', 'ConfigMap', 'Deployment', 'Service',
                         'PodDisruptionBudget', 'NetworkPolicy', 'ServiceMonitor',
                         'HorizontalPodAutoscaler'},
                {item['kind'] for item in self.overlays[overlay]}, overlay)

    def test_the_cpu_overlay_is_one_restricted_pod(self):
        cluster = rules.Cluster(self.overlays['cpu'])
        (load,) = cluster.workloads
        self.assertEqual({container['name'] for container in load.containers},
                         {'weightd', 'computed'})
        self.assertEqual(
            cluster.find('Namespace', 'gguf-offload')['metadata']['labels']
            ['pod-security.kubernetes.io/enforce'], 'restricted')

    def test_flags_are_known(self):
        known = {name: daemon_rules.known_flags(PROGRAMS[name]) for name in ('weightd', 'computed')}
        for name, flags in known.items():
            self.assertLess({'listen', 'grace', 'model'}, flags, name)
        for overlay, objects in self.overlays.items():
            with self.subTest(overlay):
                self.assertEqual(
                    list(daemon_rules.unknown_flags(rules.Cluster(objects), known)), [])

    def test_an_unknown_flag_is_found(self):
        objects = copy.deepcopy(self.overlays['gpu'])
        rules.Cluster(objects).daemon('computed')[1]['args'].append('--gpu-memroy=1GiB')
        known = {name: daemon_rules.known_flags(PROGRAMS[name]) | {
            argument[2:].partition('=')[0]
            for _, container in rules.Cluster(self.overlays['gpu']).containers()
            for argument in container['args']} for name in ('weightd', 'computed')}
        self.assertEqual(list(daemon_rules.unknown_flags(rules.Cluster(objects), known)),
                         ['Deployment/computed: computed does not know --gpu-memroy=1GiB'])

    def test_metrics_have_their_names(self):
        """What the autoscaler asks for is what the worker exports."""
        (scaler,) = rules.Cluster(self.overlays['cpu']).all('HorizontalPodAutoscaler')
        name = scaler['spec']['metrics'][0]['pods']['metric']['name']
        with open(PROGRAMS['computed'], 'rb') as file:
            self.assertTrue(name.encode() in file.read(), f'computed exports no {name}')


@needs_kubectl
@unittest.skipUnless(OTHER_KUBECTL, 'GGUF_OFFLOAD_OTHER_KUBECTL names no second kubectl')
class OtherKustomizeTest(unittest.TestCase):

    def test_it_renders_the_same(self):
        for overlay in OVERLAYS:
            mine, its = ([plain(item) for item in render(overlay, *which)]
                         for which in ((), (OTHER_KUBECTL,)))
            order = lambda item: (item['kind'], item['metadata']['name'])  # noqa: E731
            self.assertEqual(sorted(mine, key=order), sorted(its, key=order), overlay)


def plain(value):
    """Without the hash of the settings, which each version computes in its own way."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return re.sub(r'^settings-\w+$', 'settings', value) if isinstance(value, str) else value


@needs_kubectl
class PlantedMistakesTest(unittest.TestCase):
    """Each mistake is planted into an overlay that has none, and must be the only one found."""

    @classmethod
    def setUpClass(cls):
        cls.overlays = {overlay: render(overlay) for overlay in OVERLAYS}

    def plant(self, overlay, mistake):
        objects = copy.deepcopy(self.overlays[overlay])
        mistake(rules.Cluster(objects))
        self.assertNotEqual(objects, self.overlays[overlay])
        return objects

    def assert_found(self, found, pattern):
        self.assertTrue(found, f'not found: {pattern}')
        for complaint in found:
            self.assertRegex(complaint, pattern)

    def schema(self, pattern, mistake, overlay='cpu'):
        with self.subTest(pattern):
            self.assert_found(schema_complaints(self.plant(overlay, mistake)), pattern)

    def rule(self, pattern, mistake, overlay='cpu'):
        with self.subTest(pattern):
            self.assert_found(
                complaints(self.plant(overlay, mistake), PROVIDED[overlay]), pattern)

    @needs_schemas
    def test_fields(self):
        def worker(cluster):
            return cluster.daemon('computed')[1]
        pod = lambda cluster: cluster.workloads[0].pod  # noqa: E731
        self.schema('unknown field', lambda c: worker(c).update(livenesProbe={}))
        self.schema('/0/imagePullPolcy: unknown field',
                    lambda c: worker(c).update(imagePullPolcy='Always'))
        self.schema('/spec/containers/0/nodeSelector: unknown field',
                    lambda c: pod(c)['containers'][0].update(nodeSelector={'a': 'b'}))
        self.schema('/spec/terminationGracePeriodSeconds: unknown field',
                    lambda c: c.workloads[0].item['spec'].update(terminationGracePeriodSeconds=1))
        self.schema('/spec/endpoints/0/intervall: unknown field', lambda c: c.all(
            'ServiceMonitor')[0]['spec']['endpoints'][0].update(intervall='5s'))
        self.schema('/metadata/label: unknown field',
                    lambda c: c.all('Service')[0]['metadata'].update(label={}))

    @needs_schemas
    def test_types(self):
        self.schema('containerPort: type integer', lambda c: c.daemon(
            'computed')[1]['ports'][0].update(containerPort='7071'))
        self.schema('args/0: type string',
                    lambda c: c.daemon('computed')[1]['args'].insert(0, True))
        self.schema('nvidia', lambda c: c.daemon('computed')[1]['resources']['limits'].update(
            {'nvidia.com/gpu': {'count': 1}}), 'gpu')
        self.schema('containers: type array|containers/name: unknown',
                    lambda c: c.workloads[0].pod.update(containers={'name': 'computed'}))
        self.schema('maxReplicas: type integer', lambda c: c.all(
            'HorizontalPodAutoscaler')[0]['spec'].update(maxReplicas='four'))

    @needs_schemas
    def test_what_is_required(self):
        self.schema('required selector', lambda c: c.workloads[0].item['spec'].pop('selector'))
        self.schema('required name', lambda c: c.daemon('computed')[1].pop('name'))
        self.schema('required maxReplicas', lambda c: c.all(
            'HorizontalPodAutoscaler')[0]['spec'].pop('maxReplicas'))
        self.schema('required endpoints',
                    lambda c: c.all('ServiceMonitor')[0]['spec'].pop('endpoints'))

    @needs_schemas
    def test_versions(self):
        self.schema('no Deployment in v1',
                    lambda c: c.workloads[0].item.update(apiVersion='v1'))
        self.schema('no PodDisruptionBudget in policy/v2', lambda c: c.all(
            'PodDisruptionBudget')[0].update(apiVersion='policy/v2'))
        self.schema('no StatefulSets in apps/v1', lambda c: c.all(
            'StatefulSet')[0].update(kind='StatefulSets'), 'remote-weights')

    def test_versions_that_are_gone(self):
        self.rule('is not served|to scale',
                  lambda c: c.workloads[0].item.update(apiVersion='extensions/v1beta1'))
        self.rule('is not served', lambda c: c.all(
            'HorizontalPodAutoscaler')[0].update(apiVersion='autoscaling/v2beta2'))
        self.rule('is not served', lambda c: c.all(
            'PodDisruptionBudget')[0].update(apiVersion='policy/v1beta1'))

    def test_selectors(self):
        self.rule('selector does not match', lambda c: c.workloads[0].item['spec']['selector'][
            'matchLabels'].update(tier='x'))
        self.rule('Service/computed: the selector matches no pods', lambda c: c.find(
            'Service', 'computed')['spec']['selector'].update(tier='x'))
        self.rule('PodDisruptionBudget/computed: .* no pods', lambda c: c.all(
            'PodDisruptionBudget')[0]['spec']['selector']['matchLabels'].update(tier='x'))
        self.rule('ServiceMonitor/weightd: .* no service', lambda c: c.find(
            'ServiceMonitor', 'weightd')['spec']['selector']['matchLabels'].update(tier='x'))
        self.rule('to scale', lambda c: c.all('HorizontalPodAutoscaler')[0]['spec'][
            'scaleTargetRef'].update(kind='StatefulSet'))
        self.rule('replicas of its own',
                  lambda c: c.workloads[0].item['spec'].update(replicas=2))
        self.rule('a spread constraint', lambda c: c.workloads[0].pod[
            'topologySpreadConstraints'][0]['labelSelector']['matchLabels'].update(tier='x'))

    def test_ports(self):
        self.rule('livenessProbe|livez', lambda c: c.daemon('computed')[1]['livenessProbe'][
            'httpGet'].update(port='metricz'))
        self.rule('has no port', lambda c: c.find('Service', 'computed')['spec']['ports'][
            0].update(targetPort='http'))
        self.rule('ServiceMonitor/computed: .* no port', lambda c: c.find(
            'ServiceMonitor', 'computed')['spec']['endpoints'][0].update(port='http'))
        self.rule('nothing has the port 9099', lambda c: c.find('NetworkPolicy', 'scraping')[
            'spec']['ingress'][0]['ports'][0].update(port=9099))
        self.rule('two ports have one name|livez|no port weightd-metrics', lambda c: c.daemon(
            'weightd')[1]['ports'][0].update(name='metrics'))
        self.rule('serves nothing|does not ask|nothing listens', lambda c: replace_flag(
            c, 'computed', 'listen', '0.0.0.0:7070'))

    def test_references(self):
        self.rule('no volume sockets', lambda c: c.daemon('computed')[1]['volumeMounts'].append(
            {'name': 'sockets', 'mountPath': '/s'}))
        self.rule('nothing mounts the volume scratch', lambda c: c.workloads[0].pod[
            'volumes'].append({'name': 'scratch', 'emptyDir': {}}))
        self.rule('nobody provides the Secret', lambda c: c.workloads[0].pod['volumes'][
            [v['name'] for v in c.workloads[0].pod['volumes']].index('tls')]['secret'].update(
                secretName='tls'))
        self.rule('no service account', lambda c: c.workloads[0].pod.update(
            serviceAccountName='other'))
        self.rule('no variable MODEL', lambda c: c.daemon('computed')[1].update(env=[]))
        self.rule('comes from nowhere', lambda c: c.daemon('computed')[1]['env'][0]['valueFrom'][
            'configMapKeyRef'].update(key='MODLE'))

    def test_restricted_profile(self):
        def context(cluster):
            return cluster.daemon('computed')[1]['securityContext']
        self.rule('is privileged', lambda c: context(c).update(privileged=True))
        self.rule('may run as root|another user|the user of computed',
                  lambda c: context(c).update(runAsUser=0))
        self.rule('may gain privileges', lambda c: context(c).pop('allowPrivilegeEscalation'))
        self.rule('keeps capabilities',
                  lambda c: context(c)['capabilities'].update(add=['IPC_LOCK']))
        self.rule('no seccomp profile',
                  lambda c: c.workloads[0].pod['securityContext'].pop('seccompProfile'))
        self.rule('may write to its image', lambda c: context(c).pop('readOnlyRootFilesystem'))
        self.rule('hostNetwork', lambda c: c.workloads[0].pod.update(hostNetwork=True))
        self.rule('gets a token', lambda c: c.workloads[0].pod.pop('automountServiceAccountToken'))
        self.rule('volumes of the kind hostPath|share the folder|own for', lambda c: replace_volume(
            c, 'socket', {'hostPath': {'path': '/run/x', 'type': 'Directory'}}))
        self.rule('takes a port of the host', lambda c: c.daemon('computed')[1]['ports'][
            0].update(hostPort=7071))

    def test_network(self):
        self.rule('no policy denies', lambda c: c.objects.remove(
            c.find('NetworkPolicy', 'default-deny')))
        self.rule('allows all', lambda c: c.find('NetworkPolicy', 'computed-from-clients')['spec'][
            'ingress'][0].pop('from'))
        self.rule('no network policy lets computed resolve names', lambda c: c.find(
            'NetworkPolicy', 'computed-to-weightd')['spec']['egress'].pop(1), 'remote-weights')
        self.rule('the egress of Deployment/computed', lambda c: c.find(
            'NetworkPolicy', 'computed-to-weightd')['spec']['egress'].pop(0), 'remote-weights')
        self.rule('the ingress of StatefulSet/weightd', lambda c: c.objects.remove(
            c.find('NetworkPolicy', 'weightd-from-computed')), 'remote-weights')

    def test_probes(self):
        self.rule('liveness asks for more|livez', lambda c: c.daemon('computed')[1].update(
            livenessProbe=c.daemon('computed')[1]['readinessProbe']))
        self.rule('readinessProbe does not ask', lambda c: c.daemon('computed')[1].update(
            readinessProbe={'tcpSocket': {'port': 'grpc'}}))
        self.rule('its --tls-ca is not', lambda c: c.daemon('computed')[1]['startupProbe']['exec'][
            'command'].remove('--tls-ca=/etc/gguf-offload/tls/ca.crt'))
        self.rule('gives up before', lambda c: c.daemon('computed')[1]['startupProbe'].update(
            failureThreshold=30))
        self.rule('before it gives up', lambda c: c.daemon('computed')[1]['startupProbe'].update(
            timeoutSeconds=2))
        self.rule('neither the kubelet', lambda c: replace_flag(
            c, 'computed', 'metrics', '127.0.0.1:9091'))

    def test_grace(self):
        self.rule('killed after 120 s', lambda c: c.workloads[0].pod.update(
            terminationGracePeriodSeconds=120))
        self.rule('shorter than the longest deadline',
                  lambda c: replace_flag(c, 'computed', 'grace', '60s'))
        self.rule('killed after 60 s, but --grace is 90 s', lambda c: replace_flag(
            c, 'weightd', 'grace', '90s'), 'gpu')

    def test_transport_security(self):
        self.rule('without TLS|its --tls|belong together', lambda c: [
            c.daemon('computed')[1]['args'].remove(argument) for argument in list(
                c.daemon('computed')[1]['args']) if argument.startswith('--tls')])
        self.rule('listens on .* without TLS', lambda c: replace_flag(
            c, 'weightd', 'listen', '0.0.0.0:7070'))
        self.rule('--admin is for the loopback', lambda c: replace_flag(
            c, 'computed', 'admin', '0.0.0.0:7073'))
        self.rule('does not follow its secret', lambda c: next(
            mount for mount in c.daemon('computed')[1]['volumeMounts']
            if mount['name'] == 'tls').update(subPath='tls.crt'))
        self.rule('does not let computed call', lambda c: replace_flag(
            c, 'weightd', 'tls-allow', 'weightd.gguf-offload.svc'), 'remote-weights')

    def test_weights(self):
        self.rule('does not let the user of computed', lambda c: replace_flag(
            c, 'weightd', 'allow-uid', '1000'), 'gpu')
        self.rule('do not share the folder', lambda c: replace_volume(
            c, 'socket', {'hostPath': {'path': '/run/other', 'type': 'Directory'}}), 'gpu')
        self.rule('has its socket elsewhere|share the folder', lambda c: replace_flag(
            c, 'computed', 'weights', 'unix:/run/weightd.sock'), 'gpu')
        self.rule('owns the files|another user|the user of computed', lambda c: c.daemon(
            'computed')[1]['securityContext'].update(runAsUser=65531), 'gpu')

    def test_resources(self):
        self.rule('not its limit', lambda c: c.daemon('weightd')[1]['resources'][
            'requests'].update(memory='1Gi'))
        self.rule('more threads', lambda c: replace_flag(c, 'computed', 'threads', '16'))
        self.rule('not be limited', lambda c: c.daemon('computed')[1]['resources'][
            'limits'].update(cpu='4'))
        self.rule('does not fit', lambda c: replace_flag(c, 'computed', 'host-memory', '9GiB'),
                  'remote-weights')
        self.rule('GPUs', lambda c: c.daemon('computed')[1]['resources']['limits'].pop(
            'nvidia.com/gpu'), 'gpu')

    def test_images(self):
        self.rule('has no version', lambda c: c.daemon('computed')[1].update(
            image='gguf-offload/computed:latest'))
        self.rule('there is no deploy/images/nginx', lambda c: c.daemon('computed')[1].update(
            image='library/nginx:1.27'))


def replace_flag(cluster, name, flag, value):
    args = cluster.daemon(name)[1]['args']
    index = next(i for i, argument in enumerate(args) if argument.startswith(f'--{flag}='))
    args[index] = f'--{flag}={value}'


def replace_volume(cluster, name, source):
    for volume in cluster.daemon('computed')[0].pod['volumes']:
        if volume['name'] == name:
            volume.clear()
            volume.update(name=name, **source)


if __name__ == '__main__':
    unittest.main()
