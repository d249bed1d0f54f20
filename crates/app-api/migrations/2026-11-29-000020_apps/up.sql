-- Apps and their releases. A release never changes. The built-in app has no row.
CREATE TABLE apps (
    id         uuid PRIMARY KEY,
    slug       text NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9-]{2,40}$'),
    name       text NOT NULL,
    created_at timestamptz NOT NULL
);

CREATE TABLE releases (
    id         uuid PRIMARY KEY,
    app_id     uuid NOT NULL REFERENCES apps ON DELETE CASCADE,
    number     integer NOT NULL CHECK (number > 0),
    image      text NOT NULL,
    -- The id of the image that the name meant when the release was made.
    image_id   text NOT NULL,
    -- Program, port and health path, as the image and the manifest say together.
    process    jsonb NOT NULL,
    env        jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (app_id, number)
);

-- What a tenant runs is also in its row (app, image, env), so that a reader of tenants needs no join. Releases never
-- change, so both agree.
ALTER TABLE tenants
    ADD COLUMN release_id uuid REFERENCES releases,
    ADD COLUMN app jsonb NOT NULL DEFAULT 'null';
CREATE INDEX tenants_by_release ON tenants (release_id);
