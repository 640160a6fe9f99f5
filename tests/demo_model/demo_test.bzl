"""Tests of the demo models' parts in Python."""

def demo_test(name, data = [], daemons = False, size = "small"):
    """A test module NAME.py of this folder.

    Args:
      name: the module's name, which is also the target's.
      data: more files that the test opens.
      daemons: whether it starts the daemons.
      size: as for any test.
    """
    native.sh_test(
        name = name,
        size = size,
        srcs = ["run_demo_test.sh"],
        args = [name],
        data = [
            name + ".py",
            ":scripts",
            "//tests/e2e:harness",
        ] + ([
            "//computed",
            "//computed/cli:offloadctl",
            "//tests/clients/python:stubs",
            "//tests/modelgen",
            "//weightd",
        ] if daemons else []) + data,
        tags = ["cpu:2"] if daemons else [],
    )
