"""Tests in Python, in any folder of tests/."""

def python_test(name, size = "medium", timeout = None, srcs = [], data = [], tags = [], daemons = True):
    """A test module NAME.py of this folder, run with the system's Python.

    Args:
      name: the module's name, which is also the target's.
      size: as for any test.
      timeout: as for any test.
      srcs: modules of this folder that it imports.
      data: more files that the test opens.
      tags: as for any test.
      daemons: whether it starts the daemons or offloadctl.
    """
    programs = [
        "//computed",
        "//computed/cli:offloadctl",
        "//tests/clients/python:stubs",
        "//tests/modelgen",
        "//weightd",
    ]
    native.sh_test(
        name = name,
        size = size,
        timeout = timeout,
        srcs = ["//tests/e2e:run_python_test.sh"],
        args = [native.package_name(), name],
        data = [name + ".py", "//tests/e2e:harness"] + (programs if daemons else []) + srcs + data,
        # Daemons with a thread for each core run in each of these.
        tags = tags + (["cpu:2"] if daemons else []),
    )
