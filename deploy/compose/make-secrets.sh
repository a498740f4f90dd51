#!/bin/sh
# Creates the secrets of compose.yaml in this folder, once, and prints the API key.
set -eu
cd "$(dirname "$0")"
if [ -e secrets ]; then
	echo "deploy/compose/secrets already exists; nothing was changed" >&2
	exit 1
fi
mkdir -m 700 secrets
cd secrets
for name in owner_password service_password jwt_secret; do
	openssl rand -hex 32 > "$name"
done
key=$(openssl rand -hex 32)
printf %s "$key" | sha256sum | cut -c -64 > api_key_sha256
# Readable by everybody, because Compose keeps the modes of the files and the service runs as user
# 10001. The folder's mode keeps out other users of this machine.
chmod 644 ./*
echo "The API key (not stored anywhere): $key"
