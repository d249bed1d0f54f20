//! The role as which the service connects: it reads and writes rows, owns nothing and changes no table. The audit log
//! it only extends. Migrations run as the owner of the database, who makes this role.

use diesel::prelude::QueryResult;
use diesel_async::{AsyncConnection as _, SimpleAsyncConnection as _};
use service::{Secret, keys};

use super::Conn;

#[derive(Clone, Debug)]
pub(super) struct ServiceRole {
    pub(super) name: String,
    /// Derived from the owner's, so that every replica knows the same.
    pub(super) password: Secret,
}

impl ServiceRole {
    /// A role belongs to the whole server, hence the name of the database in its name.
    pub(super) fn new(database: &str, owner_password: &Secret) -> Self {
        let password = keys::database_service_password(owner_password);
        Self { name: format!("{database}_service"), password }
    }

    /// Makes the role if there is none, and gives it these rights and no others, in the schema that holds the tables: the
    /// first one on the owner's search path. `conn` is the owner's, after the migrations. Callers must exclude each other.
    pub(super) async fn ensure(&self, conn: &mut Conn) -> QueryResult<()> {
        let role = identifier(&self.name);
        // The server receives a verifier: statements of this kind stand in the logs of many installations.
        let verifier =
            postgres_protocol::password::scram_sha_256(self.password.reveal().as_bytes());
        let name = literal(&self.name);
        let script = format!(
            "DO $$ BEGIN
                 IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {name}) THEN CREATE ROLE {role}; END IF;
                 EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
             END $$;
             ALTER ROLE {role} LOGIN PASSWORD '{verifier}';
             DO $$ DECLARE
                 tables text := current_schema();
             BEGIN
                 EXECUTE format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC', tables);
                 EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA %I FROM %I', tables, {name});
                 EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', tables, {name});
                 EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %I TO %I', tables, {name});
                 EXECUTE format('ALTER ROLE %I IN DATABASE %I SET search_path = %I', {name}, current_database(), tables);
             END $$;
             REVOKE UPDATE, DELETE ON audit_log FROM {role};
             REVOKE INSERT, DELETE ON audit_head FROM {role};
             REVOKE INSERT, UPDATE, DELETE ON installation, __diesel_schema_migrations FROM {role};"
        );
        // One transaction: no moment with too many rights or too few.
        conn.transaction(async |conn| conn.batch_execute(&script).await).await
    }
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
