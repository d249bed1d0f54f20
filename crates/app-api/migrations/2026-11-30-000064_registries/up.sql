-- Registries whose images are given to known accounts only.
CREATE TABLE registries (
    host         text PRIMARY KEY,
    username     text NOT NULL,
    -- User name and password, encrypted with a key of the host.
    sealed_login text NOT NULL,
    updated_by   text NOT NULL,
    updated_at   timestamptz NOT NULL
);
-- The image in the registry that its name mentions: `registry.example/notes@sha256:…`.
ALTER TABLE releases ADD COLUMN repository_digest text;
