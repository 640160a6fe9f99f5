"""What must hold of the daemons' arguments and probes in an overlay; see rules.py."""

import re
import subprocess

from rendering import name_of
from rules import HEALTH, PROGRAMS, flag, is_loopback, option, seconds

TLS = ('tls-cert', 'tls-key', 'tls-ca')
DEADLINE = 'gguf-offload/longest-deadline'


def probes(cluster):
    """Liveness asks the process only; the other two ask for health, as a client would."""
    for load, container in cluster.containers():
        what = f'{load.name}: {container["name"]}'
        live = container.get('livenessProbe', {})
        port = live.get('httpGet', {}).get('port')
        metrics = flag(container, 'metrics').rpartition(':')[2]
        if 'exec' in live or live.get('httpGet', {}).get('path') != '/livez':
            yield f'{what}: liveness asks for more than /livez'
        if not any(entry.get('name') == port and str(entry['containerPort']) == metrics
                   for entry in container.get('ports', [])):
            yield f'{what}: /livez is not at {port}, but where the metrics are'
        if is_loopback(flag(container, 'metrics')):
            yield f'{what}: neither the kubelet nor Prometheus reaches the metrics'
        for probe in ('startupProbe', 'readinessProbe'):
            command = container.get(probe, {}).get('exec', {}).get('command', [])
            if command[:2] != HEALTH:
                yield f'{what}: {probe} does not ask offloadctl health'
                continue
            if not 0 < int(option(command, 'timeout') or 0) < container[probe]['timeoutSeconds']:
                yield f'{what}: {probe} is killed before it gives up by itself'
            yield from health_address(load, container, f'{what}: {probe}', command)
        start = container.get('startupProbe', {})
        patience = start.get('periodSeconds', 10) * start.get('failureThreshold', 3)
        if patience <= seconds(flag(container, 'attach-timeout', '0s')):
            yield f'{what}: startupProbe gives up before --attach-timeout'


def health_address(load, container, what, command):
    address = option(command, 'address')
    if address.startswith('unix:'):
        if address != f'unix:{flag(container, "socket")}':
            yield f'{what}: nothing listens on {address}'
        return
    if address.rpartition(':')[2] != flag(container, 'listen').rpartition(':')[2]:
        yield f'{what}: nothing listens on {address}'
    for name in TLS:
        if option(command, name) != flag(container, name):
            yield f'{what}: its --{name} is not the daemon\'s'
    if flag(container, 'tls-cert') and not option(command, 'tls-server-name'):
        yield f'{what}: the certificate is not for {address}'


def transport_security(cluster):
    """Who listens beyond the loopback does so with certificates out of a secret, whole folders of
    which are mounted, so that they change while the daemon runs."""
    for load, container in cluster.containers():
        what = f'{load.name}: {container["name"]}'
        files = [flag(container, name) for name in TLS]
        if any(files) != all(files):
            yield f'{what}: --tls-cert, --tls-key and --tls-ca belong together'
        if not is_loopback(flag(container, 'listen')) and not all(files):
            yield f'{what}: listens on {flag(container, "listen")} without TLS'
        if not is_loopback(flag(container, 'admin', '127.0.0.1:0')):
            yield f'{what}: --admin is for the loopback'
        for path in filter(None, files):
            mount = load.mount_of(container, path)
            if not mount or not mount[1] or mount[1][0] != 'secret':
                yield f'{what}: {path} is not in a mounted secret'
        for mount in container.get('volumeMounts', []):
            source = load.volume(mount['name'])
            if source and source[0] == 'secret' and 'subPath' in mount:
                yield f'{what}: a subPath does not follow its secret'


def grace(cluster):
    """A pod that is replaced has time for what its clients have been promised."""
    for load in cluster.workloads:
        period = load.pod.get('terminationGracePeriodSeconds', 30)
        deadline = load.template['metadata'].get('annotations', {}).get(DEADLINE, '0s')
        for container in load.containers:
            promised = seconds(flag(container, 'grace', '30s'))
            if period <= promised:
                yield f'{load.name}: killed after {period} s, but --grace is {promised} s'
            if container['name'] == 'computed' and promised < seconds(deadline):
                yield f'{load.name}: --grace is shorter than the longest deadline'
        if period <= seconds(deadline):
            yield f'{load.name}: killed after {period} s, before the longest deadline'
    worker = cluster.daemon('computed')
    if worker and DEADLINE not in worker[0].template['metadata'].get('annotations', {}):
        yield f'{worker[0].name}: nobody says what the longest deadline is'


def weights(cluster):
    """The worker finds the weight daemon: by a socket in a folder that both mount, or by a service
    that its network policy lets it reach."""
    (worker_load, worker), (daemon_load, daemon) = (cluster.daemon('computed'),
                                                    cluster.daemon('weightd'))
    where = flag(worker, 'weights')
    if where.startswith('unix:'):
        path = where.removeprefix('unix:')
        mine, its = worker_load.mount_of(worker, path), daemon_load.mount_of(daemon, path)
        if path != flag(daemon, 'socket'):
            yield f'weightd has its socket elsewhere, not at {path}'
        if not mine or not its or mine[1] is None or mine != its:
            yield f'weightd and computed do not share the folder of {path}'
        elif mine[1][0] == 'emptyDir' and worker_load.item is not daemon_load.item:
            yield f'each pod has a folder of its own for {path}'
        if str(worker['securityContext']['runAsUser']) not in flag(daemon, 'allow-uid').split(','):
            yield 'weightd does not let the user of computed connect'
        if worker['securityContext']['runAsUser'] == daemon['securityContext']['runAsUser']:
            yield 'computed is the user who owns the files'
        return
    host, _, port = where.rpartition(':')
    service = cluster.find('Service', host.split('.')[0])
    if not service or port not in [str(entry['port']) for entry in service['spec']['ports']]:
        yield f'there is no service at {where}'
    names = set(flag(daemon, 'tls-allow').split(','))
    if f'computed.{service["metadata"]["namespace"]}.svc' not in names:
        yield 'weightd does not let computed call'
    own = option(daemon['readinessProbe']['exec']['command'], 'tls-server-name')
    if own not in names:
        yield 'weightd does not let its own probes call'
    for source, target, direction, peers in ((worker_load, daemon_load, 'egress', 'to'),
                                             (daemon_load, worker_load, 'ingress', 'from')):
        if not any(allows(policy, source, target, direction, peers, int(port))
                   for policy in cluster.all('NetworkPolicy')):
            yield f'no network policy allows the {direction} of {source.name} at {port}'
    if not any(entry['port'] == 53 and entry['protocol'] == 'UDP'
               for policy in cluster.all('NetworkPolicy')
               if policy['spec']['podSelector'].get('matchLabels', {}).items() <=
               worker_load.labels.items()
               for rule in policy['spec'].get('egress', []) for entry in rule['ports']):
        yield 'no network policy lets computed resolve names'


def allows(policy, source, target, direction, peers, port):
    spec = policy['spec']
    if not spec['podSelector'].get('matchLabels', {}).items() <= source.labels.items():
        return False
    return any(peer.get('podSelector', {}).get('matchLabels', {'': None}).items() <=
               target.labels.items() and port in [entry['port'] for entry in rule['ports']]
               for rule in spec.get(direction, []) for peer in rule[peers])


def known_flags(program):
    """The names of a daemon's flags, by its own account, with dashes."""
    text = subprocess.run([program, '--helpfull'], capture_output=True, text=True, check=False,
                          timeout=60).stdout
    names = set(re.findall(r'^\s+--(?:\[no\])?(\w+) \(', text, re.MULTILINE))
    # A flag that repeats is not one of Abseil's; the usage message has it.
    names |= set(re.findall(r'--([\w-]+)=', text.partition('Flags from')[0]))
    return {name.replace('_', '-') for name in names}


def unknown_flags(cluster, known, program_of=lambda container: container['name']):
    """Complaints about flags of daemons that are not in `known` ({name: flags})."""
    for load, container in cluster.containers():
        entry = container.get('command')
        if entry and entry[0] != f'{PROGRAMS}/{container["name"]}':
            yield f'{name_of(load.item)}: {entry[0]} is not in the image'
        for argument in container.get('args', []):
            name = argument.removeprefix('--').partition('=')[0]
            if not argument.startswith('--') or name not in known[program_of(container)]:
                yield f'{name_of(load.item)}: {container["name"]} does not know {argument}'
