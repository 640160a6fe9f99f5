"""Finds an installed CUDA toolkit and tells the build whether there is one.

CUDA_HOME in the environment names the only folder that is looked at. The repository has `cuda.bzl` with HAVE_CUDA and CUDA_HOME and, where there is a toolkit, the targets
`:headers` and `:cudart` (the runtime, linked statically).
"""

_CANDIDATES = ["/usr/local/cuda", "/usr/lib/cuda", "/opt/cuda"]

_BUILD = """
package(default_visibility = ["//visibility:public"])

exports_files(["cuda.bzl"])

cc_library(
    name = "headers",
    hdrs = glob(["include/**"]),
    includes = ["include"],
)

cc_library(
    name = "cudart",
    srcs = ["lib64/libcudart_static.a"],
    linkopts = ["-ldl", "-lrt", "-lpthread"],
    deps = [":headers"],
)
"""

def _cuda_configure_impl(repository_ctx):
    home = repository_ctx.os.environ.get("CUDA_HOME", "")
    found = ""
    for candidate in [home] if home else _CANDIDATES:
        if repository_ctx.path(candidate + "/bin/nvcc").exists:
            found = candidate
            break
    if found:
        repository_ctx.symlink(found + "/include", "include")
        repository_ctx.symlink(
            found + "/lib64/libcudart_static.a",
            "lib64/libcudart_static.a",
        )
    repository_ctx.file(
        "BUILD.bazel",
        _BUILD if found else "exports_files([\"cuda.bzl\"])\n",
    )
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
