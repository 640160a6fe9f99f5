#!/usr/bin/env bash
# Makes the folders that the images are built from.
#
#   deploy/images/context.sh FOLDER [--cublas=FOLDER] [--from=FOLDER] [BAZEL_FLAG...]
#
# FOLDER gets weightd/ and computed/, each with a Dockerfile and the files that it copies:
#
#   docker build -t REGISTRY/gguf-offload/weightd:TAG  FOLDER/weightd
#   docker build -t REGISTRY/gguf-offload/computed:TAG FOLDER/computed
#
# or without a container engine, as a file for `docker load`, skopeo or crane:
#
#   deploy/images/build_image.py FOLDER/computed --archive=computed.tar --tag=REGISTRY/...:TAG
#
# --cublas names a folder with libcublas.so.* and libcublasLt.so.*, which the worker on a GPU needs
# and which its image then contains; the driver's libraries come from the machine. --from takes
# programs that are built already (deploy/bundle.sh). --config=release makes code for every GPU.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
if [ $# -lt 1 ] || [ "${1#-}" != "$1" ]; then
  sed -n '2,17s/^# \{0,1\}//p' "$0" >&2
  exit 1
fi
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
cublas=''
flags=()
for argument in "$@"; do
  case "$argument" in
    --cublas=*) cublas=$(cd "${argument#*=}" && pwd) ;;
    *) flags+=("$argument") ;;
  esac
done

bundle=$(mktemp -d)
trap 'rm -rf "$bundle"' EXIT
"$here/../bundle.sh" "$bundle/files" "${flags[@]}" >&2
umask 022

# What the dynamic loader takes for PROGRAM...
libraries() { ldd "$@" | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u; }

# The licences of the packages that the files come from, for whoever distributes the image.
licenses() { # FOLDER FILE...
  local target=$1 package
  shift
  { dpkg-query -S "$@" 2>/dev/null || true; } | cut -d: -f1 | sort -u | while read -r package; do
    [ ! -r "/usr/share/doc/$package/copyright" ] ||
      install -D -m 644 "/usr/share/doc/$package/copyright" "$target/$package/copyright"
  done
}

for image in weightd computed; do
  context=$folder/$image
  rm -rf "$context"
  mkdir -p "$context"/{programs/bin,programs/lib,libc,loader,empty,licenses}
  install -m 755 "$bundle/files/bin/$image" "$bundle/files/bin/offloadctl" "$context/programs/bin"
  mapfile -t needed < <(libraries "$context"/programs/bin/*)
  installed=()
  for library in "${needed[@]}"; do
    name=${library##*/}
    # What is not in the bundle is the C library; see below.
    [ -e "$bundle/files/lib/$name" ] || continue
    install -m 644 "$bundle/files/lib/$name" "$context/programs/lib"
    installed+=("$library" "/usr$library") # packages know files by either path
  done
  # The C library, whole: a driver's libraries want more of it than our programs do.
  for name in libc.so.6 libm.so.6 libdl.so.2 librt.so.1 libpthread.so.0 libresolv.so.2; do
    install -m 644 "/lib/x86_64-linux-gnu/$name" "$context/libc"
    installed+=("/lib/x86_64-linux-gnu/$name")
  done
  install -m 755 /lib64/ld-linux-x86-64.so.2 "$context/loader"
  cp -RL "$here/etc" "$context/etc"
  chmod -R u=rwX,go=rX "$context/etc"
  licenses "$context/licenses" "${installed[@]}"
  cp "$here/$image.Dockerfile" "$context/Dockerfile"
done
if [ -n "$cublas" ]; then
  find "$cublas" -maxdepth 1 -regextype posix-extended \
    -regex '.*/libcublas(Lt)?\.so\.[0-9]+' -exec cp -L {} "$folder/computed/programs/lib" \;
  compgen -G "$folder/computed/programs/lib/libcublas.so.*" >/dev/null || {
    echo "context.sh: no libcublas.so.N in $cublas" >&2
    exit 1
  }
fi
du -sh "$folder/weightd" "$folder/computed"
