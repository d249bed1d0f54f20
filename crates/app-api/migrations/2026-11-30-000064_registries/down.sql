ALTER TABLE releases DROP COLUMN repository_digest;
DROP TABLE registries;
