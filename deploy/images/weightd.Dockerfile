# The weight daemon. Built from a folder that context.sh makes: there is no shell, no package manager
# and nothing that the program could write to.
#
#   docker build -f CONTEXT/weightd/Dockerfile -t gguf-offload/weightd CONTEXT/weightd
FROM scratch
COPY loader/ /lib64/
COPY libc/ /lib/x86_64-linux-gnu/
COPY etc/ /etc/
COPY licenses/ /usr/share/doc/
COPY programs/ /opt/gguf-offload/
# Where volumes go: the models (read-only), the socket's folder, and certificates.
COPY empty/ /models/
COPY empty/ /run/gguf-offload/
COPY empty/ /etc/gguf-offload/tls/
# Another user than the worker's, so that the worker cannot write to the models even where it could
# reach the files.
USER 65531:65531
ENTRYPOINT ["/opt/gguf-offload/bin/weightd"]
CMD ["--model-dir=/models", "--socket=/run/gguf-offload/weightd.sock", "--allow-uid=65532", "--listen=127.0.0.1:7070"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=600s --retries=3 CMD ["/opt/gguf-offload/bin/offloadctl", "health", "--address=unix:/run/gguf-offload/weightd.sock", "--timeout=4"]
