"""C++ messages and gRPC stubs from .proto files, by the installed protoc."""

def cc_grpc_library(name, srcs, visibility = None):
    """One cc_library with the messages and services of all srcs.

    Args:
      name: the library's name.
      srcs: .proto files; they import each other by their path from the workspace's proto/ folder.
      visibility: as everywhere.
    """
    package = native.package_name()
    stems = [src[:-len(".proto")] for src in srcs]
    headers = [s + ext for s in stems for ext in (".pb.h", ".grpc.pb.h")]
    sources = [s + ext for s in stems for ext in (".pb.cc", ".grpc.pb.cc")]
    native.genrule(
        name = name + "_generate",
        srcs = srcs,
        outs = headers + sources,
        cmd = "$(location //third_party/grpc:protoc) $(GENDIR)/proto -Iproto $(SRCS)",
        exec_tools = ["//third_party/grpc:protoc"],
    )
    native.cc_library(
        name = name,
        srcs = sources,
        hdrs = headers,
        # Headers are included as "gguf_offload/v1/model.pb.h", like the imports in the .proto files.
        strip_include_prefix = "/proto",
        visibility = visibility,
        deps = ["//third_party/grpc:grpc++"],
        # Reflection describes a service only if its descriptor is linked, and nothing refers to it.
        alwayslink = True,
    )
