"""Renders the overlays and checks objects against the schemas of the Kubernetes API."""

import glob
import json
import os
import shutil
import subprocess
import tempfile
import unittest

import yaml

KUBERNETES = 'deploy/kubernetes'
OVERLAYS = sorted(os.path.basename(path) for path in glob.glob(f'{KUBERNETES}/overlays/*'))

# A folder node_modules with the packages of package.json.
SCHEMAS = os.environ.get('GGUF_OFFLOAD_KUBERNETES_SCHEMAS', '')
KUBECTL = os.environ.get('GGUF_OFFLOAD_KUBECTL') or 'kubectl'

needs_kubectl = unittest.skipUnless(shutil.which(KUBECTL), 'kubectl is missing')
needs_schemas = unittest.skipUnless(
    shutil.which('node') and SCHEMAS, 'Node or GGUF_OFFLOAD_KUBERNETES_SCHEMAS is missing')


def render(overlay, kubectl=KUBECTL):
    """The objects of an overlay."""
    # A copy, because kustomize follows no links out of its folder, and Bazel's files are links.
    with tempfile.TemporaryDirectory() as folder:
        copied = shutil.copytree(KUBERNETES, os.path.join(folder, 'kubernetes'))
        done = subprocess.run([kubectl, 'kustomize', os.path.join(copied, 'overlays', overlay)],
                              capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        raise AssertionError(f'{overlay}: {done.stderr}')
    return [item for item in yaml.safe_load_all(done.stdout) if item]


def schema_complaints(objects):
    """[(object's name, complaint)] of objects that their API's schemas do not allow."""
    done = subprocess.run(['node', 'tests/deploy/check_schemas.mjs', SCHEMAS],
                          input=json.dumps(objects), capture_output=True, text=True, check=False,
                          timeout=120)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return [f'{name_of(item)}: {complaint}'
            for item, complaints in zip(objects, json.loads(done.stdout))
            for complaint in complaints]


def name_of(item):
    return f"{item.get('kind')}/{item.get('metadata', {}).get('name')}"
