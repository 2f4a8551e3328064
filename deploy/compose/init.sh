#!/bin/sh
# Makes what docker-compose.yml mounts and git must not have: keys and secrets, and a config that knows the keys' hashes.
# Run it once, after `docker compose build`. What there is already it leaves alone.
set -eu
umask 077
cd "$(dirname "$0")"
image=headgate-gateway:0.1.0
if [ -e local ]; then
  echo "init.sh: deploy/compose/local is there already; remove it to begin anew, with other keys" >&2
  exit 1
fi
made=$(mktemp -d ./local.XXXXXX)
trap 'rm -rf "$made"' EXIT
mkdir "$made/config" "$made/secrets"

random() { head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }

# key ID: makes a key. It goes to the file secrets/ID_key, its hash to stdout.
key() {
  docker run --rm --pull never --network none --env PEPPER --entrypoint headgate "$image" \
    keys new --id "$1" --pepper env:PEPPER >"$made/secrets/$1_key" 2>"$made/said" || { cat "$made/said" >&2; exit 1; }
  sed -n 's/.*hmac_sha256: \([0-9a-f]*\).*/\1/p' "$made/said"
}

PEPPER=$(random)
export PEPPER
team=$(key team)
runners=$(key runners)
mv "$made/secrets/runners_key" "$made/secrets/runner_key"
rm "$made/said"
printf %s "$PEPPER" >"$made/secrets/pepper"
random >"$made/secrets/grafana_password"
echo none >"$made/secrets/upstream_key"
sed -e "s/0\{63\}1/$team/" -e "s/0\{63\}2/$runners/" headgate.yaml >"$made/config/headgate.yaml"

# Containers read them as a user of their own: what keeps others out is the folder `local`.
chmod 755 "$made/config"
chmod 644 "$made/config/headgate.yaml" "$made/secrets/"*
mv "$made" local
trap - EXIT
echo "Made deploy/compose/local. Your key is in deploy/compose/local/secrets/team_key, Grafana's password beside it." >&2
