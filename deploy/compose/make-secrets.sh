#!/bin/sh
# Makes the secrets of compose.yaml beside this file, once, and prints the API key.
set -eu
cd "$(dirname "$0")"
if [ -e secrets ]; then
	echo "deploy/compose/secrets is there already; nothing was changed" >&2
	exit 1
fi
mkdir -m 700 secrets
cd secrets
for name in owner_password service_password jwt_secret; do
	openssl rand -hex 32 > "$name"
done
key=$(openssl rand -hex 32)
printf %s "$key" | sha256sum | cut -c -64 > api_key_sha256
# Readable for all, for Compose mounts them with the modes that they have and the service runs as
# 10001; the folder keeps others of this machine out.
chmod 644 ./*
echo "The API key, which is kept nowhere: $key"
