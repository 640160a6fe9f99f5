"""What the operating system says of a process's memory and reads (Linux /proc, proc(5))."""

import re


def mappings_of(pid, path_end):
    """Sums, in bytes, over the process's mappings of files whose path ends so:
    {'Size', 'Rss', 'Pss', 'Private_Clean', 'Private_Dirty', 'Shared_Clean', ...}."""
    totals = {}
    inside = False
    with open(f'/proc/{pid}/smaps', encoding='utf-8') as file:
        for line in file:
            if re.match(r'[0-9a-f]+-[0-9a-f]+ ', line):
                inside = line.rstrip().endswith(path_end)
                continue
            field = re.match(r'(\w+):\s+(\d+) kB', line)
            if inside and field:
                totals[field[1]] = totals.get(field[1], 0) + int(field[2]) * 1024
    return totals


def rollup(pid):
    """/proc/PID/smaps_rollup in bytes, by field name."""
    fields = {}
    with open(f'/proc/{pid}/smaps_rollup', encoding='utf-8') as file:
        for line in file:
            field = re.match(r'(\w+):\s+(\d+) kB', line)
            if field:
                fields[field[1]] = int(field[2]) * 1024
    return fields


def private_bytes(pid, besides=None):
    """Memory that nobody else has; without the mappings of the file whose path ends with `besides`.

    Pages of a file that one process alone has mapped count as private too, and as dirty if they
    have not been written back yet: that is why a shared file has to be named.
    """
    fields = rollup(pid)
    mapped = mappings_of(pid, besides) if besides else {}
    return sum(fields[name] - mapped.get(name, 0) for name in ('Private_Clean', 'Private_Dirty'))


def bytes_read_from_disk(pid):
    """Bytes that the process has caused to be fetched from storage."""
    with open(f'/proc/{pid}/io', encoding='utf-8') as file:
        for line in file:
            if line.startswith('read_bytes:'):
                return int(line.split()[1])
    raise AssertionError('no read_bytes')
