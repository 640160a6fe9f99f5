"""Builds CUDA sources with nvcc, and the tests that need a GPU.

With --config=cuda_emulator everything runs on the host's processor instead; see
tests/cuda_emulator. Otherwise, which GPUs code is generated for is said by --define=CUDA_ARCHS=90 or a list as in .bazelrc's
--config=release; the last of a list also gets PTX, which later GPUs compile when a program starts.
"""

load("@local_cuda//:cuda.bzl", "CUDA_HOME", "HAVE_CUDA")
load("//deploy:bundle.bzl", "BUNDLE_LINKOPTS")

def _nvcc_command(ctx, src, object, includes):
    archs = ctx.var.get("CUDA_ARCHS", "90").split(",")
    flags = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "-Xcompiler=-fPIC,-Wall,-Wextra"]
    flags += ["--compress-mode=size", "-diag-suppress=177"]
    for arch in archs:
        flags.append("-gencode=arch=compute_{0},code=sm_{0}".format(arch))
    if len(archs) > 1:
        flags.append("-gencode=arch=compute_{0},code=compute_{0}".format(archs[-1]))

    # Its temporary files are named by its process id, which is the same in every sandbox while /tmp
    # is one for all: two compilations at a time would overwrite each other's.
    return "mkdir -p %s.tmp && TMPDIR=$PWD/%s.tmp %s/bin/nvcc -c %s -o %s %s" % (
        object.path,
        object.path,
        CUDA_HOME,
        src.path,
        object.path,
        " ".join(flags + includes),
    )

def _emulator_command(ctx, src, object, includes):
    flags = includes + ["-isystem", CUDA_HOME + "/include", "-std=c++20", "-w"]
    return ("g++ -E -x c++ -include %s %s %s -o %s.ii && " +
            "python3 %s %s.ii %s.cc && " +
            "g++ -c -x c++ -O1 -fPIC -fno-strict-aliasing %s %s.cc -o %s") % (
        ctx.file._emulated_device.path,
        " ".join(flags),
        src.path,
        object.path,
        ctx.file._translator.path,
        object.path,
        object.path,
        " ".join(flags),
        object.path,
        object.path,
    )

def _archive_impl(ctx):
    emulated = ctx.var.get("CUDA_EMULATOR") == "1"
    contexts = [dep[CcInfo].compilation_context for dep in ctx.attr.deps]
    includes = []
    for directory in ["."] + depset(transitive = [c.includes for c in contexts]).to_list():
        includes.append("-I" + directory)
    for directory in depset(transitive = [c.system_includes for c in contexts]).to_list():
        if "local_cuda" not in directory:  # nvcc knows its own
            includes += ["-isystem", directory]
    headers = depset(
        ctx.files.hdrs + ([ctx.file._emulated_device, ctx.file._translator] if emulated else []),
        transitive = [c.headers for c in contexts],
    )

    objects = []
    for src in ctx.files.srcs:
        object = ctx.actions.declare_file("_nvcc/%s/%s.o" % (ctx.label.name, src.basename))
        command = _emulator_command if emulated else _nvcc_command
        ctx.actions.run_shell(
            command = command(ctx, src, object, includes),
            inputs = depset([src], transitive = [headers]),
            outputs = [object],
            mnemonic = "Nvcc",
            progress_message = "Compiling " + src.short_path,
            use_default_shell_env = True,
        )
        objects.append(object)
    archive = ctx.actions.declare_file("lib%s.a" % ctx.label.name)
    ctx.actions.run_shell(
        command = "ar rcsD %s %s" % (archive.path, " ".join([o.path for o in objects])),
        inputs = objects,
        outputs = [archive],
        mnemonic = "NvccArchive",
        use_default_shell_env = True,
    )
    return [DefaultInfo(files = depset([archive]))]

_cuda_archive = rule(
    implementation = _archive_impl,
    attrs = {
        "srcs": attr.label_list(allow_files = [".cu"]),
        "hdrs": attr.label_list(allow_files = True),
        "deps": attr.label_list(providers = [CcInfo]),
        "_emulated_device": attr.label(
            default = "//tests/cuda_emulator:device.h",
            allow_single_file = True,
        ),
        "_translator": attr.label(
            default = "//tests/cuda_emulator:translate.py",
            allow_single_file = True,
        ),
    },
)

# The runtime that programs are linked with.
_RUNTIME = select({
    "//tests/cuda_emulator:enabled": ["//tests/cuda_emulator:runtime"],
    "//conditions:default": ["@local_cuda//:cudart"],
})

def cuda_library(name, srcs = [], hdrs = [], deps = [], **kwargs):
    """A library of CUDA code (srcs: .cu and .cc). Without a CUDA toolkit it does not exist."""
    if not HAVE_CUDA:
        return
    archive = []
    if [src for src in srcs if src.endswith(".cu")]:
        _cuda_archive(
            name = name + "_nvcc",
            srcs = [src for src in srcs if src.endswith(".cu")],
            hdrs = hdrs + [src for src in srcs if src.endswith(".cuh")],
            deps = deps,
            visibility = ["//visibility:private"],
        )
        archive = [":%s_nvcc" % name]
    native.cc_library(
        name = name,
        srcs = archive + [src for src in srcs if not src.endswith(".cu") and not src.endswith(".cuh")],
        hdrs = [hdr for hdr in hdrs if not hdr.endswith(".cuh")],
        textual_hdrs = [hdr for hdr in hdrs if hdr.endswith(".cuh")],
        deps = deps + _RUNTIME,
        linkstatic = True,  # the static runtime is no part of shared objects
        **kwargs
    )

def cuda_binary(name, srcs, deps = [], **kwargs):
    """A program that needs the CUDA toolkit to be built."""
    if HAVE_CUDA:
        native.cc_binary(
            name = name,
            srcs = srcs,
            linkopts = BUNDLE_LINKOPTS,
            deps = deps + _RUNTIME,
            **kwargs
        )

def cuda_test(name, srcs, deps = [], data = [], size = "small", **kwargs):
    """A GoogleTest that needs a GPU; tests/run_gpu.sh runs them all (tag `gpu`).

    Its fixtures skip where there is no GPU; without a toolkit a stand-in of the same name does.
    """
    if HAVE_CUDA:
        native.cc_test(
            name = name,
            srcs = srcs,
            deps = deps + [
                "//third_party/cuda:device_available",
                "//third_party/gtest:gtest_main",
            ] + _RUNTIME,
            data = data,
            size = size,
            linkopts = BUNDLE_LINKOPTS,
            linkstatic = True,
            tags = ["gpu"],
            **kwargs
        )
    else:
        native.cc_test(
            name = name,
            srcs = ["//third_party/cuda:no_toolkit_test.cc"],
            local_defines = ["TEST_NAME=" + name],
            deps = ["//third_party/gtest:gtest_main"],
            size = "small",
            tags = ["gpu"],
        )
