"""Tests of what deploy/ has, in Python."""

def deploy_test(name, size = "medium", data = [], tags = []):
    """A test module NAME.py of this folder, run beside deploy/ and the daemons' programs.

    Args:
      name: the module's name, which is also the target's.
      size: as for any test.
      data: more files that the test opens.
      tags: as for any test.
    """
    native.sh_test(
        name = name,
        size = size,
        srcs = ["run_deploy_test.sh"],
        args = [name],
        data = [
            name + ".py",
            "//computed",
            "//computed/cli:offloadctl",
            "//deploy:files",
            "//tests/e2e:harness",
            "//weightd",
        ] + data,
        tags = tags + ["cpu:2"],
    )
