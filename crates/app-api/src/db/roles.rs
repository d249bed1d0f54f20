//! The roles as which app-api connects. Migrations run as the owner of the database, who makes both.
//!
//! The *service* role reads and writes rows, owns nothing and changes no table; the audit log it only extends. The
//! *provisioner* creates and drops the schemas and roles of tenants, and can do nothing else with the tables of app-api
//! than note that and add an audit entry.

use diesel::QueryableByName;
use diesel::prelude::QueryResult;
use diesel::sql_types::Bool;
use diesel_async::{AsyncConnection as _, RunQueryDsl as _, SimpleAsyncConnection as _};
use service::{Secret, keys};

use super::Conn;
use super::quote::{identifier, literal};

#[derive(Clone, Debug)]
pub(super) struct Role {
    pub(super) name: String,
    /// Derived from the owner's, so that every replica knows the same.
    pub(super) password: Secret,
}

impl Role {
    /// Creates the role if there is none, and sets its password.
    fn ensure_script(&self, attributes: &str) -> String {
        let (role, name) = (identifier(&self.name), literal(&self.name));
        // The server receives a verifier: statements of this kind stand in the logs of many installations.
        let verifier =
            postgres_protocol::password::scram_sha_256(self.password.reveal().as_bytes());
        format!(
            "DO $$ BEGIN
                 IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {name}) THEN CREATE ROLE {role}; END IF;
             END $$;
             ALTER ROLE {role} LOGIN {attributes} PASSWORD '{verifier}';"
        )
    }
}

#[derive(Clone, Debug)]
pub(super) struct Roles {
    pub(super) service: Role,
    pub(super) provisioner: Role,
}

impl Roles {
    /// A role belongs to the whole server, hence the name of the database in its name.
    pub(super) fn new(database: &str, owner_password: &Secret) -> Self {
        Self {
            service: Role {
                name: format!("{database}_service"),
                password: keys::database_service_password(owner_password),
            },
            provisioner: Role {
                name: format!("{database}_provisioner"),
                password: keys::database_provisioner_password(owner_password),
            },
        }
    }

    /// Makes the roles that are missing, and gives each its rights and no others, in the schema that holds the tables: the
    /// first one on the owner's search path. `conn` is the owner's, after the migrations. Callers must exclude each other.
    pub(super) async fn ensure(&self, conn: &mut Conn) -> QueryResult<()> {
        let script =
            [self.service_script(), self.provisioner_script(), self.public_script()].join("\n");
        // One transaction: no moment with too many rights or too few.
        conn.transaction(async |conn| conn.batch_execute(&script).await).await
    }

    fn service_script(&self) -> String {
        let (role, name) = (identifier(&self.service.name), literal(&self.service.name));
        let made = self.service.ensure_script("");
        format!(
            "{made}
             DO $$ DECLARE tables text := current_schema(); BEGIN
                 EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA %I FROM %I', tables, {name});
                 EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', tables, {name});
                 EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %I TO %I', tables, {name});
                 EXECUTE format('ALTER ROLE %I IN DATABASE %I SET search_path = %I', {name}, current_database(), tables);
             END $$;
             REVOKE UPDATE, DELETE ON audit_log FROM {role};
             REVOKE INSERT, DELETE ON audit_head FROM {role};
             REVOKE INSERT, UPDATE, DELETE ON installation, __diesel_schema_migrations FROM {role};"
        )
    }

    fn provisioner_script(&self) -> String {
        let (role, name) = (identifier(&self.provisioner.name), literal(&self.provisioner.name));
        let made = self.provisioner.ensure_script("CREATEROLE");
        format!(
            "{made}
             DO $$ DECLARE tables text := current_schema(); BEGIN
                 EXECUTE format('GRANT CREATE ON DATABASE %I TO %I', current_database(), {name});
                 EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA %I FROM %I', tables, {name});
                 EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', tables, {name});
                 EXECUTE format('ALTER ROLE %I IN DATABASE %I SET search_path = %I', {name}, current_database(), tables);
             END $$;
             GRANT SELECT (id, desired, database), UPDATE (database) ON tenants TO {role};
             GRANT SELECT, INSERT ON audit_log TO {role};
             GRANT SELECT, UPDATE ON audit_head TO {role};"
        )
    }

    /// Limits the rights of every role, the roles of tenants included. Functions of Postgres belong to a superuser: an
    /// owner without that right leaves the functions to PUBLIC.
    fn public_script(&self) -> String {
        let (service, provisioner) = (literal(&self.service.name), literal(&self.provisioner.name));
        format!(
            "REVOKE ALL ON SCHEMA public FROM PUBLIC;
             DO $$ DECLARE f regprocedure; BEGIN
                 EXECUTE format('REVOKE ALL ON SCHEMA %I FROM PUBLIC', current_schema());
                 EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
                 IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN RETURN; END IF;
                 EXECUTE format('ALTER DATABASE %I SET temp_file_limit = ''1GB''', current_database());
                 FOR f IN SELECT oid FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace
                     AND ({RESTRICTED_FUNCTIONS})
                 LOOP
                     EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f);
                     EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I, %I', f, {service}, {provisioner});
                 END LOOP;
             END $$;"
        )
    }
}

/// Whether CREATEROLE lets the provisioner change every role of the server that is no superuser, as before Postgres 16.
pub async fn is_createrole_wide(conn: &mut Conn) -> QueryResult<bool> {
    #[derive(QueryableByName)]
    struct CreateRole {
        #[diesel(sql_type = Bool)]
        is_wide: bool,
    }
    let query = "SELECT current_setting('server_version_num')::int < 160000 AS is_wide";
    Ok(diesel::sql_query(query).get_result::<CreateRole>(conn).await?.is_wide)
}

/// Advisory locks share one namespace and one bounded table with the locks of app-api. Large objects belong to no
/// schema.
const RESTRICTED_FUNCTIONS: &str = r"proname LIKE '%advisory%'
    OR proname IN ('lo_creat', 'lo_create', 'lo_from_bytea', 'lo_import', 'lo_put', 'lowrite')";
