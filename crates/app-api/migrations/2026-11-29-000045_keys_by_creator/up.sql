-- A person's key is revoked with the keys that it created.
CREATE INDEX api_keys_by_creator ON api_keys (created_by_key) WHERE created_by_key IS NOT NULL;
