#!/usr/bin/env python3
"""Builds an image without a container engine: what its Dockerfile says, and nothing else.

    deploy/images/build_image.py CONTEXT --rootfs=FOLDER
    deploy/images/build_image.py CONTEXT --archive=FILE.tar --tag=REGISTRY/NAME:TAG

CONTEXT is a folder of deploy/images/context.sh. --rootfs writes the root file system into a folder,
--archive an image for `docker load`, `skopeo copy docker-archive:FILE ...` or `crane push`. The
image's configuration (user, entry point, health check...) goes to standard output as JSON. The same
files give the same archive, byte for byte.

It knows the instructions that images FROM scratch need, in their exec forms, and refuses any other.
"""

import argparse
import hashlib
import io
import json
import os
import re
import shlex
import shutil
import sys
import tarfile


class BuildError(Exception):
    """Something in a Dockerfile that cannot be done. The message names the line."""


def instructions(dockerfile):
    """Yields (line number, instruction in capitals, rest) of a Dockerfile's text."""
    pending, start = '', 0
    for number, line in enumerate(dockerfile.splitlines(), 1):
        if line.lstrip().startswith('#') or (not line.strip() and not pending):
            continue
        start = start or number
        pending += line
        if pending.endswith('\\'):
            pending = pending[:-1] + ' '
            continue
        word, _, rest = pending.strip().partition(' ')
        yield start, word.upper(), rest.strip()
        pending, start = '', 0
    if pending:
        raise BuildError(f'line {start}: the file ends in the middle of an instruction')


def exec_form(text, what):
    """A JSON list of strings; the shell form would need a shell."""
    try:
        words = json.loads(text)
    except ValueError:
        words = None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise BuildError(f'{what}: only the exec form (a JSON list) works without a shell: {text}')
    return words


def seconds(text):
    parts = re.fullmatch(r'(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?', text)
    if not text or not parts:
        raise BuildError(f'not a duration: {text}')
    hours, minutes, rest = (int(part or 0) for part in parts.groups())
    return hours * 3600 + minutes * 60 + rest


def health_check(text):
    check = {}
    while text.startswith('--'):
        option, _, text = text.partition(' ')
        name, _, value = option[2:].partition('=')
        if name == 'retries':
            check['Retries'] = int(value)
        elif name in ('interval', 'timeout', 'start-period'):
            key = ''.join(word.capitalize() for word in name.split('-'))
            check[key] = seconds(value) * 10**9
        else:
            raise BuildError(f'HEALTHCHECK does not know {option}')
    word, _, rest = text.strip().partition(' ')
    if word != 'CMD':
        raise BuildError(f'HEALTHCHECK without CMD: {text}')
    check['Test'] = ['CMD', *exec_form(rest, 'HEALTHCHECK')]
    return check


def copy(context, words, rootfs):
    """COPY SOURCE... TARGET, where a folder's contents are copied, not the folder itself."""
    *sources, target = words
    if not sources:
        raise BuildError('COPY needs a source and a target')
    into = os.path.join(rootfs, target.lstrip('/'))
    for source in sources:
        path = os.path.normpath(os.path.join(context, source.lstrip('/')))
        if source.startswith('--') or os.path.commonpath([path, context]) != context:
            raise BuildError(f'COPY does not do {source}')
        if os.path.isdir(path):
            shutil.copytree(path, into, symlinks=True, dirs_exist_ok=True)
        elif os.path.isfile(path):
            file = os.path.join(into, os.path.basename(path)) if target.endswith('/') else into
            os.makedirs(os.path.dirname(file), exist_ok=True)
            shutil.copy2(path, file)
        else:
            raise BuildError(f'COPY: there is no {path}')


def build(context, rootfs):
    """Writes the root file system into the empty folder `rootfs`; gives the configuration."""
    context = os.path.realpath(context)
    with open(os.path.join(context, 'Dockerfile'), encoding='utf-8') as file:
        dockerfile = file.read()
    config = {'Env': [], 'Labels': {}, 'WorkingDir': '/'}
    first = True
    for number, word, rest in instructions(dockerfile):
        try:
            if first != (word == 'FROM') or (first and rest != 'scratch'):
                raise BuildError('there must be one FROM, the first instruction, and it is scratch')
            first = False
            if word == 'COPY':
                copy(context, shlex.split(rest), rootfs)
            elif word == 'USER':
                config['User'] = rest
            elif word in ('ENTRYPOINT', 'CMD'):
                config[word.capitalize()] = exec_form(rest, word)
            elif word == 'ENV':
                config['Env'] += shlex.split(rest)
            elif word == 'LABEL':
                config['Labels'].update(pair.split('=', 1) for pair in shlex.split(rest))
            elif word == 'HEALTHCHECK':
                config['Healthcheck'] = health_check(rest)
            elif word != 'FROM':
                raise BuildError(f'{word} is not among the instructions known here')
        except BuildError as error:
            raise BuildError(f'{context}/Dockerfile:{number}: {error}') from None
    return config


def write_archive(rootfs, config, tag, path):
    """Writes an image of one layer in the format of `docker save`."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode='w', format=tarfile.PAX_FORMAT) as tar:
        for folder, folders, files in os.walk(rootfs):
            folders.sort()
            for name in sorted(files + folders):
                full = os.path.join(folder, name)
                info = tar.gettarinfo(full, os.path.relpath(full, rootfs))
                info.uid = info.gid = info.mtime = 0
                info.uname = info.gname = ''
                with open(full, 'rb') if info.isreg() else io.BytesIO() as content:
                    tar.addfile(info, content if info.isreg() else None)
    layer = layer.getvalue()
    image = {'architecture': 'amd64', 'os': 'linux', 'created': '1970-01-01T00:00:00Z',
             'config': config, 'history': [{'created_by': 'deploy/images/build_image.py'}],
             'rootfs': {'type': 'layers',
                        'diff_ids': ['sha256:' + hashlib.sha256(layer).hexdigest()]}}
    image = json.dumps(image, sort_keys=True).encode()
    name = hashlib.sha256(image).hexdigest() + '.json'
    manifest = json.dumps([{'Config': name, 'RepoTags': [tag], 'Layers': ['layer.tar']}]).encode()
    with tarfile.open(path, 'w') as tar:
        for file, content in (('layer.tar', layer), (name, image), ('manifest.json', manifest)):
            info = tarfile.TarInfo(file)
            info.size = len(content)
            info.mode = 0o644
            tar.addfile(info, io.BytesIO(content))


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('context')
    parser.add_argument('--rootfs', help='an empty or new folder')
    parser.add_argument('--archive')
    parser.add_argument('--tag', help='the name in --archive')
    options = parser.parse_args(arguments)
    if bool(options.archive) != bool(options.tag) or not (options.rootfs or options.archive):
        parser.error('--rootfs, or --archive with --tag')
    rootfs = options.rootfs or options.archive + '.rootfs'
    os.makedirs(rootfs, exist_ok=True)
    if os.listdir(rootfs):
        parser.error(f'{rootfs} is not empty')
    try:
        config = build(options.context, rootfs)
        if options.archive:
            write_archive(rootfs, config, options.tag, options.archive)
    except BuildError as error:
        print(f'build_image.py: {error}', file=sys.stderr)
        return 1
    finally:
        if not options.rootfs:
            shutil.rmtree(rootfs, ignore_errors=True)
    print(json.dumps(config, indent=2))
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
