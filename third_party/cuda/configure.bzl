"""Finds an installed CUDA toolkit and tells the build whether there is one."""

_CANDIDATES = ["/usr/local/cuda", "/usr/lib/cuda", "/opt/cuda"]

def _cuda_configure_impl(repository_ctx):
    home = repository_ctx.os.environ.get("CUDA_HOME", "")
    found = ""
    for candidate in ([home] if home else []) + _CANDIDATES:
        if repository_ctx.path(candidate + "/bin/nvcc").exists:
            found = candidate
            break
    repository_ctx.file("BUILD.bazel", "exports_files([\"cuda.bzl\"])\n")
    repository_ctx.file(
        "cuda.bzl",
        "CUDA_HOME = \"{home}\"\nHAVE_CUDA = {have}\n".format(
            home = found,
            have = "True" if found else "False",
        ),
    )

cuda_configure = repository_rule(
    implementation = _cuda_configure_impl,
    environ = ["CUDA_HOME"],
    local = True,
)
