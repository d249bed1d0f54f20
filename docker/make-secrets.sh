#!/bin/sh
# Makes each secret of an installation once: make-secrets FOLDER DATABASE
# Keeps a secret that the operator brings:   make-secrets keep FOLDER SERVICE NAME <FILE
#
# FOLDER holds one folder (a volume) per service. A secret that exists is never overwritten; one that a
# second service lacks is copied to it. A database without its secrets is refused rather than locked out.
set -eu
umask 077
if [ "$1" = keep ]; then
  folder=$2 service=$3 name=$4
else
  folder=$1 database=$2 service=
fi

# Name, then the services that get it. A service gets nothing that it does not need.
secrets='
database-password app-api postgres
sso-secret app-api orchestrator
orchestrator-token app-api orchestrator
routes-token app-api router
leases-token orchestrator router
route-secret orchestrator router
'

# Ours run as uid 1000. Postgres reads its password before it stops being root.
owner_of() {
  if [ "$1" = postgres ]; then echo 0:0; else echo 1000:1000; fi
}

# By way of a rename, so that nobody ever reads half a secret.
put() {
  chown "$(owner_of "$3")" "$1"
  chmod 0400 "$1"
  mv "$1" "$folder/$3/$2"
}

if [ -n "$service" ]; then
  case "$service/$name" in
    app-api/sso-private-key | orchestrator/sso-public-key | app-api/smtp-ca) form=pem ;;
    app-api/smtp-password) form=text ;;
    *)
      cat >&2 <<END
$service/$name is no secret that an operator brings. Those are:
app-api/sso-private-key, orchestrator/sso-public-key, app-api/smtp-password, app-api/smtp-ca
END
      exit 1
      ;;
  esac
  case $form in
    pem) pattern='^-----BEGIN ' advice='give it in PEM on standard input' ;;
    text) pattern='[^[:space:]]' advice='standard input is empty: give it there' ;;
  esac
  new=$folder/$service/.new
  rm -f "$new"
  cat >"$new"
  grep -q "$pattern" "$new" || { rm -f "$new"; echo "cannot keep $service/$name: $advice" >&2; exit 1; }
  put "$new" "$name" "$service"
  echo "kept $name for $service"
  exit
fi

if [ -e "$database/PG_VERSION" ] && ! [ -s "$folder/app-api/database-password" ] \
  && ! [ -s "$folder/postgres/database-password" ]; then
  cat >&2 <<END
This installation's database volume is there, but the secrets that belong to it are gone.
Two ways on:
  - bring back the volumes whose names end in -secrets from where they were last seen, or
  - give up the database and every tenant's data, and start anew: cargo xtask local-down --purge
END
  exit 1
fi

printf '%s' "$secrets" | while read -r name services; do
  [ -n "$name" ] || continue
  known=
  for service in $services; do
    if [ -s "$folder/$service/$name" ]; then known=$folder/$service/$name; fi
  done
  for service in $services; do
    if [ -s "$folder/$service/$name" ]; then continue; fi
    new=$folder/$service/.new
    rm -f "$new"
    if [ -n "$known" ]; then
      cat "$known" >"$new"
    else
      head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n' >"$new"
      [ "$(wc -c <"$new")" -eq 43 ] || { echo "cannot read 32 random bytes for $name" >&2; exit 1; }
      known=$folder/$service/$name
    fi
    put "$new" "$name" "$service"
    echo "made $name for $service"
  done
done
