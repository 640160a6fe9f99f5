#!/usr/bin/env bash
# Makes certificates for mutual TLS, signed by an authority of its own: for tests, and for a first
# try in a cluster. A real cluster has its own authority (cert-manager, SPIFFE, Vault).
#
#   deploy/certs.sh --out=FOLDER [--authority=NAME]
#                   [--name=NAME] [--san=DNS:a,IP:1.2.3.4,URI:spiffe://b/c] [--days=N] [--expired]
#                   [--kubernetes] [--force]
#
#   --out         gets FOLDER/NAME/tls.crt, tls.key, ca.crt: what --tls-cert, --tls-key and --tls-ca
#                 want, under the names that Kubernetes gives them in secrets of type
#                 kubernetes.io/tls. FOLDER/AUTHORITY.crt and .key are the authority, made when it
#                 is not there yet; a further call with the same FOLDER signs with the same one.
#   --authority   name of the authority (ca). Another name makes another authority, which does not
#                 vouch for the first one's certificates.
#   --name        whom the certificate is for, server or client (every one may be both). Without it
#                 only the authority is made.
#   --san         its subject alternative names; by default DNS:NAME. --tls-allow and the check of
#                 the server's name look only at these.
#   --days        how long it is valid (30), from a minute ago, so that clocks may differ.
#   --expired     it was valid until yesterday.
#   --kubernetes  also writes FOLDER/NAME/secret.yaml, for `kubectl apply -f`, with the secret's name
#                 NAME-tls.
#   --force       makes a new certificate where there is one already (a rotation). Without it one of
#                 that name is kept as it is.
#
# Files change by renaming a complete new one over the old; daemons that read them meanwhile see
# either. Example: both daemons on one machine, and one client that may call them.
#
#   deploy/certs.sh --out=certs --name=weightd  --san=DNS:localhost,IP:127.0.0.1
#   deploy/certs.sh --out=certs --name=computed --san=DNS:localhost,IP:127.0.0.1
#   deploy/certs.sh --out=certs --name=client   --san=DNS:client.test
set -euo pipefail

out='' authority=ca name='' san='' days=30 expired='' kubernetes='' force=''
for argument in "$@"; do
  case "$argument" in
    --out=*) out=${argument#*=} ;;
    --authority=*) authority=${argument#*=} ;;
    --name=*) name=${argument#*=} ;;
    --san=*) san=${argument#*=} ;;
    --days=*) days=${argument#*=} ;;
    --expired) expired=yes ;;
    --kubernetes) kubernetes=yes ;;
    --force) force=yes ;;
    -h | --help)
      sed -n '2,33s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    *)
      echo "certs.sh: unknown argument $argument" >&2
      exit 1
      ;;
  esac
done
fail() {
  echo "certs.sh: $*" >&2
  exit 1
}
[ -n "$out" ] || fail '--out=FOLDER is missing'
[[ $days =~ ^[0-9]+$ ]] && [ "$days" -gt 0 ] || fail "--days=$days is not a positive number"
for word in "$authority" "$name"; do
  [[ $word =~ ^[A-Za-z0-9._-]*$ ]] || fail "$word is not a name for files"
done
[ "$name" != "$authority" ] || fail "$name is the authority's name"

umask 077 # private keys
mkdir -p "$out"
work=$(mktemp -d "$out/.new.XXXXXX")
trap 'rm -rf "$work"' EXIT

date_of() { date -u -d "$1" +%Y%m%d%H%M%SZ; }

# openssl says what went wrong among much else; show it only then.
quietly() { "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; fail "${1##*/} $2 failed"; }; }

new_key() { quietly openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }

# `openssl ca` is the one command of OpenSSL 3.0 that takes arbitrary dates; it wants a database.
sign() { # REQUEST CERTIFICATE EXTENSIONS FROM TO SIGNER...
  local request=$1 certificate=$2 extensions=$3 from=$4 to=$5
  shift 5
  mkdir -p "$work/database"
  : >"$work/database/index"
  cat >"$work/ca.conf" <<CONF
[ca]
default_ca = authority
[authority]
database = $work/database/index
new_certs_dir = $work/database
default_md = sha256
policy = any
rand_serial = yes
unique_subject = no
[any]
commonName = supplied
[extensions]
$extensions
CONF
  quietly openssl ca -batch -notext -config "$work/ca.conf" -extensions extensions \
    -startdate "$from" -enddate "$to" -in "$request" -out "$certificate" "$@"
}

request() { # KEY SUBJECT REQUEST
  quietly openssl req -new -key "$1" -subj "/CN=$2" -out "$3"
}

if [ ! -s "$out/$authority.crt" ]; then
  new_key "$work/ca.key"
  request "$work/ca.key" "gguf-offload test authority $authority" "$work/ca.csr"
  sign "$work/ca.csr" "$work/ca.crt" 'basicConstraints = critical,CA:TRUE,pathlen:0
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash' \
    "$(date_of '-3 days')" "$(date_of '+3650 days')" -selfsign -keyfile "$work/ca.key"
  mv "$work/ca.key" "$out/$authority.key"
  mv "$work/ca.crt" "$out/$authority.crt"
fi

[ -n "$name" ] || exit 0
folder=$out/$name
if [ ! -s "$folder/tls.crt" ] || [ -n "$force" ]; then
  from=$(date_of '-1 minute') to=$(date_of "+$days days")
  [ -z "$expired" ] || from=$(date_of '-2 days') to=$(date_of '-1 day')
  new_key "$work/tls.key"
  request "$work/tls.key" "$name" "$work/tls.csr"
  sign "$work/tls.csr" "$work/tls.crt" "basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = serverAuth,clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = ${san:-DNS:$name}" \
    "$from" "$to" -keyfile "$out/$authority.key" -cert "$out/$authority.crt"
  cp "$out/$authority.crt" "$work/ca.pem"
  mkdir -p "$folder"
  # The key first: a reader of a torn pair sees that they do not belong together and tries again.
  mv "$work/tls.key" "$folder/tls.key"
  mv "$work/tls.crt" "$folder/tls.crt"
  mv "$work/ca.pem" "$folder/ca.crt"
fi

if [ -n "$kubernetes" ]; then
  {
    printf 'apiVersion: v1\nkind: Secret\nmetadata:\n  name: %s-tls\ntype: kubernetes.io/tls\ndata:\n' \
      "$name"
    for file in ca.crt tls.crt tls.key; do
      printf '  %s: %s\n' "$file" "$(base64 -w0 <"$folder/$file")"
    done
  } >"$work/secret.yaml"
  mv "$work/secret.yaml" "$folder/secret.yaml"
fi
