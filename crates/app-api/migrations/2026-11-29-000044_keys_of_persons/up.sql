-- A key that a person's key created belongs to that person: it ends with the person, and is never an admin's.
WITH RECURSIVE owned AS (
    SELECT id, person_id FROM api_keys WHERE person_id IS NOT NULL
    UNION
    SELECT child.id, owned.person_id FROM api_keys child JOIN owned ON child.created_by_key = owned.id
        WHERE child.person_id IS NULL
)
UPDATE api_keys SET person_id = owned.person_id,
    revoked = revoked OR is_admin OR NOT EXISTS (SELECT FROM users WHERE users.id = owned.person_id)
    FROM owned WHERE api_keys.id = owned.id AND api_keys.person_id IS NULL;
