#!/bin/sh
# Initialises an empty data folder, then becomes Postgres. Reads POSTGRES_USER, POSTGRES_DB and
# POSTGRES_PASSWORD_FILE as the official image does.
set -eu

if [ "$(id -u)" = 0 ]; then
  # The password is read as root: its file belongs to root alone.
  POSTGRES_PASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
  export POSTGRES_PASSWORD
  install -d -o postgres -g postgres -m 0700 "$PGDATA"
  install -d -o postgres -g postgres -m 2775 /run/postgresql
  # A volume that was filled under another image may belong to another uid.
  find "$PGDATA" ! -user postgres -exec chown postgres:postgres {} +
  exec setpriv --reuid=postgres --regid=postgres --init-groups --inh-caps=-all -- "$0" "$@"
fi

if ! [ -s "$PGDATA/PG_VERSION" ]; then
  : "${POSTGRES_USER:=postgres}" "${POSTGRES_DB:=$POSTGRES_USER}"
  # In a folder of its own first, so that an interrupted start leaves no half a database.
  new=$PGDATA/.new
  if [ -e "$new" ]; then find "$PGDATA" -mindepth 1 -delete; fi
  passwords=$(mktemp)
  printf '%s' "$POSTGRES_PASSWORD" >"$passwords"
  initdb --pgdata="$new" --username="$POSTGRES_USER" --pwfile="$passwords" \
    --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 --no-instructions
  rm -f "$passwords"
  echo 'host all all all scram-sha-256' >>"$new/pg_hba.conf"
  echo "listen_addresses = '*'" >>"$new/postgresql.conf"
  if [ "$POSTGRES_DB" != postgres ]; then
    printf 'CREATE DATABASE "%s";\n' "$POSTGRES_DB" \
      | postgres --single -D "$new" -c log_min_messages=warning postgres >/dev/null
  fi
  # The version file last: its presence says that the folder is whole.
  find "$new" -mindepth 1 -maxdepth 1 ! -name PG_VERSION -exec mv {} "$PGDATA/" \;
  mv "$new/PG_VERSION" "$PGDATA/"
  rmdir "$new"
fi
unset POSTGRES_PASSWORD
exec "$@"
