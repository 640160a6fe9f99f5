"""Runs one program as a container runtime would: its own mounts and processes, a read-only root, an
unprivileged user that cannot become another. Called as root with a JSON description:

  rootfs   folder that becomes the root; it has the mount points
  mounts   [[source, target, read-only]...], folders or files
  user     [uid, gid]
  argv     the program's words; ["@writable"] instead looks for what that user can write to, and
           prints it as a JSON list
  env      {name: value}

Signals that end it are passed on. Ends with the program's exit code.
"""

import ctypes
import json
import os
import signal
import sys

CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWIPC, CLONE_NEWUTS = 0x20000, 0x20000000, 0x8000000, 0x4000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1, 2, 4, 32, 4096, 16384, 1 << 18)
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 1, 38, 24
LAST_CAPABILITY = 40

libc = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    if getattr(libc, name)(*arguments) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f'{name}{arguments}: {os.strerror(error)}')


def mount(source, target, kind, flags, data=''):
    call('mount', source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags),
         data.encode())


def bind(source, target, read_only):
    mount(source, target, '', MS_BIND)
    if read_only:
        mount('', target, '', MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID)


def enter(spec):
    root = spec['rootfs']
    bind(root, root, False)
    mount('proc', f'{root}/proc', 'proc', MS_NOSUID | MS_NODEV)
    mount('tmpfs', f'{root}/dev', 'tmpfs', MS_NOSUID, 'mode=755,size=64k')
    for device in ('null', 'zero', 'random', 'urandom'):
        with open(f'{root}/dev/{device}', 'wb'):
            pass
        bind(f'/dev/{device}', f'{root}/dev/{device}', False)
    mount('', f'{root}/dev', '', MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID)
    for source, target, read_only in spec['mounts']:
        bind(source, root + target, read_only)
    mount('', root, '', MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID)
    os.chroot(root)
    os.chdir('/')
    uid, gid = spec['user']
    for capability in range(LAST_CAPABILITY + 1):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    call('prctl', PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def writable():
    """What it can write to: folders that it can make a file in, and files that it can open."""
    found = []
    for folder, folders, files in os.walk('/'):
        if folder == '/':
            folders[:] = [name for name in folders if name not in ('proc', 'dev')]
        try:
            os.close(os.open(os.path.join(folder, '.probe'), os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            os.unlink(os.path.join(folder, '.probe'))
            found.append(folder)
        except OSError:
            pass
        for name in files:
            try:
                os.close(os.open(os.path.join(folder, name), os.O_WRONLY | os.O_NONBLOCK))
                found.append(os.path.join(folder, name))
            except OSError:
                pass
    return found


def main():
    spec = json.loads(sys.argv[1])
    call('unshare', CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS)
    mount('', '/', '', MS_REC | MS_PRIVATE)
    child = os.fork()
    if child == 0:
        # The first process of its own kind, as in a container.
        call('prctl', PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        enter(spec)
        # A change of user clears it.
        call('prctl', PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if spec['argv'] == ['@writable']:
            print(json.dumps(writable()))
            sys.stdout.flush()
            os._exit(0)
        try:
            os.execve(spec['argv'][0], spec['argv'], spec['env'])
        except OSError as error:
            print(f'{spec["argv"][0]}: {error.strerror}', file=sys.stderr)
            sys.stderr.flush()
            os._exit(127)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: os.kill(child, number))
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status) % 256)


if __name__ == '__main__':
    main()
