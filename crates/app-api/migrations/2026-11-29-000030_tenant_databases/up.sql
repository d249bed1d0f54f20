-- The role of the tenant's schema, and the last tenant migration that the schema has. Written by the transaction that
-- creates schema and role and cleared by the one that drops them, so null means that neither exists.
ALTER TABLE tenants ADD COLUMN database jsonb NOT NULL DEFAULT 'null';
