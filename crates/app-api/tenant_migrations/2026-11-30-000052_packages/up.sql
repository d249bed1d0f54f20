-- Runs as the role of the tenant. The prefix keeps these tables apart from those of the tenant's own program.
CREATE TABLE cial_packages (
    id         uuid PRIMARY KEY,
    name       text NOT NULL,
    version    text NOT NULL,
    about      text NOT NULL,
    bytes      bigint NOT NULL,
    sha256     text NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (name, version)
);

-- The archive in pieces, so that nobody holds it whole.
CREATE TABLE cial_package_pieces (
    package_id uuid NOT NULL REFERENCES cial_packages (id) ON DELETE CASCADE,
    number     integer NOT NULL,
    bytes      bytea NOT NULL,
    PRIMARY KEY (package_id, number)
);
-- The archive is compressed already.
ALTER TABLE cial_package_pieces ALTER COLUMN bytes SET STORAGE EXTERNAL;

CREATE TABLE cial_workflows (
    package_id uuid NOT NULL REFERENCES cial_packages (id) ON DELETE CASCADE,
    name       text NOT NULL,
    definition jsonb NOT NULL,
    PRIMARY KEY (package_id, name)
);
