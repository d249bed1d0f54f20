-- The keys that were removed after a rotation. A request that sealed a text before the rotation could still write it after the removal;
-- nothing could open it then, so such a write is refused. A sealed text is the id of its key, a colon, and the rest.
CREATE TABLE retired_sealing_keys (
    id         text        PRIMARY KEY,
    retired_at timestamptz NOT NULL
);

CREATE FUNCTION refuse_retired_sealing_key() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    written jsonb := to_jsonb(NEW);
    sealed  text;
BEGIN
    FOREACH sealed IN ARRAY ARRAY[
        written ->> 'sealed_env', written ->> 'sealed_login', written ->> 'sealed_secret', written ->> 'sealed_key',
        written ->> 'content', written #>> '{app,sealed_env}', written #>> '{app,app_env,sealed}'
    ] LOOP
        IF EXISTS (SELECT FROM retired_sealing_keys WHERE id = split_part(sealed, ':', 1)) THEN
            RAISE EXCEPTION 'sealed with the key %, which was removed', split_part(sealed, ':', 1);
        END IF;
    END LOOP;
    RETURN NEW;
END $$;

-- The role that provisions databases writes another column of tenants and may not read the table above.
CREATE TRIGGER refuse_retired_sealing_key BEFORE INSERT OR UPDATE OF app ON tenants
    FOR EACH ROW EXECUTE FUNCTION refuse_retired_sealing_key();
CREATE TRIGGER refuse_retired_sealing_key BEFORE INSERT OR UPDATE OF sealed_env ON apps
    FOR EACH ROW EXECUTE FUNCTION refuse_retired_sealing_key();
CREATE TRIGGER refuse_retired_sealing_key BEFORE INSERT OR UPDATE OF sealed_login ON registries
    FOR EACH ROW EXECUTE FUNCTION refuse_retired_sealing_key();
CREATE TRIGGER refuse_retired_sealing_key BEFORE INSERT OR UPDATE OF sealed_secret ON second_factors
    FOR EACH ROW EXECUTE FUNCTION refuse_retired_sealing_key();
CREATE TRIGGER refuse_retired_sealing_key BEFORE INSERT OR UPDATE OF sealed_key ON model_endpoint
    FOR EACH ROW EXECUTE FUNCTION refuse_retired_sealing_key();
CREATE TRIGGER refuse_retired_sealing_key BEFORE INSERT OR UPDATE OF content ON mails
    FOR EACH ROW EXECUTE FUNCTION refuse_retired_sealing_key();
