"""What must hold in an overlay beyond its objects' schemas.

Each rule is a function of a Cluster that yields complaints; RULES has them all. What the schemas
already say (that a field is there, and its type) is not asked again.
"""

import dataclasses
import os
import re

from rendering import name_of

IMAGES = 'deploy/images'
PROGRAMS = '/opt/gguf-offload/bin'
HEALTH = [f'{PROGRAMS}/offloadctl', 'health']
# What clusters since 1.25 serve; the schemas also know versions that are gone.
SERVED = {'v1', 'apps/v1', 'autoscaling/v2', 'networking.k8s.io/v1', 'policy/v1',
          'monitoring.coreos.com/v1'}
RESTRICTED_VOLUMES = {'configMap', 'csi', 'downwardAPI', 'emptyDir', 'ephemeral',
                      'persistentVolumeClaim', 'projected', 'secret'}


@dataclasses.dataclass
class Workload:
    """A Deployment, DaemonSet or StatefulSet."""
    item: dict

    @property
    def name(self):
        return name_of(self.item)

    @property
    def template(self):
        return self.item['spec']['template']

    @property
    def labels(self):
        return self.template['metadata'].get('labels', {})

    @property
    def pod(self):
        return self.template['spec']

    @property
    def containers(self):
        return self.pod['containers']

    def volume(self, name):
        """The source of a volume: ('emptyDir', {...}); None if there is no such volume."""
        for volume in self.pod.get('volumes', []):
            if volume['name'] == name:
                return next((key, value) for key, value in volume.items() if key != 'name')
        return None

    def mount_of(self, container, path):
        """(path of the mount, source of the volume) that `path` is in; None if it is in none."""
        for mount in container.get('volumeMounts', []):
            if path.startswith(mount['mountPath'].rstrip('/') + '/'):
                return mount['mountPath'], self.volume(mount['name'])
        return None


class Cluster:
    """The objects of an overlay, and the names of those that its user provides."""

    def __init__(self, objects, provided=()):
        self.objects = objects
        self.provided = set(provided)
        self.workloads = [Workload(item) for item in objects
                          if item['kind'] in ('Deployment', 'DaemonSet', 'StatefulSet')]

    def all(self, kind):
        return [item for item in self.objects if item['kind'] == kind]

    def find(self, kind, name):
        return next((item for item in self.all(kind) if item['metadata']['name'] == name), None)

    def pods(self, selector):
        """Workloads whose pods a selector (matchLabels only) takes."""
        return [load for load in self.workloads
                if matches(selector.get('matchLabels', selector), load.labels)]

    def containers(self):
        return [(load, container) for load in self.workloads for container in load.containers]

    def daemon(self, name):
        """(workload, container) of weightd or computed."""
        return next(((load, container) for load, container in self.containers()
                     if container['name'] == name), None)


def matches(selector, labels):
    return all(labels.get(key) == value for key, value in selector.items())


def flag(container, name, default=''):
    """The value of --name among a container's arguments; '' without one."""
    for argument in container.get('args', []):
        if argument == f'--{name}':
            return 'true'
        if argument.startswith(f'--{name}='):
            return argument.partition('=')[2]
    return default


def option(command, name):
    return flag({'args': command}, name)


def seconds(text):
    """Of a duration such as 90s or 2m."""
    units = {'s': 1, 'm': 60, 'h': 3600}
    match = re.fullmatch(r'(\d+)([smh])', text)
    return int(match[1]) * units[match[2]] if match else 0


def bytes_of(text):
    """Of a size such as 4Gi or 6GiB."""
    match = re.fullmatch(r'(\d+)([KMGT]i)B?', text)
    return int(match[1]) * 1024 ** (1 + 'KMGT'.index(match[2][0])) if match else 0


def is_loopback(address):
    return address.rpartition(':')[0] in ('127.0.0.1', 'localhost', '[::1]')


def versions(cluster):
    for item in cluster.objects:
        if item['apiVersion'] not in SERVED:
            yield f'{name_of(item)}: {item["apiVersion"]} is not served'


def selectors(cluster):
    """Every selector takes something, and a workload's takes its own pods."""
    for load in cluster.workloads:
        if not matches(load.item['spec']['selector']['matchLabels'], load.labels):
            yield f'{load.name}: the selector does not match the labels of its pods'
        for spread in load.pod.get('topologySpreadConstraints', []):
            if not matches(spread['labelSelector']['matchLabels'], load.labels):
                yield f'{load.name}: a spread constraint does not match its pods'
    for kind, field in (('Service', 'selector'), ('PodDisruptionBudget', 'selector'),
                        ('NetworkPolicy', 'podSelector')):
        for item in cluster.all(kind):
            if not cluster.pods(item['spec'][field]):
                yield f'{name_of(item)}: the selector matches no pods'
    for item in cluster.all('ServiceMonitor'):
        if not services_of(cluster, item):
            yield f'{name_of(item)}: the selector matches no service'
    for item in cluster.all('HorizontalPodAutoscaler'):
        target = item['spec']['scaleTargetRef']
        found = cluster.find(target['kind'], target['name'])
        if not found or found['apiVersion'] != target['apiVersion']:
            yield f'{name_of(item)}: there is no {target["kind"]} {target["name"]} to scale'
        elif 'replicas' in found['spec']:
            yield f'{name_of(item)}: {name_of(found)} has a number of replicas of its own'
    for item in cluster.all('StatefulSet'):
        if not cluster.find('Service', item['spec']['serviceName']):
            yield f'{name_of(item)}: there is no service {item["spec"]["serviceName"]}'


def services_of(cluster, monitor):
    return [service for service in cluster.all('Service')
            if matches(monitor['spec']['selector']['matchLabels'],
                       service['metadata'].get('labels', {}))]


def ports(cluster):
    """Every port that something names is there, under that name."""
    for load in cluster.workloads:
        named = [port['name'] for container in load.containers
                 for port in container.get('ports', []) if 'name' in port]
        if len(named) != len(set(named)):
            yield f'{load.name}: two ports have one name'
        for container in load.containers:
            own = {port['name'] for port in container.get('ports', [])}
            for probe in ('startupProbe', 'readinessProbe', 'livenessProbe'):
                port = container.get(probe, {}).get('httpGet', {}).get('port')
                if port is not None and port not in own:
                    yield f'{load.name}: {probe} of {container["name"]}: no port {port}'
            served = {flag(container, name).rpartition(':')[2] for name in ('listen', 'metrics')}
            for port in container.get('ports', []):
                if str(port['containerPort']) not in served:
                    yield f'{load.name}: {container["name"]} serves nothing on {port["name"]}'
    for service in cluster.all('Service'):
        for port in service['spec']['ports']:
            for load in cluster.pods(service['spec']['selector']):
                if port.get('targetPort', port['port']) not in port_names(load):
                    yield f'{name_of(service)}: {load.name} has no port {port.get("targetPort")}'
    for monitor in cluster.all('ServiceMonitor'):
        for endpoint in monitor['spec']['endpoints']:
            for service in services_of(cluster, monitor):
                if endpoint['port'] not in [port['name'] for port in service['spec']['ports']]:
                    yield f'{name_of(monitor)}: {name_of(service)} has no port {endpoint["port"]}'
    for policy in cluster.all('NetworkPolicy'):
        for rule in policy['spec'].get('ingress', []):
            for port in rule.get('ports', []):
                if not any(port['port'] in port_names(load)
                           for load in cluster.pods(policy['spec']['podSelector'])):
                    # One policy lets Prometheus reach both daemons, whichever pod they are in.
                    if not any(port['port'] in port_names(load) for load in cluster.workloads):
                        yield f'{name_of(policy)}: nothing has the port {port["port"]}'


def port_names(load):
    every = [port for container in load.containers for port in container.get('ports', [])]
    return {port['name'] for port in every} | {port['containerPort'] for port in every}


def references(cluster):
    """What is mounted or named exists, or its user provides it."""
    def missing(kind, name):
        return not cluster.find(kind, name) and f'{kind}/{name}' not in cluster.provided

    for load in cluster.workloads:
        account = load.pod.get('serviceAccountName', 'default')
        if missing('ServiceAccount', account):
            yield f'{load.name}: there is no service account {account}'
        sources = {volume['name']: load.volume(volume['name'])
                   for volume in load.pod.get('volumes', [])}
        mounted = {mount['name'] for container in load.containers
                   for mount in container.get('volumeMounts', [])}
        for name in mounted - sources.keys():
            yield f'{load.name}: there is no volume {name}'
        for name in sources.keys() - mounted:
            yield f'{load.name}: nothing mounts the volume {name}'
        for source, value in sources.values():
            kind, key = {'secret': ('Secret', 'secretName'), 'configMap': ('ConfigMap', 'name'),
                         'persistentVolumeClaim': ('PersistentVolumeClaim', 'claimName'),
                         }.get(source, (None, None))
            if kind and missing(kind, value[key]):
                yield f'{load.name}: nobody provides the {kind} {value[key]}'
        for container in load.containers:
            variables = {variable['name'] for variable in container.get('env', [])}
            for name in re.findall(r'\$\((\w+)\)', ' '.join(container.get('args', []))):
                if name not in variables:
                    yield f'{load.name}: {container["name"]} has no variable {name}'
            for variable in container.get('env', []):
                source = variable.get('valueFrom', {}).get('configMapKeyRef')
                found = source and cluster.find('ConfigMap', source['name'])
                if source and (not found or source['key'] not in found['data']):
                    yield f'{load.name}: {variable["name"]} comes from nowhere'


def restricted_profile(cluster):
    """The Pod Security Standard that the namespace enforces; where that is none, all of the
    restricted one but volumes of the host."""
    (namespace,) = cluster.all('Namespace')
    level = namespace['metadata']['labels'].get('pod-security.kubernetes.io/enforce')
    if level not in ('restricted', 'privileged'):
        yield f'{name_of(namespace)}: pod-security.kubernetes.io/enforce is {level}'
    for load in cluster.workloads:
        pod, where = load.pod, load.name
        for field in ('hostNetwork', 'hostPID', 'hostIPC'):
            if pod.get(field):
                yield f'{where}: {field}'
        if pod.get('automountServiceAccountToken') is not False:
            yield f'{where}: it gets a token for the API server'
        for volume in pod.get('volumes', []):
            source, _ = load.volume(volume['name'])
            allowed = RESTRICTED_VOLUMES | ({'hostPath'} if level == 'privileged' else set())
            if source not in allowed:
                yield f'{where}: volumes of the kind {source} are not allowed'
        for container in pod['containers'] + pod.get('initContainers', []):
            what = f'{where}: {container["name"]}'
            context = {**pod.get('securityContext', {}), **container.get('securityContext', {})}
            if context.get('privileged'):
                yield f'{what} is privileged'
            if context.get('allowPrivilegeEscalation') is not False:
                yield f'{what} may gain privileges'
            if context.get('runAsNonRoot') is not True or context.get('runAsUser', 0) == 0:
                yield f'{what} may run as root'
            if context.get('capabilities', {}) != {'drop': ['ALL']}:
                yield f'{what} keeps capabilities'
            if context.get('seccompProfile', {}).get('type') not in ('RuntimeDefault', 'Localhost'):
                yield f'{what} has no seccomp profile'
            if context.get('readOnlyRootFilesystem') is not True:
                yield f'{what} may write to its image'
            if any('hostPort' in port for port in container.get('ports', [])):
                yield f'{what} takes a port of the host'


def network_policies(cluster):
    """All traffic is denied but what a policy allows; clients do not get at metrics."""
    denied = [policy for policy in cluster.all('NetworkPolicy')
              if policy['spec']['podSelector'] == {} and
              set(policy['spec'].get('policyTypes', [])) == {'Ingress', 'Egress'} and
              not policy['spec'].get('ingress') and not policy['spec'].get('egress')]
    if not denied:
        yield 'no policy denies everything by default'
    for policy in cluster.all('NetworkPolicy'):
        for direction, peers in (('ingress', 'from'), ('egress', 'to')):
            for rule in policy['spec'].get(direction, []):
                if not rule.get(peers) or not rule.get('ports'):
                    yield f'{name_of(policy)}: {direction} without {peers} or ports allows all'


def images(cluster):
    """Images are ours, have a version, and run as the user that they were made for."""
    for load, container in cluster.containers():
        name, _, tag = container['image'].partition(':')
        dockerfile = f'{IMAGES}/{os.path.basename(name)}.Dockerfile'
        if tag in ('', 'latest'):
            yield f'{load.name}: {container["image"]} has no version'
        if not os.path.exists(dockerfile):
            yield f'{load.name}: there is no {dockerfile}'
            continue
        with open(dockerfile, encoding='utf-8') as file:
            user = re.search(r'^USER (\d+):(\d+)$', file.read(), re.MULTILINE)
        context = container.get('securityContext', {})
        if (str(context.get('runAsUser')), str(context.get('runAsGroup'))) != user.groups():
            yield f'{load.name}: {container["name"]} runs as another user than its image says'


def resources(cluster):
    """Memory is what was worked out and not shared out twice; threads have processors."""
    for load, container in cluster.containers():
        what = f'{load.name}: {container["name"]}'
        wanted = container.get('resources', {})
        requests, limits = wanted.get('requests', {}), wanted.get('limits', {})
        if 'memory' not in limits or requests.get('memory') != limits['memory']:
            yield f'{what}: the request for memory is not its limit'
        if 'cpu' not in requests or 'cpu' in limits:
            yield f'{what}: processors must be requested, and not be limited'
        elif int(flag(container, 'threads', '0')) > float(requests['cpu'].replace('m', 'e-3')):
            yield f'{what}: more threads than processors'
        held = bytes_of(flag(container, 'host-memory', '0'))
        if held >= bytes_of(limits.get('memory', '')):
            yield f'{what}: --host-memory does not fit into its memory'
        gpus = limits.get('nvidia.com/gpu'), requests.get('nvidia.com/gpu')
        wants_gpu = flag(container, 'backend') == 'cuda'
        if gpus != ((1, 1) if wants_gpu else (None, None)):
            yield f'{what}: GPUs {gpus} with --backend={flag(container, "backend")}'
        if wants_gpu and not flag(container, 'gpu-memory'):
            yield f'{what}: no --gpu-memory'
