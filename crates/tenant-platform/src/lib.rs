//! The tenant's own app: pages (`front`), and facts that only its own pages may request (`back`).
//!
//! A user of the tenant may change this half, so the core never relies on it.

pub mod back;
pub mod front;

/// Every variable that the platform reads.
pub const SETTINGS: &[service::Setting] = &[tenant_service::TENANT];

/// One thread is enough for an app that waits.
pub(crate) fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

#[cfg(test)]
mod tests {
    use service::settings::{reference_table, variables_read};

    use super::*;

    #[test]
    fn the_table_names_every_variable_that_is_read() {
        let table = SETTINGS.iter().map(|setting| setting.name.to_owned()).collect();
        assert_eq!(variables_read(|env| drop(front::start(env))), table);
        assert_eq!(variables_read(|env| drop(back::start(env))), table);
        let table = reference_table(SETTINGS);
        testkit::reference::check_table("docs/reference/settings.md", "### platform", &table);
    }
}
