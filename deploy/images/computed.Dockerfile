# The compute worker. Built from a folder that context.sh makes: there is no shell, no package manager
# and nothing that the program could write to. Needs at least --model=NAME; arguments replace those
# of CMD.
#
#   docker build -f CONTEXT/computed/Dockerfile -t gguf-offload/computed CONTEXT/computed
FROM scratch
COPY loader/ /lib64/
COPY libc/ /lib/x86_64-linux-gnu/
COPY etc/ /etc/
COPY licenses/ /usr/share/doc/
COPY programs/ /opt/gguf-offload/
# Where volumes go: the socket's folder, and certificates.
COPY empty/ /run/gguf-offload/
COPY empty/ /etc/gguf-offload/tls/
# What NVIDIA's container runtime mounts, and where: in /usr/lib64 unless it knows the distribution.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENV LD_LIBRARY_PATH=/usr/lib64:/usr/lib/x86_64-linux-gnu
USER 65532:65532
ENTRYPOINT ["/opt/gguf-offload/bin/computed"]
CMD ["--weights=unix:/run/gguf-offload/weightd.sock", "--listen=127.0.0.1:7071"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s --retries=3 CMD ["/opt/gguf-offload/bin/offloadctl", "health", "--address=127.0.0.1:7071", "--timeout=4"]
