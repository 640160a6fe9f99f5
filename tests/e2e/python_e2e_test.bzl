"""End-to-end tests in Python."""

def python_e2e_test(name, size = "medium", data = [], tags = []):
    """A test module NAME.py of this folder, run beside the daemons' programs.

    Args:
      name: the module's name, which is also the target's.
      size: as for any test.
      data: more files that the test opens.
      tags: as for any test.
    """
    native.sh_test(
        name = name,
        size = size,
        srcs = ["run_python_test.sh"],
        args = [name],
        data = [
            name + ".py",
            ":harness",
            "//computed",
            "//computed/cli:offloadctl",
            "//tests/clients/python:stubs",
            "//tests/modelgen",
            "//weightd",
        ] + data,
        # Two daemons with a thread for each core run in each of these.
        tags = tags + ["cpu:2"],
    )
